//! Every change of every row arrives, however fast rows change (postgres_changes 97; row_security 3, 4, 7).
//!
//! Histories are compared event by event: what a row looks like in the end says nothing of what was missed before. A few
//! rows change again and again, in large and small transactions, so that the server has many changes of a row at hand
//! at once. `REALTIME_TEST_SEED` repeats a run.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};
use tokio::time;
use tokio_postgres::Client;

use crate::BINARY;

const TOPIC: &str = "realtime:any";

/// Changes that are written, at least.
const CHANGES: usize = 3_000;

/// Rows of a table that change.
const ROWS: i64 = 4;

/// The columns of all tables. `n` is the number of a row's version, never used twice.
const COLUMNS: &str = "(id int primary key, owner int, n int not null, note text)";

/// Who watches, and the owner whose rows the policies show to it; `None` for all.
const PARTIES: [(&str, Option<i64>); 3] =
    [("service_role", None), ("authenticated", Some(1)), ("authenticated", Some(2))];

/// What is asked for: the filter, and which rows it means. The second has to be asked of the database: no expression with
/// a lookahead is evaluated here.
type Filter = (&'static str, fn(&Row) -> bool);
const FILTERS: [Filter; 4] = [
    ("", |_| true),
    ("note=match.^(?=twin)(twin ?)+$", |row| row.note == "twin twin"),
    ("owner=eq.1", |row| row.owner == 1),
    ("owner=in.(1,2,1)", |row| matches!(row.owner, 1 | 2)),
];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    id: i64,
    owner: i64,
    n: i64,
    note: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    table: String,
    action: &'static str,
    /// The new row; the old one of a delete.
    row: Row,
}

/// What the policies of tables say, by the names of these. The last one is not compiled: it has to be asked.
const POLICIES: [(&str, Option<&str>); 3] = [
    ("open", None),
    ("secured", Some("owner = (select (current_setting('request.jwt.claims')::jsonb ->> 'owner')::int)")),
    ("asked", Some("owner::text || '' = (select current_setting('request.jwt.claims')::jsonb ->> 'owner')")),
];

/// A table, and what is special about it.
#[derive(Debug)]
struct Table {
    name: String,
    secured: bool,
    /// The log has `n` of a deleted row, not its primary key.
    keyed_by_n: bool,
    /// Rows can be updated and deleted.
    may_change: bool,
}

/// Tables of every kind, and the SQL that makes them.
fn tables() -> (Vec<Table>, String) {
    let mut sql = String::from(
        "alter publication supabase_realtime set (publish_via_partition_root = true);
         create table marks (id int primary key, owner int, n int not null, note text);
         alter publication supabase_realtime add table marks;
         grant select on marks to authenticated, service_role;
         create function touch() returns trigger language plpgsql as $$ begin
            execute format('update %I set n = n + 1000000, note = ''touched'' where id = $1', tg_table_name) using new.id;
            return null;
         end $$;",
    );
    let mut tables = Vec::new();
    for (prefix, policy) in POLICIES {
        for kind in ["key", "full", "by_index", "nothing", "root", "parent"] {
            let name = format!("{prefix}_{kind}");
            sql += &match kind {
                "root" => format!(
                    "create table {name} {COLUMNS} partition by range (id);
                     create table {name}_1 partition of {name} for values from (0) to (3);
                     create table {name}_2 partition of {name} for values from (3) to (1000000);"
                ),
                "parent" => format!(
                    "create table {name} {COLUMNS}; create table {name}_child (extra int, primary key (id)) inherits ({name});"
                ),
                "full" => format!("create table {name} {COLUMNS}; alter table {name} replica identity full;"),
                "by_index" => format!(
                    "create table {name} {COLUMNS}; create unique index {name}_n on {name} (n);
                     alter table {name} replica identity using index {name}_n;"
                ),
                "nothing" => {
                    format!("create table {name} {COLUMNS}; alter table {name} replica identity nothing;")
                }
                _ => format!("create table {name} {COLUMNS};"),
            };
            if kind != "nothing" {
                sql += &format!(
                    "create trigger touch after insert on {name} for each row when (new.note = 'touch') execute function touch();"
                );
            }
            sql += &format!(
                "grant select on all tables in schema public to authenticated, service_role;
                 alter publication supabase_realtime add table {name};"
            );
            if let Some(policy) = policy {
                sql += &format!(
                    "alter table {name} enable row level security;
                     create policy own on {name} to authenticated using ({policy});"
                );
            }
            tables.push(Table {
                name,
                secured: policy.is_some(),
                keyed_by_n: kind == "by_index",
                may_change: kind != "nothing",
            });
        }
    }
    (tables, sql)
}

/// What stands in the tables, and what happened to it.
struct World {
    tables: Vec<Table>,
    rows: BTreeMap<(usize, i64), Row>,
    next: i64,
    random: StdRng,
    history: Vec<Event>,
}

impl World {
    fn note(&mut self) -> &'static str {
        ["twin twin", "odd", "touch"][self.random.random_range(0..3)]
    }

    fn row(&mut self, id: i64) -> Row {
        self.next += 1;
        Row { id, owner: self.random.random_range(1..4), n: self.next, note: self.note() }
    }

    fn happened(&mut self, table: usize, action: &'static str, row: Row) {
        if action == "DELETE" {
            self.rows.remove(&(table, row.id));
        } else {
            self.rows.insert((table, row.id), row.clone());
        }
        self.history.push(Event { table: self.tables[table].name.clone(), action, row });
    }

    /// One statement on one of few rows.
    fn statement(&mut self) -> String {
        let table = self.random.random_range(0..self.tables.len());
        let (name, may_change) = (self.tables[table].name.clone(), self.tables[table].may_change);
        if !may_change {
            let id = self.next + 1;
            let row = self.row(id);
            return self.insert(table, &name, row, false);
        }
        let id = self.random.random_range(1..=ROWS);
        let Some(old) = self.rows.get(&(table, id)).cloned() else {
            let row = self.row(id);
            return self.insert(table, &name, row, true);
        };
        match self.random.random_range(0..8) {
            0 => {
                self.happened(table, "DELETE", old);
                format!("delete from {name} where id = {id};")
            }
            1 => self.change_key(table, &name, &old),
            _ => {
                let row = self.row(id);
                let sql = format!(
                    "update {name} set owner = {}, n = {}, note = '{}' where id = {id};",
                    row.owner, row.n, row.note
                );
                self.happened(table, "UPDATE", row);
                sql
            }
        }
    }

    fn insert(&mut self, table: usize, name: &str, row: Row, triggers: bool) -> String {
        let sql =
            format!("insert into {name} values ({}, {}, {}, '{}');", row.id, row.owner, row.n, row.note);
        self.happened(table, "INSERT", row.clone());
        if triggers && row.note == "touch" {
            self.happened(table, "UPDATE", Row { n: row.n + 1_000_000, note: "touched", ..row });
        }
        sql
    }

    /// To a key that is free, in the same partition: another partition's row would be another row.
    fn change_key(&mut self, table: usize, name: &str, old: &Row) -> String {
        let free = (1..=ROWS).find(|id| (*id < 3) == (old.id < 3) && !self.rows.contains_key(&(table, *id)));
        let row = self.row(free.unwrap_or(old.id));
        self.rows.remove(&(table, old.id));
        let sql = format!(
            "update {name} set id = {}, owner = {}, n = {}, note = '{}' where id = {};",
            row.id, row.owner, row.n, row.note, old.id
        );
        self.happened(table, "UPDATE", row);
        sql
    }

    /// Transactions of one to twelve statements, the small ones written without waiting for each other.
    async fn write(&mut self, client: &Client) -> Result<()> {
        let singles: Vec<String> = (0..40).map(|_| self.statement()).collect();
        try_join_all(singles.iter().map(|sql| client.batch_execute(sql))).await?;
        for _ in 0..20 {
            let size = self.random.random_range(1..=12);
            let statements: String = (0..size).map(|_| self.statement()).collect();
            client.batch_execute(&format!("begin; {statements} commit;")).await?;
        }
        Ok(())
    }
}

struct Watcher {
    socket: Socket,
    owner: Option<i64>,
    filter: Filter,
    who: String,
}

impl Watcher {
    async fn new(
        server: &Server,
        party: (&str, Option<i64>),
        filter: Filter,
        version: Version,
    ) -> Result<Self> {
        let (role, owner) = party;
        let claims = json!({"role": role, "owner": owner, "exp": unix_now() + 3600});
        let mut socket = Socket::connect(server.port(), version, &sign(&claims)).await?;
        // A filter on a column that the log lacks never lets a delete through.
        let events = if filter.0.is_empty() { &["*"][..] } else { &["INSERT", "UPDATE"] };
        let subscriptions: Vec<Value> = events
            .iter()
            .map(|event| json!({"event": event, "schema": "public", "table": "*", "filter": filter.0}))
            .chain([json!({"event": "INSERT", "schema": "public", "table": "marks"})])
            .collect();
        socket.watch(TOPIC, json!(subscriptions)).await?;
        Ok(Self { socket, owner, filter, who: format!("{claims} {:?} {version:?}", filter.0) })
    }

    /// What of a history it has to get.
    fn expected(&self, world: &World) -> Vec<(String, &'static str, i64)> {
        let wants = |event: &&Event| {
            let table = world.tables.iter().find(|table| table.name == event.table);
            // Of a deleted row of which the log has the key alone everybody gets the key.
            let is_whole = event.table.ends_with("_full");
            let sees = event.action == "DELETE" && !is_whole
                || !table.is_some_and(|table| table.secured)
                || self.owner.is_none_or(|owner| owner == event.row.owner);
            let asked = self.filter.0.is_empty() || event.action != "DELETE";
            sees && asked && (self.filter.1)(&event.row)
        };
        let identity = |event: &Event| {
            let table = world.tables.iter().find(|table| table.name == event.table);
            let id = match table.filter(|table| table.keyed_by_n) {
                _ if event.action != "DELETE" => event.row.n,
                None => event.row.id,
                // Of a row that policies guard the primary key is shown alone, which this log does not have.
                Some(table) => {
                    if table.secured {
                        0
                    } else {
                        event.row.n
                    }
                }
            };
            (event.table.clone(), event.action, id)
        };
        world.history.iter().filter(wants).map(identity).collect()
    }

    /// Everything up to a mark, in order.
    async fn read(&mut self, mark: i64) -> Result<Vec<(String, &'static str, i64)>> {
        let mut seen = Vec::new();
        loop {
            let frame = self.socket.frame().await?;
            if frame.event == "system" {
                ensure!(frame.payload["status"] == "ok", "{}: {}", self.who, frame.payload);
            }
            if frame.event != "postgres_changes" {
                continue;
            }
            let data = &frame.payload["data"];
            let table = data["table"].as_str().context("table")?;
            if table == "marks" {
                if data["record"]["n"] == mark {
                    return Ok(seen);
                }
                continue;
            }
            let action = ["INSERT", "UPDATE", "DELETE"].into_iter().find(|action| data["type"] == *action);
            let action = action.context("type")?;
            let record = if action == "DELETE" { &data["old_record"] } else { &data["record"] };
            let keyed_by_id = action == "DELETE" && !record["id"].is_null();
            let id = if keyed_by_id { &record["id"] } else { &record["n"] };
            let id = if record == &json!({}) { Some(0) } else { id.as_i64() };
            seen.push((table.to_owned(), action, id.with_context(|| data.to_string())?));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_of_every_row_arrives_once_and_in_order() -> Result<()> {
    let seed = match std::env::var("REALTIME_TEST_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => rand::random::<u64>(),
    };
    eprintln!("REALTIME_TEST_SEED={seed}");
    let db = TestDb::new().await?;
    let (tables, sql) = tables();
    db.sql(&sql).await?;
    let options = ServerOptions::fast();
    let server = Server::start(BINARY, &db, options).await?;
    let mut watchers = Vec::new();
    for party in PARTIES {
        for filter in FILTERS {
            for version in Version::BOTH {
                watchers.push(Watcher::new(&server, party, filter, version).await?);
            }
        }
    }
    let client = db.connect().await?;
    let random = StdRng::seed_from_u64(seed);
    let mut world = World { tables, rows: BTreeMap::new(), next: 0, random, history: Vec::new() };
    let (mut mark, mut changes, mut deliveries) = (0, 0, 0);
    while changes < CHANGES {
        world.write(&client).await?;
        mark += 1;
        db.sql(&format!("insert into marks values ({mark}, 1, {mark}, 'twin twin')")).await?;
        for watcher in &mut watchers {
            let expected = watcher.expected(&world);
            let seen =
                time::timeout(3 * PATIENCE, watcher.read(mark)).await.context("the mark is missing")??;
            if let Some(at) =
                (0..expected.len().max(seen.len())).find(|at| expected.get(*at) != seen.get(*at))
            {
                anyhow::bail!(
                    "{}: event {at} of {} should be {:?} and is {:?} of {}",
                    watcher.who,
                    expected.len(),
                    expected.get(at),
                    seen.get(at),
                    seen.len()
                );
            }
            deliveries += seen.len();
            watcher.socket.send(Value::Null, json!("h"), "phoenix", "heartbeat", json!({})).await?;
        }
        changes += std::mem::take(&mut world.history).len();
    }
    eprintln!("{changes} changes, {deliveries} deliveries");
    Ok(())
}
