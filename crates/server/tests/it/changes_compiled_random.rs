//! Policies at random over tables that change at random: each party gets the versions of rows that SELECT shows it, and no
//! other (row_security 1, 2, 3). A row may change many times in a transaction, with what policies read before and behind it;
//! replica identities change, and connections of the server are killed. Each step is handed over before the next is
//! written, so both are asked about the same moment: a version is measured by putting it into the table, in a
//! transaction that is rolled back.
//!
//! `REALTIME_TEST_SEED` repeats a run, `REALTIME_TEST_SEEDS` says how many follow each other.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_testkit::{Server, ServerOptions, Socket, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};

use crate::{
    changes_compiled_conditions::{CONDITIONS, SCHEMA, function},
    changes_images::{TOPIC, frames, server_with},
};

/// Names and roles.
const PARTIES: [(&str, &str); 5] = [
    ("ann", "authenticated"),
    ("bob", "authenticated"),
    ("cat", "authenticated"),
    ("dan", "anon"),
    ("ann", "anon"),
];
const POLICIES: usize = 40;
const STEPS: usize = 8;

/// Ids from here on are those of versions that are measured.
const MEASURED: i32 = 1_000_000;

/// What takes its time or fails inside the server meanwhile.
const FAILPOINTS: &str = "relation_asked=20%delay(10);verdict_asked=1%error;party_aside=10%error;position_confirmed=10%error;calls_narrowed=70%error";

/// A version of a row.
#[derive(Debug, Clone)]
struct RowVersion {
    v: i32,
    /// Its columns but for the key, as SQL.
    columns: String,
}

/// What is written of a row.
#[derive(Debug, Clone)]
enum Written {
    Insert(i32, RowVersion),
    Update(i32, RowVersion, RowVersion),
    Delete(i32, RowVersion),
}

const NAMES: &str = "v, room, org, owner, rank, tags, extra, fee, until";

/// What falls, and the functions that were made for the policies of a while.
struct Dice(StdRng, Vec<String>);

impl Dice {
    /// Makes the functions of a while, or none.
    fn functions(&mut self, round: usize) -> String {
        self.1.clear();
        if self.0.random_bool(0.6) {
            self.1.extend((0..2).map(|n| format!("made_{round}_{n}")));
        }
        self.1.iter().map(|name| function(&mut self.0, name)).collect()
    }

    /// A function that was made, of a column.
    fn call(&mut self) -> Option<String> {
        let column = if self.0.random_bool(0.7) { "room" } else { "org" };
        self.1.choose(&mut self.0).map(|name| format!("{name}({column})"))
    }

    fn condition(&mut self) -> String {
        let one = |dice: &mut Self| match dice.0.random_bool(0.5).then(|| dice.call()).flatten() {
            Some(call) => call,
            None => (*CONDITIONS.choose(&mut dice.0).unwrap()).to_owned(),
        };
        match self.0.random_range(0..7) {
            0 | 1 => one(self),
            2 => format!("({}) and ({})", one(self), one(self)),
            3 => format!("({}) or ({})", one(self), one(self)),
            4 => format!("({}) or ({}) and not ({})", one(self), one(self), one(self)),
            5 => format!("(({}) is not true) or ({})", one(self), one(self)),
            _ => {
                // It leads to rows, and forbids them.
                let (condition, room) = (one(self), self.number());
                format!("({condition}) or room = {room} and not ({condition})")
            }
        }
    }

    /// The policies of a while.
    fn policies(&mut self) -> String {
        let role = |dice: &mut Self| {
            *["authenticated", "authenticated", "public", "anon"].choose(&mut dice.0).unwrap()
        };
        let mut sql = format!("create policy own on says to {} using ({});", role(self), self.condition());
        for (name, kind) in [("more", ""), ("most", "as restrictive ")] {
            if self.0.random_bool(0.4) {
                sql += &format!(
                    "\ncreate policy {name} on says {kind}to {} using ({});",
                    role(self),
                    self.condition()
                );
            }
        }
        sql
    }

    fn who(&mut self) -> &'static str {
        PARTIES.choose(&mut self.0).unwrap().0
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
                "insert into orgs values ({n}, '{who}', {m} = 1, {m}.50) on conflict (org) do update
                 set owner = excluded.owner, is_open = excluded.is_open, fee = excluded.fee"
            ),
            9 => format!("delete from orgs where org = {n}"),
            10 => format!("insert into bans values ('{who}') on conflict do nothing"),
            11 => "truncate bans".to_owned(),
            12 => format!("insert into unpublished values ({n}, '{who}') on conflict do nothing"),
            _ => format!("delete from unpublished where who = '{who}'"),
        }
    }

    fn version(&mut self, v: i32) -> RowVersion {
        let (room, org, fee, to) = (self.number(), self.number(), self.number(), self.number());
        let (owner, tag, tagged) = (self.who(), self.who(), self.who());
        let until = if self.0.random_bool(0.5) { "2001-01-01 00:00+00" } else { "2201-01-01 00:00+00" };
        let extra = json!({"for": tagged, "to": {"room": format!("{to}")}});
        let columns = [
            format!("{room}"),
            format!("{org}"),
            format!("'{owner}'"),
            self.rank().to_owned(),
            format!("array['{tag}', null, 'x y']"),
            format!("'{extra}'"),
            format!("{fee}.00"),
            format!("'{until}'"),
        ];
        let columns = columns.map(|column| self.or_null(column));
        RowVersion { v, columns: format!("{v}, {}", columns.join(", ")) }
    }
}

/// The rows, and how many versions there have been.
#[derive(Default)]
struct World {
    rows: BTreeMap<i32, RowVersion>,
    ids: i32,
    versions: i32,
}

impl World {
    /// Writes a row: the youngest change most, perhaps in the transaction that made them.
    fn write(&mut self, dice: &mut Dice) -> (String, Written) {
        self.versions += 1;
        let version = dice.version(self.versions);
        let recent: Vec<i32> = self.rows.keys().rev().take(4).copied().collect();
        let id = recent.choose(&mut dice.0).copied();
        match (dice.0.random_range(0..10), id) {
            (0 | 1, Some(id)) => {
                let old = self.rows.remove(&id).unwrap();
                (format!("delete from says where id = {id}"), Written::Delete(id, old))
            }
            (2..=5, Some(id)) => {
                let old = self.rows.insert(id, version.clone()).unwrap();
                let sql = format!("update says set ({NAMES}) = row({}) where id = {id}", version.columns);
                (sql, Written::Update(id, old, version))
            }
            _ => {
                self.ids += 1;
                self.rows.insert(self.ids, version.clone());
                let sql =
                    format!("insert into says (id, {NAMES}) values ({}, {})", self.ids, version.columns);
                (sql, Written::Insert(self.ids, version))
            }
        }
    }
}

/// What is claimed for a party; not all claim all.
fn claims(who: &str, role: &str) -> Value {
    let mut claims = json!({"role": role, "me": who, "sub": who});
    let more = match who {
        "ann" => json!({"adult": true, "fee": "2.5", "rank": "high"}),
        "bob" => json!({"adult": false, "fee": 3.500}),
        "cat" => json!({"adult": "yes", "rank": "low"}),
        _ => json!({}),
    };
    for (name, value) in more.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    claims
}

/// Which versions a party may read, with everything else as it is now.
async fn shown(
    db: &TestDb,
    (who, role): (&str, &str),
    versions: &BTreeMap<i32, &RowVersion>,
) -> Result<BTreeSet<i32>> {
    if versions.is_empty() {
        return Ok(BTreeSet::new());
    }
    let rows: Vec<String> =
        versions.values().map(|version| format!("({}, {})", MEASURED + version.v, version.columns)).collect();
    let claims = claims(who, role);
    let client = db.client();
    client
        .batch_execute(&format!("begin; insert into says (id, {NAMES}) values {}", rows.join(", ")))
        .await?;
    client.query("select set_config('request.jwt.claims', $1, true)", &[&claims.to_string()]).await?;
    client.batch_execute(&format!("set local role {role}")).await?;
    let rows = client.query("select v from says where id > $1", &[&MEASURED]).await;
    client.batch_execute("rollback").await?;
    Ok(rows?.iter().map(|row| row.get(0)).collect())
}

/// An event: what happened, to which row, which version came, and which old one.
type Event = (String, i32, Option<i32>, Option<i32>);

/// What a party gets of what was written.
fn expected(written: &[Written], seen: &BTreeSet<i32>, is_full: bool) -> Vec<Event> {
    let old = |old: &RowVersion| (is_full && seen.contains(&old.v)).then_some(old.v);
    let event = |written: &Written| match written {
        Written::Insert(id, new) => {
            seen.contains(&new.v).then(|| ("INSERT".to_owned(), *id, Some(new.v), None))
        }
        Written::Update(id, before, new) => {
            seen.contains(&new.v).then(|| ("UPDATE".to_owned(), *id, Some(new.v), old(before)))
        }
        // A key alone cannot be judged.
        Written::Delete(id, before) => {
            (!is_full || seen.contains(&before.v)).then(|| ("DELETE".to_owned(), *id, None, old(before)))
        }
    };
    written.iter().filter_map(event).collect()
}

/// What a party has got.
async fn came(db: &TestDb, socket: &mut Socket) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for frame in frames(db, socket).await? {
        ensure!(frame.event == "postgres_changes", "{frame:?}");
        let data = &frame.payload["data"];
        let number = |value: &Value| value.as_i64().and_then(|number| i32::try_from(number).ok());
        let kind = data["type"].as_str().unwrap_or_default().to_owned();
        let row = if kind == "DELETE" { &data["old_record"] } else { &data["record"] };
        let Some(id) = number(&row["id"]) else { anyhow::bail!("no key: {data}") };
        events.push((kind, id, number(&data["record"]["v"]), number(&data["old_record"]["v"])));
    }
    Ok(events)
}

async fn watching(server: &Server, (who, role): (&str, &str)) -> Result<Socket> {
    let mut claims = claims(who, role);
    claims["exp"] = json!(unix_now() + 3600);
    let mut socket = Socket::connect(server.port(), Version::V2, &sign(&claims)).await?;
    let of = |table: &str, event: &str| json!({"event": event, "schema": "public", "table": table});
    socket.watch(TOPIC, json!([of("says", "*"), of("fence", "INSERT")])).await?;
    Ok(socket)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

fn first_seed() -> u64 {
    number("REALTIME_TEST_SEED").unwrap_or_else(|| rand::rng().random_range(0..1 << 40))
}

#[tokio::test]
async fn everybody_gets_what_select_shows() -> Result<()> {
    let first = first_seed();
    for seed in first..first + number("REALTIME_TEST_SEEDS").unwrap_or(1) {
        println!("REALTIME_TEST_SEED={seed}");
        println!("{}", run(seed).await?);
    }
    Ok(())
}

/// The test finds out when a function is asked of too few: of those whom rows name one is left out each time.
#[tokio::test]
async fn a_party_that_is_left_out_is_noticed() -> Result<()> {
    let seed = first_seed();
    println!("REALTIME_TEST_SEED={seed}");
    let mut trial = Trial::begin(seed, "calls_narrowed=error;name_lost=error").await?;
    for round in 0..POLICIES {
        let name = format!("made_{round}_0");
        let made = function(&mut trial.dice.0, &name);
        let policies = format!("{made} create policy own on says using ({name}(room));");
        if let Err(difference) = trial.round(&policies).await {
            let text = format!("{difference:?}");
            ensure!(text.contains(DIFFERENCE), "{text}");
            return Ok(());
        }
    }
    anyhow::bail!("seed {seed}: nobody has noticed that parties were left out")
}

/// What is said when somebody has got something else than SELECT shows.
const DIFFERENCE: &str = "this is not what SELECT shows";

/// A server, and those who watch.
struct Trial {
    seed: u64,
    dice: Dice,
    server: Server,
    db: TestDb,
    sockets: Vec<Socket>,
    world: World,
    compared: usize,
    visible: usize,
}

impl Trial {
    async fn begin(seed: u64, failpoints: &str) -> Result<Self> {
        let dice = Dice(StdRng::seed_from_u64(seed), Vec::new());
        let options = ServerOptions::default()
            // Steps follow each other faster than a tenant may have events.
            .env("TENANT_MAX_EVENTS_PER_SECOND", "100000000")
            // What changes meanwhile must raise no false alarm.
            .env("POLICY_CHECK_EVERY", "1")
            .env("FAILPOINTS", failpoints);
        let (server, db) = server_with(SCHEMA, options).await?;
        let mut sockets: Vec<Socket> = Vec::new();
        for party in PARTIES {
            sockets.push(watching(&server, party).await?);
        }
        Ok(Self { seed, dice, server, db, sockets, world: World::default(), compared: 0, visible: 0 })
    }

    /// The policies of a while, and what is written meanwhile.
    async fn round(&mut self, policies: &str) -> Result<()> {
        let dice = &mut self.dice;
        let identity = *["default", "full", "using index says_kind"].choose(&mut dice.0).unwrap();
        let of_members = *["default", "full", "using index members_pkey"].choose(&mut dice.0).unwrap();
        self.db
            .sql(&format!(
                "begin; drop policy if exists own on says; drop policy if exists more on says; drop policy if exists most on says;
                 {policies} alter table says replica identity {identity}; alter table members replica identity {of_members}; commit"
            ))
            .await?;
        for _ in 0..STEPS {
            self.step(policies, identity).await?;
        }
        Ok(())
    }

    /// A transaction, and who gets what of it.
    async fn step(&mut self, policies: &str, identity: &str) -> Result<()> {
        let Self { seed, dice, db, world, .. } = self;
        let (mut step, mut written) = (vec!["begin".to_owned()], Vec::new());
        for _ in 0..dice.0.random_range(1..9) {
            if dice.0.random_bool(0.4) {
                step.push(dice.surrounding());
            } else {
                let (sql, change) = world.write(dice);
                step.push(sql);
                written.push(change);
            }
        }
        step.push("commit".to_owned());
        let step = step.join(";\n");
        db.sql(&step).await?;
        if dice.0.random_bool(0.05) {
            db.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and application_name = 'realtime'",
            )
            .await?;
        }
        let mut versions = BTreeMap::new();
        for change in &written {
            let (Written::Insert(_, new) | Written::Delete(_, new)) = change else { continue };
            versions.insert(new.v, new);
        }
        for change in &written {
            let Written::Update(_, old, new) = change else { continue };
            versions.extend([(old.v, old), (new.v, new)]);
        }
        for (party, socket) in PARTIES.iter().zip(&mut self.sockets) {
            let seen = shown(db, *party, &versions).await?;
            let expected = expected(&written, &seen, identity == "full");
            let came = came(db, socket).await.with_context(|| format!("{party:?}\n{policies}\n{step}"))?;
            ensure!(
                came == expected,
                "{DIFFERENCE}: seed {seed}, {party:?}, identity {identity}\n{policies}\n{step}\ncame {came:?}\nnot  {expected:?}"
            );
            self.compared += versions.len();
            self.visible += seen.len();
        }
        Ok(())
    }
}

/// What was compared.
async fn run(seed: u64) -> Result<String> {
    let mut trial = Trial::begin(seed, FAILPOINTS).await?;
    for round in 0..POLICIES {
        let functions = trial.dice.functions(round);
        let policies = format!("{functions}\n{}", trial.dice.policies());
        trial.round(&policies).await?;
    }
    let Trial { server, compared, visible, .. } = trial;
    let checked = server.metric("realtime_changes_compared").await?;
    let told = format!("{compared} verdicts, {visible} visible; the server compared {checked} of its own");
    ensure!(visible > 500 && checked > 50.0, "too little happened");
    ensure!(
        server.metric("realtime_changes_mismatch").await? == 0.0,
        "seed {seed}: a false alarm, or a true one"
    );
    Ok(told)
}
