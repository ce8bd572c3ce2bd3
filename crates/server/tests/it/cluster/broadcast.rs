//! What is said on one node is heard on all.

use anyhow::Result;
use realtime_testkit::{Socket, Version, token, until};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::{Nodes, say};

const TOPIC: &str = "realtime:lobby";

async fn hears(socket: &mut Socket, topic: &str, event: &str, payload: &Value) -> Result<()> {
    let heard = socket.event(topic, "broadcast").await?;
    assert_eq!((&heard["event"], &heard["payload"]), (&json!(event), payload));
    Ok(())
}

/// protocol 43 among nodes: whatever the serializers, over sockets and HTTP, public and private apart, and nothing twice
#[tokio::test]
async fn everybody_hears_on_every_node() -> Result<()> {
    let nodes = Nodes::start(3).await?;
    let mut listeners = Vec::new();
    for node in 0..3 {
        for version in Version::BOTH {
            listeners.push(nodes.join(node, version, TOPIC, json!({})).await?);
        }
    }
    let mut speaker = nodes.join(0, Version::V2, TOPIC, json!({})).await?;
    let mut elsewhere = nodes.join(1, Version::V2, "realtime:other", json!({})).await?;
    say(&mut speaker, TOPIC, "text", json!({"n": 1})).await?;
    // A binary push: kind 3, no join_ref, no ref, topic, event, no metadata, JSON.
    let mut push = vec![3, 0, 0, TOPIC.len() as u8, 6, 0, 1];
    push.extend_from_slice(TOPIC.as_bytes());
    push.extend_from_slice(b"binary{\"n\":2}");
    speaker.send_binary(push).await?;
    // What is larger than a message of NATS may be goes in pieces.
    let large = json!({"x": "y".repeat(2_500_000)});
    say(&mut speaker, TOPIC, "large", large.clone()).await?;
    for socket in &mut listeners {
        hears(socket, TOPIC, "text", &json!({"n": 1})).await?;
        hears(socket, TOPIC, "binary", &json!({"n": 2})).await?;
        hears(socket, TOPIC, "large", &large).await?;
    }

    let authorization = format!("Bearer {}", token("anon"));
    let headers = [("authorization", &*authorization), ("content-type", "application/json")];
    let message = json!({"topic": "lobby", "event": "batch", "payload": {"n": 3}});
    let body = json!({"messages": [message]}).to_string();
    let answer = nodes.nodes[1].http("POST", "/api/broadcast", &headers, body.as_bytes()).await?;
    assert_eq!(answer.status, 202);
    let path = "/api/broadcast/lobby/events/single";
    let answer = nodes.nodes[2].http("POST", path, &headers, b"{\"n\":4}").await?;
    assert_eq!(answer.status, 202);
    listeners.push(speaker);
    for socket in &mut listeners {
        let mut heard = Vec::new();
        for _ in 0..2 {
            let message = socket.event(TOPIC, "broadcast").await?;
            heard.push((
                message["event"].as_str().unwrap_or_default().to_owned(),
                message["payload"]["n"].clone(),
            ));
        }
        heard.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(heard, [("batch".to_owned(), json!(3)), ("single".to_owned(), json!(4))]);
        assert_eq!(socket.settle().await?, []);
    }
    assert_eq!(elsewhere.settle().await?, []);
    Ok(())
}

/// What one client says is heard in the order in which it was said, on whatever node; after the reply to a join nothing
/// is missed, also by the first socket of a tenant on its node.
#[tokio::test]
async fn in_order_from_the_join_on() -> Result<()> {
    let nodes = Nodes::start(3).await?;
    let mut speaker = nodes.join(0, Version::V2, TOPIC, json!({})).await?;
    for round in 0..3 {
        // The first round meets nodes that have no socket of the tenant yet.
        let mut one = nodes.join(1, Version::V2, TOPIC, json!({})).await?;
        let mut two = nodes.join(2, Version::V1, TOPIC, json!({})).await?;
        for n in 0..500 {
            say(&mut speaker, TOPIC, "e", json!({"n": n, "round": round})).await?;
        }
        for socket in [&mut one, &mut two] {
            for n in 0..500 {
                hears(socket, TOPIC, "e", &json!({"n": n, "round": round})).await?;
            }
        }
    }
    Ok(())
}

/// protocol 8; http_and_ops 29 in part: users are counted over all nodes
#[tokio::test]
async fn users_are_counted_together() -> Result<()> {
    let nodes = Nodes::start_with(3, &[("TENANT_MAX_CONCURRENT_USERS", "2")]).await?;
    let one = nodes.join(0, Version::V2, TOPIC, json!({})).await?;
    let _two = nodes.join(1, Version::V2, TOPIC, json!({})).await?;
    let counted = |count: f64| {
        let node = &nodes.nodes[2];
        until("users are counted", move || async move {
            Ok(node.metric("realtime_connections_connected_cluster").await? == count)
        })
    };
    // The third node learns of the others' when somebody asks there.
    let refused = || async {
        let url = format!(
            "ws://127.0.0.1:{}/socket/websocket?apikey={}&vsn=2.0.0",
            nodes.nodes[2].port(),
            token("anon")
        );
        Socket::try_connect(&url, &[], Version::V2).await
    };
    let begun = Instant::now();
    if refused().await?.is_ok() {
        assert!(begun.elapsed() >= Duration::from_secs(1), "let in without waiting for what the others say");
    }
    until("it is refused", || async {
        let Err(refusal) = refused().await? else { return Ok(false) };
        assert_eq!((refusal.status, refusal.body.contains("Too many connected users")), (429, true));
        Ok(true)
    })
    .await?;
    drop(one);
    counted(1.0).await?;
    assert!(refused().await?.is_ok());
    Ok(())
}
