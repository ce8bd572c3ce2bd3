//! Random policies.

use rand::{Rng, rngs::StdRng, seq::IndexedRandom as _};

pub const USERS: [&str; 4] = [
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a13",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a14",
];

pub const WORDS: [&str; 12] =
    ["", "a", "A", "b ", "abc", "a/b", "I", "i", "é", "null", "it's", "back\\slash"];

pub fn pick<'a>(r: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(r).unwrap()
}

pub fn quoted(text: &str) -> String {
    if text.contains('\\') {
        return format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    }
    format!("'{}'", text.replace('\'', "''"))
}

const UUIDS: [&str; 3] = ["owner", "other", "id"];
const TEXTS: [&str; 7] = ["owner_text", "vc", "path", "bytes_text", "\"Weird col\"", "word", "loose"];
const NUMBERS: [&str; 7] = ["n", "small", "big", "num", "f", "team_id", "\"order\""];
const COMPARISONS: [&str; 6] = ["=", "<>", "<", "<=", ">", ">="];

/// Something of type uuid without columns of the row.
fn uuid(r: &mut StdRng) -> String {
    match r.random_range(0..6) {
        0 | 1 => "auth.uid()".into(),
        2 => "(select auth.uid())".into(),
        3 => format!("'{}'::uuid", pick(r, &USERS)),
        4 => "(auth.jwt() -> 'app_metadata' ->> 'org')::uuid".into(),
        _ => "(select p.org from public.profiles p where p.id = auth.uid() limit 1)".into(),
    }
}

fn text(r: &mut StdRng) -> String {
    match r.random_range(0..8) {
        0 => "auth.uid()::text".into(),
        1 => "(current_setting('request.jwt.claims', true)::json ->> 'sub')".into(),
        2 => "auth.email()".into(),
        3 => "(auth.jwt() -> 'app_metadata' ->> 'word')".into(),
        4 => "auth.role()".into(),
        5 => "current_user".into(),
        _ => quoted(pick(r, &WORDS)),
    }
}

fn number(r: &mut StdRng) -> String {
    match r.random_range(0..7) {
        0 => "(auth.jwt() ->> 'n')::int".into(),
        1 => "public.my_team()".into(),
        2 => "1.5".into(),
        3 => "(-2)".into(),
        4 => "3000000000".into(),
        _ => r.random_range(-2..4).to_string(),
    }
}

fn text_column(r: &mut StdRng) -> String {
    match r.random_range(0..9) {
        0 => format!("lower({})", pick(r, &["owner_text", "vc", "path"])),
        1 => format!("coalesce({}, 'abc')", pick(r, &["owner_text", "path"])),
        2 => format!("{}::text", pick(r, &["id", "owner", "n", "flag", "mood", "num", "bp"])),
        3 => "(data ->> 'k')".into(),
        4 => "(data -> 'in' ->> 'k')".into(),
        5 => "(js ->> 'k')".into(),
        6 => "(data #>> '{in,k}')".into(),
        _ => pick(r, &TEXTS).into(),
    }
}

fn membership(r: &mut StdRng) -> String {
    // Only a negation tells NULL from false.
    let not = if r.random_bool(0.4) { "not " } else { "" };
    match r.random_range(0..21) {
        0 => format!("id {not}in (select room_id from public.members where user_id = auth.uid())"),
        1 => format!(
            "{not}exists (select 1 from public.members m where m.room_id = rooms.id and m.user_id = auth.uid())"
        ),
        2 => format!(
            "{not}exists (select 1 from public.members m join public.profiles p on p.id = m.user_id
                where m.room_id = rooms.id and p.id = auth.uid() and p.n > 0)"
        ),
        3 => format!("team_id {not}in (select team_id from public.members where user_id = auth.uid())"),
        4 => format!(
            "auth.uid() {not}in (select user_id from public.members where members.room_id = rooms.id)"
        ),
        5 => format!("{not}exists (select 1 from public.admins where admins.user_id = auth.uid())"),
        6 => format!("id {not}in (select room_id from public.hidden)"),
        7 => format!("{not}exists (select 1 from public.hidden h where h.room_id = id)"),
        8 => format!("vc {not}in (select ref from public.members where user_id = auth.uid())"),
        9 => format!(
            "{not}exists (select 1 from public.members m where m.room_id = rooms.id and m.team_id = rooms.team_id)"
        ),
        10 => format!("mood {not}in (select mood from public.members where user_id = auth.uid())"),
        11 => format!(
            "{not}exists (select 1 from public.members m where m.ref = rooms.owner_text and m.user_id = auth.uid())"
        ),
        12 => format!("n::numeric {not}in (select team_id::numeric from public.members)"),
        13 => format!(
            "{not}exists (select 1 from public.members m left join public.profiles p on p.id = m.user_id
                where m.room_id = rooms.id and coalesce(p.n, 0) < 2)"
        ),
        14 => format!(
            "{not}exists (select 1 from public.members m where m.room_id = rooms.id and m.team_id >= rooms.n)"
        ),
        15 => format!(
            "owner {not}in (select org from public.profiles where id = auth.uid() and {})",
            pick(r, &["n > 0", "'a' = any(tags)", "email = auth.email()", "true"])
        ),
        16 => format!("flag {not}in (select n > 0 from public.profiles)"),
        17 => format!("n {not}in ({}, null)", number(r)),
        18 => format!("owner_text {not}in ('a', null, 'abc')"),
        19 => format!("team_id {not}in (select team_id from public.members)"),
        _ => format!(
            "{not}exists (select 1 from public.rooms other where other.id = rooms.other and other.flag)"
        ),
    }
}

fn function(r: &mut StdRng) -> String {
    pick(
        r,
        &[
            "public.is_admin()",
            "(select public.is_admin())",
            "id in (select public.my_rooms())",
            "id = any (array(select public.my_rooms()))",
            "owner = any (public.my_orgs())",
            "team_id = public.my_team()",
            "public.is_member(id)",
            "public.is_member(other)",
            "public.has_role(id, 'a')",
            "public.has_role(other, owner_text)",
            "public.role_in(id) = 'a'",
            "public.role_in(other) is not null",
            "private.opaque(id)",
            "private.first_part(path) = auth.uid()::text",
        ],
    )
    .into()
}

fn other(r: &mut StdRng) -> String {
    pick(
        r,
        &[
            "true",
            "false",
            "flag",
            "flag is true",
            "flag is not false",
            "flag is unknown",
            "coalesce(flag, false)",
            "coalesce(owner = auth.uid(), flag)",
            "auth.uid() is not null",
            "auth.role() = 'authenticated'",
            "created > now()",
            "created <= now()",
            "now() < created",
            "created between now() and current_timestamp",
            "plain > now()",
            "day <= current_date",
            "created > now() - interval '1 day'",
            "mood = 'ok'",
            "mood <> 'ok'",
            "mood > 'sad'",
            "mood in ('ok', 'happy')",
            "mood::text = 'ok'",
            "bp = 'abc'",
            "bp in ('abc', 'I')",
            "bp::text = 'abc'",
            "n in (0, 1, 2)",
            "n not in (0, 1)",
            "n not in (0, null)",
            "n = any ('{0,2,null}'::int[])",
            "vc in ('a', 'abc')",
            "vc not in ('a', 'abc')",
            "auth.uid()::text = any (tags)",
            "'a' = any (tags)",
            "auth.uid() = any (ids)",
            "tags && array['a', 'b']",
            "tags @> array['a']",
            "owner = other",
            "owner is distinct from other",
            "n = big",
            "big > n",
            "num = n",
            "owner_text::uuid = auth.uid()",
            "owner_text like 'a%'",
            "owner_text not like '%b%'",
            "owner_text ilike 'A%'",
            "(data ->> 'n')::int = 1",
            "(data ->> 'flag')::bool",
            "data -> 'k' = '\"a\"'",
            "data ? 'k'",
            "data is null",
            "data -> 'k' is null",
            "data ->> 'k' is null",
            "js ->> 'k' is not null",
            "tags is null",
            "tags = '{}'",
            "case when flag then owner = auth.uid() else n > 1 end",
            "case when flag then owner = auth.uid() end",
            "case n when 1 then true else flag end",
            "(owner = auth.uid()) = flag",
            "(owner = auth.uid()) is not true",
            "owner in (auth.uid(), other)",
            "owner in ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', auth.uid())",
            "(id, owner) in (select room_id, user_id from public.members)",
            "rooms is not null",
            "loose = 'A'",
            "loose in ('A', 'abc')",
            "loose like 'a%'",
            "owner_text collate public.loose = 'a'",
            "bytes_text < 'b'",
            "bytes_text >= 'I'",
            "owner_text < 'b'",
            "word = 'abc'",
            "nullif(owner_text, '') = 'a'",
            "f = 0",
            "f > 0.5",
            "f = 'NaN'",
            "num > 1.50",
            "num = 'NaN'",
            "length(owner_text) > 1",
            "null::bool",
            "owner = null::uuid",
            "auth.jwt() -> 'app_metadata' -> 'words' ? owner_text",
            "owner_text = any (array(select jsonb_array_elements_text(auth.jwt() -> 'app_metadata' -> 'words')))",
            "owner_text in (select jsonb_array_elements_text(auth.jwt() -> 'app_metadata' -> 'words'))",
            "current_setting('request.jwt.claims', true) is null",
        ],
    )
    .into()
}

/// A condition without AND, OR and NOT.
pub fn atom(r: &mut StdRng) -> String {
    match r.random_range(0..20) {
        0..=3 => {
            let (column, value) = (pick(r, &UUIDS), uuid(r));
            let op = if r.random_bool(0.7) { "=" } else { pick(r, &COMPARISONS) };
            if r.random() { format!("{column} {op} {value}") } else { format!("{value} {op} {column}") }
        }
        4..=6 => {
            let op = if r.random_bool(0.7) { "=" } else { "<>" };
            format!("{} {op} {}", text_column(r), text(r))
        }
        7 | 8 => {
            let op = pick(r, &COMPARISONS);
            format!("{} {op} {}", pick(r, &NUMBERS), number(r))
        }
        9 => {
            let column = pick(r, &[UUIDS.as_slice(), &NUMBERS, &TEXTS].concat());
            format!("{column} is {}null", pick(r, &["", "not "]))
        }
        10 => {
            let not = pick(r, &["", "not "]);
            format!("{} is {not}distinct from {}", pick(r, &UUIDS), uuid(r))
        }
        11..=13 => membership(r),
        14 | 15 => function(r),
        _ => other(r),
    }
}

/// A condition.
pub fn condition(r: &mut StdRng, depth: usize) -> String {
    if depth == 0 || r.random_bool(0.45) {
        return atom(r);
    }
    match r.random_range(0..8) {
        0..=2 => format!("({}) and ({})", condition(r, depth - 1), condition(r, depth - 1)),
        3..=5 => format!("({}) or ({})", condition(r, depth - 1), condition(r, depth - 1)),
        6 => format!("not ({})", condition(r, depth - 1)),
        _ => format!("({}) is {}true", condition(r, depth - 1), pick(r, &["", "not "])),
    }
}

/// Policies of a table: permissive and their conditions.
pub fn policies(r: &mut StdRng) -> Vec<(bool, String)> {
    let count = if r.random_bool(0.7) { 1 } else { r.random_range(2..4) };
    (0..count).map(|at| (at == 0 || r.random_bool(0.6), condition(r, 2))).collect()
}
