//! Live rows at random: whatever happens, at each quiet moment a client's map is what `select` shows its party.
//!
//! Rows, memberships and policies change; the database is killed, and connections to it; nodes are killed; sockets are cut.
//! Parties have bindings of many kinds. `REALTIME_TEST_SEED` repeats a run, `REALTIME_TEST_SEEDS` says how many follow each
//! other, `REALTIME_TEST_COMMITS` sets its length and `REALTIME_TEST_CLIENTS` how many take part. A run tells what it did; a commit takes about 0.16 seconds. For length:
//!
//! ```console
//! REALTIME_TEST_COMMITS=10000 target/debug/deps/it-HASH --exact --nocapture live_random::maps_are_what_select_shows
//! ```

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_testkit::{Nats, PATIENCE, Server, ServerOptions, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};
use tokio::time::{self, Duration};

use crate::{
    BINARY,
    live_client::{LiveClient, Map, Rows},
};

const PARTIES: usize = 10;
const COMMITS: usize = 240;

/// What takes longer than elsewhere.
const FAILPOINTS: &str = "relation_asked=20%delay(20);verdict_asked=1%error";

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
    create table public.banned (member text primary key);
    create function public.is_member(r int) returns bool language sql stable security definer as
        $$ select exists (select from public.members m where m.room = r and m.member = public.me()) $$;
    alter table public.notes enable row level security;
    create policy p on public.notes for select to authenticated using
        (owner = public.me() or exists (select from public.members m where m.room = notes.room and m.member = public.me()));
    grant select on all tables in schema public to authenticated;
    alter publication supabase_realtime add table public.members, public.notes, public.open, public.banned;
    insert into public.members select n % 5, 'u' || n % 10 from generate_series(1, 20) n on conflict do nothing;
    insert into public.notes select n, n % 5, 'u' || n % 10, 'note ' || n, n % 7 from generate_series(1, 40) n;
    insert into public.open select n, n % 3, 'open ' || n from generate_series(1, 40) n";

/// What a binding asks for, its key, and the query that shows the same.
const BINDINGS: [(&str, &[&str], &str); 9] = [
    (r#"{"table": "notes"}"#, &["id"], "select * from notes"),
    (r#"{"table": "notes", "filter": "room=eq.2"}"#, &["id"], "select * from notes where room = 2"),
    (
        r#"{"table": "notes", "order": "rank.desc,id", "limit": 5, "select": ["rank"]}"#,
        &["id"],
        "select id, rank from notes order by rank desc, id limit 5",
    ),
    (
        r#"{"table": "notes", "filter": "or=(room.eq.1,room.eq.3),body=neq.z", "select": ["body"]}"#,
        &["id"],
        "select id, body from notes where (room = 1 or room = 3) and body <> 'z'",
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
    token: String,
    client: LiveClient,
    /// The node that it is connected to.
    node: usize,
}

/// What runs.
struct World {
    db: TestDb,
    nodes: Vec<Server>,
    nats: Option<Nats>,
    parties: Vec<Party>,
    away: Vec<Away>,
    rng: StdRng,
    failpoints: &'static str,
    /// How long a client may take to have all that `select` shows.
    patience: Duration,
    /// What has happened.
    log: Vec<String>,
    counts: Counts,
}

/// A party whose socket was cut.
struct Away {
    name: String,
    token: String,
    node: usize,
    rows: Vec<Rows>,
}

impl From<Party> for Away {
    fn from(Party { name, token, client, node }: Party) -> Self {
        Self { name, token, node, rows: client.rows }
    }
}

/// How much has happened.
#[derive(Debug, Default)]
struct Counts {
    commits: usize,
    /// Kinds of disturbances, each with how often it was.
    disturbances: BTreeMap<&'static str, usize>,
    /// Maps that were compared with what `select` shows.
    comparisons: usize,
    /// Bindings that came back with a place: to what they had, and those that were told to begin anew.
    gone_on: usize,
    begun_anew: usize,
}

fn token(name: &str, rng: &mut StdRng) -> String {
    sign(&json!({"role": "authenticated", "sub": name, "exp": unix_now() + rng.random_range(3_000..9_000)}))
}

impl World {
    async fn start(
        seed: u64,
        (nodes, clients): (usize, usize),
        (failpoints, patience): (&'static str, Duration),
    ) -> Result<Self> {
        let db = TestDb::alone().await?;
        db.sql(SCHEMA).await?;
        let nats = if nodes > 1 { Some(Nats::start(&[]).await?) } else { None };
        let rng = StdRng::seed_from_u64(seed);
        let (nothing, nobody) = (Vec::new(), Vec::new());
        let mut world = Self {
            db,
            nodes: nothing,
            nats,
            parties: nobody,
            away: Vec::new(),
            rng,
            failpoints,
            patience,
            log: Vec::new(),
            counts: Counts::default(),
        };
        for node in 0..nodes {
            world.nodes.push(world.node(node).await?);
        }
        for client in 0..clients {
            let name = format!("u{}", client % PARTIES);
            let token = token(&name, &mut world.rng);
            let joined = world.join(&name, &token, client % nodes, None).await?;
            world.parties.push(joined);
        }
        Ok(world)
    }

    async fn node(&self, number: usize) -> Result<Server> {
        let mut options = ServerOptions::default()
            .env("TENANT_MAX_EVENTS_PER_SECOND", "1000000")
            .env("TENANT_MAX_JOINS_PER_SECOND", "10000")
            .env("FAILPOINTS", self.failpoints);
        if let Some(nats) = &self.nats {
            options = options
                .env("NATS_URL", &format!("nats://127.0.0.1:{}", nats.port()))
                .env("NODE_NAME", &format!("node{number}"))
                .env("CLUSTER_HEARTBEAT_MS", "200")
                .env("CLUSTER_NODE_TIMEOUT_MS", "5000");
        }
        Server::start(BINARY, &self.db, options).await
    }

    /// Joins; with what another client had in place of that, which then keeps its rows.
    async fn join(&mut self, name: &str, token: &str, node: usize, before: Option<&[Rows]>) -> Result<Party> {
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
        let version = if self.rng.random() { Version::V1 } else { Version::V2 };
        let limit = time::Instant::now() + PATIENCE;
        loop {
            let socket = self.nodes[node].socket(version, "authenticated").await?;
            let joined = match before {
                Some(before) => LiveClient::back(socket, json!(bindings), before.to_vec(), Some(token)).await,
                None => LiveClient::join(socket, json!(bindings), &keys, Some(token)).await,
            };
            match joined {
                Ok(client) => {
                    let (name, token) = (name.to_owned(), token.to_owned());
                    return Ok(Party { name, token, client, node });
                }
                // The database may just be coming back: clients ask again.
                Err(error) if time::Instant::now() > limit => return Err(error),
                Err(_) => time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// The socket of a party is cut, whatever it has read of it.
    fn cut(&mut self, at: usize) {
        let party = self.parties.swap_remove(at);
        self.away.push(party.into());
    }

    /// Who is away joins again: with its rows and where it was, or with nothing.
    async fn come_back(&mut self) -> Result<()> {
        for Away { name, token, node, rows } in std::mem::take(&mut self.away) {
            let before = self.rng.random_ratio(3, 4).then_some(rows);
            let party = self.join(&name, &token, node, before.as_deref()).await?;
            self.parties.push(party);
        }
        Ok(())
    }
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
async fn agrees(client: &mut LiveClient, expected: &[Map], patience: Duration) -> Result<()> {
    let limit = time::Instant::now() + patience;
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
    match rng.random_range(0..23) {
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
        19 => format!(
            "delete from public.members where room = {room} and member = 'u{user}'; insert into public.notes values ({id}, {room}, 'u{user}', '{body}', {room}) on conflict (id) do update set room = excluded.room, body = excluded.body; insert into public.members values ({room}, 'u{user}') on conflict do nothing"
        ),
        20 => format!("insert into public.banned values ('u{user}') on conflict do nothing"),
        21 => format!("delete from public.banned where member = 'u{user}'"),
        _ => {
            format!("update public.members set room = {room} + 10 where member = 'u{user}' and room = {room}")
        }
    }
}

/// What happens beside commits of rows.
async fn disturb(world: &mut World) -> Result<()> {
    let World { db, nodes, parties, rng, log, counts, .. } = world;
    let what = rng.random_range(0..18);
    let name = match what {
        0 => "connections ended",
        1 => "walsender ended",
        2 | 3 => "policy altered",
        4 => "table truncated",
        5 => "replica identity altered",
        6 | 7 | 16 | 17 => "sockets cut",
        8 => "token renewed",
        9 => "database killed",
        10 => "node killed",
        _ => "nothing",
    };
    log.push(format!("disturbance: {name}"));
    *counts.disturbances.entry(name).or_default() += 1;
    match what {
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
        2 | 3 => {
            let uses = [
                "owner = public.me()",
                "rank < 5 or owner = public.me()",
                "owner = public.me() or exists (select from public.members m where m.room = notes.room and m.member = public.me())",
                "room in (select m.room from public.members m where m.member = public.me())",
                "public.is_member(room)",
                "public.is_member(room) and not exists (select from public.banned b where b.member = public.me())",
            ];
            let condition = *uses.choose(rng).unwrap();
            let policy = format!("alter policy p on public.notes using ({condition})");
            log.push(policy.clone());
            db.sql(&policy).await
        }
        4 => {
            let table = ["open", "notes", "members"].choose(rng).unwrap();
            db.sql(&format!("truncate public.{table}")).await
        }
        5 => {
            let table = ["open", "notes", "members"].choose(rng).unwrap();
            let identity = ["full", "default"].choose(rng).unwrap();
            db.sql(&format!("alter table public.{table} replica identity {identity}")).await
        }
        6 | 7 | 16 | 17 => {
            for _ in 0..rng.random_range(1..4) {
                let at = world.rng.random_range(0..world.parties.len());
                world.cut(at);
            }
            Ok(())
        }
        8 => {
            let at = rng.random_range(0..parties.len());
            let name = format!("u{}", rng.random_range(0..PARTIES));
            let token = token(&name, rng);
            (parties[at].name, parties[at].token) = (name, token.clone());
            let payload = json!({"access_token": token});
            let topic = crate::live_client::TOPIC;
            parties[at].client.socket.send(json!("1"), Value::Null, topic, "access_token", payload).await
        }
        9 => db.crash().await,
        10 => {
            // A node is killed, and its clients come to the one in its place.
            let at = rng.random_range(0..nodes.len());
            let server = world.node(at).await?;
            std::mem::replace(&mut world.nodes[at], server).kill().await?;
            for party in (0..world.parties.len()).rev() {
                if world.parties[party].node == at {
                    world.cut(party);
                }
            }
            world.come_back().await
        }
        _ => Ok(()),
    }
}

async fn round(world: &mut World) -> Result<()> {
    disturb(world).await?;
    let comes_back = world.rng.random_range(0..=ROUND);
    for commit in 0..ROUND {
        if commit == comes_back {
            world.come_back().await?;
        }
        let rng = &mut world.rng;
        let statements: Vec<String> = (0..rng.random_range(1..4)).map(|_| statement(rng)).collect();
        world.log.push(statements.join("; "));
        world.counts.commits += 1;
        // A membership that is moved onto another one is refused: then nothing has happened.
        if let Err(error) = world.db.sql(&format!("begin; {}; commit", statements.join("; "))).await {
            anyhow::ensure!(format!("{error:#}").contains("members_pkey"), error);
            world.db.sql("rollback").await?;
        }
        if world.rng.random_ratio(1, 4) {
            time::sleep(Duration::from_millis(world.rng.random_range(0..40))).await;
        }
    }
    world.come_back().await?;
    let mut shown: BTreeMap<String, Vec<Map>> = BTreeMap::new();
    for party in &mut world.parties {
        if !shown.contains_key(&party.name) {
            shown.insert(party.name.clone(), expected(&world.db, &party.name).await?);
        }
        agrees(&mut party.client, &shown[&party.name], world.patience)
            .await
            .with_context(|| party.name.clone())?;
        world.counts.comparisons += BINDINGS.len();
        for rows in party.client.rows.iter_mut().filter(|rows| rows.complete.is_some()) {
            if std::mem::take(&mut rows.returned) {
                let Counts { gone_on, begun_anew, .. } = &mut world.counts;
                *(if rows.is_anew { begun_anew } else { gone_on }) += 1;
            }
        }
        if party.client.was_warned() {
            bail!("{}: {:?}", party.name, party.client.systems);
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a seed that fails is repeated")]
async fn run(nodes: usize, clients: usize, commits: usize, how: (&'static str, Duration)) -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let count = |name: &str, default: usize| {
        number(name).and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
    };
    let first = number("REALTIME_TEST_SEED").unwrap_or_else(|| rand::rng().random_range(0..1 << 40));
    let (clients, commits) =
        (count("REALTIME_TEST_CLIENTS", clients), count("REALTIME_TEST_COMMITS", commits));
    for seed in first..first.saturating_add(number("REALTIME_TEST_SEEDS").unwrap_or(1)) {
        println!("REALTIME_TEST_SEED={seed}");
        run_seed(seed, nodes, clients, commits, how).await?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a run tells what it did")]
async fn run_seed(
    seed: u64,
    nodes: usize,
    clients: usize,
    commits: usize,
    how: (&'static str, Duration),
) -> Result<()> {
    let begun = time::Instant::now();
    let mut world = World::start(seed, (nodes, clients), how).await?;
    for number in 0..commits / ROUND {
        if let Err(error) = round(&mut world).await {
            let log = world.log.join("\n");
            let counts = &world.counts;
            return Err(error.context(format!("seed {seed}, round {number}, {counts:?}, after\n{log}\n")));
        }
    }
    println!("seed {seed}: {nodes} nodes, {clients} clients, {:?}, {:?}", world.counts, begun.elapsed());
    Ok(())
}

/// live 5
#[tokio::test]
async fn maps_are_what_select_shows() -> Result<()> {
    run(1, PARTIES + 2, COMMITS, (FAILPOINTS, PATIENCE)).await
}

/// The check finds what is wrong: live results are not told of some transactions.
#[tokio::test]
async fn a_transaction_that_is_left_out_is_found() {
    let outcome = run(1, PARTIES, COMMITS, ("live_looked=5%error", Duration::from_secs(3))).await;
    let error = format!("{:#}", outcome.expect_err("nothing was found"));
    assert!(error.contains("binding"), "{error}");
}

/// live 5, 14
#[tokio::test]
async fn maps_of_three_nodes_are_what_select_shows() -> Result<()> {
    run(3, PARTIES + 2, COMMITS / 2, (FAILPOINTS, PATIENCE)).await
}
