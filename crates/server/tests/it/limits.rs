//! Limits per second (protocol 9), with their ticks of five seconds.

use anyhow::Result;
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version, token};
use serde_json::{Value, json};
use tokio::time::{self, Duration};

use crate::BINARY;

/// protocol 8, 37
#[tokio::test]
async fn joins_per_second() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default().env("TENANT_MAX_JOINS_PER_SECOND", "2");
    let server = Server::start(BINARY, &db, options).await?;
    // Of several: one alone uses up its own share, and nothing of the others'.
    let mut sockets = Vec::new();
    for _ in 0..12 {
        sockets.push(server.socket(Version::V2, "anon").await?);
    }
    let mut last = sockets.pop().expect("twelve");
    // All pass until they are counted, which is every five seconds: that may be in the middle of them.
    'joining: for socket in &mut sockets {
        for n in 0..9 {
            let (reply, _) = socket.join(&format!("realtime:{n}"), json!({"config": {}})).await?;
            if reply["status"] != "ok" {
                break 'joining;
            }
        }
    }
    let url = format!("ws://localhost:{}/socket/websocket?apikey={}", server.port(), token("anon"));
    let refused = async {
        loop {
            if let Err(refused) = Socket::try_connect(&url, &[], Version::V1).await? {
                return anyhow::Ok(refused);
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    let refused = time::timeout(PATIENCE, refused).await??;
    assert_eq!((refused.status, &*refused.body), (429, r#"{"error":"Too many joins per second"}"#));

    let (reply, _) = last.join("realtime:more", json!({"config": {}})).await?;
    let reason = "ClientJoinRateLimitReached: Too many joins per second";
    assert_eq!(reply, json!({"status": "error", "response": {"reason": reason}}));
    assert_eq!(last.close_code().await?, 1001);
    Ok(())
}

/// protocol 48, http_and_ops 45, 53: whoever is handed a message is stopped; a sender that hears nothing is not.
#[tokio::test]
async fn events_per_second() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default()
        .env("TENANT_MAX_EVENTS_PER_SECOND", "5")
        .env("LIMITS_CLOSE_CHANNELS", "true");
    let server = Server::start(BINARY, &db, options).await?;
    let topic = "realtime:room";
    let mut sender = server.socket(Version::V2, "anon").await?;
    let mut own = server.socket(Version::V1, "anon").await?;
    let mut other = server.socket(Version::V2, "anon").await?;
    sender.join(topic, json!({"config": {"broadcast": {"ack": true}}})).await?;
    own.join(topic, json!({"config": {"broadcast": {"self": true}}})).await?;
    other.join(topic, json!({"config": {}})).await?;
    // So many that the average stays above the limit for the rest of the test.
    for _ in 0..200 {
        sender.send(Value::Null, Value::Null, topic, "broadcast", json!({"n": 1})).await?;
    }
    // They are counted every five seconds: that may be in the middle of them.
    let mut frames = Vec::new();
    let stopped = async {
        loop {
            sender.send(Value::Null, Value::Null, topic, "broadcast", json!({"n": 2})).await?;
            sender.settle().await?;
            frames.extend(other.settle().await?);
            if let Some(at) = frames.iter().position(|frame| frame.event == "system") {
                return anyhow::Ok(at);
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    let at = time::timeout(PATIENCE, stopped).await??;
    assert_eq!(frames[at - 1].event, "broadcast", "what was being delivered still came");
    assert_eq!(
        frames[at].payload,
        json!({"extension": "system", "status": "error", "message": "Too many messages per second", "channel": "room"})
    );
    assert_eq!(frames[at + 1].event, "phx_close");
    own.event(topic, "phx_close").await?;
    own.settle().await?;
    sender.send(Value::Null, json!("last"), topic, "broadcast", json!({})).await?;
    assert_eq!(sender.reply("last").await?["status"], "ok", "the sender heard nothing and goes on");
    for (path, body) in [
        ("/api/broadcast", r#"{"messages":[{"topic":"room","event":"e","payload":{}}]}"#),
        ("/api/broadcast/room/events/e", "{}"),
    ] {
        let bearer = format!("Bearer {}", token("anon"));
        let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
        let answer = server.http("POST", path, &headers, body.as_bytes()).await?;
        assert_eq!(
            (answer.status, &*answer.body),
            (429, r#"{"message":"You have exceeded your rate limit"}"#)
        );
    }
    // It may join again; its own message stops it again.
    own.join(topic, json!({"config": {"broadcast": {"self": true}}})).await?;
    own.send(Value::Null, Value::Null, topic, "broadcast", json!({"n": 3})).await?;
    own.event(topic, "broadcast").await?;
    assert_eq!(own.event(topic, "system").await?["message"], "Too many messages per second");
    Ok(())
}

/// A speaker that never stops is told the limit, its listeners what they missed; no channel ends, and as much arrives
/// as the limit allows. HTTP requests are refused.
#[tokio::test]
async fn messages_above_the_limit_are_dropped_and_told() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default().env("TENANT_MAX_EVENTS_PER_SECOND", "10");
    let server = Server::start(BINARY, &db, options).await?;
    let topic = "realtime:room";
    let mut speaker = server.socket(Version::V2, "anon").await?;
    speaker.join(topic, json!({"config": {"broadcast": {"ack": true}}})).await?;
    let mut listeners = Vec::new();
    for version in [Version::V1, Version::V2] {
        let mut listener = server.socket(version, "anon").await?;
        listener.join(topic, json!({"config": {}})).await?;
        listeners.push(listener);
    }
    // So many that the average stays above the limit for the rest of the test.
    for _ in 0..400 {
        speaker.send(Value::Null, Value::Null, topic, "broadcast", json!({"event": "early"})).await?;
    }
    let refused = async {
        for n in 0.. {
            let reference = format!("n{n}");
            speaker.send(Value::Null, json!(reference), topic, "broadcast", json!({"event": "e"})).await?;
            let reply = speaker.reply(&reference).await?;
            if reply["status"] != "ok" {
                return anyhow::Ok(reply);
            }
            time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("never")
    };
    let reply = time::timeout(PATIENCE, refused).await??;
    let response = json!({"reason": "Too many messages per second", "limit": 10});
    assert_eq!(reply, json!({"status": "error", "response": response}));
    for listener in &mut listeners {
        let told = listener.event(topic, "system").await?;
        assert_eq!(
            (&told["status"], &told["code"]),
            (&json!("warning"), &json!("MessagesDropped")),
            "{told}"
        );
        assert!(told["count"].as_u64().is_some_and(|count| count > 0), "{told}");
    }
    // Some pass in each second.
    let passes = async {
        for n in 0.. {
            let reference = format!("p{n}");
            let payload = json!({"event": "late"});
            speaker.send(Value::Null, json!(reference), topic, "broadcast", payload).await?;
            if speaker.reply(&reference).await?["status"] == "ok" {
                return anyhow::Ok(());
            }
            time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("never")
    };
    time::timeout(PATIENCE, passes).await??;
    for listener in &mut listeners {
        listener.expect(|frame| frame.event == "broadcast" && frame.payload["event"] == "late").await?;
    }
    for (path, body) in [
        ("/api/broadcast", r#"{"messages":[{"topic":"room","event":"e","payload":{}}]}"#),
        ("/api/broadcast/room/events/e", "{}"),
    ] {
        let bearer = format!("Bearer {}", token("anon"));
        let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
        assert_eq!(server.http("POST", path, &headers, body.as_bytes()).await?.status, 429);
    }
    Ok(())
}
