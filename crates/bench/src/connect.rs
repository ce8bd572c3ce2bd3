//! Sockets that connect, join one channel and stay.

use anyhow::Result;
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::{self, Duration, Instant};

use crate::{
    report,
    target::Target,
    wire::{self, Reader, Writer},
};

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
    /// Keep the tenant in a metadata database
    #[arg(long)]
    metadata: bool,
    /// Behind TLS; the ideal server does without
    #[arg(long, conflicts_with = "metadata")]
    tls: bool,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let count = options.sockets as u64;
    report::heading(&format!("connect: {count} sockets, one public channel each"));
    let ideal = Target::ideal(false).await?;
    let before = ideal.cpu_seconds()?;
    drop(connect(&ideal, options).await?);
    let ideal_cpu = ideal.cpu_seconds()? - before;
    drop(ideal);

    let server = match options {
        Options { tls: true, .. } => Target::encrypted().await?,
        Options { metadata: true, .. } => Target::with_metadata().await?,
        _ => Target::real().await?,
    };
    let (before, resident) = (server.cpu_seconds()?, server.resident_bytes()?);
    let started = Instant::now();
    let mut sockets = connect(&server, options).await?;
    let elapsed = started.elapsed();
    let cpu = server.cpu_seconds()? - before;
    report::cpu_per("server CPU per connect and join", cpu, count);
    report::cpu_per("ideal server's CPU per connect and join", ideal_cpu, count);
    report::figure("connects and joins", format!("{:.0}", count as f64 / elapsed.as_secs_f64()), "/s");

    time::sleep(Duration::from_secs(2)).await;
    let idle_from = server.cpu_seconds()?;
    time::sleep(Duration::from_secs(options.idle_seconds)).await;
    let idle = (server.cpu_seconds()? - idle_from) / options.idle_seconds.max(1) as f64 * 1e3;
    let memory = |now: u64| now.saturating_sub(resident) / count.max(1);
    report::figure("resident memory per idle joined socket", memory(server.resident_bytes()?), "bytes");
    report::figure("server CPU while idle", format!("{idle:.2}"), "ms/s");
    let before = server.cpu_seconds()?;
    for (reader, writer) in &mut sockets {
        writer.send(r#"[null,"beat","phoenix","heartbeat",{}]"#).await?;
        reader.expect("beat").await?;
    }
    report::cpu_per("server CPU per heartbeat", server.cpu_seconds()? - before, count);
    let resident = server.resident_bytes()?;
    report::figure("resident memory per socket after heartbeats", memory(resident), "bytes");
    report::figure("resident memory of the server", resident / 1024, "KiB");
    Ok(())
}

async fn connect(target: &Target, options: &Options) -> Result<Vec<(Reader, Writer)>> {
    let port = target.port();
    stream::iter(0..options.sockets)
        .map(|n| async move { wire::joined(port, &format!("realtime:room-{n}"), "{}").await })
        .buffer_unordered(options.concurrency)
        .try_collect()
        .await
}
