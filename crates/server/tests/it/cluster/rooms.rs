//! What is said in a room goes only to nodes that have members in its bucket, and nothing is lost while they come and go.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, future::try_join_all};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use realtime_cluster::scope::Part;
use realtime_testkit::{PATIENCE, Socket, Version, until};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{self, Duration, Instant},
};

use super::{Nodes, say};

/// How soon a node stops to listen.
const LINGER: (&str, &str) = ("CLUSTER_LINGER_MS", "100");

/// Topics of different buckets.
fn topics(count: usize) -> Vec<String> {
    let mut buckets = HashSet::new();
    let all = (0..).map(|n| format!("realtime:room-{n}"));
    all.filter(|topic| buckets.insert(Part::of(topic))).take(count).collect()
}

/// Envelopes with records that went over NATS, of any room.
struct Carried {
    messages: async_nats::Subscriber,
    client: async_nats::Client,
}

impl Carried {
    async fn listen(nodes: &Nodes) -> Result<Self> {
        let client = async_nats::connect(nodes.nats.url()).await?;
        let messages = client.subscribe("realtime.*.r.>").await?;
        client.flush().await?;
        Ok(Self { messages, client })
    }

    /// How many have come since the last time. What the nodes have handed to NATS before is among them, once a message that
    /// went the same way has come back.
    async fn count(&mut self, nodes: &Nodes) -> Result<usize> {
        for node in &nodes.nodes {
            // A heartbeat leaves after what was said before it.
            let before = node.metric("realtime_cluster_messages_sent").await?;
            until("the node says something", async || {
                Ok(node.metric("realtime_cluster_messages_sent").await? >= before + 2.0)
            })
            .await?;
        }
        self.client.publish("realtime.0.r.end", "end".into()).await?;
        let mut count = 0;
        loop {
            let message = time::timeout(PATIENCE, self.messages.next()).await?.context("ended")?;
            match &*message.payload {
                b"end" => return Ok(count),
                // Version and kind: a mark has no records.
                [_, 3, ..] => {}
                _ => count += 1,
            }
        }
    }
}

/// Says so many things, each of which a member hears.
async fn talk(speaker: &mut Socket, member: &mut Socket, topic: &str, count: u64) -> Result<()> {
    for n in 0..count {
        say(speaker, topic, "e", json!({ "n": n })).await?;
    }
    for n in 0..count {
        assert_eq!(member.event(topic, "broadcast").await?["payload"]["n"], n);
    }
    Ok(())
}

/// Three nodes serve a tenant, each with rooms of its own: NATS carries nothing of what is said there. A member on another
/// node gets what is said from its join on, and only its node does; when it has left, nothing is carried again.
#[tokio::test]
async fn a_room_on_one_node_costs_nats_nothing() -> Result<()> {
    let nodes = Nodes::start_with(3, &[LINGER]).await?;
    let topics = topics(3);
    let mut rooms = Vec::new();
    for (node, topic) in topics.iter().enumerate() {
        let config = json!({"presence": {"enabled": true}});
        let member = nodes.join(node, Version::V2, topic, config.clone()).await?;
        rooms.push((nodes.join(node, Version::V1, topic, config).await?, member));
    }
    let mut carried = Carried::listen(&nodes).await?;
    carried.count(&nodes).await?;
    for ((speaker, member), topic) in rooms.iter_mut().zip(&topics) {
        talk(speaker, member, topic, 200).await?;
        let track = json!({"type": "presence", "event": "track", "payload": {"here": true}});
        speaker.send(json!("1"), json!("2"), topic, "presence", track).await?;
        member.event(topic, "presence_diff").await?;
    }
    assert_eq!(carried.count(&nodes).await?, 0, "nobody is there to hear it");

    let received = async |node: usize| nodes.nodes[node].metric("realtime_cluster_messages_received").await;
    let mut guest = nodes.join(1, Version::V2, &topics[0], json!({"presence": {"enabled": true}})).await?;
    let state = guest.event(&topics[0], "presence_state").await?;
    assert_eq!(state.as_object().map(serde_json::Map::len), Some(1), "{state}");
    let before = [received(1).await?, received(2).await?];
    let (speaker, member) = &mut rooms[0];
    for n in 0..500 {
        say(speaker, &topics[0], "e", json!({ "n": n })).await?;
        // One envelope for each.
        assert_eq!(member.event(&topics[0], "broadcast").await?["payload"]["n"], n);
    }
    for n in 0..500 {
        assert_eq!(guest.event(&topics[0], "broadcast").await?["payload"]["n"], n);
    }
    let carried_now = carried.count(&nodes).await?;
    assert!(carried_now > 0, "one node is there to hear it");
    let grown = [received(1).await? - before[0], received(2).await? - before[1]];
    assert!(grown[0] >= carried_now as f64, "{grown:?} of {carried_now}");
    assert!(
        grown[1] < carried_now as f64 / 2.0,
        "the third node has no member there: {grown:?} of {carried_now}"
    );

    drop(guest);
    let limit = Instant::now() + PATIENCE;
    loop {
        let (speaker, member) = &mut rooms[0];
        talk(speaker, member, &topics[0], 20).await?;
        if carried.count(&nodes).await? == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < limit, "its node goes on listening");
    }
}

/// What a listener may have missed, by the numbers of what it heard in order, and how many had been said when it was told
/// that it is in.
fn problem(heard: &[u64], said_before: u64) -> Option<String> {
    let first = *heard.first()?;
    if first > said_before {
        return Some(format!("the first that it heard is {first}; {said_before} was said after its join"));
    }
    let hole = heard.windows(2).find(|pair| pair[1] != pair[0] + 1)?;
    Some(format!("it heard {hole:?}"))
}

/// The checker finds what it is for.
#[test]
fn the_checker_of_guests_sees_what_is_missing() {
    assert_eq!(problem(&[7, 8, 9], 7), None);
    assert_eq!(problem(&[5, 6], 7), None, "said before its join");
    assert!(problem(&[8, 9], 7).is_some_and(|problem| problem.contains("first")));
    assert!(problem(&[7, 9], 7).is_some_and(|problem| problem.contains("[7, 9]")));
    assert!(problem(&[7, 7], 7).is_some());
}

/// A speaker that never stops: how many it has said.
struct Speaker {
    topic: String,
    said: Arc<AtomicU64>,
}

/// One visit: joins on a node, listens for a while, leaves.
async fn visit(nodes: &Nodes, node: usize, speaker: &Speaker, rng: &mut StdRng) -> Result<()> {
    let version = if rng.random() { Version::V1 } else { Version::V2 };
    let mut socket = nodes.join(node, version, &speaker.topic, json!({})).await?;
    let said_before = speaker.said.load(Ordering::SeqCst);
    let mut heard = Vec::new();
    let limit = Instant::now() + PATIENCE;
    let wanted = rng.random_range(1..40);
    while heard.len() < wanted {
        let frame = time::timeout_at(limit, socket.frame()).await.context("it hears nothing")??;
        ensure!(frame.event != "system" || frame.payload["status"] != "gap", "{:?}", frame.payload);
        if frame.event == "broadcast" {
            heard.push(frame.payload["payload"]["n"].as_u64().context("n")?);
        }
    }
    if let Some(problem) = problem(&heard, said_before) {
        anyhow::bail!("node {node}, {}: {problem}", speaker.topic);
    }
    Ok(())
}

/// Speakers on one node never stop; guests on the others come and go in the same rooms, so that their nodes begin and stop
/// to listen all the time. From the reply to its join on, each hears everything, once and in order.
#[tokio::test]
async fn nothing_is_lost_while_members_come_and_go() -> Result<()> {
    let seed: u64 =
        std::env::var("REALTIME_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(2026);
    println!("REALTIME_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let nodes = Nodes::start_with(3, &[LINGER]).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let (mut speaking, mut speakers) = (JoinSet::new(), Vec::new());
    for topic in topics(4) {
        let mut socket = nodes.join(0, Version::V2, &topic, json!({})).await?;
        let said = Arc::new(AtomicU64::new(0));
        speakers.push(Speaker { topic: topic.clone(), said: Arc::clone(&said) });
        let stop = Arc::clone(&stop);
        speaking.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                // Counted before it is written: what is not counted at the reply to a join is said after it.
                let n = said.fetch_add(1, Ordering::SeqCst);
                say(&mut socket, &topic, "e", json!({ "n": n })).await?;
                time::sleep(Duration::from_millis(2)).await;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    let guests = (0..8).map(|guest| {
        let mut rng = StdRng::seed_from_u64(rng.random());
        let (nodes, speaker) = (&nodes, &speakers[guest % 4]);
        async move {
            for round in 0..25 {
                let visit = visit(nodes, 1 + guest / 4, speaker, &mut rng).await;
                visit.with_context(|| format!("visit {round}"))?;
                // Some come back before their node stops to listen, some after.
                time::sleep(Duration::from_millis(rng.random_range(0..700))).await;
            }
            Ok::<_, anyhow::Error>(())
        }
    });
    try_join_all(guests).await?;
    stop.store(true, Ordering::SeqCst);
    while let Some(speaker) = speaking.join_next().await {
        speaker??;
    }
    Ok(())
}
