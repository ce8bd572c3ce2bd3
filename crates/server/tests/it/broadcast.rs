//! Broadcasts between sockets.

use anyhow::Result;
use realtime_testkit::{Server, Socket, Version};
use serde_json::{Value, json};

use crate::server;

const TOPIC: &str = "realtime:room";

async fn joined(server: &Server, version: Version, topic: &str, broadcast: Value) -> Result<Socket> {
    let mut socket = server.socket(version, "authenticated").await?;
    let (reply, _) = socket.join(topic, json!({"config": {"broadcast": broadcast}})).await?;
    assert_eq!(reply["status"], "ok");
    Ok(socket)
}

/// A binary push of kind 3 with ref `r`.
fn push(topic: &str, event: &str, encoding: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![3, 0, 1, topic.len() as u8, event.len() as u8, 0, encoding];
    frame.extend(format!("r{topic}{event}").bytes());
    frame.extend(body);
    frame
}

/// protocol 41, 43
#[tokio::test]
async fn own_copies_and_replies() -> Result<()> {
    let (server, _db) = server().await?;
    for version in Version::BOTH {
        for (to_self, ack) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut sender = joined(&server, version, TOPIC, json!({"self": to_self, "ack": ack})).await?;
            let mut other = joined(&server, version, TOPIC, json!({})).await?;
            let payload = json!({"type": "broadcast", "event": "e", "payload": {"n": 1}, "more": [1]});
            sender.send(json!("1"), json!("b"), TOPIC, "broadcast", payload.clone()).await?;
            let events: Vec<_> = sender.settle().await?.into_iter().map(|frame| frame.event).collect();
            let mut expected = vec![];
            expected.extend(to_self.then_some("broadcast"));
            expected.extend(ack.then_some("phx_reply"));
            assert_eq!(events, expected, "self {to_self}, ack {ack}");
            assert_eq!(other.event(TOPIC, "broadcast").await?, payload);
        }
    }
    Ok(())
}

/// protocol 17, 44, 45; recording 06
#[tokio::test]
async fn compact_broadcasts() -> Result<()> {
    let (server, _db) = server().await?;
    let both = json!({"self": true, "ack": true});
    let mut sender = joined(&server, Version::V2, TOPIC, both).await?;
    let mut other = joined(&server, Version::V2, TOPIC, json!({})).await?;
    let mut old = joined(&server, Version::V1, TOPIC, json!({})).await?;

    sender.send_binary(push(TOPIC, "e", 1, br#"{"a" : 1}"#)).await?;
    let compact = json!({"type": "broadcast", "event": "e", "payload": {"a": 1}, "encoding": 1});
    assert_eq!(sender.frame().await?.payload, compact);
    assert_eq!(sender.reply("r").await?, json!({"status": "ok", "response": {}}));
    assert_eq!(other.event(TOPIC, "broadcast").await?, compact);
    let text = json!({"type": "broadcast", "event": "e", "payload": {"a": 1}});
    assert_eq!(old.event(TOPIC, "broadcast").await?, text);

    sender.send_binary(push(TOPIC, "e", 0, &[0, 255, 3])).await?;
    let bytes = json!({"type": "broadcast", "event": "e", "payload": [0, 255, 3], "encoding": 0});
    assert_eq!(sender.frame().await?.payload, bytes);
    assert_eq!(sender.reply("r").await?["status"], "ok");
    assert_eq!(other.event(TOPIC, "broadcast").await?, bytes);
    // Text from the old client reaches the new ones as text; the bytes never reached it.
    old.send(Value::Null, json!("1"), TOPIC, "broadcast", text.clone()).await?;
    assert_eq!(other.event(TOPIC, "broadcast").await?, text);
    assert_eq!(old.settle().await?, []);
    Ok(())
}

/// protocol 42, the half without private channels
#[tokio::test]
async fn topics_do_not_mix() -> Result<()> {
    let (server, _db) = server().await?;
    let mut one = joined(&server, Version::V2, "realtime:private:x", json!({})).await?;
    let mut two = joined(&server, Version::V2, "realtime:x", json!({})).await?;
    one.send(Value::Null, Value::Null, "realtime:private:x", "broadcast", json!({"a": 1})).await?;
    one.settle().await?;
    assert_eq!(two.settle().await?, []);
    Ok(())
}

/// protocol 46
#[tokio::test]
async fn what_is_too_large_is_not_delivered() -> Result<()> {
    let (server, _db) = server().await?;
    let large = json!({"event": "e", "payload": "x".repeat(3_000_500)});
    let mut other = joined(&server, Version::V1, TOPIC, json!({})).await?;
    for (version, ack) in [(Version::V1, true), (Version::V2, true), (Version::V2, false)] {
        let mut sender = joined(&server, version, TOPIC, json!({"ack": ack})).await?;
        sender.send(Value::Null, json!("b"), TOPIC, "broadcast", large.clone()).await?;
        let refused = json!({"status": "error", "response": "payload_size_exceeded"});
        let frames: Vec<_> = sender.settle().await?.into_iter().map(|frame| frame.payload).collect();
        assert_eq!(frames, if ack { vec![refused] } else { vec![] });
    }
    assert_eq!(other.settle().await?, []);
    Ok(())
}

/// protocol 50, the public half
#[tokio::test]
async fn broadcasts_go_on_without_the_database() -> Result<()> {
    let (server, db) = server().await?;
    let mut sender = joined(&server, Version::V2, TOPIC, json!({"ack": true})).await?;
    let mut other = joined(&server, Version::V2, TOPIC, json!({})).await?;
    let name = db.name();
    let admin = realtime_testkit::cluster().await?.connect("postgres").await?;
    admin
        .batch_execute(&format!(
            "alter database {name} with allow_connections false;
             select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}';"
        ))
        .await?;
    for n in 0..3 {
        let (reference, payload) = (n.to_string(), json!({"n": n}));
        sender.send(Value::Null, json!(reference), TOPIC, "broadcast", payload.clone()).await?;
        assert_eq!(sender.reply(&reference).await?["status"], "ok");
        assert_eq!(other.event(TOPIC, "broadcast").await?, payload);
    }
    Ok(())
}

/// A client that does not read is closed with 1013 when its outbox is full; the others get everything.
#[tokio::test]
async fn slow_readers_harm_themselves() -> Result<()> {
    let (server, _db) = server().await?;
    let mut slow = joined(&server, Version::V2, TOPIC, json!({})).await?;
    let mut other = joined(&server, Version::V2, TOPIC, json!({})).await?;
    let mut sender = joined(&server, Version::V2, TOPIC, json!({})).await?;
    let text = "x".repeat(1_000_000);
    // No more than an outbox and the kernel's buffers hold.
    let talk = async {
        for n in 0..100 {
            sender.send(Value::Null, Value::Null, TOPIC, "broadcast", json!({"n": n, "x": text})).await?;
            assert_eq!(other.event(TOPIC, "broadcast").await?["n"], n);
        }
        std::future::pending().await
    };
    // The close frame is sent within a few seconds or not at all: it is read as soon as there is one.
    let closed = async {
        server.logged("SlowConsumer").await?;
        slow.close_code().await
    };
    let code: Result<u16> = tokio::select! {
        code = closed => code,
        failed = talk => failed,
    };
    assert_eq!(code?, 1013);
    Ok(())
}
