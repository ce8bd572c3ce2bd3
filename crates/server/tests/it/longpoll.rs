//! The long-poll transport (protocol 1.11, recording 16). The client of the Phoenix framework is in `clients`.

use anyhow::Result;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use realtime_testkit::{Answer, Server, Version, token};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::server;

const TOPIC: &str = "realtime:lp";

async fn request(server: &Server, method: &str, query: &str, kind: &str, body: &str) -> Result<Value> {
    let path = format!("/socket/longpoll?{query}");
    let headers = [("Content-Type", kind), ("Origin", "http://a.example")];
    let answer = server.http(method, &path, &headers, body.as_bytes()).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    Ok(serde_json::from_str(&answer.body)?)
}

/// A session; the query that names it.
async fn open(server: &Server, version: Version) -> Result<String> {
    let query = format!("apikey={}&vsn={}", token("anon"), version.vsn());
    let opened = request(server, "GET", &query, "text/plain", "").await?;
    assert_eq!((&opened["status"], &opened["messages"]), (&json!(410), &json!([])));
    Ok(format!("{query}&token={}", opened["token"].as_str().unwrap()))
}

async fn send(server: &Server, query: &str, lines: &[String]) -> Result<Value> {
    request(server, "POST", query, "application/x-ndjson", &lines.join("\n")).await
}

/// Everything that comes until there are this many frames.
async fn receive(server: &Server, query: &str, count: usize) -> Result<Vec<Value>> {
    let mut frames = Vec::new();
    while frames.len() < count {
        let told = request(server, "GET", query, "text/plain", "").await?;
        assert_eq!(told["status"], 200, "{told}");
        for message in told["messages"].as_array().unwrap() {
            frames.push(serde_json::from_str(message.as_str().unwrap())?);
        }
    }
    Ok(frames)
}

#[tokio::test]
async fn both_serializers_as_text() -> Result<()> {
    let (server, _db) = server().await?;
    let (old, new) = (open(&server, Version::V1).await?, open(&server, Version::V2).await?);
    let config = json!({"config": {"broadcast": {"ack": true, "self": true}}});
    let join = json!({"topic": TOPIC, "event": "phx_join", "payload": config, "ref": "1", "join_ref": "1"});
    let answer = request(&server, "POST", &old, "application/json", &join.to_string()).await?;
    assert_eq!(answer, json!({"status": 200}));
    let ok = json!({"status": "ok", "response": {"postgres_changes": []}});
    let joined = receive(&server, &old, 1).await?;
    assert_eq!(joined, [json!({"topic": TOPIC, "event": "phx_reply", "ref": "1", "payload": ok})]);

    // Several lines: a join, and a broadcast in its binary form.
    let mut binary = vec![3, 1, 1, u8::try_from(TOPIC.len())?, 1, 0, 1];
    binary.extend(format!("12{TOPIC}e{{\"a\":1}}").bytes());
    let lines = [json!(["1", "1", TOPIC, "phx_join", config]).to_string(), BASE64_STANDARD.encode(binary)];
    assert_eq!(send(&server, &new, &lines).await?, json!({"status": 200}));
    let payload = json!({"type": "broadcast", "event": "e", "payload": {"a": 1}});
    let told = receive(&server, &new, 3).await?;
    assert_eq!(told[0], json!(["1", "1", TOPIC, "phx_reply", ok]));
    assert_eq!(told[1], json!([null, null, TOPIC, "broadcast", payload]), "text, whatever it came as");
    assert_eq!(told[2], json!(["1", "2", TOPIC, "phx_reply", {"status": "ok", "response": {}}]));
    let told = receive(&server, &old, 1).await?;
    assert_eq!(told, [json!({"topic": TOPIC, "event": "broadcast", "ref": null, "payload": payload})]);
    Ok(())
}

/// A poll waits; what comes meanwhile ends it, and after ten seconds nothing does.
#[tokio::test]
async fn polls_wait() -> Result<()> {
    let (server, _db) = server().await?;
    let query = open(&server, Version::V2).await?;
    send(&server, &query, &[json!(["1", "1", TOPIC, "phx_join", {"config": {}}]).to_string()]).await?;
    receive(&server, &query, 1).await?;
    let mut other = server.socket(Version::V2, "anon").await?;
    other.join(TOPIC, json!({"config": {}})).await?;
    let poll = receive(&server, &query, 1);
    let talk = async {
        other.send(Value::Null, Value::Null, TOPIC, "broadcast", json!({"n": 1})).await?;
        other.settle().await
    };
    let (told, _) = tokio::try_join!(poll, talk)?;
    assert_eq!(told[0][4], json!({"n": 1}));
    let started = Instant::now();
    let told = request(&server, "GET", &query, "text/plain", "").await?;
    assert_eq!((&told["status"], &told["messages"]), (&json!(204), &json!([])));
    assert!(started.elapsed().as_secs() >= 9);
    Ok(())
}

#[tokio::test]
async fn what_is_refused() -> Result<()> {
    let (server, _db) = server().await?;
    for query in ["apikey=bad&vsn=2.0.0", "vsn=2.0.0", &format!("apikey={}&vsn=3.0.0", token("anon"))] {
        let told = request(&server, "GET", query, "text/plain", "").await?;
        assert_eq!(told, json!({"status": 403}), "{query}");
    }
    let gone = format!("apikey={}&vsn=2.0.0&token=AAAAAAAAAAAAAAAAAAAAAA", token("anon"));
    assert_eq!(send(&server, &gone, &[]).await?, json!({"status": 410}));
    let Answer { status, headers, .. } = server.http("OPTIONS", "/socket/longpoll", &[], b"").await?;
    assert_eq!((status, &*headers["access-control-allow-methods"]), (200, "get, post, options"));
    assert_eq!(headers["access-control-max-age"], "3600");
    assert_eq!(server.http("PUT", "/socket/longpoll", &[], b"").await?.status, 400);
    Ok(())
}

/// A session ends when it is not polled for 15 s; others see its presence leave.
#[tokio::test]
async fn sessions_that_are_not_polled_end() -> Result<()> {
    let (server, _db) = server().await?;
    let mut other = server.socket(Version::V2, "anon").await?;
    other.join(TOPIC, json!({"config": {"presence": {"enabled": true}}})).await?;
    let query = open(&server, Version::V2).await?;
    let lines = [
        json!(["1", "1", TOPIC, "phx_join", {"config": {"presence": {"key": "lp"}}}]).to_string(),
        json!(["1", "2", TOPIC, "presence", {"event": "track", "payload": {}}]).to_string(),
    ];
    send(&server, &query, &lines).await?;
    assert!(other.event(TOPIC, "presence_diff").await?["joins"]["lp"].is_object());
    assert!(other.event(TOPIC, "presence_diff").await?["leaves"]["lp"].is_object());
    assert_eq!(send(&server, &query, &[]).await?, json!({"status": 410}));
    Ok(())
}
