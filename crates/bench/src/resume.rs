//! Clients that all come back at once, and what those notice who were there.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result};
use clap::Args;
use hdrhistogram::Histogram;
use realtime_testkit::{Server, Socket, TestDb, Version};
use serde_json::json;
use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{self, Duration, Instant},
};

use crate::{
    binary::server_binary,
    ideal, report, target,
    wire::{self, LIMIT, now_nanos},
};

const TOPIC: &str = "realtime:bench";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Clients that come back
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Seconds for which they are away
    #[arg(long, default_value_t = 10)]
    away: u64,
    /// Changes per second
    #[arg(long, default_value_t = 100)]
    rate: u64,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let db = TestDb::new().await?;
    db.sql(
        "create table bench (id bigserial primary key, sent_at bigint not null, body text not null);
         grant select on bench to anon;
         alter publication supabase_realtime add table bench;",
    )
    .await?;
    let server = Server::start(server_binary()?, &db, target::options()).await?;
    let mut witness = server.socket(Version::V2, "anon").await?;
    witness.watch(TOPIC, json!([{"event": "INSERT", "schema": "public", "table": "bench"}])).await?;
    insert(&db).await?;
    let first = witness.event(TOPIC, "postgres_changes").await?;
    let since = first["data"]["commit_timestamp"].as_str().context("time")?.to_owned();

    let (ending, back) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let writing = tokio::spawn(write(db, options.rate, Arc::clone(&ending)));
    let watching = tokio::spawn(watch(witness, Arc::clone(&back), Arc::clone(&ending)));
    time::sleep(Duration::from_secs(options.away)).await;
    let crowd = Crowd { clients: options.clients, port: server.port(), pid: server.pid(), since, back };
    let (caught_up, used) = crowd.run().await?;
    ending.store(true, Ordering::Relaxed);
    let (quiet, meanwhile) = watching.await??;
    let written = writing.await??;

    report::heading(&format!(
        "resume: {} clients come back after {} s with {} changes/s",
        options.clients, options.away, options.rate
    ));
    report::latencies("all caught up", &caught_up);
    report::latencies("live changes before", &quiet);
    report::latencies("live changes meanwhile", &meanwhile);
    report::figure("changes written", written, "");
    let missed = options.clients as u64 * options.away * options.rate;
    report::cpu_per("server CPU per change that was missed", used, missed);
    Ok(())
}

/// Those who come back.
struct Crowd {
    clients: usize,
    port: u16,
    /// The server's process.
    pid: u32,
    since: String,
    /// Set while they catch up.
    back: Arc<AtomicBool>,
}

impl Crowd {
    /// Has them come back on threads of their own: what they read must not keep those waiting who are measured. How long
    /// each took, in microseconds, and the CPU time of the server meanwhile, in seconds.
    async fn run(self) -> Result<(Histogram<u64>, f64)> {
        let apart = tokio::task::spawn_blocking(move || {
            Builder::new_multi_thread().enable_all().build()?.block_on(self.come_back())
        });
        apart.await?
    }

    async fn come_back(self) -> Result<(Histogram<u64>, f64)> {
        // The sockets are there, as after a deploy; what is measured begins with the joins.
        let mut sockets = Vec::new();
        for _ in 0..self.clients {
            sockets.push(wire::connect(self.port).await?);
        }
        let before = ideal::cpu_seconds(self.pid)?;
        self.back.store(true, Ordering::Relaxed);
        let started = Instant::now();
        let entry = json!({"event": "INSERT", "schema": "public", "table": "bench", "since": self.since});
        let config = Arc::new(json!({"postgres_changes": [entry]}).to_string());
        let mut readers = JoinSet::new();
        for (mut reader, mut writer) in sockets {
            let config = Arc::clone(&config);
            readers.spawn(async move {
                writer.join(TOPIC, &config).await?;
                reader.expect("\"Caught up\"").await?;
                anyhow::Ok((started.elapsed(), reader, writer))
            });
        }
        let (mut caught_up, mut open) = (Histogram::<u64>::new(3)?, Vec::new());
        while let Some(done) = readers.join_next().await {
            let (took, reader, writer) = done??;
            caught_up.record(u64::try_from(took.as_micros())?)?;
            open.push((reader, writer));
        }
        self.back.store(false, Ordering::Relaxed);
        Ok((caught_up, ideal::cpu_seconds(self.pid)? - before))
    }
}

async fn insert(db: &TestDb) -> Result<()> {
    let sql = "insert into bench (sent_at, body) values ($1, repeat('x', 100))";
    db.client().execute(sql, &[&i64::try_from(now_nanos())?]).await?;
    Ok(())
}

/// Writes rows at a rate; how many it were.
async fn write(db: TestDb, rate: u64, ending: Arc<AtomicBool>) -> Result<u64> {
    let mut ticks = time::interval(Duration::from_secs_f64(1.0 / rate.max(1) as f64));
    let mut written = 0;
    while !ending.load(Ordering::Relaxed) {
        ticks.tick().await;
        insert(&db).await?;
        written += 1;
    }
    // Whoever still reads sees the end.
    for _ in 0..2 {
        insert(&db).await?;
    }
    Ok(written)
}

/// Reads live changes; their latencies in microseconds before the others came back, and meanwhile.
async fn watch(
    mut witness: Socket,
    back: Arc<AtomicBool>,
    ending: Arc<AtomicBool>,
) -> Result<(Histogram<u64>, Histogram<u64>)> {
    let (mut quiet, mut meanwhile) = (Histogram::new(3)?, Histogram::new(3)?);
    while !ending.load(Ordering::Relaxed) {
        let change =
            time::timeout(LIMIT, witness.event(TOPIC, "postgres_changes")).await.context("no change")??;
        let sent_at = change["data"]["record"]["sent_at"].as_u64().context("sent_at")?;
        let took = now_nanos().saturating_sub(sent_at) / 1_000;
        if back.load(Ordering::Relaxed) { &mut meanwhile } else { &mut quiet }.record(took)?;
    }
    Ok((quiet, meanwhile))
}
