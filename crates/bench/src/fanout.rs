//! One room, one publisher, many members.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{self, Instant},
};

use crate::{
    report,
    target::Target,
    wire::{self, LIMIT, Reader, now_nanos, number_after},
};

const TOPIC: &str = "realtime:bench";

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Options {
    /// Members beside the publisher
    #[arg(long, default_value_t = 5000)]
    members: usize,
    /// Bytes of payload
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Messages to publish
    #[arg(long, default_value_t = 100)]
    messages: u64,
    /// Messages that may be under way: the next is sent when one has reached all members
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Keep the last broadcasts (`BROADCAST_HISTORY_…`)
    #[arg(long)]
    history: bool,
    /// Runs of each server, in turn; the medians are compared
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    report::heading(&format!(
        "fanout: {} members, {} bytes, {} messages, {} in flight",
        options.members, options.payload, options.messages, options.in_flight
    ));
    let (mut real, mut ideal) = (Vec::new(), Vec::new());
    let mut latencies = Histogram::<u64>::new(3)?;
    for _ in 0..options.rounds {
        let mut ideal_latencies = Histogram::<u64>::new(3)?;
        ideal.push(
            measure(&Target::ideal(options.in_flight > 1).await?, options, &mut ideal_latencies).await?,
        );
        real.push(measure(&Target::keeping(options.history).await?, options, &mut latencies).await?);
    }
    let (real, ideal) = (report::median(&mut real), report::median(&mut ideal));
    report::figure("server CPU per delivery", format!("{real:.2}"), "µs");
    report::figure("ideal server's CPU per delivery", format!("{ideal:.2}"), "µs");
    report::figure("ratio", format!("{:.2}", real / ideal), "");
    report::latencies("published to received", &latencies);
    report::figure("lost", 0, "");
    Ok(())
}

/// One run; CPU per delivery in microseconds.
async fn measure(target: &Target, options: &Options, latencies: &mut Histogram<u64>) -> Result<f64> {
    let port = target.port();
    let members: Vec<_> = stream::iter(0..options.members)
        .map(|_| wire::joined(port, TOPIC, "{}"))
        .buffer_unordered(32)
        .try_collect()
        .await?;
    let (_reader, mut publisher) = wire::joined(port, TOPIC, "{}").await?;
    time::sleep(time::Duration::from_secs(1)).await;

    let window = Arc::new(Semaphore::new(options.in_flight));
    let progress = Arc::new(Progress {
        received: (0..options.messages).map(|_| AtomicU64::new(0)).collect(),
        members: options.members as u64,
        window: Arc::clone(&window),
    });
    let mut readers = JoinSet::new();
    let mut writers = Vec::new();
    for (reader, writer) in members {
        writers.push(writer);
        readers.spawn(read(reader, options.messages, Arc::clone(&progress)));
    }
    let filler = "x".repeat(options.payload.saturating_sub(60));
    let before = target.cpu_seconds()?;
    for n in 0..options.messages {
        let permit =
            time::timeout(LIMIT, window.acquire()).await.context("a message did not reach all")??;
        permit.forget();
        let message = format!(
            r#"["1","m","{TOPIC}","broadcast",{{"type":"broadcast","event":"e","payload":{{"n":{n},"t":{},"x":"{filler}"}}}}]"#,
            now_nanos()
        );
        publisher.send(&message).await?;
    }
    let all = time::timeout(LIMIT, window.acquire_many(u32::try_from(options.in_flight)?)).await;
    drop(all.context("messages were lost")??);
    let after = target.cpu_seconds()?;
    while let Some(reader) = readers.join_next().await {
        latencies.add(&reader??)?;
    }
    Ok((after - before) * 1e6 / (options.members as u64 * options.messages) as f64)
}

struct Progress {
    received: Box<[AtomicU64]>,
    members: u64,
    window: Arc<Semaphore>,
}

/// Reads all messages, in order; latencies in microseconds.
async fn read(mut reader: Reader, messages: u64, progress: Arc<Progress>) -> Result<Histogram<u64>> {
    let mut latencies = Histogram::new(3)?;
    let limit = Instant::now() + LIMIT;
    for n in 0..messages {
        let message = time::timeout_at(limit, reader.next()).await.context("a message is missing")??;
        let sent = number_after(message, b"\"t\":").context("t")?;
        ensure!(number_after(message, b"\"n\":") == Some(n), "out of order");
        latencies.record(now_nanos().saturating_sub(sent) / 1000)?;
        let received = progress.received.get(usize::try_from(n)?).context("n")?;
        if received.fetch_add(1, Ordering::Relaxed) + 1 == progress.members {
            progress.window.add_permits(1);
        }
    }
    Ok(latencies)
}
