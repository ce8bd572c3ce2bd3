//! Policies at random over tables that change at random: each party gets the rows that SELECT shows it, and no other
//! (row_security 1, 2). Each step is handed over before the next is written, so both are asked about the same moment.
//!
//! `REALTIME_TEST_SEED` repeats a run.

use std::collections::BTreeSet;

use anyhow::Result;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_testkit::{ServerOptions, Socket, TestDb};
use serde_json::json;

use crate::changes_images::{seen, server_with, watching};

const PARTIES: [&str; 4] = ["ann", "bob", "cat", "dan"];
const POLICIES: usize = 40;
const STEPS: usize = 8;

const SCHEMA: &str = "
    create type rank as enum ('low', 'high');
    create table orgs (org int primary key, owner text, is_open bool);
    create table members (room int, who text, rank rank, primary key (room, who));
    create table bans (who text primary key);
    create table unpublished (room int, who text, primary key (room, who));
    create table says (id int primary key, room int, org int, owner text, rank rank, tags text[], extra jsonb, fee numeric);
    create function is_banned() returns bool language sql stable security definer as
        $$ select exists (select from public.bans b where b.who = public.me()) $$;
    create function may(r int) returns bool language sql stable security definer as
        $$ select not public.is_banned() and exists (select from public.members m where m.room = r and m.who = public.me()) $$;
    create function rooms() returns setof int language sql stable security definer as
        $$ with members as (select * from public.members where who = public.me()) select m.room from members m $$;
    create function room_array() returns int[] language plpgsql stable security definer as
        $$ begin return array(select m.room from public.members m where m.who = public.me() and m.rank = 'high'); end $$;
    create function opaque(r int) returns bool language plpgsql stable security definer as
        $$ declare n int; begin select count(*) into n from public.unpublished u where u.room = r and u.who = public.me(); return n > 0; end $$;
    create function peers(w text) returns bool language sql stable security definer as
        $$ select exists (select from public.members a join public.members b using (room) where a.who = public.me() and b.who = w) $$;
    alter table orgs enable row level security;
    create policy own on orgs using (is_open or owner = me());
    alter table says enable row level security;
    alter publication supabase_realtime add table says, orgs, members, bans;";

/// Conditions of which policies are made.
const CONDITIONS: [&str; 26] = [
    "owner = me()",
    "owner is distinct from (select me())",
    "room in (select m.room from members m where m.who = me())",
    "room not in (select m.room from members m where m.who = me())",
    "exists (select from members m where m.room = says.room and m.who = me() and m.rank = 'high')",
    "exists (select from members m where m.room = says.room and m.rank = says.rank and m.who = me())",
    "not exists (select from members m where m.room = says.room and m.who = me())",
    "me() in (select m.who from members m where m.room = says.room)",
    "org in (select o.org from orgs o)",
    "exists (select from orgs o join members m on m.room = o.org where o.org = says.org and m.who = me())",
    "room in (select rooms())",
    "room = any (room_array())",
    "not (room = any (array(select m.room from members m where m.who = me())))",
    "may(room)",
    "not is_banned()",
    "opaque(room)",
    "peers(owner)",
    "room in (select u.room from unpublished u where u.who = me())",
    "(select count(*) from members m where m.who = me()) > 1",
    "me() = any (tags)",
    "extra ->> 'for' = me()",
    "(extra -> 'to' ->> 'room')::int in (select m.room from members m where m.who = me())",
    "rank = 'high'",
    "fee = (select max(m.room)::numeric from members m where m.who = me())",
    "coalesce(owner, 'ann') = me()",
    "case when rank = 'low' then room in (select rooms()) else owner = me() end",
];

struct Dice(StdRng);

impl Dice {
    fn condition(&mut self) -> String {
        let one = |dice: &mut Self| (*CONDITIONS.choose(&mut dice.0).unwrap()).to_owned();
        match self.0.random_range(0..6) {
            0 | 1 => one(self),
            2 => format!("({}) and ({})", one(self), one(self)),
            3 => format!("({}) or ({})", one(self), one(self)),
            4 => format!("({}) or ({}) and not ({})", one(self), one(self), one(self)),
            _ => format!("(({}) is not true) or ({})", one(self), one(self)),
        }
    }

    fn who(&mut self) -> &'static str {
        PARTIES.choose(&mut self.0).unwrap()
    }

    fn number(&mut self) -> i32 {
        self.0.random_range(1..5)
    }

    fn rank(&mut self) -> &'static str {
        if self.0.random_bool(0.5) { "'low'" } else { "'high'" }
    }

    fn or_null(&mut self, value: String) -> String {
        if self.0.random_bool(0.15) { "null".to_owned() } else { value }
    }

    /// What policies read changes.
    fn surrounding(&mut self) -> String {
        let (n, m, who, rank) = (self.number(), self.number(), self.who(), self.rank());
        match self.0.random_range(0..14) {
            0..=3 => format!(
                "insert into members values ({n}, '{who}', {rank}) on conflict (room, who) do update set rank = {rank}"
            ),
            4 | 5 => format!("delete from members where room = {n} and who = '{who}'"),
            6 => format!(
                "update members set room = {m} + 10 where room = {n} and who = '{who}' and not exists (select from members where room = {m} + 10 and who = '{who}')"
            ),
            7 => format!(
                "savepoint s; insert into members values ({n}, '{who}', {rank}) on conflict do nothing; rollback to s"
            ),
            8 => format!(
                "insert into orgs values ({n}, '{who}', {m} = 1) on conflict (org) do update set owner = excluded.owner, is_open = excluded.is_open"
            ),
            9 => format!("delete from orgs where org = {n}"),
            10 => format!("insert into bans values ('{who}') on conflict do nothing"),
            11 => "truncate bans".to_owned(),
            12 => format!("insert into unpublished values ({n}, '{who}') on conflict do nothing"),
            _ => format!("delete from unpublished where who = '{who}'"),
        }
    }

    /// A row is written. No row is written twice in a step.
    fn row(&mut self, id: i32, is_new: bool) -> String {
        let (room, org, fee, to) = (self.number(), self.number(), self.number(), self.number());
        let (owner, tag, tagged) = (self.who(), self.who(), self.who());
        let columns = [
            format!("{room}"),
            format!("{org}"),
            format!("'{owner}'"),
            self.rank().to_owned(),
            format!("array['{tag}', null, 'x y']"),
            json!({"for": tagged, "to": {"room": format!("{to}")}}).to_string().replace('\'', "''"),
            format!("{fee}.00"),
        ];
        let columns = columns.map(|column| {
            let column = if column.starts_with('{') { format!("'{column}'") } else { column };
            self.or_null(column)
        });
        let names = "room, org, owner, rank, tags, extra, fee";
        match is_new {
            true => format!("insert into says (id, {names}) values ({id}, {})", columns.join(", ")),
            false => format!("update says set ({names}) = row({}) where id = {id}", columns.join(", ")),
        }
    }
}

/// The rows of a step that a party may read now.
async fn shown(db: &TestDb, who: &str, ids: &[i32]) -> Result<BTreeSet<i32>> {
    let claims = json!({"role": "authenticated", "me": who, "sub": who});
    let client = db.client();
    client.batch_execute("begin").await?;
    client.query("select set_config('request.jwt.claims', $1, true)", &[&claims.to_string()]).await?;
    client.batch_execute("set local role authenticated").await?;
    let rows = client.query("select id from says where id = any ($1)", &[&ids]).await?;
    client.batch_execute("rollback").await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test]
async fn everybody_gets_what_select_shows() -> Result<()> {
    let seed = std::env::var("REALTIME_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| rand::rng().random());
    println!("REALTIME_TEST_SEED={seed}");
    let mut dice = Dice(StdRng::seed_from_u64(seed));
    // Steps follow each other faster than a tenant may have events.
    let options = ServerOptions::default().env("TENANT_MAX_EVENTS_PER_SECOND", "100000000");
    let (server, db) = server_with(SCHEMA, options).await?;
    let mut sockets: Vec<Socket> = Vec::new();
    for who in PARTIES {
        sockets.push(watching(&server, who, "says").await?);
    }
    let mut written = 0;
    let (mut compared, mut visible) = (0, 0);
    for at in 0..POLICIES {
        let policy = dice.condition();
        let more = match at % 3 {
            0 => format!(
                "create policy more on says as restrictive to authenticated using ({});",
                dice.condition()
            ),
            1 => format!("create policy more on says to authenticated using ({});", dice.condition()),
            _ => String::new(),
        };
        db.sql(&format!(
            "begin; drop policy if exists own on says; drop policy if exists more on says;
             create policy own on says to authenticated using ({policy}); {more} commit"
        ))
        .await?;
        for _ in 0..STEPS {
            let (mut step, mut ids) = (vec!["begin".to_owned()], Vec::new());
            let changes = dice.0.random_range(1..6);
            for _ in 0..changes {
                let is_new = written == 0 || dice.0.random_bool(0.7);
                let id = if is_new { written + 1 } else { dice.0.random_range(1..=written) };
                if dice.0.random_bool(0.4) || ids.contains(&id) {
                    step.push(dice.surrounding());
                } else {
                    written = written.max(id);
                    step.push(dice.row(id, is_new));
                    ids.push(id);
                }
            }
            step.push("commit".to_owned());
            let step = step.join(";\n");
            db.sql(&step).await?;
            for (who, socket) in PARTIES.iter().zip(&mut sockets) {
                let expected = shown(&db, who, &ids).await?;
                let came: Vec<i32> = seen(&db, socket)
                    .await?
                    .iter()
                    .map(|(_, record)| i32::try_from(record["id"].as_i64().unwrap_or_default()).unwrap())
                    .collect();
                let once: BTreeSet<i32> = came.iter().copied().collect();
                assert_eq!(once.len(), came.len(), "twice: {came:?}");
                assert_eq!(once, expected, "seed {seed}, {who}\n{policy}\n{more}\n{step}");
                compared += ids.len();
                visible += expected.len();
            }
        }
    }
    println!("{compared} verdicts, {visible} visible");
    Ok(())
}
