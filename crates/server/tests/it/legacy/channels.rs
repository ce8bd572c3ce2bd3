//! Joins, leaves and tokens of channels.

use anyhow::Result;
use realtime_testkit::{Socket, Version};
use serde_json::{Value, json};

use super::{SECRET, connect, join, joined, now, server, socket, streaming, token, users};

/// What the client of realtime-js 0.9 and realtime-py sends: no join_ref.
async fn send(socket: &mut Socket, topic: &str, event: &str, payload: Value, reference: Value) -> Result<()> {
    let message = json!({"topic": topic, "event": event, "payload": payload, "ref": reference});
    socket.send_text(message.to_string()).await
}

/// The next message, as it is.
async fn next(socket: &mut Socket) -> Result<Value> {
    Ok(serde_json::from_str(socket.message().await?.to_text()?)?)
}

fn reply(topic: &str, reference: Value, status: &str, response: Value) -> Value {
    json!({"topic": topic, "event": "phx_reply", "ref": reference,
        "payload": {"status": status, "response": response}})
}

/// legacy 11, 12, 13, 14
#[tokio::test]
async fn frames_have_four_keys() -> Result<()> {
    let db = users().await?;
    let server = streaming(&db, &[("LEGACY_PROFILE", "v1.0")]).await?;
    let mut socket = socket(&server).await?;
    send(&mut socket, "realtime:*", "phx_join", json!({}), json!("1")).await?;
    assert_eq!(next(&mut socket).await?, reply("realtime:*", json!("1"), "ok", json!({})));
    let ping = json!({"msg": "ping"});
    send(&mut socket, "realtime:public", "phx_join", ping.clone(), Value::Null).await?;
    assert_eq!(next(&mut socket).await?, reply("realtime:public", Value::Null, "ok", json!({})));
    send(&mut socket, "phoenix", "heartbeat", ping, Value::Null).await?;
    assert_eq!(next(&mut socket).await?, reply("phoenix", Value::Null, "ok", json!({})));
    for topic in ["realtime", "other:x"] {
        send(&mut socket, topic, "phx_join", json!({}), json!("2")).await?;
        let unmatched = json!({"reason": "unmatched topic"});
        assert_eq!(next(&mut socket).await?, reply(topic, json!("2"), "error", unmatched));
    }
    send(&mut socket, "realtime:", "phx_join", json!({}), json!("3")).await?;
    let missing = json!({"reason": "realtime subtopic does not exist"});
    assert_eq!(next(&mut socket).await?, reply("realtime:", json!("3"), "error", missing));

    db.sql("insert into users values (1, 'a')").await?;
    let mut keys: Vec<String> = Vec::new();
    for topic in ["realtime:public", "realtime:*"] {
        let change = next(&mut socket).await?;
        assert_eq!(
            (&change["topic"], &change["event"], &change["ref"]),
            (&json!(topic), &json!("INSERT"), &Value::Null)
        );
        keys = change.as_object().unwrap().keys().cloned().collect();
        keys.sort();
    }
    assert_eq!(keys, ["event", "payload", "ref", "topic"]);

    send(&mut socket, "realtime:public", "phx_leave", json!({}), json!("4")).await?;
    assert_eq!(next(&mut socket).await?, reply("realtime:public", json!("4"), "ok", json!({})));
    let closed = json!({"topic": "realtime:public", "event": "phx_close", "ref": null, "payload": {}});
    assert_eq!(next(&mut socket).await?, closed);
    db.sql("insert into users values (2, 'b')").await?;
    assert_eq!(next(&mut socket).await?["topic"], "realtime:*");
    send(&mut socket, "realtime:*", "phx_leave", json!({}), json!("5")).await?;
    assert_eq!(next(&mut socket).await?, reply("realtime:*", json!("5"), "ok", json!({})));
    let closed = json!({"topic": "realtime:*", "event": "phx_close", "ref": "1", "payload": {}});
    assert_eq!(next(&mut socket).await?, closed);
    Ok(())
}

/// legacy 15
#[tokio::test]
async fn a_second_join_replaces_the_first() -> Result<()> {
    let db = users().await?;
    let server = streaming(&db, &[("LEGACY_PROFILE", "v1.0")]).await?;
    let mut socket = socket(&server).await?;
    for reference in ["1", "2"] {
        send(&mut socket, "realtime:*", "phx_join", json!({}), json!(reference)).await?;
        assert_eq!(next(&mut socket).await?, reply("realtime:*", json!(reference), "ok", json!({})));
    }
    db.sql("insert into users values (1, 'a'); insert into users values (2, 'b')").await?;
    for id in ["1", "2"] {
        assert_eq!(next(&mut socket).await?["payload"]["record"]["id"], id);
    }
    // A leave of the channel that was replaced, by a client that says which it means.
    let mut newer = joined(&server, &["realtime:*", "realtime:*"]).await?;
    newer.send(json!("1"), json!("9"), "realtime:*", "phx_leave", json!({})).await?;
    db.sql("insert into users values (3, 'c')").await?;
    assert_eq!(newer.event("realtime:*", "INSERT").await?["record"]["id"], "3");
    Ok(())
}

/// legacy 16, 17
#[tokio::test]
async fn tokens_of_channels() -> Result<()> {
    let db = users().await?;
    let server = streaming(&db, &[("SECURE_CHANNELS", "true"), ("JWT_SECRET", SECRET)]).await?;
    let good = |more: u64| token(&json!({"exp": now() + 1000 + more}));
    let mut socket = connect(&server, &format!("?apikey={}", good(0)), &[]).await?.unwrap();
    let topic = "realtime:public:users";
    let (refused, _) = socket.join(topic, json!({"user_token": "nonsense"})).await?;
    assert_eq!(
        refused,
        json!({"status": "error", "response": {"reason": format!("error occurred when joining {topic}")}})
    );
    let (accepted, join_ref) = socket.join(topic, json!({"user_token": good(1)})).await?;
    assert_eq!(accepted["status"], "ok");

    let push = |payload: Value| (json!("x"), topic, "access_token", payload);
    for payload in [
        json!({"access_token": null}),
        json!({}),
        json!({"access_token": 5}),
        json!({"access_token": good(2)}),
    ] {
        let (reference, topic, event, payload) = push(payload);
        socket.send(json!(join_ref), reference, topic, event, payload).await?;
    }
    socket.send(json!(join_ref), json!("y"), topic, "something", json!({})).await?;
    assert_eq!(socket.settle().await?, []);
    db.sql("insert into users values (1, 'a')").await?;
    socket.event(topic, "INSERT").await?;

    socket
        .send(json!(join_ref), json!("z"), topic, "access_token", json!({"access_token": "nonsense"}))
        .await?;
    let broken = socket.expect(|frame| frame.event == "phx_error").await?;
    assert_eq!((&broken.topic[..], &broken.msg_ref, &broken.payload), (topic, &json!(join_ref), &json!({})));
    assert_eq!(socket.join(topic, json!({})).await?.0["status"], "ok");
    Ok(())
}

/// legacy 17: nobody's token is looked at.
#[tokio::test]
async fn tokens_that_nobody_asked_for() -> Result<()> {
    let db = users().await?;
    let server = server(&db, &[]).await?;
    let mut socket = joined(&server, &["realtime:*"]).await?;
    for token in [Value::Null, json!("nonsense")] {
        send(&mut socket, "realtime:*", "access_token", json!({"access_token": token}), Value::Null).await?;
    }
    assert_eq!(socket.settle().await?, []);
    assert_eq!(socket.join("realtime:x", json!({"user_token": "nonsense"})).await?.0["status"], "ok");
    // Those of the second generation are believed by nobody.
    let (refused, _) = socket.join("realtime:y", json!({"config": {}})).await?;
    assert_eq!(refused["status"], "error");
    Ok(())
}

/// legacy 18
#[tokio::test]
async fn tokens_that_expire() -> Result<()> {
    let db = users().await?;
    let server = server(&db, &[("SECURE_CHANNELS", "true"), ("JWT_SECRET", SECRET)]).await?;
    for version in Version::BOTH {
        let query = format!("?apikey={}&vsn={}", token(&json!({})), version.vsn());
        let url = format!("ws://127.0.0.1:{}/socket/websocket{query}", server.port());
        let mut socket = Socket::try_connect(&url, &[], version).await?.unwrap();
        // As soon as a busy machine lets it in at all.
        let mut soon = async |seconds: u64| {
            let token = token(&json!({"exp": now() + seconds}));
            let (reply, _) = socket.join("realtime:*", json!({"user_token": token})).await?;
            anyhow::Ok(reply["status"] == "ok")
        };
        assert!(soon(2).await? || soon(20).await?, "it is not let in");
        join(&mut socket, "realtime:public").await?;
        socket.event("realtime:*", "phx_error").await?;
        let later = token(&json!({"exp": now() + 1000}));
        assert_eq!(socket.join("realtime:*", json!({"user_token": later})).await?.0["status"], "ok");
        assert_eq!(socket.settle().await?, []);
    }
    Ok(())
}
