//! Live rows: first rows, joins, deliveries, views (live 5).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use realtime_testkit::{Server, ServerOptions, TestDb, sign, unix_now};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{self, Duration, Instant},
};

use crate::{
    binary::server_binary,
    changes::{database_cpu, postmaster},
    report,
    wire::{self, LIMIT, Reader, Writer, find, now_nanos, number_after},
};

const SCHEMA: &str = "set search_path = public;
    create table bench (id bigserial primary key, owner int not null, body text not null, sent_at bigint not null);
    create index on bench (owner);
    create table owners (id int primary key, name text not null);
    create view named as select b.id, b.sent_at, o.name from bench b join owners o on o.id = b.owner;
    grant select on all tables in schema public to authenticated;
    alter publication supabase_realtime add table bench, owners";

/// Clients that join at once.
const AT_ONCE: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What is measured
    #[arg(long, value_enum, default_value_t = What::All)]
    what: What,
    /// Clients, one socket each; by default 1,000, and 100 of a view
    #[arg(long)]
    clients: Option<usize>,
    /// Rows that a client has at first; by default 100,000 of `first`, else 100
    #[arg(long)]
    rows: Option<usize>,
    /// How long rows change, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// All of the others, one after the other
    All,
    /// First rows of 200 bytes to one client
    First,
    /// Clients that join, each with rows of its own
    Joins,
    /// Clients that all see all of one table, with and without `live`: CPU per delivery
    Shared,
    /// Clients for whom row-level security decides, each with rows of its own
    Parties,
    /// A view over a join: commit to client
    View,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    match options.what {
        What::All => {
            first(options).await?;
            joins(options).await?;
            shared(options).await?;
            parties(options).await?;
            view(options).await
        }
        What::First => first(options).await,
        What::Joins => joins(options).await,
        What::Shared => shared(options).await,
        What::Parties => parties(options).await,
        What::View => view(options).await,
    }
}

/// A database and a server.
struct Bench {
    db: TestDb,
    server: Server,
}

/// Clients that read.
#[derive(Default)]
struct Clients {
    readers: JoinSet<Result<()>>,
    writers: Vec<Writer>,
    received: Arc<AtomicU64>,
    latencies: Arc<Mutex<Option<Histogram<u64>>>>,
}

impl Bench {
    async fn start() -> Result<Self> {
        let db = TestDb::new().await?;
        db.sql(SCHEMA).await?;
        let options = [
            ("TENANT_MAX_EVENTS_PER_SECOND", "1000000000"),
            ("TENANT_MAX_JOINS_PER_SECOND", "1000000000"),
            ("LIVE_MAX_ROWS", "1000000"),
            ("LIVE_STATEMENT_TIMEOUT", "60000"),
            ("METRICS_JWT_SECRET", realtime_testkit::SECRET),
        ];
        let options =
            options.into_iter().fold(ServerOptions::default(), |all, (name, value)| all.env(name, value));
        let server = Server::start(server_binary()?, &db, options).await?;
        Ok(Self { db, server })
    }

    /// Rows whose owners go round.
    async fn fill(&self, owners: usize, each: usize) -> Result<()> {
        let rows = owners * each;
        self.db
            .sql(&format!(
                "insert into public.owners select n, 'owner ' || n from generate_series(0, {owners} - 1) n;
                 insert into public.bench (owner, body, sent_at)
                    select n % {owners}, repeat('x', 200), 0 from generate_series(0, {rows} - 1) n;
                 analyze public.bench, public.owners"
            ))
            .await
    }

    fn cpu(&self) -> Result<f64> {
        Ok(self.server.usage()?.cpu_seconds)
    }

    /// A client with a binding; `sub` is who it is.
    async fn client(&self, binding: Value, sub: usize) -> Result<(Reader, Writer)> {
        let token = sign(&json!({"role": "authenticated", "sub": sub.to_string(), "exp": unix_now() + 3600}));
        let (reader, mut writer) = wire::connect_as(self.server.port(), &token).await?;
        let payload = json!({"config": {"postgres_changes": [binding]}, "access_token": token});
        writer.send(&format!(r#"["1","1","realtime:bench","phx_join",{payload}]"#)).await?;
        Ok((reader, writer))
    }

    /// Clients that have all first rows, or are subscribed.
    async fn clients(&self, count: usize, binding: impl Fn(usize) -> Value) -> Result<Clients> {
        self.clients_of(count, |client| client, binding).await
    }

    /// The same; `sub`: who each of them is.
    async fn clients_of(
        &self,
        count: usize,
        sub: impl Fn(usize) -> usize,
        binding: impl Fn(usize) -> Value,
    ) -> Result<Clients> {
        let mut clients = Clients::default();
        // One after the other they would wait for each other's pauses between readings, until the first are closed for
        // their silence.
        let mut joining = stream::iter(0..count)
            .map(|client| {
                let (binding, sub) = (binding(client), sub(client));
                async move {
                    let ready =
                        if binding["live"] == true { "Live rows are complete" } else { "Subscribed to" };
                    let (mut reader, writer) = self.client(binding, sub).await?;
                    reader.expect(ready).await?;
                    anyhow::Ok((reader, writer))
                }
            })
            .buffer_unordered(AT_ONCE);
        while let Some((reader, writer)) = joining.try_next().await? {
            let (received, latencies) = (Arc::clone(&clients.received), Arc::clone(&clients.latencies));
            clients.readers.spawn(read(reader, received, latencies));
            clients.writers.push(writer);
        }
        drop(joining);
        Ok(clients)
    }

    /// Changes rows so often a second, for so long; each change reaches `each` clients.
    async fn change(
        &self,
        clients: &Clients,
        sql: &str,
        (rate, seconds, each): (u64, u64, u64),
    ) -> Result<()> {
        let statement = self.db.client().prepare(sql).await?;
        let mut ticks = time::interval(Duration::from_secs_f64(1.0 / rate as f64));
        let begun = clients.received.load(Ordering::Relaxed);
        for change in 0..rate * seconds {
            ticks.tick().await;
            let (change, now) = (i64::try_from(change)?, i64::try_from(now_nanos())?);
            self.db.client().execute(&statement, &[&change, &now]).await?;
        }
        clients.arrived(begun + rate * seconds * each).await
    }
}

impl Clients {
    async fn arrived(&self, count: u64) -> Result<()> {
        let until = Instant::now() + LIMIT;
        while self.received.load(Ordering::Relaxed) < count {
            let came = self.received.load(Ordering::Relaxed);
            ensure!(Instant::now() < until, "{came} of {count} messages came");
            time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

/// Counts rows, and how late they are.
async fn read(
    mut reader: Reader,
    received: Arc<AtomicU64>,
    latencies: Arc<Mutex<Option<Histogram<u64>>>>,
) -> Result<()> {
    loop {
        let message = reader.next().await?;
        let head = message.get(..message.len().min(200)).unwrap_or_default();
        if find(head, b"postgres_changes").is_none() {
            continue;
        }
        if let Some(latencies) = &mut *latencies.lock()
            && let Some(sent_at) = number_after(message, b"\"sent_at\":").filter(|sent_at| *sent_at > 0)
        {
            latencies.record(now_nanos().saturating_sub(sent_at) / 1000)?;
        }
        received.fetch_add(1, Ordering::Relaxed);
    }
}

fn binding(more: &Value) -> Value {
    let mut binding = json!({"event": "*", "schema": "public", "table": "bench", "live": true});
    if let (Some(all), Some(more)) = (binding.as_object_mut(), more.as_object()) {
        all.extend(more.clone());
    }
    binding
}

/// First rows to one client.
async fn first(options: &Options) -> Result<()> {
    let rows = options.rows.unwrap_or(100_000);
    let bench = Bench::start().await?;
    bench.fill(1, rows).await?;
    let (cpu, started) = (bench.cpu()?, Instant::now());
    let (mut reader, _writer) = bench.client(binding(&json!({})), 0).await?;
    let mut highest = 0;
    let mut came = 0;
    loop {
        let message = time::timeout(LIMIT, reader.next()).await??;
        came += usize::from(find(message, b"\"type\":\"INSERT\"").is_some());
        if came % 1_000 == 0 {
            highest = highest.max(bench.server.usage()?.resident_bytes);
        }
        if find(message, b"Live rows are complete").is_some() {
            break;
        }
    }
    ensure!(came == rows, "{came} of {rows} rows came");
    let elapsed = started.elapsed().as_secs_f64();
    report::heading(&format!("live: {rows} first rows of 200 bytes to one client"));
    report::figure("rows", format!("{:.0}", rows as f64 / elapsed), "/s");
    report::cpu_per("server CPU per row", bench.cpu()? - cpu, rows as u64);
    report::figure("resident memory of the server, highest", highest / 1024, "KiB");
    Ok(())
}

/// Clients that join, each with rows of its own.
async fn joins(options: &Options) -> Result<()> {
    let (clients, rows) = (options.clients.unwrap_or(1_000), options.rows.unwrap_or(100));
    let bench = Bench::start().await?;
    bench.fill(clients, rows).await?;
    // What a join costs without rows is not what is measured.
    let begun = bench.cpu()?;
    let none =
        bench.clients(clients, |n| binding(&json!({"filter": format!("owner=eq.{}", n + clients)}))).await?;
    let join = bench.cpu()? - begun;
    drop(none);
    let (cpu, started) = (bench.cpu()?, Instant::now());
    let all = bench.clients(clients, |n| binding(&json!({"filter": format!("owner=eq.{n}")}))).await?;
    let (elapsed, cpu) = (started.elapsed(), bench.cpu()? - cpu);
    report::heading(&format!("live: {clients} clients join, {rows} rows each by a filter of their own"));
    report::figure("joins", format!("{:.0}", clients as f64 / elapsed.as_secs_f64()), "/s");
    report::cpu_per("server CPU per join without rows", join, clients as u64);
    report::cpu_per("server CPU per row beside that", (cpu - join).max(0.0), (clients * rows) as u64);
    report::figure("resident memory of the server", bench.server.usage()?.resident_bytes / 1024, "KiB");
    drop(all);
    Ok(())
}

const CHANGE: &str = "update public.bench set sent_at = $2 where id = 1 + $1::int8 % 100";

/// Clients that see all of one table.
async fn shared(options: &Options) -> Result<()> {
    let (count, rows) = (options.clients.unwrap_or(1_000), options.rows.unwrap_or(100).max(100));
    report::heading(&format!("live: {count} clients that see all of one table, 50 changes a second"));
    let mut costs = Vec::new();
    for live in [false, true] {
        let bench = Bench::start().await?;
        bench.fill(1, rows).await?;
        let clients = bench.clients(count, |_| binding(&json!({"live": live}))).await?;
        bench.change(&clients, CHANGE, (50, 1, count as u64)).await?;
        *clients.latencies.lock() = Some(Histogram::new(3)?);
        let cpu = bench.cpu()?;
        bench.change(&clients, CHANGE, (50, options.seconds, count as u64)).await?;
        let (cpu, deliveries) = (bench.cpu()? - cpu, 50 * options.seconds * count as u64);
        report::cpu_per(&format!("server CPU per delivery, live: {live}"), cpu, deliveries);
        if let Some(latencies) = &*clients.latencies.lock() {
            report::latencies("commit to client", latencies);
        }
        costs.push(cpu);
    }
    if let [plain, live] = *costs {
        report::figure("with live ÷ without", format!("{:.2}", live / plain), "");
    }
    Ok(())
}

/// Clients for whom row-level security decides.
async fn parties(options: &Options) -> Result<()> {
    let (count, rows) = (options.clients.unwrap_or(1_000), options.rows.unwrap_or(100));
    let bench = Bench::start().await?;
    bench.fill(count, rows).await?;
    bench
        .db
        .sql(
            "alter table public.bench enable row level security;
             create policy own on public.bench to authenticated
                using (owner = (select (current_setting('request.jwt.claims', true)::json ->> 'sub')::int))",
        )
        .await?;
    let clients = bench.clients(count, |_| binding(&json!({}))).await?;
    bench.change(&clients, CHANGE, (50, 1, 1)).await?;
    let (runs, looks) = (bench.runs().await?, bench.looks().await?);
    *clients.latencies.lock() = Some(Histogram::new(3)?);
    let postmaster = postmaster(&bench.db).await?;
    let cpu = (bench.cpu()?, database_cpu(postmaster)?);
    bench.change(&clients, CHANGE, (200, options.seconds, 1)).await?;
    let changes = 200 * options.seconds;
    report::heading(&format!(
        "live: {count} parties, each with {rows} rows of its own, 200 changes a second"
    ));
    report::cpu_per("server CPU per change", bench.cpu()? - cpu.0, changes);
    report::cpu_per("database CPU per change", database_cpu(postmaster)? - cpu.1, changes);
    report::figure(
        "results looked at per change",
        format!("{:.2}", (bench.looks().await? - looks) / changes as f64),
        "",
    );
    report::figure("readings", bench.runs().await? - runs, "");
    if let Some(latencies) = &*clients.latencies.lock() {
        report::latencies("commit to client", latencies);
    }
    Ok(())
}

impl Bench {
    async fn runs(&self) -> Result<f64> {
        self.server.metric("realtime_live_run_duration_milliseconds_count").await
    }

    async fn looks(&self) -> Result<f64> {
        self.server.metric("realtime_live_looks").await
    }
}

/// A view over a join.
async fn view(options: &Options) -> Result<()> {
    let (count, rows) = (options.clients.unwrap_or(100), options.rows.unwrap_or(100).max(100));
    let bench = Bench::start().await?;
    bench.fill(10, rows.div_ceil(10)).await?;
    let clients =
        bench.clients_of(count, |_| 0, |_| binding(&json!({"table": "named", "key": ["id"]}))).await?;
    let runs = bench.runs().await?;
    *clients.latencies.lock() = Some(Histogram::new(3)?);
    // Changes of a row that meet in a pause are told as one.
    let sql = "update public.bench set sent_at = $2 where id = 1 + $1::int8 % 100";
    let statement = bench.db.client().prepare(sql).await?;
    let mut ticks = time::interval(Duration::from_millis(50));
    let cpu = bench.cpu()?;
    for change in 0..20 * options.seconds {
        ticks.tick().await;
        let (change, now) = (i64::try_from(change)?, i64::try_from(now_nanos())?);
        bench.db.client().execute(&statement, &[&change, &now]).await?;
    }
    clients.arrived(20 * options.seconds * count as u64).await?;
    report::heading(&format!(
        "live: a view over a join, {count} clients of one role and claims, 20 commits a second"
    ));
    report::figure("readings", bench.runs().await? - runs, "");
    report::cpu_per("server CPU per delivery", bench.cpu()? - cpu, 20 * options.seconds * count as u64);
    if let Some(latencies) = &*clients.latencies.lock() {
        report::latencies("commit to client", latencies);
    }
    Ok(())
}
