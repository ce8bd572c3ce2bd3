//! Presence between sockets.

use std::collections::BTreeSet;

use anyhow::Result;
use realtime_testkit::{Server, ServerOptions, Socket, TestDb, Version};
use serde_json::{Value, json};

use crate::{BINARY, server};

const TOPIC: &str = "realtime:lobby";

async fn enter(server: &Server, version: Version, presence: Value) -> Result<Socket> {
    let mut socket = server.socket(version, "anon").await?;
    let (reply, _) = socket.join(TOPIC, json!({"config": {"presence": presence}})).await?;
    assert_eq!(reply["status"], "ok");
    Ok(socket)
}

async fn push(socket: &mut Socket, payload: Value) -> Result<Value> {
    let reference = socket.next_ref();
    socket.send(json!("1"), json!(reference), TOPIC, "presence", payload).await?;
    socket.reply(&reference).await
}

async fn track(socket: &mut Socket, object: Value) -> Result<()> {
    let reply = push(socket, json!({"type": "presence", "event": "TRACK", "payload": object})).await?;
    assert_eq!(reply, json!({"status": "ok", "response": {}}));
    Ok(())
}

/// The metas of a key, without refs.
fn metas(keys: &Value, key: &str) -> Vec<Value> {
    let metas = keys[key]["metas"].as_array().cloned().unwrap_or_default();
    metas
        .into_iter()
        .map(|mut meta| {
            let fields = meta.as_object_mut().unwrap();
            assert!(fields.remove("phx_ref").unwrap().as_str().unwrap().len() >= 8);
            fields.remove("phx_ref_prev");
            meta
        })
        .collect()
}

/// protocol 58, 61, 62, 69; recordings 01, 02
#[tokio::test]
async fn joins_updates_and_leaves() -> Result<()> {
    let (server, _db) = server().await?;
    for version in Version::BOTH {
        let mut a = enter(&server, version, json!({"enabled": true, "key": "a"})).await?;
        assert_eq!(a.event(TOPIC, "presence_state").await?, json!({}));
        track(&mut a, json!({"n": 1})).await?;
        let diff = a.event(TOPIC, "presence_diff").await?;
        assert_eq!((metas(&diff["joins"], "a"), &diff["leaves"]), (vec![json!({"n": 1})], &json!({})));
        let first = diff["joins"]["a"]["metas"][0]["phx_ref"].clone();

        let mut b = enter(&server, version, json!({"enabled": true, "key": "b"})).await?;
        let state = b.event(TOPIC, "presence_state").await?;
        assert_eq!(state, diff["joins"]);
        track(&mut a, json!({"n": 1})).await?;
        track(&mut a, json!({"n": 2})).await?;
        for socket in [&mut a, &mut b] {
            let diff = socket.event(TOPIC, "presence_diff").await?;
            assert_eq!(metas(&diff["joins"], "a"), [json!({"n": 2})]);
            assert_eq!(diff["joins"]["a"]["metas"][0]["phx_ref_prev"], first);
            assert_eq!(diff["leaves"]["a"]["metas"], json!([{"n": 1, "phx_ref": first}]));
        }
        let reply = push(&mut a, json!({"event": "untrack"})).await?;
        assert_eq!(reply["status"], "ok");
        let diff = b.event(TOPIC, "presence_diff").await?;
        assert_eq!((&diff["joins"], metas(&diff["leaves"], "a")), (&json!({}), vec![json!({"n": 2})]));
        track(&mut a, json!({"n": 2})).await?;
        let diff = b.event(TOPIC, "presence_diff").await?;
        assert_eq!((metas(&diff["joins"], "a"), &diff["leaves"]), (vec![json!({"n": 2})], &json!({})));

        // The connection breaks off without a word.
        drop(a);
        let diff = b.event(TOPIC, "presence_diff").await?;
        assert_eq!((&diff["joins"], metas(&diff["leaves"], "a")), (&json!({}), vec![json!({"n": 2})]));
        drop(b);
    }
    Ok(())
}

/// protocol 59, public
#[tokio::test]
async fn without_asking_for_presence() -> Result<()> {
    let (server, _db) = server().await?;
    let mut socket = enter(&server, Version::V2, json!({"key": "k"})).await?;
    assert_eq!(socket.settle().await?, [], "no state");
    track(&mut socket, json!({})).await?;
    let diff = socket.event(TOPIC, "presence_diff").await?;
    assert_eq!(metas(&diff["joins"], "k"), [json!({})]);
    Ok(())
}

/// protocol 63
#[tokio::test]
async fn what_cannot_be_tracked() -> Result<()> {
    let (server, _db) = server().await?;
    let mut socket = enter(&server, Version::V1, json!({"key": "k"})).await?;
    let refused = json!({"status": "error", "response": {"reason": "Presence track payload must be a map"}});
    assert_eq!(push(&mut socket, json!({"event": "track", "payload": "text"})).await?, refused);
    assert_eq!(
        push(&mut socket, json!({"event": "dance"})).await?,
        json!({"status": "error", "response": {}})
    );
    assert_eq!(push(&mut socket, json!({})).await?, json!({"status": "ok", "response": {}}));
    track(&mut socket, json!({"n": 1})).await
}

/// protocol 64: five calls, then the channel is stopped; others are not.
#[tokio::test]
async fn calls_are_limited() -> Result<()> {
    let db = TestDb::new().await?;
    // Longer than any test.
    let options = ServerOptions::default()
        .env("CLIENT_PRESENCE_WINDOW_MS", "3600000")
        .env("LIMITS_CLOSE_CHANNELS", "true");
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = enter(&server, Version::V2, json!({"enabled": true})).await?;
    let mut other = enter(&server, Version::V2, json!({"enabled": true})).await?;
    for n in 0..5 {
        track(&mut socket, json!({"n": n})).await?;
    }
    socket.send(json!("1"), json!("sixth"), TOPIC, "presence", json!({"event": "untrack"})).await?;
    let system = socket.event(TOPIC, "system").await?;
    assert_eq!(
        system,
        json!({"extension": "system", "status": "error", "message": "Client presence rate limit exceeded", "channel": "lobby"})
    );
    socket.event(TOPIC, "phx_close").await?;
    assert!(socket.settle().await?.iter().all(|frame| frame.event.starts_with("presence_")), "no reply");
    track(&mut other, json!({"n": 1})).await
}

/// Calls above the window are merged; the last one counts when it opens. Nothing closes.
#[tokio::test]
async fn calls_above_the_window_count_when_it_opens() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default().env("CLIENT_PRESENCE_WINDOW_MS", "3000");
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = enter(&server, Version::V2, json!({"key": "k"})).await?;
    let mut other = enter(&server, Version::V2, json!({"enabled": true})).await?;
    let mut told = 0;
    for n in 0..20 {
        socket
            .send(
                json!("1"),
                json!(format!("t{n}")),
                TOPIC,
                "presence",
                json!({"event": "track", "payload": {"n": n}}),
            )
            .await?;
        assert_eq!(socket.reply(&format!("t{n}")).await?["status"], "ok");
        told += usize::from(n >= 5);
    }
    assert_eq!(told, 15);
    let warning = socket.event(TOPIC, "system").await?;
    assert_eq!(
        (&warning["status"], &warning["code"]),
        (&json!("warning"), &json!("ClientPresenceRateLimitReached"))
    );
    other
        .expect(|frame| {
            frame.event == "presence_diff" && frame.payload["joins"]["k"]["metas"][0]["n"] == json!(19)
        })
        .await?;
    assert!(socket.settle().await?.iter().all(|frame| frame.event.starts_with("presence_")));
    Ok(())
}

/// protocol 65
#[tokio::test]
async fn objects_that_are_too_large() -> Result<()> {
    let (server, _db) = server().await?;
    let mut socket = enter(&server, Version::V2, json!({})).await?;
    let large = json!({"event": "track", "payload": {"x": "y".repeat(3_000_500)}});
    socket.send(json!("1"), json!("2"), TOPIC, "presence", large).await?;
    assert_eq!(socket.event(TOPIC, "system").await?["message"], "Track message size exceeded");
    socket.event(TOPIC, "phx_close").await?;
    Ok(())
}

/// Many that come at once are told in few frames: a state, and diffs that leave nobody out and name nobody
/// twice.
#[tokio::test]
async fn a_crowd() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default()
        .env("TENANT_MAX_PRESENCE_EVENTS_PER_SECOND", "1000000")
        .env("TENANT_MAX_JOINS_PER_SECOND", "1000000");
    let server = Server::start(BINARY, &db, options).await?;
    let mut watcher = enter(&server, Version::V2, json!({"enabled": true})).await?;
    let mut crowd = Vec::new();
    for n in 0..50 {
        crowd.push(enter(&server, Version::V2, json!({"enabled": true, "key": n})).await?);
    }
    for socket in &mut crowd {
        socket
            .send(json!("1"), Value::Null, TOPIC, "presence", json!({"event": "track", "payload": {}}))
            .await?;
    }
    let (mut known, mut frames) = (BTreeSet::new(), 0);
    while known.len() < crowd.len() {
        let diff = watcher.event(TOPIC, "presence_diff").await?;
        assert_eq!(diff["leaves"], json!({}));
        for key in diff["joins"].as_object().unwrap().keys() {
            assert!(known.insert(key.clone()), "{key} twice");
        }
        frames += 1;
    }
    assert!(frames < crowd.len(), "{frames} frames");
    Ok(())
}

/// Waits until exactly these keys are seen to be present by somebody who comes now, and returns the socket. It is told of large
/// objects a while after they were tracked.
async fn comes_and_sees(server: &Server, version: Version, topic: &str, expected: &[&str]) -> Result<Socket> {
    let mut socket = server.socket(version, "anon").await?;
    socket.join(topic, json!({"config": {"presence": {"enabled": true, "key": "late"}}})).await?;
    let keys = |group: &Value| group.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();
    let mut known: BTreeSet<String> = keys(&socket.event(topic, "presence_state").await?);
    while !known.iter().eq(expected) {
        let diff = socket.event(topic, "presence_diff").await?;
        let (joined, left): (BTreeSet<_>, BTreeSet<_>) = (keys(&diff["joins"]), keys(&diff["leaves"]));
        known.retain(|key| !left.contains(key));
        known.extend(joined);
    }
    Ok(socket)
}

/// An object of so many bytes, to be tracked.
fn object(bytes: usize) -> Value {
    json!({"event": "track", "payload": {"x": "x".repeat(bytes)}})
}

/// What somebody tracks closes nobody who comes: a room shows a bounded part, in which small objects find a place beside large
/// ones.
#[tokio::test]
async fn who_comes_is_not_closed_for_what_others_track() -> Result<()> {
    let (server, _db) = server().await?;
    let mut large = Vec::new();
    for key in ["a", "b", "c", "d", "e"] {
        let mut socket = enter(&server, Version::V2, json!({ "key": key })).await?;
        let reply = push(&mut socket, object(2_900_000)).await?;
        if key == "a" {
            assert_eq!(reply["status"], "ok");
        } else {
            assert_eq!(reply["status"], "error");
            let reason = reply["response"]["reason"].as_str().unwrap_or_default();
            assert!(reason.starts_with("PresenceTooLarge: "), "{reason}");
        }
        large.push(socket);
    }
    // A smaller one is less than an equal share; both of these are shown.
    assert_eq!(push(&mut large[1], object(1_900_000)).await?["status"], "ok");
    for version in Version::BOTH {
        let mut socket = comes_and_sees(&server, version, TOPIC, &["a", "b"]).await?;
        track(&mut socket, json!({"n": 1})).await?;
        while metas(&socket.event(TOPIC, "presence_diff").await?["joins"], "late").is_empty() {}
    }
    // The third finds a place: the largest is hidden until somebody leaves, and its client knows.
    assert_eq!(push(&mut large[2], object(1_000_000)).await?["status"], "ok");
    let told = large[0].event(TOPIC, "system").await?;
    assert_eq!((&told["status"], &told["code"]), (&json!("warning"), &json!("PresenceTooLarge")));
    let mut late = comes_and_sees(&server, Version::V2, TOPIC, &["b", "c"]).await?;
    assert_eq!(push(&mut large[1], json!({"event": "untrack"})).await?["status"], "ok");
    while metas(&late.event(TOPIC, "presence_diff").await?["joins"], "a").is_empty() {}
    Ok(())
}

/// A client that comes back to many rooms at once gets all their states, one after the other as it reads.
#[tokio::test]
async fn large_states_of_many_rooms_wait_for_who_reads() -> Result<()> {
    let (server, _db) = server().await?;
    let topics: Vec<String> = (0..5).map(|n| format!("realtime:room-{n}")).collect();
    let mut speakers = Vec::new();
    for (key, bytes) in [("a", 2_900_000), ("b", 1_900_000)] {
        for topic in &topics {
            let mut socket = server.socket(Version::V2, "anon").await?;
            socket.join(topic, json!({"config": {"presence": { "key": key }}})).await?;
            socket.send(json!("1"), json!("t"), topic, "presence", object(bytes)).await?;
            assert_eq!(socket.reply("t").await?["status"], "ok");
            speakers.push(socket);
        }
    }
    for topic in &topics {
        comes_and_sees(&server, Version::V2, topic, &["a", "b"]).await?;
    }
    let mut socket = server.socket(Version::V2, "anon").await?;
    let config = json!({"config": {"presence": {"enabled": true}}});
    for (n, topic) in topics.iter().enumerate() {
        socket.send(json!(n), json!(n), topic, "phx_join", config.clone()).await?;
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    for topic in &topics {
        let state = socket.event(topic, "presence_state").await?;
        assert_eq!(metas(&state, "a").len() + metas(&state, "b").len(), 2);
    }
    Ok(())
}
