//! Nodes that nothing is exchanged with: of another version, and of the same number. The other one is played by a client
//! of NATS that says what such a node would.

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use realtime_testkit::{PATIENCE, Server, Socket, Version, until};
use serde_json::{Value, json};
use tokio::time;

use super::Nodes;

const TOPIC: &str = "realtime:lobby";

/// The subject of the topic's bucket.
const ROOM: &str = "realtime.2.r.realtime-dev.56";

/// Kinds of envelopes.
const RECORDS: u8 = 0;
const MIDDLE: u8 = 1;
const LAST: u8 = 2;
const FIRST: u8 = 4;

/// A node that is none.
struct Other {
    client: async_nats::Client,
    wire: u8,
    id: u32,
    token: u64,
}

impl Other {
    async fn beat(&self, bye: bool) -> Result<()> {
        // A later version may say more.
        let beat = json!({"wire": self.wire, "id": self.id, "token": self.token, "name": "other@elsewhere",
            "version": "9.9.9", "bye": bye, "color": "blue"});
        self.client.publish("realtime.nodes", beat.to_string().into()).await?;
        Ok(self.client.flush().await?)
    }

    /// Says a broadcast to the test's tenant.
    async fn say(&self, subject: &str, version: u8, number: u64, event: &str) -> Result<()> {
        self.envelope(subject, [version, RECORDS], number, event).await
    }

    /// Says a broadcast to the test's tenant, in an envelope that begins with any bytes.
    async fn envelope(&self, subject: &str, begin: [u8; 2], number: u64, event: &str) -> Result<()> {
        let payload = json!({"type": "broadcast", "event": event, "payload": {}}).to_string();
        let mut envelope = begin.to_vec();
        envelope.extend(self.id.to_be_bytes());
        envelope.extend(number.to_be_bytes());
        envelope.extend([1, TOPIC.len() as u8]);
        envelope.extend(TOPIC.bytes());
        envelope.push(payload.len() as u8);
        envelope.extend(payload.bytes());
        self.client.publish(subject.to_owned(), envelope.into()).await?;
        Ok(self.client.flush().await?)
    }
}

/// Beats until a node has heard more than ten of them, and whatever else there was.
async fn beat_often(other: &Other, node: &Server) -> Result<()> {
    let received = async || node.metric("realtime_cluster_messages_received").await;
    let before = received().await?;
    for _ in 0..12 {
        other.beat(false).await?;
    }
    until("the node has heard them", async || Ok(received().await? >= before + 12.0)).await
}

fn count(node: &Server, code: &str) -> usize {
    node.log().lines().filter(|line| line.contains(code)).count()
}

async fn hears_next(socket: &mut Socket, event: &str) -> Result<()> {
    assert_eq!(socket.event(TOPIC, "broadcast").await?["event"], event);
    Ok(())
}

/// What a client says may look like what nodes say: of a message in pieces nothing is read without its beginning, whether
/// somebody comes in the middle of it or has lost that.
#[tokio::test]
async fn pieces_are_nothing_without_the_first() -> Result<()> {
    let nodes = Nodes::start(1).await?;
    let client = async_nats::ConnectOptions::new().no_echo().connect(nodes.nats.url()).await?;
    let other = Other { client, wire: 2, id: 0xABCD, token: 1 };
    other.beat(false).await?;
    let mut socket = nodes.join(0, Version::V2, TOPIC, json!({})).await?;
    let subject = ROOM;
    other.envelope(subject, [2, MIDDLE], 5, "forged").await?;
    other.envelope(subject, [2, LAST], 6, "forged").await?;
    other.say(subject, 2, 7, "said").await?;
    hears_next(&mut socket, "said").await?;
    // The eighth is lost; it was the first of these.
    other.envelope(subject, [2, MIDDLE], 9, "forged").await?;
    other.envelope(subject, [2, LAST], 10, "forged").await?;
    other.say(subject, 2, 11, "said again").await?;
    hears_next(&mut socket, "said again").await?;
    // A whole one: its pieces are two records here.
    other.envelope(subject, [2, FIRST], 12, "in").await?;
    other.envelope(subject, [2, LAST], 13, "pieces").await?;
    hears_next(&mut socket, "in").await?;
    hears_next(&mut socket, "pieces").await
}

/// A node of another version is told of once and nothing is exchanged with it; one of the same number likewise. Beside
/// them, one that is as it should be is heard.
#[tokio::test]
async fn who_is_not_of_us_is_told_of_once() -> Result<()> {
    let nodes = Nodes::start(1).await?;
    let node = &nodes.nodes[0];
    let client = async_nats::ConnectOptions::new().no_echo().connect(nodes.nats.url()).await?;
    let mut beats = client.subscribe("realtime.nodes").await?;
    let mut directly = client.subscribe("realtime.*.n.>").await?;
    let mut socket = nodes.join(0, Version::V2, TOPIC, json!({})).await?;
    let subject = ROOM;

    // As it should be: it is heard, and asked what is so with it.
    let good = Other { client: client.clone(), wire: 2, id: 0xABCD, token: 1 };
    // One beat could come before the node listens.
    until("it is heard", async || {
        good.beat(false).await?;
        Ok(count(node, "a node has come") > 0)
    })
    .await?;
    good.say(subject, 2, 1, "of us").await?;
    hears_next(&mut socket, "of us").await?;
    let asked = time::timeout(PATIENCE, directly.next()).await?.context("no question")?;
    assert_eq!(asked.subject.as_str(), "realtime.2.n.0000abcd");
    good.beat(true).await?;
    node.logged("a node has gone").await?;
    while let Ok(Some(_)) = time::timeout(time::Duration::from_millis(300), directly.next()).await {}

    // Of another version.
    let newer = Other { client: client.clone(), wire: 3, id: 0xBEEF, token: 2 };
    beat_often(&newer, node).await?;
    let line = node.logged("ClusterVersionMismatch").await?;
    assert!(line.contains("other@elsewhere") && line.contains("9.9.9"), "{line}");
    newer.say("realtime.3.r.realtime-dev.56", 3, 1, "in its own words").await?;
    newer.say(subject, 3, 1, "on our subject").await?;
    let malformed = async || Ok(node.metric("realtime_cluster_malformed").await? == 1.0);
    until("what cannot be read is counted", malformed).await?;
    beat_often(&newer, node).await?;
    assert_eq!(count(node, "ClusterVersionMismatch"), 1);
    assert_eq!(node.metric("realtime_cluster_nodes").await?, 1.0);
    let status: Value = serde_json::from_str(&node.http("GET", "/status.json", &[], b"").await?.body)?;
    let shown = status["nodes"].as_array().into_iter().flatten().find(|node| node["id"] == "0000beef");
    assert_eq!(shown.context("it is not shown")?["status"], "unreachable");

    // Of the same number.
    let beat = time::timeout(PATIENCE, beats.next()).await?.context("no heartbeat")?;
    let own = serde_json::from_slice::<Value>(&beat.payload)?["id"].as_u64().context("id")?;
    let namesake = Other { client: client.clone(), wire: 2, id: u32::try_from(own)?, token: 3 };
    beat_often(&namesake, node).await?;
    node.logged("ClusterNodeIdTaken").await?;
    namesake.say(subject, 2, 1, "of the same number").await?;
    beat_often(&namesake, node).await?;
    assert_eq!(count(node, "ClusterNodeIdTaken"), 1);
    assert_eq!(node.metric("realtime_cluster_nodes").await?, 1.0);
    let status: Value = serde_json::from_str(&node.http("GET", "/status.json", &[], b"").await?.body)?;
    let same = status["nodes"].as_array().into_iter().flatten().filter(|shown| shown["id"] == status["node"]);
    assert_eq!(same.count(), 1, "an id is of one node: {status}");

    // Neither was asked anything, nor heard. One that comes now is.
    good.beat(false).await?;
    let asked = time::timeout(PATIENCE, directly.next()).await?.context("no question")?;
    assert_eq!(asked.subject.as_str(), "realtime.2.n.0000abcd", "the first since the good one went");
    good.say(subject, 2, 2, "of us again").await?;
    hears_next(&mut socket, "of us again").await
}
