//! Subscribers to a table and rows that change.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use realtime_testkit::{Server, ServerOptions, Socket, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{self, Duration, MissedTickBehavior},
};

use crate::{report, server_binary};

const TOPIC: &str = "realtime:bench";

/// Longest a row may take to arrive before the run is given up.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Subscribers, one socket each
    #[arg(long, default_value_t = 1)]
    subscribers: usize,
    /// Rows to insert
    #[arg(long, default_value_t = 2000)]
    rows: usize,
    /// Rows per second; 0 inserts as fast as the database takes them, in transactions of 100
    #[arg(long, default_value_t = 0)]
    rate: usize,
    /// What the subscribers ask for
    #[arg(long, value_enum, default_value_t = Filter::None)]
    filter: Filter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Filter {
    /// Everything: each row reaches every subscriber
    None,
    /// A distinct `eq` filter each: each row reaches one subscriber
    Distinct,
    /// Row-level security and distinct claims: each row reaches one subscriber
    Rls,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    ensure!(options.subscribers > 0 && options.rows > 0, "nothing to do");
    let db = TestDb::new().await?;
    db.sql(
        "create table public.bench (id bigserial primary key, owner int not null, body text not null, sent_at bigint not null);
         grant select on public.bench to anon;
         alter publication supabase_realtime add table public.bench;",
    )
    .await?;
    if options.filter == Filter::Rls {
        db.sql(
            "alter table public.bench enable row level security;
             create policy own on public.bench to anon
                using (owner = (select (current_setting('request.jwt.claims')::jsonb ->> 'owner')::int));",
        )
        .await?;
    }
    let server = Server::start(server_binary()?, &db, ServerOptions::default()).await?;
    let sockets: Vec<Socket> = stream::iter(0..options.subscribers)
        .map(|n| subscribe(&server, options.filter, n))
        .buffered(16)
        .try_collect()
        .await?;

    let before = (server.usage()?.cpu_seconds, database_cpu()?);
    let started = time::Instant::now();
    let mut readers = JoinSet::new();
    for (n, socket) in sockets.into_iter().enumerate() {
        readers.spawn(read(socket, expected(options, n)));
    }
    insert(&db, options).await?;
    let mut latencies = Histogram::<u64>::new(3)?;
    let mut deliveries = 0;
    while let Some(reader) = readers.join_next().await {
        let seen = reader??;
        deliveries += seen.len();
        latencies.add(&seen)?;
    }
    let elapsed = started.elapsed();
    let after = (server.usage()?.cpu_seconds, database_cpu()?);

    let (rows, deliveries) = (options.rows as u64, deliveries);
    report::heading(&format!(
        "changes: {} subscribers, filter {:?}, {rows} rows, rate {}",
        options.subscribers, options.filter, options.rate
    ));
    report::cpu_per("server CPU per row", after.0 - before.0, rows);
    report::cpu_per("server CPU per delivery", after.0 - before.0, deliveries);
    report::cpu_per("database CPU per row, inserting included", after.1 - before.1, rows);
    report::figure("rows", format!("{:.0}", rows as f64 / elapsed.as_secs_f64()), "/s");
    report::figure("deliveries", deliveries, "");
    report::latencies("commit to client", &latencies);
    Ok(())
}

async fn subscribe(server: &Server, filter: Filter, n: usize) -> Result<Socket> {
    let mut subscription = json!({"event": "INSERT", "schema": "public", "table": "bench"});
    if filter == Filter::Distinct {
        subscription["filter"] = json!(format!("owner=eq.{n}"));
    }
    let token = sign(&json!({"role": "anon", "owner": n, "exp": unix_now() + 3600}));
    let mut socket = Socket::connect(server.port(), Version::V2, &token).await?;
    socket.watch(TOPIC, json!([subscription])).await?;
    Ok(socket)
}

/// How many of the rows subscriber `n` gets: rows go round the owners.
fn expected(options: &Options, n: usize) -> usize {
    match options.filter {
        Filter::None => options.rows,
        Filter::Distinct | Filter::Rls => (n..options.rows).step_by(options.subscribers).count(),
    }
}

/// Reads until all rows have come, in order; latencies in microseconds.
async fn read(mut socket: Socket, expected: usize) -> Result<Histogram<u64>> {
    let mut seen = Histogram::new(3)?;
    let mut last = 0;
    for _ in 0..expected {
        let payload = time::timeout(LIMIT, socket.event(TOPIC, "postgres_changes"))
            .await
            .context("rows are missing")??;
        let record: &Value = &payload["data"]["record"];
        let (id, sent_at) =
            (record["id"].as_u64().context("id")?, record["sent_at"].as_u64().context("sent_at")?);
        ensure!(id > last, "rows are out of order");
        last = id;
        seen.record(unix_micros().saturating_sub(sent_at))?;
    }
    Ok(seen)
}

/// Inserts the rows; `sent_at` is taken just before the statement that commits.
async fn insert(db: &TestDb, options: &Options) -> Result<()> {
    let owners = options.subscribers as i64;
    let batch = if options.rate == 0 { 100 } else { 1 };
    let sql = "insert into public.bench (owner, body, sent_at)
        select n % $3, repeat('x', 100), $4 from generate_series($1::bigint, $2::bigint) n";
    let statement = db.client().prepare(sql).await?;
    let mut ticks = time::interval(Duration::from_secs_f64(1.0 / options.rate.max(1) as f64));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = 0;
    while next < options.rows {
        if options.rate > 0 {
            ticks.tick().await;
        }
        let last = (next + batch).min(options.rows) - 1;
        let parameters: [i64; 4] =
            [i64::try_from(next)?, i64::try_from(last)?, owners, i64::try_from(unix_micros())?];
        let [first, last_row, owners, now] = &parameters;
        db.client().execute(&statement, &[first, last_row, owners, now]).await?;
        next = last + 1;
    }
    Ok(())
}

/// CPU time of all PostgreSQL processes of this machine, in seconds.
fn database_cpu() -> Result<f64> {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.rsplit_once(") ") else { continue };
        if name.ends_with("(postgres") {
            let fields: Vec<&str> = rest.split(' ').collect();
            ticks +=
                fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
        }
    }
    Ok(ticks as f64 / 100.0)
}

fn unix_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
