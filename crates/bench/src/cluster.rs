//! Several nodes over NATS: what a delivery on another node costs, and what more nodes cost.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use realtime_testkit::{Nats, SECRET, Server, TestDb, until};
use tokio::{
    task::JoinSet,
    time::{self, Duration, Instant},
};

use crate::{
    binary::server_binary,
    ideal::cpu_seconds,
    report, target,
    wire::{self, LIMIT, Reader, Writer, now_nanos, number_after},
};

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Options {
    /// Rooms, each with one speaker
    #[arg(long, default_value_t = 20)]
    rooms: usize,
    /// Members of a room beside the speaker
    #[arg(long, default_value_t = 6)]
    members: usize,
    /// Bytes of payload
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Messages of each speaker
    #[arg(long, default_value_t = 500)]
    messages: u64,
    /// Messages a second of each speaker
    #[arg(long, default_value_t = 100)]
    rate: u32,
}

/// What a placement has cost.
struct Cost {
    /// CPU of the servers and of NATS, in seconds.
    cpu: f64,
    /// Half of the deliveries took at most so long, in microseconds.
    median: u64,
    /// Messages that the servers handed to NATS.
    carried: f64,
}

/// The two that differ only in where the members are.
const LOCAL: &str = "two nodes, members with the speaker";
const REMOTE: &str = "two nodes, members on the other";

/// Where the members are, by their number: on which of so many nodes. Speakers are on the first.
type Placement = fn(usize, usize) -> usize;

pub(crate) async fn run(options: &Options) -> Result<()> {
    report::heading(&format!(
        "cluster: {} rooms, {} members, {} bytes, {} messages a second each",
        options.rooms, options.members, options.payload, options.rate
    ));
    let here: Placement = |_, _| 0;
    let elsewhere: Placement = |_, nodes| nodes - 1;
    let spread: Placement = |member, nodes| member % nodes;
    let mut costs = Vec::new();
    for (name, nodes, nats, placement) in [
        ("a node alone", 1, false, here),
        ("one node with NATS", 1, true, here),
        (LOCAL, 2, true, here),
        (REMOTE, 2, true, elsewhere),
        ("two nodes, members on both", 2, true, spread),
        ("three nodes, members on all", 3, true, spread),
    ] {
        let cost = measure(name, options, nodes, nats, placement).await.with_context(|| name.to_owned())?;
        costs.push((name, cost));
    }
    let cost =
        |of: &str| costs.iter().find(|(name, _)| *name == of).map(|(_, cost)| cost).context("not measured");
    compare(cost(LOCAL)?, cost(REMOTE)?);
    Ok(())
}

/// Prints what a delivery on another node costs beside one on the speaker's.
fn compare(local: &Cost, remote: &Cost) {
    report::heading("remote delivery ÷ local delivery");
    report::figure(
        "CPU of servers and NATS",
        format!("{:.2}", remote.cpu / local.cpu.max(f64::EPSILON)),
        "×",
    );
    let (remote_median, local_median) = (remote.median as f64, local.median.max(1) as f64);
    report::figure("published to received p50", format!("{:.2}", remote_median / local_median), "×");
    report::figure("messages to NATS, local delivery", format!("{:.0}", local.carried), "");
    report::figure("messages to NATS, remote delivery", format!("{:.0}", remote.carried), "");
}

async fn measure(
    name: &str,
    options: &Options,
    count: usize,
    with_nats: bool,
    placement: Placement,
) -> Result<Cost> {
    let db = TestDb::new().await?;
    let nats = if with_nats { Some(Nats::start(&[]).await?) } else { None };
    let mut nodes = Vec::new();
    for _ in 0..count {
        let mut settings = target::options().env("METRICS_JWT_SECRET", SECRET);
        if let Some(nats) = &nats {
            settings = settings.env("NATS_URL", &nats.url());
        }
        nodes.push(Server::start(server_binary()?, &db, settings).await?);
    }
    if nats.is_some() {
        for node in &nodes {
            until("the nodes know each other", || async {
                Ok(node.metric("realtime_cluster_nodes").await? == count as f64)
            })
            .await?;
        }
    }
    let port = |node: usize| nodes.get(node).map(Server::port).context("node");
    let (mut readers, mut writers) = (JoinSet::new(), Vec::new());
    // Sockets stay open while they are held.
    let (mut speakers, mut open) = (Vec::new(), Vec::new());
    for room in 0..options.rooms {
        let topic = format!("realtime:room{room}");
        for member in 0..options.members {
            let (reader, writer) = wire::joined(port(placement(member, count))?, &topic, "{}").await?;
            readers.spawn(read(reader, options.messages));
            open.push(writer);
        }
        let (reader, writer) = wire::joined(port(0)?, &topic, "{}").await?;
        speakers.push((reader, writer, topic));
    }
    time::sleep(Duration::from_secs(2)).await;
    let used = || -> Result<(f64, f64)> {
        let servers = nodes.iter().map(|node| cpu_seconds(node.pid())).sum::<Result<f64>>()?;
        let nats = nats.as_ref().map_or(Ok(0.0), |nats| cpu_seconds(nats.pid()))?;
        Ok((servers, nats))
    };
    let carried = async || -> Result<f64> {
        let mut carried = 0.0;
        for node in nodes.iter().filter(|_| with_nats) {
            carried += node.metric("realtime_cluster_messages_sent").await?;
        }
        Ok(carried)
    };
    let carried_before = carried().await?;
    let before = used()?;
    for (reader, writer, topic) in speakers {
        writers.push(tokio::spawn(speak(reader, writer, topic, *options)));
    }
    let mut latencies = Histogram::<u64>::new(3)?;
    while let Some(reader) = readers.join_next().await {
        latencies.add(&reader??)?;
    }
    let after = used()?;
    for writer in writers {
        writer.await??;
    }
    let deliveries = (options.rooms * options.members) as u64 * options.messages;
    report::heading(name);
    report::cpu_per("servers' CPU per delivery", after.0 - before.0, deliveries);
    report::cpu_per("NATS' CPU per delivery", after.1 - before.1, deliveries);
    report::latencies("published to received", &latencies);
    Ok(Cost {
        cpu: (after.0 - before.0) + (after.1 - before.1),
        median: latencies.value_at_quantile(0.5),
        carried: carried().await? - carried_before,
    })
}

/// Says everything at its rate; the socket ends with it.
async fn speak(reader: Reader, mut writer: Writer, topic: String, options: Options) -> Result<()> {
    let filler = "x".repeat(options.payload.saturating_sub(60));
    let mut ticks = time::interval(Duration::from_secs(1) / options.rate.max(1));
    for n in 0..options.messages {
        ticks.tick().await;
        let now = now_nanos();
        let message = format!(
            r#"["1","m","{topic}","broadcast",{{"type":"broadcast","event":"e","payload":{{"n":{n},"t":{now},"x":"{filler}"}}}}]"#
        );
        writer.send(&message).await?;
    }
    drop(reader);
    Ok(())
}

/// Reads all messages, in order; latencies in microseconds.
async fn read(mut reader: Reader, messages: u64) -> Result<Histogram<u64>> {
    let mut latencies = Histogram::new(3)?;
    let limit = Instant::now() + LIMIT;
    for n in 0..messages {
        let message = time::timeout_at(limit, reader.next()).await.context("a message is missing")??;
        let sent = number_after(message, b"\"t\":").context("t")?;
        ensure!(number_after(message, b"\"n\":") == Some(n), "out of order");
        latencies.record(now_nanos().saturating_sub(sent) / 1000)?;
    }
    Ok(latencies)
}
