//! The shapes of policies that people write, with their shares: of all policies, and of those on published tables.

/// What becomes of a shape's policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// No query for a row.
    Compiled,
    /// An answer is kept for each value.
    Call,
    /// The database is asked about each row.
    Asked,
}

pub struct Shape {
    pub name: &'static str,
    pub all: f64,
    pub published: f64,
    /// Policies, with what is expected to become of them. They count alike.
    pub policies: &'static [(&'static str, By)],
}

use By::{Asked, Call, Compiled};

pub const SHAPES: [Shape; 11] = [
    Shape {
        name: "the user's own rows",
        all: 20.0,
        published: 16.0,
        policies: &[
            ("auth.uid() = owner", Compiled),
            ("(select auth.uid()) = owner", Compiled),
            ("owner = auth.uid()", Compiled),
            ("auth.uid()::text = owner_text", Compiled),
            ("vc = auth.uid()::text", Compiled),
            ("auth.uid() = owner or auth.uid() = other", Compiled),
            ("owner = auth.uid() and flag", Compiled),
            ("owner = auth.uid() and mood <> 'sad'", Compiled),
            ("(auth.uid() = owner) and (vc in ('a', 'b'))", Compiled),
            ("owner is null or owner = auth.uid()", Compiled),
            ("auth.uid() = any (ids)", Compiled),
            ("auth.uid() in (owner, other)", Compiled),
        ],
    },
    Shape {
        name: "constants and roles",
        all: 27.0,
        published: 32.0,
        policies: &[
            ("true", Compiled),
            ("flag = true", Compiled),
            ("flag", Compiled),
            ("auth.role() = 'authenticated'", Compiled),
            ("auth.role() = any (array['authenticated', 'anon'])", Compiled),
            ("auth.uid() is not null", Compiled),
            ("(select auth.uid()) is not null", Compiled),
            ("current_user = 'authenticated'", Compiled),
            ("owner_text = 'public'", Compiled),
            ("false", Compiled),
        ],
    },
    Shape {
        name: "a path of the token",
        all: 1.0,
        published: 0.4,
        policies: &[
            ("(auth.jwt() ->> 'email') = owner_text", Compiled),
            ("(current_setting('request.jwt.claims', true)::json ->> 'sub') = owner_text", Compiled),
            ("((auth.jwt() -> 'app_metadata') ->> 'role') = 'admin'", Compiled),
            ("((auth.jwt() -> 'app_metadata') ->> 'org')::uuid = other", Compiled),
        ],
    },
    Shape {
        name: "membership",
        all: 11.0,
        published: 10.0,
        policies: &[
            ("id in (select room_id from public.members where user_id = auth.uid())", Compiled),
            ("exists (select 1 from public.members m where m.room_id = rooms.id and m.user_id = auth.uid())", Compiled),
            ("exists (select 1 from public.members where room_id = other and user_id = (select auth.uid()) and role = 'a')", Compiled),
            ("auth.uid() in (select user_id from public.members where room_id = id)", Compiled),
            ("team_id = any (array(select team_id from public.members where user_id = auth.uid()))", Compiled),
            ("team_id = any (select team_id from public.members where user_id = auth.uid())", Compiled),
            ("exists (select 1 from public.profiles p where p.id = rooms.owner and p.id = auth.uid())", Compiled),
            ("flag or id in (select room_id from public.members where user_id = auth.uid())", Compiled),
        ],
    },
    Shape {
        name: "subqueries without the row",
        all: 5.0,
        published: 6.0,
        policies: &[
            ("exists (select 1 from public.admins where admins.user_id = auth.uid())", Compiled),
            ("(select n from public.profiles where id = auth.uid()) > 1", Compiled),
            ("auth.uid() in (select user_id from public.admins)", Compiled),
            ("other = (select org from public.profiles where id = auth.uid())", Compiled),
            ("owner = (select id from public.profiles where email = auth.email() limit 1)", Compiled),
        ],
    },
    Shape {
        name: "joins and nesting inside",
        all: 3.0,
        published: 6.0,
        policies: &[
            (
                "exists (select 1 from public.members m join public.profiles p on p.id = m.user_id
                where m.room_id = rooms.id and p.id = auth.uid())",
                Compiled,
            ),
            (
                "id in (select m.room_id from public.members m where m.team_id in
                (select team_id from public.members where user_id = auth.uid()))",
                Compiled,
            ),
            (
                "exists (select 1 from public.members m, public.profiles p where m.room_id = rooms.id
                and p.org = m.user_id and p.id = auth.uid())",
                Compiled,
            ),
            (
                "exists (select 1 from public.members m where m.room_id = rooms.id and (m.user_id = auth.uid()
                or exists (select 1 from public.admins a where a.user_id = auth.uid())))",
                Compiled,
            ),
        ],
    },
    Shape {
        name: "a function without columns",
        all: 18.0,
        published: 12.0,
        policies: &[
            ("public.is_admin()", Compiled),
            ("(select public.is_admin())", Compiled),
            ("auth.uid() = owner or public.is_admin()", Compiled),
            ("team_id = public.my_team()", Compiled),
            ("other = any (public.my_orgs())", Compiled),
            ("id in (select public.my_rooms())", Compiled),
            ("private.opaque(auth.uid())", Compiled),
        ],
    },
    Shape {
        name: "a function of a column",
        all: 11.0,
        published: 13.0,
        policies: &[
            ("public.is_member(id)", Call),
            ("public.is_member(other)", Call),
            ("public.has_role(other, 'a')", Call),
            ("public.role_in(other) = 'a'", Call),
            ("auth.uid() = owner or public.is_member(other)", Call),
            ("private.opaque(id)", Call),
        ],
    },
    Shape {
        name: "a function inside a subquery",
        all: 5.0,
        published: 5.0,
        policies: &[
            ("exists (select 1 from public.members m where m.room_id = rooms.id and public.is_member(m.room_id))", Compiled),
            ("exists (select 1 from public.members m where m.team_id > rooms.n and public.is_member(m.room_id))", Call),
            ("exists (select 1 from public.members m where private.opaque(m.room_id) and m.team_id >= rooms.n)", Call),
        ],
    },
    Shape {
        name: "the clock",
        all: 2.0,
        published: 4.0,
        policies: &[
            ("created > now()", Compiled),
            ("created <= now() and flag", Compiled),
            ("created is null or created > now()", Compiled),
            ("created > now() - interval '1 day'", Asked),
            ("day >= current_date", Asked),
        ],
    },
    Shape {
        name: "the rest",
        all: 5.0,
        published: 4.0,
        policies: &[
            ("path like auth.uid() || '/%'", Asked),
            ("split_part(path, '/', 1) = auth.uid()::text", Asked),
            ("tags && array['a']", Asked),
            ("length(owner_text) > 3", Asked),
            ("(data ->> 'owner')::uuid = auth.uid()", Compiled),
        ],
    },
];
