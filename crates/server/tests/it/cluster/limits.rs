//! Limits per second count over all nodes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};
use realtime_testkit::{PATIENCE, Socket, Version, token};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{self, Duration, Instant, MissedTickBehavior},
};

use super::{Nodes, say};

/// Events per second. A message to one listener counts twice: as accepted and as delivered.
const EVENTS: f64 = 90.0;

/// Messages per second of each speaker: as events fewer than the limit, so that none of the three nodes reaches it alone.
const SAID: u64 = 40;

/// How long is measured at a time. The seconds of the nodes do not begin together with it.
const WINDOW: Duration = Duration::from_secs(10);

/// Events on all nodes since they started.
async fn events(nodes: &Nodes) -> Result<f64> {
    let mut events = 0.0;
    for node in &nodes.nodes {
        events += node.metric("realtime_channel_global_events").await?;
    }
    Ok(events)
}

/// Three nodes, none of which reaches the limit alone: together they let through what it allows, within a tenth, and the
/// members of every room are told of what was dropped.
#[tokio::test]
async fn all_nodes_together_keep_to_the_limit() -> Result<()> {
    let limit = EVENTS.to_string();
    let nodes = Nodes::start_with(3, &[("TENANT_MAX_EVENTS_PER_SECOND", &limit)]).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let (mut speaking, mut listeners) = (JoinSet::new(), Vec::new());
    for node in 0..3 {
        let topic = format!("realtime:room-{node}");
        listeners.push((nodes.join(node, Version::V2, &topic, json!({})).await?, topic.clone()));
        let mut socket = nodes.join(node, Version::V2, &topic, json!({})).await?;
        let stop = Arc::clone(&stop);
        speaking.spawn(async move {
            let mut ticks = time::interval(Duration::from_secs(1) / SAID as u32);
            while !stop.load(Ordering::SeqCst) {
                ticks.tick().await;
                say(&mut socket, &topic, "e", json!({})).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    let mut dropping = JoinSet::new();
    for (mut listener, topic) in listeners {
        dropping.spawn(async move {
            let limit = Instant::now() + PATIENCE * 3;
            loop {
                let frame =
                    time::timeout_at(limit, listener.frame()).await.context("nothing is dropped")??;
                if frame.event == "system" && frame.topic == topic {
                    ensure!(frame.payload["code"] == "MessagesDropped", "{:?}", frame.payload);
                    return Ok::<_, anyhow::Error>(listener);
                }
            }
        });
    }
    let mut listening = JoinSet::new();
    while let Some(listener) = dropping.join_next().await {
        let mut listener = listener??;
        // It goes on reading, so that nobody waits for it.
        listening.spawn(async move { while listener.frame().await.is_ok() {} });
    }
    let mut rates = Vec::new();
    loop {
        let (begun, before) = (Instant::now(), events(&nodes).await?);
        time::sleep(WINDOW).await;
        let rate = (events(&nodes).await? - before) / begun.elapsed().as_secs_f64();
        if (0.9 * EVENTS..=1.1 * EVENTS).contains(&rate) {
            break;
        }
        rates.push(rate);
        ensure!(rates.len() < 6, "{EVENTS} events a second are allowed, not {rates:?}");
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(spoken) = speaking.join_next().await {
        spoken??;
    }
    Ok(())
}

/// Joins on three nodes, none of which reaches the limit alone: all of them refuse further ones.
#[tokio::test]
async fn joins_count_over_all_nodes() -> Result<()> {
    let nodes = Nodes::start_with(3, &[("TENANT_MAX_JOINS_PER_SECOND", "4")]).await?;
    let mut joining = JoinSet::new();
    for node in &nodes.nodes {
        let url =
            format!("ws://127.0.0.1:{}/socket/websocket?apikey={}&vsn=2.0.0", node.port(), token("anon"));
        joining.spawn(async move {
            // Fewer than the limit allows.
            let mut ticks = time::interval(Duration::from_millis(300));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let limit = Instant::now() + PATIENCE * 3;
            while Instant::now() < limit {
                ticks.tick().await;
                let mut socket = match Socket::try_connect(&url, &[], Version::V2).await? {
                    Ok(socket) => socket,
                    Err(refusal) => {
                        ensure!(refusal.body.contains("Too many joins per second"), "{}", refusal.body);
                        return Ok(());
                    }
                };
                let (reply, _) = socket.join("realtime:lobby", json!({"config": {}})).await?;
                if reply["status"] != "ok" {
                    ensure!(reply.to_string().contains("ClientJoinRateLimitReached"), "{reply}");
                    return Ok(());
                }
            }
            bail!("nothing is refused");
        });
    }
    while let Some(refused) = joining.join_next().await {
        refused??;
    }
    Ok(())
}
