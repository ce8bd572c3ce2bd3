//! Row changes at random, and who gets them: what the policies show of each version is the measure.
//!
//! Work comes in rounds. Histories are compared, event by event; a row may change many times in a round and in a
//! transaction. That the model of the policies is right is checked against PostgreSQL, by what `SELECT` shows at the end
//! of each round. In some rounds connections of the server are killed: those for queries, which must cost nothing, and
//! the one for replication, which may cost changes, but not in silence.
//!
//! `REALTIME_TEST_SEED` repeats a run, `REALTIME_TEST_SEEDS` says how many follow each other.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};
use tokio::time::{self, Duration};
use tokio_postgres::Client;

use crate::BINARY;

const TOPIC: &str = "realtime:any";
const SUBSCRIBERS: usize = 60;
const ROUNDS: usize = 26;
const CHANGES: usize = 400;

/// What fails or takes its time inside the server meanwhile.
const FAILPOINTS: &str = "slot_made=20%delay(50);relation_asked=20%delay(20);verdict_asked=1%error;\
    party_aside=5%error;position_confirmed=10%error;subscribe_handed_over=20%delay(20)";

/// Tables, whether row-level security is on, and whether the replica identity is full.
const TABLES: [(&str, bool, bool); 4] =
    [("free", false, false), ("free_full", false, true), ("owned", true, false), ("owned_full", true, true)];

/// `pg_sleep` in a policy is what makes a party slow, `1 / 0` what makes one raise.
fn schema() -> String {
    let mut sql = String::from(
        "create function claim(name text) returns text language sql stable as
            $$ select current_setting('request.jwt.claims', true)::jsonb ->> name $$;
         create table marks (n int primary key); grant select on marks to anon, authenticated, service_role;
         alter publication supabase_realtime add table marks;",
    );
    for (table, secured, full) in TABLES {
        sql += &format!(
            "create table {table} (id int primary key, seq int not null, grp int, note text, owner int);
             grant select on {table} to anon, authenticated, service_role;
             alter publication supabase_realtime add table {table};"
        );
        if secured {
            sql += &format!(
                "alter table {table} enable row level security;
                 create policy a on {table} to authenticated using (owner = (select claim('uid')::int));
                 create policy b on {table} to anon using (
                    case claim('mood')
                        when 'raise' then 1 / (owner - owner) = 0
                        when 'sleep' then pg_sleep(0.7) is not null
                        when 'odd' then owner % 2 = 1
                        else false
                    end);"
            );
        }
        if full {
            sql += &format!("alter table {table} replica identity full;");
        }
    }
    sql
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    id: i32,
    seq: i32,
    grp: Option<i32>,
    note: Option<String>,
    owner: i32,
}

#[derive(Debug, Clone)]
struct Change {
    table: usize,
    action: &'static str,
    /// The new row; the old one for a delete.
    row: Row,
}

/// What identifies a change among those of a round.
type Seen = (usize, &'static str, i32, i32);

impl Change {
    fn seen(&self) -> Seen {
        let seq = if self.action == "DELETE" { 0 } else { self.row.seq };
        (self.table, self.action, self.row.id, seq)
    }
}

/// A filter's text and its meaning; NULL is never equal, unequal, less or more.
type Filter = (&'static str, fn(&Row) -> bool);

const FILTERS: [Filter; 12] = [
    ("", |_| true),
    ("grp=eq.1", |row| row.grp == Some(1)),
    ("grp=eq.2", |row| row.grp == Some(2)),
    ("grp=in.(1,3)", |row| matches!(row.grp, Some(1 | 3))),
    ("grp=neq.1", |row| row.grp.is_some_and(|grp| grp != 1)),
    ("grp=not.in.(1,3)", |row| row.grp.is_some_and(|grp| grp != 1 && grp != 3)),
    ("grp=gt.1,note=like.a%", |row| {
        row.grp.is_some_and(|grp| grp > 1) && row.note.as_ref().is_some_and(|note| note.starts_with('a'))
    }),
    ("note=is.null", |row| row.note.is_none()),
    ("note=not.is.null,grp=lte.2", |row| row.note.is_some() && row.grp.is_some_and(|grp| grp <= 2)),
    // No expression with a lookahead is evaluated here: this one is asked of the database.
    ("note=match.^(?=b)b+$", |row| {
        row.note.as_ref().is_some_and(|note| !note.is_empty() && note.bytes().all(|byte| byte == b'b'))
    }),
    ("note=isdistinct.abc", |row| row.note.as_deref() != Some("abc")),
    ("id=gte.100,grp=isdistinct.2", |row| row.id >= 100 && row.grp != Some(2)),
];

struct Subscriber {
    socket: Socket,
    claims: Value,
    /// Table, or all, event, or all.
    table: Option<usize>,
    event: &'static str,
    filter: Filter,
    /// Told that changes may be missing, in this round.
    gap: bool,
    /// Told that its policies failed.
    withheld: bool,
}

impl Subscriber {
    fn role(&self) -> &str {
        self.claims["role"].as_str().unwrap_or_default()
    }

    /// Whether the policies show it a version of a row. Who sleeps would see all rows.
    fn sees(&self, table: usize, row: &Row) -> bool {
        let (_, secured, _) = TABLES[table];
        match (self.role(), self.claims["mood"].as_str()) {
            _ if !secured => true,
            ("service_role", _) | (_, Some("sleep")) => true,
            ("authenticated", _) => self.claims["uid"] == row.owner,
            (_, Some("odd")) => row.owner % 2 == 1,
            _ => false,
        }
    }

    /// Whether the change is one it asked for. Deletes are seen as far as the replica identity goes.
    fn wants(&self, change: &Change) -> bool {
        let (_, _, full) = TABLES[change.table];
        let filtered = if change.action == "DELETE" && !full {
            // All but the key is absent, and what is absent makes a filter fail.
            self.filter.0.is_empty()
        } else {
            (self.filter.1)(&change.row)
        };
        self.table.is_none_or(|table| table == change.table)
            && (self.event == "*" || self.event == change.action)
            && filtered
    }

    /// Waits for the round's last mark. Gives what was seen, in order.
    async fn read(&mut self, mark: i32) -> Result<Vec<(Seen, Value)>> {
        let mut seen = Vec::new();
        loop {
            let frame =
                self.socket.frame().await.with_context(|| format!("{} {:?}", self.claims, self.filter.0))?;
            match frame.event.as_str() {
                // Everybody waits for the policies that sleep.
                "system" if frame.payload["code"] == "ChangesDelayed" => {}
                "system" if frame.payload["status"] != "ok" => {
                    let message = frame.payload["message"].as_str().unwrap_or_default();
                    let withheld = message.contains("changes are withheld");
                    let missed =
                        ["may have been missed", "were not delivered"].map(|text| message.contains(text));
                    ensure!(withheld || missed.contains(&true), "told: {message}");
                    self.withheld |= withheld;
                    self.gap |= !withheld;
                }
                "postgres_changes" => {
                    let data = &frame.payload["data"];
                    if data["table"] == "marks" {
                        if data["record"]["n"] == mark {
                            return Ok(seen);
                        }
                        continue;
                    }
                    let table =
                        TABLES.iter().position(|(name, ..)| data["table"] == *name).context("table")?;
                    let action =
                        ["INSERT", "UPDATE", "DELETE"].into_iter().find(|action| data["type"] == *action);
                    let action = action.context("type")?;
                    let record = if action == "DELETE" { &data["old_record"] } else { &data["record"] };
                    let number = |name: &str| record[name].as_i64().and_then(|n| i32::try_from(n).ok());
                    let seq = if action == "DELETE" { 0 } else { number("seq").context("seq")? };
                    seen.push(((table, action, number("id").context("id")?, seq), data.clone()));
                }
                _ => {}
            }
        }
    }
}

struct World {
    rows: [BTreeMap<i32, Row>; 4],
    next: i32,
    random: StdRng,
}

impl World {
    fn row(&mut self, id: i32) -> Row {
        self.next += 1;
        let notes = [None, Some("abc"), Some("a"), Some("bb"), Some(""), Some("ä"), Some("abacus")];
        Row {
            id,
            seq: self.next,
            grp: *[None, Some(1), Some(2), Some(3)].choose(&mut self.random).unwrap(),
            note: notes.choose(&mut self.random).unwrap().map(str::to_owned),
            owner: self.random.random_range(0..6),
        }
    }

    /// Changes of a round, in transactions. The youngest rows change most.
    fn round(&mut self, tables: &[usize]) -> Vec<Vec<Change>> {
        let mut transactions = Vec::new();
        let mut count = 0;
        while count < CHANGES / 2 {
            let size = *[1, 1, 1, 2, 5, 40].choose(&mut self.random).unwrap();
            let mut transaction = Vec::new();
            for _ in 0..size {
                let table = *tables.choose(&mut self.random).unwrap();
                let mut old: Vec<i32> = self.rows[table].keys().copied().collect();
                if self.random.random_bool(0.5) {
                    old.drain(..old.len().saturating_sub(3));
                }
                let change = match (self.random.random_range(0..4), old.choose(&mut self.random)) {
                    (0, Some(id)) => {
                        let row = self.rows[table].remove(id).unwrap();
                        Change { table, action: "DELETE", row }
                    }
                    (1, Some(id)) => {
                        let row = self.row(*id);
                        self.rows[table].insert(*id, row.clone());
                        Change { table, action: "UPDATE", row }
                    }
                    _ => {
                        let id = self.next;
                        let row = self.row(id);
                        self.rows[table].insert(id, row.clone());
                        Change { table, action: "INSERT", row }
                    }
                };
                transaction.push(change);
            }
            count += transaction.len();
            transactions.push(transaction);
        }
        transactions
    }
}

async fn write(client: &Client, transactions: &[Vec<Change>]) -> Result<()> {
    for transaction in transactions {
        let mut sql = String::from("begin;");
        for Change { table, action, row } in transaction {
            let (name, ..) = TABLES[*table];
            let grp = row.grp.map_or("null".to_owned(), |grp| grp.to_string());
            let note = row.note.as_ref().map_or("null".to_owned(), |note| format!("'{note}'"));
            let (id, seq, owner) = (row.id, row.seq, row.owner);
            sql += &match *action {
                "INSERT" => format!("insert into {name} values ({id}, {seq}, {grp}, {note}, {owner});"),
                "UPDATE" => format!(
                    "update {name} set seq = {seq}, grp = {grp}, note = {note}, owner = {owner} where id = {id};"
                ),
                _ => format!("delete from {name} where id = {id};"),
            };
        }
        client.batch_execute(&(sql + "commit;")).await?;
    }
    Ok(())
}

/// The model of the policies says of what stands in the tables what PostgreSQL says.
async fn agree(client: &Client, subscriber: &Subscriber, world: &World) -> Result<()> {
    for (table, rows) in world.rows.iter().enumerate() {
        let seen = rows.values().filter(|row| subscriber.sees(table, row)).map(|row| row.id).collect();
        let shown = shown(client, &subscriber.claims, table).await?.unwrap_or_default();
        ensure!(shown == seen, "{} in {}: the model is wrong", subscriber.claims, TABLES[table].0);
    }
    Ok(())
}

/// The ids that PostgreSQL shows a role with these claims; `None` if it raises. Who sleeps would see all rows.
async fn shown(client: &Client, claims: &Value, table: usize) -> Result<Option<BTreeSet<i32>>> {
    let sleeps = claims["mood"] == "sleep";
    let role = if sleeps { "service_role" } else { claims["role"].as_str().context("role")? };
    client.batch_execute("begin").await?;
    client.execute("select set_config('request.jwt.claims', $1, true)", &[&claims.to_string()]).await?;
    client.batch_execute(&format!("set local role {role}")).await?;
    let rows = client.query(&format!("select id from {}", TABLES[table].0), &[]).await;
    client.batch_execute("rollback").await?;
    Ok(rows.ok().map(|rows| rows.iter().map(|row| row.get(0)).collect()))
}

async fn subscribe(server: &Server, random: &mut StdRng, n: usize) -> Result<Subscriber> {
    let mut claims = match n % 10 {
        0 => json!({"role": "service_role"}),
        1 => json!({"role": "anon", "mood": "odd"}),
        2 => json!({"role": "anon", "mood": if n < 30 { "raise" } else { "sleep" }}),
        3 => json!({"role": "anon", "mood": "none"}),
        _ => json!({"role": "authenticated", "uid": random.random_range(0..6)}),
    };
    let mut table =
        [None, Some(0), Some(1), Some(2), Some(3), Some(2), Some(3)].choose(random).copied().unwrap();
    let mut event = *["*", "*", "INSERT", "UPDATE", "DELETE"].choose(random).unwrap();
    if n % 30 == 2 {
        // One whose policies raise and one whose policies sleep see to it that some fail, whatever the others want.
        (table, event) = (None, "*");
    }
    // Filters on all tables would have to fit the table of marks as well.
    let filter = if table.is_some() { *FILTERS.choose(random).unwrap() } else { FILTERS[0] };
    let mut subscription = json!({"event": event, "schema": "public", "table": "*"});
    if let Some(table) = table {
        subscription["table"] = json!(TABLES[table].0);
        subscription["filter"] = json!(filter.0);
    }
    let mut subscriptions = vec![subscription];
    if table.is_some() || !matches!(event, "*" | "INSERT") {
        subscriptions.push(json!({"event": "INSERT", "schema": "public", "table": "marks"}));
    }
    claims["exp"] = json!(unix_now() + 3600);
    let version = *Version::BOTH.choose(random).unwrap();
    let mut socket = Socket::connect(server.port(), version, &sign(&claims)).await?;
    socket.watch(TOPIC, json!(subscriptions)).await?;
    Ok(Subscriber { socket, claims, table, event, filter, gap: false, withheld: false })
}

/// What happens to the server's connections while a round's changes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    None,
    Queries,
    Replication,
}

async fn disturb(client: &Client, disturbance: Disturbance) -> Result<()> {
    let which = match disturbance {
        Disturbance::None => return Ok(()),
        Disturbance::Queries => "application_name = 'realtime'",
        Disturbance::Replication => "backend_type = 'walsender'",
    };
    time::sleep(Duration::from_millis(30)).await;
    let sql = format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and {which}"
    );
    client.query_one(&sql, &[]).await?;
    Ok(())
}

/// postgres_changes 97, 101, 102: nothing hidden is shown, nothing is missing in silence, nothing comes twice or out
/// of order
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_everybody_gets_what_they_may_see() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let first = number("REALTIME_TEST_SEED").unwrap_or_else(|| rand::rng().random_range(0..1 << 40));
    for seed in first..first.saturating_add(number("REALTIME_TEST_SEEDS").unwrap_or(1)) {
        eprintln!("REALTIME_TEST_SEED={seed}");
        eprintln!("{}", run(seed).await?);
    }
    Ok(())
}

/// What has happened.
async fn run(seed: u64) -> Result<String> {
    let mut random = StdRng::seed_from_u64(seed);
    let db = TestDb::new().await?;
    db.sql(&schema()).await?;
    let options = ServerOptions::fast().env("FAILPOINTS", FAILPOINTS);
    let server = Server::start(BINARY, &db, options).await?;
    let mut subscribers = Vec::new();
    for n in 0..SUBSCRIBERS {
        subscribers.push(subscribe(&server, &mut random, n).await?);
    }
    let (one, two, other) = (db.connect().await?, db.connect().await?, db.connect().await?);
    let mut world = World { rows: Default::default(), next: 1, random };
    let (mut changes, mut deliveries, mut gaps) = (0, 0, 0);
    for round in 0..ROUNDS {
        // Two writers at once, each on tables of its own: the order among them is the log's affair.
        let (first, second) = (world.round(&[0, 2]), world.round(&[1, 3]));
        let disturbance = match round % 6 {
            2 => Disturbance::Queries,
            5 => Disturbance::Replication,
            _ => Disturbance::None,
        };
        let (a, b, c) = tokio::join!(write(&one, &first), write(&two, &second), disturb(&other, disturbance));
        a.and(b).and(c)?;
        let written: Vec<Vec<Change>> = [first, second].map(|w| w.into_iter().flatten().collect()).into();
        changes += written.iter().map(Vec::len).sum::<usize>();
        let seen = finish(&db, &mut subscribers, round, disturbance).await?;

        for subscriber in &subscribers {
            agree(&one, subscriber, &world).await?;
        }
        for (subscriber, seen) in subscribers.iter_mut().zip(seen) {
            deliveries += seen.len();
            gaps += usize::from(subscriber.gap);
            let mut expected: Vec<Vec<Seen>> = Vec::new();
            for written in &written {
                let mut of_writer = Vec::new();
                for change in written.iter().filter(|change| subscriber.wants(change)) {
                    let (_, secured, full) = TABLES[change.table];
                    // Of a deleted row of which the log has the key alone everybody gets the key.
                    let is_judged = secured && (change.action != "DELETE" || full);
                    if is_judged && !subscriber.sees(change.table, &change.row) {
                        continue;
                    }
                    of_writer.push(change.seen());
                }
                expected.push(of_writer);
            }
            let who = format!(
                "round {round} ({disturbance:?}), {} {:?} {} {:?}",
                subscriber.claims, subscriber.table, subscriber.event, subscriber.filter.0
            );
            // A policy that is too slow is not asked for a while, which is told.
            let barred = subscriber.claims["mood"] == "sleep" && subscriber.withheld;
            compare(&who, &expected, &seen, subscriber.gap || barred)?;
            if subscriber.claims.get("mood").is_some_and(|mood| mood == "odd") || subscriber.role() != "anon"
            {
                ensure!(!subscriber.withheld, "{who}: its policies do not fail");
            }
            subscriber.gap = false;
        }
    }
    let withheld = subscribers.iter().filter(|subscriber| subscriber.withheld).count();
    let told = format!(
        "{changes} changes, {deliveries} deliveries, {gaps} gaps told, {withheld} told of failing policies"
    );
    ensure!(
        changes >= 10_000 && gaps >= SUBSCRIBERS && withheld > 0 && deliveries > changes,
        "too little happened"
    );
    Ok(told)
}

/// Reads what the round has brought to everybody: up to a mark that is written when it is over.
async fn finish(
    db: &TestDb,
    subscribers: &mut [Subscriber],
    round: usize,
    disturbance: Disturbance,
) -> Result<Vec<Vec<(Seen, Value)>>> {
    if disturbance == Disturbance::Replication {
        // A mark that is written into the gap would be missed with the rest of it.
        for subscriber in &mut *subscribers {
            let mended = |frame: &realtime_testkit::Frame| {
                frame.event == "system" && frame.payload["message"] == "Subscribed to PostgreSQL"
            };
            subscriber.socket.expect(mended).await.context("never subscribed again")?;
        }
    }
    let mark = i32::try_from(round)?;
    db.sql(&format!("insert into marks values ({mark})")).await?;
    let mut seen = Vec::new();
    for subscriber in subscribers {
        seen.push(time::timeout(3 * PATIENCE, subscriber.read(mark)).await.context("the mark is missing")??);
        subscriber.socket.send(Value::Null, json!("h"), "phoenix", "heartbeat", json!({})).await?;
    }
    Ok(seen)
}

/// What was seen against what two writers have written, each in its order.
fn compare(who: &str, expected: &[Vec<Seen>], seen: &[(Seen, Value)], gap: bool) -> Result<()> {
    let mut unique = BTreeSet::new();
    for (change, data) in seen {
        ensure!(unique.insert(change), "{who}: {change:?} came twice");
        ensure!(
            expected.iter().flatten().any(|wanted| wanted == change),
            "{who}: {change:?} is not its: {data}"
        );
    }
    for of_writer in expected {
        let got: Vec<&Seen> =
            seen.iter().map(|(change, _)| change).filter(|c| of_writer.contains(c)).collect();
        if gap {
            let wanted: Vec<&Seen> = of_writer.iter().filter(|change| unique.contains(change)).collect();
            ensure!(got == wanted, "{who}: out of order");
        } else {
            let missing: Vec<&Seen> = of_writer.iter().filter(|change| !unique.contains(change)).collect();
            ensure!(missing.is_empty(), "{who}: {missing:?} did not come");
            ensure!(got == of_writer.iter().collect::<Vec<_>>(), "{who}: out of order");
        }
    }
    Ok(())
}
