//! Live rows at random: whatever happens, at each quiet moment a client's map is what `select` shows its party.
//!
//! Rows, memberships and policies change; connections of the server to the database are killed; sockets are cut. Parties
//! have bindings of many kinds. `REALTIME_TEST_SEED` repeats a run, `REALTIME_TEST_COMMITS` sets its length.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_testkit::{PATIENCE, Server, ServerOptions, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};
use tokio::time::{self, Duration};

use crate::{
    BINARY,
    live_client::{LiveClient, Map},
};

const PARTIES: usize = 4;
const COMMITS: usize = 240;

/// Commits between two quiet moments.
const ROUND: usize = 12;

const SCHEMA: &str = "
    create function public.me() returns text language sql stable as
        $$ select current_setting('request.jwt.claims', true)::jsonb ->> 'sub' $$;
    create table public.members (room int, member text, primary key (room, member));
    create table public.notes (id int primary key, room int, owner text, body text, rank int);
    create table public.open (id int primary key, grp int, body text);
    create view public.joined as select n.id, n.body, m.member from public.notes n join public.members m using (room);
    create view public.sums with (security_invoker = on) as
        select room, count(*) as n, sum(rank) as ranks from public.notes group by room;
    alter table public.notes enable row level security;
    create policy p on public.notes for select to authenticated using
        (owner = public.me() or exists (select from public.members m where m.room = notes.room and m.member = public.me()));
    grant select on all tables in schema public to authenticated;
    alter publication supabase_realtime add table public.members, public.notes, public.open;
    insert into public.members select n % 5, 'u' || n % 4 from generate_series(1, 8) n on conflict do nothing;
    insert into public.notes select n, n % 5, 'u' || n % 4, 'note ' || n, n % 7 from generate_series(1, 40) n;
    insert into public.open select n, n % 3, 'open ' || n from generate_series(1, 40) n";

/// What a binding asks for, its key, and the query that shows the same.
const BINDINGS: [(&str, &[&str], &str); 8] = [
    (r#"{"table": "notes"}"#, &["id"], "select * from notes"),
    (r#"{"table": "notes", "filter": "room=eq.2"}"#, &["id"], "select * from notes where room = 2"),
    (
        r#"{"table": "notes", "order": "rank.desc,id", "limit": 5, "select": ["rank"]}"#,
        &["id"],
        "select id, rank from notes order by rank desc, id limit 5",
    ),
    (r#"{"table": "open"}"#, &["id"], "select * from open"),
    (
        r#"{"table": "open", "filter": "grp=in.(0,2),body=neq.x"}"#,
        &["id"],
        "select * from open where grp in (0, 2) and body <> 'x'",
    ),
    (
        r#"{"table": "open", "order": "body,id.desc", "limit": 3}"#,
        &["id"],
        "select * from open order by body, id desc limit 3",
    ),
    (r#"{"table": "joined", "key": ["id", "member"]}"#, &["id", "member"], "select * from joined"),
    (r#"{"table": "sums", "key": ["room"]}"#, &["room"], "select * from sums"),
];

struct Party {
    name: String,
    client: LiveClient,
}

fn token(name: &str, rng: &mut StdRng) -> String {
    sign(&json!({"role": "authenticated", "sub": name, "exp": unix_now() + rng.random_range(3_000..9_000)}))
}

async fn join(server: &Server, name: &str, rng: &mut StdRng) -> Result<Party> {
    let bindings: Vec<Value> = BINDINGS
        .iter()
        .map(|(binding, ..)| {
            let mut binding: Value = serde_json::from_str(binding).unwrap();
            binding["schema"] = json!("public");
            binding["event"] = json!("*");
            binding["live"] = json!(true);
            binding
        })
        .collect();
    let keys: Vec<&[&str]> = BINDINGS.iter().map(|(_, key, _)| *key).collect();
    let version = if rng.random() { Version::V1 } else { Version::V2 };
    let socket = server.socket(version, "authenticated").await?;
    let client = LiveClient::join(socket, json!(bindings), &keys, Some(&token(name, rng))).await?;
    Ok(Party { name: name.to_owned(), client })
}

/// What `select` shows a party.
async fn expected(db: &TestDb, name: &str) -> Result<Vec<Map>> {
    let mut client = db.connect().await?;
    let mut maps = Vec::new();
    let transaction = client.transaction().await?;
    let claims = json!({"role": "authenticated", "sub": name}).to_string();
    transaction.execute("select set_config('request.jwt.claims', $1, true)", &[&claims]).await?;
    transaction.batch_execute("set local role authenticated; set local search_path = public").await?;
    for (_, key, query) in BINDINGS {
        let rows = transaction.query(&format!("select to_jsonb(q)::text from ({query}) q"), &[]).await?;
        let mut map = BTreeMap::new();
        for row in rows {
            let record: Value = serde_json::from_str(row.get(0))?;
            let values: Vec<String> = key.iter().map(|key| record[key].to_string()).collect();
            map.insert(values.join("/"), record);
        }
        maps.push(map);
    }
    Ok(maps)
}

/// Waits until a client's maps are those.
async fn agrees(client: &mut LiveClient, expected: &[Map]) -> Result<()> {
    let limit = time::Instant::now() + PATIENCE;
    loop {
        let differs = client.rows.iter().zip(expected).position(|(rows, expected)| rows.map != *expected);
        let Some(at) = differs else { return Ok(()) };
        match time::timeout_at(limit, client.step()).await {
            Ok(step) => step?,
            Err(_) => bail!(
                "binding {}: it has {:#?}, expected {:#?}; told {:?}",
                BINDINGS[at].0,
                client.rows[at].map,
                expected[at],
                client.systems
            ),
        }
    }
}

fn statement(rng: &mut StdRng) -> String {
    let (id, room, user) = (rng.random_range(1..60), rng.random_range(0..6), rng.random_range(0..PARTIES));
    let body = ["x", "y", "z", "long"].choose(rng).unwrap();
    match rng.random_range(0..20) {
        0..=2 => format!(
            "insert into public.notes values ({id}, {room}, 'u{user}', '{body}', {room}) on conflict do nothing"
        ),
        3 | 4 => format!("update public.notes set room = {room} where id = {id}"),
        5 => format!("update public.notes set owner = 'u{user}', rank = rank + 1 where id % 7 = {room}"),
        6 => format!("delete from public.notes where id = {id}"),
        7 => format!("update public.notes set body = repeat('{body}', 3000) where id = {id}"),
        8..=10 => format!(
            "insert into public.open values ({id}, {room} % 3, '{body}') on conflict (id) do update set body = excluded.body"
        ),
        11 | 12 => format!("update public.open set grp = {room} % 3 where id = {id}"),
        13 => format!(
            "update public.open set id = id + 100 where id = {id} and not exists (select from public.open where id = {id} + 100)"
        ),
        14 => format!("delete from public.open where id % 9 = {room}"),
        15 | 16 => format!("insert into public.members values ({room}, 'u{user}') on conflict do nothing"),
        17 | 18 => format!("delete from public.members where room = {room} and member = 'u{user}'"),
        _ => {
            format!("update public.members set room = {room} + 10 where member = 'u{user}' and room = {room}")
        }
    }
}

/// What happens beside commits of rows.
async fn disturb(db: &TestDb, server: &Server, parties: &mut [Party], rng: &mut StdRng) -> Result<()> {
    match rng.random_range(0..12) {
        0 => {
            db.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and application_name like 'realtime%'",
            )
            .await
        }
        1 => {
            db.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and backend_type = 'walsender'",
            )
            .await
        }
        2 => {
            let uses = [
                "owner = public.me()",
                "rank < 5 or owner = public.me()",
                "owner = public.me() or exists (select from public.members m where m.room = notes.room and m.member = public.me())",
            ];
            db.sql(&format!("alter policy p on public.notes using ({})", uses.choose(rng).unwrap())).await
        }
        3 => db.sql("truncate public.open").await,
        4 => {
            db.sql(&format!(
                "alter table public.open replica identity {}",
                ["full", "default"].choose(rng).unwrap()
            ))
            .await
        }
        5 | 6 => {
            let at = rng.random_range(0..parties.len());
            let name = parties[at].name.clone();
            parties[at] = join(server, &name, rng).await?;
            Ok(())
        }
        7 => {
            let at = rng.random_range(0..parties.len());
            let name = format!("u{}", rng.random_range(0..PARTIES));
            let token = token(&name, rng);
            parties[at].name = name;
            let payload = json!({"access_token": token});
            let topic = crate::live_client::TOPIC;
            parties[at].client.socket.send(json!("1"), Value::Null, topic, "access_token", payload).await
        }
        _ => Ok(()),
    }
}

/// live 5
#[tokio::test]
async fn maps_are_what_select_shows() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("REALTIME_TEST_SEED").unwrap_or_else(rand::random);
    let commits =
        number("REALTIME_TEST_COMMITS").map_or(COMMITS, |commits| usize::try_from(commits).unwrap());
    println!("REALTIME_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let db = TestDb::new().await?;
    db.sql(SCHEMA).await?;
    let options = ServerOptions::default()
        .env("TENANT_MAX_EVENTS_PER_SECOND", "1000000")
        .env("TENANT_MAX_JOINS_PER_SECOND", "10000");
    let server = Server::start(BINARY, &db, options).await?;
    let mut parties = Vec::new();
    for party in 0..PARTIES + 2 {
        parties.push(join(&server, &format!("u{}", party % PARTIES), &mut rng).await?);
    }
    for round in 0..commits / ROUND {
        disturb(&db, &server, &mut parties, &mut rng).await?;
        for _ in 0..ROUND {
            let statements: Vec<String> = (0..rng.random_range(1..4)).map(|_| statement(&mut rng)).collect();
            // A membership that is moved onto another one is refused: then nothing has happened.
            if let Err(error) = db.sql(&format!("begin; {}; commit", statements.join("; "))).await {
                anyhow::ensure!(format!("{error:#}").contains("members_pkey"), error);
                db.sql("rollback").await?;
            }
            if rng.random_ratio(1, 4) {
                time::sleep(Duration::from_millis(rng.random_range(0..40))).await;
            }
        }
        for party in &mut parties {
            let expected = expected(&db, &party.name).await?;
            if let Err(error) = agrees(&mut party.client, &expected).await {
                bail!("seed {seed}, round {round}, {}: {error:#}", party.name);
            }
            if party.client.was_warned() {
                bail!("seed {seed}, round {round}, {}: {:?}", party.name, party.client.systems);
            }
        }
    }
    Ok(())
}
