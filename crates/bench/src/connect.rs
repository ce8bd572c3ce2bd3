//! Sockets that connect, join one channel and stay.

use anyhow::{Result, ensure};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use realtime_testkit::{Server, ServerOptions, Socket, TestDb, Version};
use serde_json::json;
use tokio::time::{self, Duration};

use crate::{report, server_binary};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Sockets
    #[arg(long, default_value_t = 5000)]
    sockets: usize,
    /// Handshakes under way at once
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// Seconds to watch the idle sockets
    #[arg(long, default_value_t = 10)]
    idle_seconds: u64,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(server_binary()?, &db, ServerOptions::default()).await?;
    // The first join connects to the database; that is not what is measured.
    let mut first = join(&server, 0).await?;
    first.settle().await?;
    let before = server.usage()?;
    let started = time::Instant::now();
    let mut sockets: Vec<Socket> = stream::iter(1..=options.sockets)
        .map(|n| join(&server, n))
        .buffer_unordered(options.concurrency)
        .try_collect()
        .await?;
    let elapsed = started.elapsed();
    let after = server.usage()?;
    time::sleep(Duration::from_secs(2)).await;
    let idle_from = server.usage()?;
    time::sleep(Duration::from_secs(options.idle_seconds)).await;
    let idle_to = server.usage()?;
    for socket in &mut sockets {
        ensure!(socket.settle().await?.is_empty(), "a socket got what it did not ask for");
    }
    let heartbeats = server.usage()?;

    let count = options.sockets as u64;
    report::heading(&format!("connect: {count} sockets, one public channel each"));
    report::cpu_per("server CPU per connect and join", after.cpu_seconds - before.cpu_seconds, count);
    report::figure("connects and joins", format!("{:.0}", count as f64 / elapsed.as_secs_f64()), "/s");
    let bytes = idle_from.resident_bytes.saturating_sub(before.resident_bytes) / count.max(1);
    report::figure("resident memory per idle joined socket", bytes, "bytes");
    report::figure("resident memory of the server", idle_from.resident_bytes / 1024, "KiB");
    let idle = (idle_to.cpu_seconds - idle_from.cpu_seconds) / options.idle_seconds.max(1) as f64 * 1e3;
    report::figure("server CPU while idle", format!("{idle:.2}"), "ms/s");
    report::cpu_per("server CPU per heartbeat", heartbeats.cpu_seconds - idle_to.cpu_seconds, count);
    Ok(())
}

async fn join(server: &Server, n: usize) -> Result<Socket> {
    let mut socket = server.socket(Version::V2, "anon").await?;
    let (reply, _) = socket.join(&format!("realtime:room-{n}"), json!({"config": {}})).await?;
    ensure!(reply["status"] == "ok", "join failed: {reply}");
    Ok(socket)
}
