//! The field's published workload: each user in an echo channel of its own and in a channel of six.

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{self, Duration, Instant, MissedTickBehavior},
};

use crate::{
    report,
    target::Target,
    wire::{self, Reader, Writer, now_nanos, number_after},
};

/// Users of a shared channel.
const ROOM: usize = 6;

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Options {
    /// Users, one socket each
    #[arg(long, default_value_t = 1200)]
    pub(crate) users: usize,
    /// Messages a second that each user sends on each of its two channels
    #[arg(long, default_value_t = 2)]
    pub(crate) rate: u32,
    /// Seconds to measure
    #[arg(long, default_value_t = 20)]
    pub(crate) seconds: u32,
    /// Bytes that are added to the payload of each message
    #[arg(long, default_value_t = 0)]
    pub(crate) payload: usize,
    /// Keep the last broadcasts (`BROADCAST_HISTORY_…`)
    #[arg(long)]
    pub(crate) history: bool,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let target = Target::keeping(options.history).await?;
    report::heading(&format!(
        "rooms: {} users, {} messages a second on each channel, {} bytes more",
        options.users, options.rate, options.payload
    ));
    let users = users(&target, options.users).await?;
    let run = measure(&target, users, options).await?;
    report::cpu_per("server CPU per delivery", run.cpu_seconds, run.deliveries);
    report::cpu_per("server CPU per message sent", run.cpu_seconds, run.sent);
    report::figure("deliveries", format!("{:.0}", run.deliveries as f64 / f64::from(options.seconds)), "/s");
    report::figure("lost", run.lost, "");
    report::latencies("sent to received", &run.latencies);
    Ok(())
}

/// One measurement.
pub(crate) struct Run {
    pub(crate) cpu_seconds: f64,
    pub(crate) sent: u64,
    pub(crate) deliveries: u64,
    pub(crate) lost: u64,
    pub(crate) latencies: Histogram<u64>,
}

/// Users that have joined both of their channels.
pub(crate) async fn users(target: &Target, count: usize) -> Result<Vec<(Reader, Writer)>> {
    ensure!(count.is_multiple_of(ROOM), "the number of users must be a multiple of {ROOM}");
    let port = target.port();
    stream::iter(0..count)
        .map(|n| async move {
            let own = r#"{"broadcast":{"self":true}}"#;
            let (mut reader, mut writer) = wire::joined(port, &format!("realtime:echo-{n}"), own).await?;
            writer.join(&format!("realtime:six-{}", n / ROOM), "{}").await?;
            reader.expect("\"status\":\"ok\"").await?;
            anyhow::Ok((reader, writer))
        })
        .buffered(32)
        .try_collect()
        .await
}

/// Lets users talk for the time given, then waits until all has arrived.
pub(crate) async fn measure(target: &Target, users: Vec<(Reader, Writer)>, options: &Options) -> Result<Run> {
    let count = users.len();
    let messages = options.rate * options.seconds;
    let before = target.cpu_seconds()?;
    let mut tasks = JoinSet::new();
    let expected = u64::from(messages) * ROOM as u64;
    let mut writers = JoinSet::new();
    let period = Duration::from_secs(1) / options.rate;
    let started = Instant::now() + Duration::from_millis(100);
    for (n, (reader, writer)) in users.into_iter().enumerate() {
        tasks.spawn(read(reader, expected, started + Duration::from_secs(u64::from(options.seconds) + 10)));
        // Spread over the period: users do not talk in step.
        let offset = period.mul_f64(n as f64 / count as f64);
        let padding = match options.payload {
            0 => String::new(),
            bytes => format!(r#","p":"{}""#, "x".repeat(bytes)),
        };
        writers.spawn(talk(writer, n, messages, padding, period, started + offset));
    }
    let (mut deliveries, mut latencies) = (0, Histogram::<u64>::new(3)?);
    // Writers stay open until all is read.
    let mut open = Vec::new();
    while let Some(writer) = writers.join_next().await {
        open.push(writer??);
    }
    while let Some(reader) = tasks.join_next().await {
        let seen = reader??;
        deliveries += seen.len();
        latencies.add(&seen)?;
    }
    let after = target.cpu_seconds()?;
    Ok(Run {
        cpu_seconds: after - before,
        sent: u64::from(messages) * 2 * count as u64,
        deliveries,
        lost: (expected * count as u64).saturating_sub(deliveries),
        latencies,
    })
}

async fn talk(
    mut writer: Writer,
    n: usize,
    messages: u32,
    padding: String,
    period: Duration,
    start: Instant,
) -> Result<Writer> {
    let topics = [format!("realtime:echo-{n}"), format!("realtime:six-{}", n / ROOM)];
    let mut ticks = time::interval_at(start, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for _ in 0..messages {
        ticks.tick().await;
        for topic in &topics {
            let now = now_nanos();
            let message = format!(
                r#"["1","m","{topic}","broadcast",{{"type":"broadcast","event":"e","payload":{{"t":{now}{padding}}}}}]"#
            );
            writer.send(&message).await?;
        }
    }
    Ok(writer)
}

/// Reads what is expected, or until it is late; latencies in microseconds.
async fn read(mut reader: Reader, expected: u64, late: Instant) -> Result<Histogram<u64>> {
    let mut latencies = Histogram::new(3)?;
    while latencies.len() < expected {
        match time::timeout_at(late, reader.next()).await {
            Ok(Ok(message)) => {
                if let Some(sent) = number_after(message, b"\"t\":") {
                    latencies.record(now_nanos().saturating_sub(sent) / 1000)?;
                } else if wire::find(message, b"phx_reply").is_none() {
                    bail!("unexpected: {}", String::from_utf8_lossy(message));
                }
            }
            Ok(Err(error)) => return Err(error).context("a user was dropped"),
            Err(_) => break,
        }
    }
    Ok(latencies)
}
