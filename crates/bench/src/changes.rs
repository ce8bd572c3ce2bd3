//! Subscribers to a table and rows that change.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

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

use crate::{binary::server_binary, report};

const TOPIC: &str = "realtime:bench";

/// How long the server has to take in the first row.
const SETTLE: Duration = Duration::from_secs(1);

/// Longest a row may take to arrive before the run is given up.
const LIMIT: Duration = Duration::from_secs(60);

/// Rows that may be written before they have been read.
const AHEAD: usize = 20_000;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Subscribers, one socket each
    #[arg(long, default_value_t = 1)]
    subscribers: usize,
    /// Subscriptions of each subscriber, all on one channel
    #[arg(long, default_value_t = 1)]
    per_channel: usize,
    /// Rows to insert
    #[arg(long, default_value_t = 2000)]
    rows: usize,
    /// Rows per transaction
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Transactions per second; 0 for as many as the database takes
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
    /// Another table: rows are read and discarded, but for one that ends the run
    Other,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    ensure!(options.subscribers > 0 && options.rows > 0 && options.batch > 0, "nothing to do");
    ensure!(
        options.per_channel == 1 || options.filter == Filter::Distinct,
        "only distinct filters can be several"
    );
    let db = TestDb::new().await?;
    db.sql(
        "create table public.bench (id bigserial primary key, owner int not null, body text not null, sent_at bigint not null);
         grant select on public.bench to anon;
         create table public.bench_end (id bigint primary key, sent_at bigint not null);
         grant select on public.bench_end to anon;
         alter publication supabase_realtime add table public.bench, public.bench_end;",
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
    let server_options = ServerOptions::default().env("TENANT_MAX_EVENTS_PER_SECOND", "1000000000");
    let server = Server::start(server_binary()?, &db, server_options).await?;
    let subscribing = time::Instant::now();
    let before = server.usage()?.cpu_seconds;
    let sockets: Vec<Socket> = stream::iter(0..options.subscribers)
        .map(|n| subscribe(&server, options, n))
        .buffered(16)
        .try_collect()
        .await?;

    let (subscribed, subscribe_cpu) = (subscribing.elapsed(), server.usage()?.cpu_seconds - before);
    // The first row makes the table known and attaches the subscriptions: that is not what is measured.
    db.sql("insert into public.bench (owner, body, sent_at) values (-1, 'first', 0)").await?;
    time::sleep(SETTLE).await;
    let postmaster = postmaster(&db).await?;
    let before = (server.usage()?.cpu_seconds, database_cpu(postmaster)?);
    let started = time::Instant::now();
    let mut readers = JoinSet::new();
    let received = Arc::new(AtomicUsize::new(0));
    for (n, socket) in sockets.into_iter().enumerate() {
        readers.spawn(read(socket, expected(options, n), Arc::clone(&received)));
    }
    insert(&db, options, &received).await?;
    let mut latencies = Histogram::<u64>::new(3)?;
    let mut deliveries = 0;
    while let Some(reader) = readers.join_next().await {
        let seen = reader??;
        deliveries += seen.len();
        latencies.add(&seen)?;
    }
    let elapsed = started.elapsed();
    let after = (server.usage()?.cpu_seconds, database_cpu(postmaster)?);
    let resident = server.usage()?.resident_bytes;

    let (rows, deliveries) = (options.rows as u64, deliveries);
    report::heading(&format!(
        "changes: {} subscribers of {}, filter {:?}, {rows} rows, {} a transaction, rate {}",
        options.subscribers, options.per_channel, options.filter, options.batch, options.rate
    ));
    let subscriptions = (options.subscribers * options.per_channel) as u64;
    report::cpu_per("server CPU per subscription", subscribe_cpu, subscriptions);
    report::figure("subscriptions", format!("{:.0}", subscriptions as f64 / subscribed.as_secs_f64()), "/s");
    report::figure("resident memory of the server", resident / 1024, "KiB");
    report::cpu_per("server CPU per row", after.0 - before.0, rows);
    report::cpu_per("server CPU per delivery", after.0 - before.0, deliveries);
    report::cpu_per("database CPU per row, inserting included", after.1 - before.1, rows);
    report::figure("rows", format!("{:.0}", rows as f64 / elapsed.as_secs_f64()), "/s");
    report::figure("deliveries", deliveries, "");
    report::latencies("commit to client", &latencies);
    Ok(())
}

async fn subscribe(server: &Server, options: &Options, n: usize) -> Result<Socket> {
    let table = if options.filter == Filter::Other { "bench_end" } else { "bench" };
    let subscription = |n: usize| {
        let mut subscription = json!({"event": "INSERT", "schema": "public", "table": table});
        if options.filter == Filter::Distinct {
            subscription["filter"] = json!(format!("owner=eq.{n}"));
        }
        subscription
    };
    let subscriptions: Vec<Value> =
        (0..options.per_channel).map(|k| subscription(n + k * options.subscribers)).collect();
    let token = sign(&json!({"role": "anon", "owner": n, "exp": unix_now() + 3600}));
    let mut socket = Socket::connect(server.port(), Version::V2, &token).await?;
    socket.watch(TOPIC, json!(subscriptions)).await?;
    Ok(socket)
}

/// How many of the rows subscriber `n` gets: rows go round the owners.
fn expected(options: &Options, n: usize) -> usize {
    match options.filter {
        Filter::Other => 1,
        Filter::None => options.rows,
        Filter::Distinct | Filter::Rls => (n..options.rows).step_by(options.subscribers).count(),
    }
}

/// Reads until all rows have come, in order; latencies in microseconds.
async fn read(mut socket: Socket, expected: usize, received: Arc<AtomicUsize>) -> Result<Histogram<u64>> {
    let mut seen = Histogram::new(3)?;
    let mut last = 0;
    while seen.len() < expected as u64 {
        let payload = time::timeout(LIMIT, socket.event(TOPIC, "postgres_changes"))
            .await
            .context("rows are missing")??;
        let record: &Value = &payload["data"]["record"];
        let (id, sent_at) =
            (record["id"].as_u64().context("id")?, record["sent_at"].as_u64().context("sent_at")?);
        if sent_at == 0 {
            continue;
        }
        ensure!(id > last, "rows are out of order");
        last = id;
        seen.record(unix_micros().saturating_sub(sent_at))?;
        received.fetch_add(1, Ordering::Relaxed);
    }
    Ok(seen)
}

/// Inserts the rows; `sent_at` is taken just before the statement that commits. Not faster than the readers read: a client
/// that falls behind for long is closed.
async fn insert(db: &TestDb, options: &Options, received: &AtomicUsize) -> Result<()> {
    let each = match options.filter {
        Filter::None => options.subscribers,
        Filter::Distinct | Filter::Rls => 1,
        Filter::Other => 0,
    };
    let owners = i64::try_from(options.subscribers * options.per_channel)?;
    let batch = options.batch;
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
        while next.saturating_sub(AHEAD) * each > received.load(Ordering::Relaxed) {
            time::sleep(Duration::from_millis(1)).await;
        }
        let last = (next + batch).min(options.rows) - 1;
        let parameters: [i64; 4] =
            [i64::try_from(next)?, i64::try_from(last)?, owners, i64::try_from(unix_micros())?];
        let [first, last_row, owners, now] = &parameters;
        db.client().execute(&statement, &[first, last_row, owners, now]).await?;
        next = last + 1;
    }
    if options.filter == Filter::Other {
        let now = i64::try_from(unix_micros())?;
        db.client().execute("insert into public.bench_end values (1, $1)", &[&now]).await?;
    }
    Ok(())
}

/// Process id of the database's postmaster: the parent of the process that serves us.
pub(crate) async fn postmaster(db: &TestDb) -> Result<u32> {
    let backend: i32 = db.client().query_one("select pg_backend_pid()", &[]).await?.try_get(0)?;
    let stat = stat(&backend.to_string())?;
    Ok(stat.get(1).context("stat")?.parse()?)
}

/// CPU time of the database's processes, those that have ended included, in seconds.
pub(crate) fn database_cpu(postmaster: u32) -> Result<f64> {
    let number = |stat: &[String], at: usize| stat.get(at).and_then(|field| field.parse::<u64>().ok());
    let own = stat(&postmaster.to_string())?;
    let mut ticks: u64 = (11..15).filter_map(|at| number(&own, at)).sum();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = stat(&entry.file_name().to_string_lossy()) else { continue };
        if number(&stat, 1) == Some(u64::from(postmaster)) {
            ticks += (11..13).filter_map(|at| number(&stat, at)).sum::<u64>();
        }
    }
    Ok(ticks as f64 / 100.0)
}

/// The fields of a process's `stat` after its name.
fn stat(pid: &str) -> Result<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.rsplit_once(") ").context("stat")?.1.split(' ').map(str::to_owned).collect())
}

fn unix_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
