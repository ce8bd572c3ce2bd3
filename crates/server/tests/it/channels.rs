//! Frames and channels (protocol 2 to 5, cases 14 to 40). Limits and refusals that need no socket are tested
//! with the session itself.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version, sign, token, unix_now};
use serde_json::{Value, json};

use crate::{BINARY, server};

const TOPIC: &str = "realtime:room";

fn config(config: Value) -> Value {
    json!({ "config": config })
}

async fn joined(server: &Server, version: Version, payload: Value) -> Result<Socket> {
    let mut socket = server.socket(version, "authenticated").await?;
    let (reply, _) = socket.join(TOPIC, payload).await?;
    assert_eq!(reply["status"], "ok", "{reply}");
    Ok(socket)
}

/// protocol 14, 15, 16, 18
#[tokio::test]
async fn garbage_is_dropped_and_the_socket_lives() -> Result<()> {
    let (server, _db) = server().await?;
    for version in Version::BOTH {
        let mut socket = server.socket(version, "anon").await?;
        for text in [r#"["j","r","t"]"#, "", "not json", "\"text\"", "5", "null", "[]", "{}"] {
            socket.send_text(text).await?;
        }
        // The other serializer's frames are garbage too.
        let other = match version {
            Version::V1 => r#"[null,"9","phoenix","heartbeat",{}]"#,
            Version::V2 => r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"9"}"#,
        };
        socket.send_text(other).await?;
        for bytes in [&b""[..], b"\x09", b"\x03\x01\x01", b"\x00\x01\x02"] {
            socket.send_binary(bytes.to_vec()).await?;
        }
        assert!(socket.settle().await?.is_empty());
    }
    let mut socket = server.socket(Version::V1, "anon").await?;
    let text = json!({"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "5"}).to_string();
    socket.send_binary(text.into_bytes()).await?;
    assert_eq!(socket.reply("5").await?["status"], "ok");
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.send_text(r#"["1","9","phoenix","heartbeat",{},"extra"]"#).await?;
    assert_eq!(socket.reply("9").await?["status"], "ok");
    Ok(())
}

/// protocol 19
#[tokio::test]
async fn topics_that_are_not_joined() -> Result<()> {
    let (server, _db) = server().await?;
    for version in Version::BOTH {
        let mut socket = server.socket(version, "anon").await?;
        for (topic, event) in [(TOPIC, "broadcast"), ("other:room", "phx_join"), ("phoenix", "dance")] {
            socket.send(json!("1"), json!("2"), topic, event, json!({})).await?;
            let frame = socket.frame().await?;
            assert_eq!(
                (frame.topic.as_str(), frame.join_ref, frame.msg_ref),
                (topic, Value::Null, json!("2"))
            );
            assert_eq!(frame.payload, json!({"status": "error", "response": {"reason": "unmatched topic"}}));
        }
    }
    Ok(())
}

/// protocol 20
#[tokio::test]
async fn leaving() -> Result<()> {
    let (server, _db) = server().await?;
    for version in Version::BOTH {
        let mut socket = server.socket(version, "anon").await?;
        socket.send(json!("1"), json!("2"), TOPIC, "phx_leave", json!({})).await?;
        assert_eq!(socket.reply("2").await?, json!({"status": "ok", "response": {}}));
        assert!(socket.settle().await?.is_empty());

        socket.send(json!("11"), json!("11"), TOPIC, "phx_join", config(json!({}))).await?;
        socket.reply("11").await?;
        // A leave with another join_ref is meant for another channel.
        socket.send(json!("10"), json!("12"), TOPIC, "phx_leave", json!({})).await?;
        assert!(socket.settle().await?.is_empty());
        socket.send(json!("11"), json!("13"), TOPIC, "phx_leave", json!({})).await?;
        let (reply, close) = (socket.frame().await?, socket.frame().await?);
        assert_eq!((reply.event.as_str(), reply.msg_ref), ("phx_reply", json!("13")));
        assert_eq!(
            (close.event.as_str(), close.msg_ref, close.payload),
            ("phx_close", json!("11"), json!({}))
        );
        if version == Version::V2 {
            assert_eq!(close.join_ref, json!("11"));
        }
    }
    Ok(())
}

/// protocol 21, 22
#[tokio::test]
async fn joining_twice() -> Result<()> {
    let (server, _db) = server().await?;
    for version in Version::BOTH {
        let mut socket = server.socket(version, "anon").await?;
        let join = |reference: &'static str, payload| {
            (json!(reference), json!(reference), TOPIC, "phx_join", payload)
        };
        let (a, b, topic, event, payload) = join("11", config(json!({})));
        socket.send(a, b, topic, event, payload).await?;
        socket.reply("11").await?;
        let (a, b, topic, event, payload) = join("12", config(json!({"broadcast": {"ack": true}})));
        socket.send(a, b, topic, event, payload).await?;
        let reply = socket.frame().await?;
        assert_eq!((reply.msg_ref, &reply.payload["status"]), (json!("12"), &json!("ok")));
        assert!(socket.settle().await?.is_empty(), "nothing of the one that it replaced");
        socket.send(json!("12"), json!("13"), TOPIC, "broadcast", json!({"event": "x"})).await?;
        assert_eq!(socket.reply("13").await?["status"], "ok");

        let expired = sign(&json!({"role": "anon", "exp": unix_now() - 5}));
        let (a, b, topic, event, payload) = join("14", json!({"config": {}, "access_token": expired}));
        socket.send(a, b, topic, event, payload).await?;
        let reply = socket.frame().await?;
        assert_eq!((reply.msg_ref, &reply.payload["status"]), (json!("14"), &json!("error")));
        assert!(socket.settle().await?.is_empty());
        socket.send(json!("12"), json!("15"), TOPIC, "broadcast", json!({})).await?;
        assert_eq!(socket.reply("15").await?["response"]["reason"], "unmatched topic");
    }
    Ok(())
}

/// protocol 23
#[tokio::test]
async fn the_join_ref_of_a_push_does_not_matter() -> Result<()> {
    for version in Version::BOTH {
        // Of its own: who was present in the last round may still be leaving.
        let (server, _db) = server().await?;
        let mut other = joined(&server, version, config(json!({"presence": {"enabled": true}}))).await?;
        other.event(TOPIC, "presence_state").await?;
        let mut socket = joined(&server, version, config(json!({"broadcast": {"ack": true}}))).await?;
        for join_ref in [json!("stale"), Value::Null] {
            let broadcast = json!({"type": "broadcast", "event": "e", "payload": {"from": join_ref}});
            socket.send(join_ref.clone(), json!("b"), TOPIC, "broadcast", broadcast.clone()).await?;
            assert_eq!(socket.reply("b").await?["status"], "ok");
            assert_eq!(other.event(TOPIC, "broadcast").await?, broadcast);
            let track = json!({"type": "presence", "event": "TRACK", "payload": {"at": join_ref}});
            socket.send(join_ref.clone(), json!("t"), TOPIC, "presence", track).await?;
            assert_eq!(socket.reply("t").await?["status"], "ok");
            let joins = other.event(TOPIC, "presence_diff").await?["joins"].clone();
            let metas = joins.as_object().and_then(|joins| joins.values().next()).expect("a join");
            assert_eq!(metas["metas"][0]["at"], join_ref);
        }
    }
    Ok(())
}

/// protocol 24
#[tokio::test]
async fn unknown_events_are_not_answered() -> Result<()> {
    let (server, _db) = server().await?;
    for version in Version::BOTH {
        let mut socket = joined(&server, version, config(json!({"broadcast": {"ack": true}}))).await?;
        for event in ["foo", "system", "postgres_changes", "INSERT"] {
            socket.send(json!("1"), json!("2"), TOPIC, event, json!({})).await?;
        }
        assert!(socket.settle().await?.is_empty());
        socket.send(json!("1"), json!("3"), TOPIC, "broadcast", json!({})).await?;
        assert_eq!(socket.reply("3").await?["status"], "ok");
    }
    Ok(())
}

/// protocol 25: 10 channels live side by side on one socket; when all were left the socket is dropped.
#[tokio::test]
async fn many_channels_of_one_socket() -> Result<()> {
    let db = TestDb::new().await?;
    // Long enough for the first join of a busy machine: the time runs from the beginning.
    let options = ServerOptions::default().env("NO_CHANNEL_TIMEOUT_IN_MS", "5000");
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    let mut joins = HashMap::new();
    for n in 0..10 {
        let topic = format!("realtime:room {n}: é");
        let (reply, reference) = socket.join(&topic, config(json!({}))).await?;
        assert_eq!(reply["status"], "ok");
        joins.insert(topic, reference);
    }
    for (topic, reference) in &joins {
        socket.send(json!(reference), json!("leave"), topic, "phx_leave", json!({})).await?;
        socket.reply("leave").await?;
        let close = socket.expect(|frame| frame.event == "phx_close" && frame.topic == *topic).await?;
        assert_eq!(close.join_ref, json!(reference));
    }
    let gone = tokio::time::timeout(PATIENCE, socket.message()).await?;
    assert!(gone.is_err(), "dropped without a close frame, not {gone:?}");
    Ok(())
}

async fn join_error(server: &Server, topic: &str, payload: Value) -> Result<String> {
    let mut socket = server.socket(Version::V2, "anon").await?;
    let (reply, _) = socket.join(topic, payload).await?;
    assert_eq!(reply["status"], "error", "{reply}");
    assert!(socket.settle().await?.is_empty(), "exactly one reply");
    Ok(reply["response"]["reason"].as_str().unwrap_or_default().to_owned())
}

/// protocol 26, 33
#[tokio::test]
async fn refused_joins_give_their_reason() -> Result<()> {
    let (server, _db) = server().await?;
    let with = |token: &str| json!({"config": {}, "access_token": token});
    let now = unix_now();
    let reason = join_error(&server, "realtime:", config(json!({}))).await?;
    assert_eq!(reason, "TopicNameRequired: You must provide a topic name");
    let reason = join_error(&server, TOPIC, with("potato")).await?;
    assert_eq!(reason, "MalformedJWT: The token provided is not a valid JWT");
    let reason = join_error(&server, TOPIC, with(&sign(&json!({"exp": now + 100})))).await?;
    assert_eq!(reason, "InvalidJWTToken: Fields `role` and `exp` are required in JWT");
    let reason = join_error(&server, TOPIC, with(&sign(&json!({"role": "anon", "exp": now - 1000})))).await?;
    let seconds = reason.strip_prefix("InvalidJWTToken: Token has expired ").context("another reason")?;
    let seconds: u64 = seconds.split(' ').next().unwrap_or_default().parse()?;
    assert!((1000..=1000 + unix_now() - now).contains(&seconds), "{reason}");
    let reason = join_error(&server, TOPIC, with(&sign(&json!({"role": "anon", "exp": "soon"})))).await?;
    assert_eq!(reason, "Unknown Error on Channel");
    let reason = join_error(&server, TOPIC, with(&format!("{}x", token("anon")))).await?;
    assert_eq!(reason, "JwtSignatureError: Failed to validate JWT signature");
    for payload in [json!({"config": "str"}), json!("str"), config(json!({"postgres_changes": [5]}))] {
        assert!(join_error(&server, TOPIC, payload).await?.starts_with("UnknownErrorOnChannel: "));
    }
    // What cannot be checked yet is refused, not let through.
    let reason = join_error(&server, TOPIC, config(json!({"private": true}))).await?;
    assert_eq!(reason, "Unauthorized: You do not have permissions to read from this Channel topic: room");
    let replay = config(json!({"broadcast": {"replay": {"since": 0}}}));
    let reason = join_error(&server, TOPIC, replay).await?;
    assert_eq!(reason, "UnableToReplayMessages: Replay is not allowed for public channels");
    Ok(())
}

/// protocol 29, 30, 34 and recording 03
#[tokio::test]
async fn join_payloads_are_read_leniently() -> Result<()> {
    for version in Version::BOTH {
        // Of its own: sockets of the last round may still be leaving.
        let (server, _db) = server().await?;
        let booleans = json!({"broadcast": {"ack": "True", "self": "FALSE"}, "presence": {"enabled": "true", "key": 123}});
        let mut socket = joined(&server, version, config(booleans)).await?;
        assert_eq!(socket.event(TOPIC, "presence_state").await?, json!({}));
        socket.send(json!("1"), json!("b"), TOPIC, "broadcast", json!({"event": "x"})).await?;
        socket.reply("b").await?;
        socket
            .send(json!("1"), json!("t"), TOPIC, "presence", json!({"event": "track", "payload": {}}))
            .await?;
        socket.reply("t").await?;
        let diff = socket.event(TOPIC, "presence_diff").await?;
        assert_eq!(diff["joins"]["123"]["metas"].as_array().map(Vec::len), Some(1), "{diff}");
        assert!(socket.settle().await?.is_empty(), "self is false");

        let wrong = json!({"broadcast": {"ack": "potato"}, "presence": 5, "postgres_changes": "no"});
        let mut socket = joined(&server, version, config(wrong)).await?;
        socket.send(json!("1"), json!("b"), TOPIC, "broadcast", json!({"event": "x"})).await?;
        assert!(socket.settle().await?.is_empty(), "ack is false");

        for key in [json!(""), Value::Null] {
            let mut socket = joined(&server, version, config(json!({"presence": {"key": key}}))).await?;
            socket.send(json!("1"), json!("t"), TOPIC, "presence", json!({"event": "track"})).await?;
            let mut keys = Vec::new();
            while keys.is_empty() {
                // The socket before it leaves.
                let diff = socket.event(TOPIC, "presence_diff").await?;
                keys = diff["joins"].as_object().context("joins")?.keys().cloned().collect();
            }
            assert!(keys.iter().all(|key| key.len() >= 16), "{keys:?}");
        }
        let fractional = sign(&json!({"role": "anon", "exp": unix_now() as f64 + 100.99, "iat": 1.5}));
        joined(&server, version, json!({"config": {}, "access_token": fractional})).await?;
    }
    Ok(())
}

/// protocol 32
#[tokio::test]
async fn api_keys_in_place_of_tokens_are_ignored() -> Result<()> {
    let (server, _db) = server().await?;
    for name in ["access_token", "user_token"] {
        joined(&server, Version::V2, json!({"config": {}, name: "sb_publishable_x"})).await?;
    }
    let mut socket = server.socket(Version::V2, "anon").await?;
    let (reply, _) = socket.join(TOPIC, json!({"config": {}, "user_token": "potato"})).await?;
    assert_eq!(reply["status"], "error");
    Ok(())
}

/// protocol 39, the first half: the server runs, tells it, and joins that need the database get the reason. Those that
/// need nothing of it are served: who is in a public channel hears the others.
#[tokio::test]
async fn an_unreachable_database() -> Result<()> {
    let mut env = HashMap::new();
    for (name, value) in [("DB_HOST", "127.0.0.1"), ("DB_PORT", "1")] {
        env.insert(name.to_owned(), value.to_owned());
    }
    for version in Version::BOTH {
        // One for each: after three attempts that failed, its own among them, a server makes none for a while.
        let server = Server::start_with(BINARY.as_ref(), env.clone()).await?;
        let mut socket = server.socket(version, "anon").await?;
        let changes = config(json!({"postgres_changes": [{"schema": "public"}]}));
        let (reply, _) = socket.join(TOPIC, changes).await?;
        let reason = "UnableToConnectToProject: Realtime was unable to connect to the project database";
        assert_eq!(reply, json!({"status": "error", "response": {"reason": reason}}));
        assert!(socket.settle().await?.is_empty());
        let (reply, _) = socket.join(TOPIC, config(json!({}))).await?;
        assert_eq!(reply["status"], "ok", "{reply}");
        let mut other = joined(&server, version, config(json!({}))).await?;
        let hello = json!({"type": "broadcast", "event": "e", "payload": {}});
        other.send(Value::Null, Value::Null, TOPIC, "broadcast", hello.clone()).await?;
        assert_eq!(socket.event(TOPIC, "broadcast").await?, hello);
        server.logged("UnableToConnectToTenantDatabase").await?;
    }
    Ok(())
}

/// Refused joins wait for their back-off alone: the socket goes on (decision 10).
#[tokio::test]
async fn the_back_off_holds_one_reply_only() -> Result<()> {
    let db = TestDb::new().await?;
    let back_off = |millis: &str| ServerOptions::default().env("CHANNEL_ERROR_BACKOFF_MS", millis);
    // Longer than any test: the others' replies come meanwhile.
    let server = Server::start(BINARY, &db, back_off("3600000")).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.send(json!("1"), json!("1"), "realtime:", "phx_join", json!({})).await?;
    socket.send(json!("2"), json!("2"), TOPIC, "phx_join", config(json!({}))).await?;
    assert_eq!(socket.frame().await?.msg_ref, json!("2"));
    assert!(socket.settle().await?.is_empty());

    let server = Server::start(BINARY, &db, back_off("500")).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    let started = tokio::time::Instant::now();
    socket.send(json!("1"), json!("1"), "realtime:", "phx_join", json!({})).await?;
    assert_eq!(socket.reply("1").await?["status"], "error");
    assert!(started.elapsed() >= tokio::time::Duration::from_millis(500));
    Ok(())
}

/// protocol 41, 44, 45, 47: what works of broadcast already.
#[tokio::test]
async fn broadcasts_between_serializers() -> Result<()> {
    let (server, _db) = server().await?;
    let to_self = config(json!({"broadcast": {"self": true, "ack": true}}));
    let mut v1 = joined(&server, Version::V1, to_self.clone()).await?;
    let mut v2 = joined(&server, Version::V2, to_self).await?;
    for payload in
        [json!({"type": "broadcast", "event": "e", "payload": {"a": [1, 2.5, null, "é"]}}), json!({})]
    {
        v1.send(Value::Null, json!("b"), TOPIC, "broadcast", payload.clone()).await?;
        let own = v1.frame().await?;
        assert_eq!((own.event.as_str(), own.msg_ref, &own.payload), ("broadcast", Value::Null, &payload));
        assert_eq!(v1.frame().await?.event, "phx_reply", "the own copy comes before the reply");
        assert_eq!(v2.event(TOPIC, "broadcast").await?, payload);
    }
    // A compact broadcast: the frame of protocol 2.3.
    let mut frame = vec![3, 0, 1, u8::try_from(TOPIC.len())?, 5, 0, 1];
    frame.extend(format!("7{TOPIC}event{{\"a\":\"b\"}}").bytes());
    v2.send_binary(frame).await?;
    let received = v1.event(TOPIC, "broadcast").await?;
    assert_eq!(received, json!({"type": "broadcast", "event": "event", "payload": {"a": "b"}}));
    Ok(())
}
