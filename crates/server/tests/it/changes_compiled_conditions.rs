//! What the differential test makes policies of: tables, conditions, and functions at random that say who is in a room. Of
//! these most can be asked of those alone whom rows name.

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

pub(crate) const SCHEMA: &str = "
    create type rank as enum ('low', 'high');
    create table orgs (org int primary key, owner text, is_open bool, fee numeric);
    create table members (room int, who text, rank rank, primary key (room, who));
    create table bans (who text primary key);
    create table unpublished (room int, who text, primary key (room, who));
    create table says (id int primary key, v int not null, kind int not null default 0, room int, org int, owner text, rank rank,
        tags text[], extra jsonb, fee numeric, until timestamptz);
    create unique index says_kind on says (id, kind);
    create function is_banned() returns bool language sql stable security definer as
        $$ select exists (select from public.bans b where b.who = public.me()) $$;
    create function may(r int) returns bool language sql stable security definer as
        $$ select not public.is_banned() and exists (select from public.members m where m.room = r and m.who = public.me()) $$;
    create function may_too(r int) returns bool language plpgsql security definer as
        $$ begin return exists (select from public.members m where m.room = r and m.who = public.me() and not public.is_banned()); end $$;
    create function is_in(r int, c rank) returns bool language sql stable security definer as
        $$ select exists (select from public.members m where m.room = r and m.who = public.me() and (m.rank = m.rank or m.rank is null))
            or exists (select from public.members m join public.bans b using (who) where m.who = public.me() and m.room = $1 and m.rank <> c) $$;
    create function is_in_too(r int) returns bool language plpgsql stable security definer as
        $$ begin return exists (select 1 from members m where m.who = (select public.me()) and r = m.room and m.rank = 'high'); end $$;
    create function is_among(r int) returns bool language sql stable security definer as
        $$ select $1 in (select room from members where who = public.me()) $$;
    create function is_owner(o text, r int) returns bool language sql stable strict security definer as
        $$ select exists (select from public.orgs where org = r and owner = public.me() and is_open) or false $$;
    create function rooms() returns setof int language sql stable security definer as
        $$ with members as (select * from public.members where who = public.me()) select m.room from members m $$;
    create function room_array() returns int[] language plpgsql stable security definer as
        $$ begin return array(select m.room from public.members m where m.who = public.me() and m.rank = 'high'); end $$;
    create function opaque(r int) returns bool language plpgsql stable security definer as
        $$ declare n int; begin select count(*) into n from public.unpublished u where u.room = r and u.who = public.me(); return n > 0; end $$;
    create function built(r int) returns bool language plpgsql stable security definer as
        $$ declare n int; begin execute 'select count(*) from public.members m where m.room = $1 and m.who = public.me()' into n using r; return n > 0; end $$;
    create function guarded(r int) returns bool language plpgsql stable security definer as
        $$ begin return 1 / (select count(*) from public.members m where m.room = r and m.who = public.me()) = 1;
            exception when division_by_zero then return false; end $$;
    create function is_fit(r int) returns bool language sql stable security definer set search_path = '' as
        $$ select exists (select from public.orgs o where o.org = r and o.is_open = (current_setting('request.jwt.claims', true)::jsonb ->> 'adult')::bool) $$;
    create function is_paid(r int) returns bool language plpgsql stable security definer set search_path = '' as
        $$ begin return exists (select from public.orgs o where o.org = r and (current_setting('request.jwt.claims', true)::jsonb ->> 'fee')::numeric = o.fee); end $$;
    create function is_muted(r int, rank text) returns bool language sql stable strict security definer as
        $$ select exists (select from public.members m where m.room = r and m.rank::text = is_muted.rank and m.who = public.me()) $$;
    create function is_loud(r int, word text) returns bool language sql stable strict security definer as
        $$ select exists (select from public.members m where m.room = r and m.who = public.me()) $$;
    create function members(room int) returns bool language sql stable security definer set search_path = '' as
        $$ select exists (select from public.orgs o join public.members on o.org = members.room where o.owner = public.me()) $$;
    create function peers(w text) returns bool language sql stable security definer as
        $$ select exists (select from public.members a join public.members b using (room) where a.who = public.me() and b.who = w) $$;
    alter table orgs enable row level security;
    create policy own on orgs using (is_open or owner = me());
    alter table says enable row level security;
    alter publication supabase_realtime add table says, orgs, members, bans;";

/// Conditions of which policies are made.
pub(crate) const CONDITIONS: [&str; 47] = [
    // Claims.
    "owner = me()",
    "owner is distinct from (select me())",
    "owner = (current_setting('request.jwt.claims', true)::json ->> 'sub')",
    "coalesce(owner, 'ann') = me()",
    "me() = any (tags)",
    "extra ->> 'for' = me()",
    "rank = 'high'",
    "until > now()",
    "until <= now() or owner = me()",
    // Sets.
    "room in (select m.room from members m where m.who = me())",
    "room not in (select m.room from members m where m.who = me())",
    "exists (select from members m where m.room = says.room and m.who = me() and m.rank = 'high')",
    "exists (select from members m where m.room = says.room and m.rank = says.rank and m.who = me())",
    "not exists (select from members m where m.room = says.room and m.who = me())",
    "me() in (select m.who from members m where m.room = says.room)",
    "org in (select o.org from orgs o)",
    "exists (select from orgs o join members m on m.room = o.org where o.org = says.org and m.who = me())",
    "not (room = any (array(select m.room from members m where m.who = me())))",
    "room in (select u.room from unpublished u where u.who = me())",
    "(select count(*) from members m where m.who = me()) > 1",
    "(extra -> 'to' ->> 'room')::int in (select m.room from members m where m.who = me())",
    "fee = (select max(m.room)::numeric from members m where m.who = me())",
    // Functions.
    "room in (select rooms())",
    "room = any (room_array())",
    "may(room)",
    "may_too(room)",
    "may_too(org) or may(room)",
    "is_in(room, rank)",
    "is_in_too(room)",
    "is_among(org) or is_in_too(room)",
    "coalesce(is_owner(owner, org), true)",
    "is_among(room)",
    "not is_banned()",
    "opaque(room)",
    "peers(owner)",
    "case when rank = 'low' then room in (select rooms()) else owner = me() end",
    "is_fit(org)",
    "is_paid(org) or not is_fit(room)",
    "not is_muted(room, current_setting('request.jwt.claims', true)::jsonb ->> 'rank')",
    "not is_loud(room, current_setting('request.jwt.claims', true)::jsonb ->> 'rank')",
    "members(room)",
    // What is asked.
    "owner || '' = me()",
    "built(room)",
    "guarded(room) or owner = me()",
    "tableoid = 'says'::regclass and org in (select o.org from orgs o)",
    "exists (select from members m where m.room = says.room and m.tableoid <> says.tableoid and m.who = me())",
    "says.* is not null and room = 1",
];

/// What the claims say, in words of whoever writes policies.
const CLAIMED: &str = "(current_setting('request.jwt.claims', true)::jsonb ->> '";

/// A function of this name with a room or a party's number.
pub(crate) fn function(dice: &mut StdRng, name: &str) -> String {
    let value = value(dice, 0);
    let (language, body) = match dice.random_bool(0.5) {
        true => ("sql", format!("select {value}")),
        false => ("plpgsql", format!("begin return {value}; end")),
    };
    let volatility = *["", "stable", "stable", "stable strict"].choose(dice).unwrap();
    let path = if dice.random_bool(0.5) { "set search_path = ''" } else { "" };
    format!(
        "create function {name}(r int) returns bool language {language} {volatility} security definer {path} as $$ {body} $$;"
    )
}

/// What such a function returns.
fn value(dice: &mut StdRng, depth: usize) -> String {
    let inner = |dice: &mut StdRng| value(dice, depth + 1);
    match dice.random_range(0..if depth > 1 { 12 } else { 24 }) {
        0..=4 => format!("exists (select{} from public.members m where {})", one_of(dice, ["", " 1", " *"]), of_members(dice, true)),
        5..=7 => format!("r in (select m.room from public.members m where {})", of_members(dice, false)),
        8 | 9 => format!("exists (select from public.orgs o where {})", of_orgs(dice)),
        10 => "exists (select from public.orgs o join public.members m on m.room = o.org where o.org = r and m.who = public.me())".to_owned(),
        11 => "exists (select from public.members m join public.orgs o on m.room = o.org where m.room = r and m.who = public.me())".to_owned(),
        12..=17 => format!("{} or {}", inner(dice), inner(dice)),
        18 => format!("coalesce({}, {})", inner(dice), one_of(dice, ["true", "false"])),
        19 => format!("not ({})", inner(dice)),
        20 => format!("({} and {})", inner(dice), inner(dice)),
        21 => format!("({} or false)", inner(dice)),
        22 => format!("({} or null::bool)", inner(dice)),
        _ => format!("(select {})", inner(dice)),
    }
}

fn one_of<const N: usize>(dice: &mut StdRng, texts: [&'static str; N]) -> &'static str {
    texts.choose(dice).unwrap()
}

/// Conditions in any order.
fn joined(dice: &mut StdRng, mut all: Vec<String>) -> String {
    for at in (1..all.len()).rev() {
        all.swap(at, dice.random_range(0..=at));
    }
    all.join(" and ")
}

/// Who is a member, perhaps of the room.
fn of_members(dice: &mut StdRng, of_room: bool) -> String {
    let mut all = vec![
        one_of(dice, ["m.who = public.me()", "public.me() = m.who", "m.who = (select public.me())"])
            .to_owned(),
    ];
    if of_room {
        all.push(one_of(dice, ["m.room = r", "r = m.room", "m.room = $1"]).to_owned());
    }
    if dice.random_bool(0.3) {
        let more = [
            "m.rank = 'high'",
            "m.rank <> 'low'",
            "m.rank is null",
            "(m.rank = 'low' or m.rank is null)",
            "m.room in (1, 2, 3)",
        ];
        all.push(one_of(dice, more).to_owned());
    }
    joined(dice, all)
}

/// Whose an organization is, or for whom it is.
fn of_orgs(dice: &mut StdRng) -> String {
    let whose = match dice.random_range(0..3) {
        0 => "o.owner = public.me()".to_owned(),
        1 => format!("o.is_open = {CLAIMED}adult')::bool"),
        _ => format!("{CLAIMED}fee')::numeric = o.fee"),
    };
    let mut all = vec!["o.org = r".to_owned(), whose];
    if dice.random_bool(0.3) {
        all.push(one_of(dice, ["o.is_open", "o.fee is not null", "o.owner <> 'bob'"]).to_owned());
    }
    joined(dice, all)
}
