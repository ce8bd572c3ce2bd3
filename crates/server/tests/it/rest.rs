//! The tenant's HTTP routes.

use anyhow::Result;
use realtime_testkit::{Answer, Server, ServerOptions, Socket, TestDb, Version, sign, token, unix_now};
use serde_json::{Value, json};
use tokio::time;

use crate::{BINARY, server};

const JSON: (&str, &str) = ("Content-Type", "application/json");

async fn post(server: &Server, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
    let bearer = format!("Bearer {}", token("anon"));
    let mut all = vec![("Authorization", bearer.as_str())];
    all.extend(headers);
    server.http("POST", path, &all, body.as_bytes()).await
}

async fn listener(server: &Server, version: Version, sub_topic: &str) -> Result<Socket> {
    let mut socket = server.socket(version, "anon").await?;
    let (reply, _) = socket.join(&format!("realtime:{sub_topic}"), json!({"config": {}})).await?;
    assert_eq!(reply["status"], "ok");
    Ok(socket)
}

async fn heard(socket: &mut Socket) -> Result<Vec<Value>> {
    let frames = socket.settle().await?;
    assert!(frames.iter().all(|frame| frame.event == "broadcast" && frame.msg_ref.is_null()));
    Ok(frames.into_iter().map(|frame| frame.payload).collect())
}

/// http_and_ops 33, 34, 35
#[tokio::test]
async fn ping() -> Result<()> {
    let (server, db) = server().await?;
    for path in ["/api/ping", "/realtime/v1/api/ping"] {
        let answer = server.http("GET", path, &[("baggage", "request-id=1234567890")], b"").await?;
        assert_eq!((answer.status, &*answer.body), (200, r#"{"message":"Success"}"#));
        assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
        let rates =
            ["x-rate-rolling", "x-rate-limit", "x-rate-limit-remaining"].map(|name| answer.header(name));
        assert_eq!(rates, ["0", "100", "100"]);
        assert_eq!(answer.header("x-request-id"), "1234567890");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    let answer = server.http("GET", "/api/ping", &[("Host", "realtime-dev.a.b.c")], b"").await?;
    assert_eq!((answer.status, answer.header("x-request-id").len()), (200, 20));

    let none = ServerOptions::default().env("SEED_SELF_HOST", "false");
    let empty = Server::start(BINARY, &db, none).await?;
    let answer = empty.http("GET", "/api/ping", &[("Host", "not-found.example")], b"").await?;
    assert_eq!((answer.status, &*answer.body), (401, r#"{"message":"Tenant not found in database"}"#));

    let zero = ServerOptions::default().env("TENANT_MAX_EVENTS_PER_SECOND", "0");
    let strict = Server::start(BINARY, &db, zero).await?;
    let answer = strict.http("GET", "/api/ping", &[], b"").await?;
    assert_eq!((answer.status, &*answer.body), (429, r#"{"message":"Too many requests"}"#));
    assert_eq!((answer.header("x-rate-limit"), answer.header("x-rate-rolling")), ("0", "0"));
    Ok(())
}

/// http_and_ops 36, 37, 40
#[tokio::test]
async fn who_may_broadcast() -> Result<()> {
    let (server, _db) = server().await?;
    let body = br#"{"messages":[{"topic":"x","event":"e","payload":{}}]}"#;
    let good = token("anon");
    let expired = sign(&json!({"role": "anon", "exp": unix_now() - 10}));
    let text = sign(&json!({"role": "anon", "exp": "tomorrow"}));
    let no_role = sign(&json!({"exp": unix_now() + 100}));
    let bearer = |token: &str| ("Authorization", format!("Bearer {token}"));
    for (expected, (name, value)) in [
        (202, bearer(&good)),
        (202, ("Authorization", format!("bearer {good}"))),
        (202, ("apikey", good.clone())),
        (401, ("x-api-key", good.clone())),
        (401, ("apikey", "bad".to_owned())),
        (401, bearer("invalid")),
        (401, ("Authorization", good.clone())),
        (401, ("Authorization", "Bearer".to_owned())),
        (401, bearer(&expired)),
        (401, bearer(&text)),
        (401, bearer(&no_role)),
    ] {
        let headers = [JSON, (name, value.as_str())];
        let answer = server.http("POST", "/api/broadcast", &headers, body).await?;
        let told = if expected == 401 { r#"{"message":"Unauthorized"}"# } else { "" };
        assert_eq!((answer.status, &*answer.body), (expected, told), "{name}: {value}");
    }
    Ok(())
}

/// Requests without a good token use up nothing of the tenant's: they count against their address.
#[tokio::test]
async fn strangers_use_up_their_own_rate() -> Result<()> {
    let db = TestDb::new().await?;
    let few = ServerOptions::default().env("TENANT_MAX_EVENTS_PER_SECOND", "60");
    let server = Server::start(BINARY, &db, few).await?;
    let body = br#"{"messages":[{"topic":"x","event":"e","payload":{}}]}"#;
    let bad = [JSON, ("Authorization", "Bearer bad")];
    let mut answered = Vec::new();
    for _ in 0..150 {
        answered.push(server.http("POST", "/api/broadcast", &bad, body).await?.status);
    }
    for _ in 0..150 {
        answered.push(server.http("GET", "/api/ping", &[], b"").await?.status);
    }
    assert!(answered[..100].iter().all(|status| *status == 401), "{answered:?}");
    assert!(answered[100..].contains(&429), "a bound for the address: {answered:?}");
    // Counted from the next second on: as soon as good ones weigh, all do that were sent before.
    loop {
        let good = post(&server, "/api/broadcast", &[JSON], r#"{"messages":[]}"#).await?;
        assert_eq!(good.status, 422, "{good:?}");
        if good.header("x-rate-rolling") != "0" {
            break;
        }
        time::sleep(time::Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Bodies that would be misread are refused with what the client has to change; JSON by any of its names is taken.
#[tokio::test]
async fn encodings_and_names_of_json() -> Result<()> {
    let (server, _db) = server().await?;
    let body = r#"{"messages":[{"topic":"a","event":"e","payload":{}}]}"#;
    let gzip = [JSON, ("Content-Encoding", "gzip")];
    for path in ["/api/broadcast", "/api/broadcast/a/events/e"] {
        let answer = post(&server, path, &gzip, body).await?;
        assert_eq!((answer.status, answer.header("accept-encoding")), (415, "identity"), "{path}");
        let plain = [JSON, ("Content-Encoding", "identity")];
        assert_eq!(post(&server, path, &plain, body).await?.status, 202, "{path}");
    }
    let mut socket = listener(&server, Version::V2, "a").await?;
    let api = [("Content-Type", "application/vnd.api+json; charset=utf-8")];
    for path in ["/api/broadcast", "/api/broadcast/a/events/e"] {
        assert_eq!(post(&server, path, &api, body).await?.status, 202, "{path}");
        let heard = heard(&mut socket).await?;
        assert_eq!(heard.len(), 1, "{path}: {heard:?}");
    }
    Ok(())
}

/// http_and_ops 41; protocol 14.9
#[tokio::test]
async fn a_batch() -> Result<()> {
    let (server, _db) = server().await?;
    let mut old = listener(&server, Version::V1, "a").await?;
    let mut new = listener(&server, Version::V2, "a").await?;
    let mut other = listener(&server, Version::V2, "b:c").await?;
    let id = "0d3b0c3e-6c0b-4d6a-9d1a-000000000001";
    let body = json!({"messages": [
        {"topic": "a", "event": "one", "payload": {"n": 1}},
        {"topic": "b:c", "event": "two", "payload": {"n": [2, null]}, "id": id},
        {"topic": "a", "event": "three \"é\"", "payload": {}, "private": false},
    ]});
    for path in ["/api/broadcast", "/realtime/v1/api/broadcast"] {
        let answer = post(&server, path, &[JSON], &body.to_string()).await?;
        assert_eq!((answer.status, &*answer.body), (202, ""));
        let expected = [
            json!({"type": "broadcast", "event": "one", "payload": {"n": 1}}),
            json!({"type": "broadcast", "event": "three \"é\"", "payload": {}}),
        ];
        assert_eq!(heard(&mut old).await?, expected);
        assert_eq!(heard(&mut new).await?, expected);
        let two =
            json!({"type": "broadcast", "event": "two", "payload": {"n": [2, null]}, "meta": {"id": id}});
        assert_eq!(heard(&mut other).await?, [two]);
    }
    Ok(())
}

/// http_and_ops 42, 43, 45, 47: nothing is delivered; private topics are not written to without permission.
#[tokio::test]
async fn batches_that_are_not_delivered() -> Result<()> {
    let (server, _db) = server().await?;
    let mut socket = listener(&server, Version::V2, "a").await?;
    let good = json!({"topic": "a", "event": "e", "payload": {}});
    let blank = json!(["can't be blank"]);
    let bad = json!({"messages": [{"topic": "a"}, {"payload": {}}, good]});
    let answer = post(&server, "/api/broadcast", &[JSON], &bad.to_string()).await?;
    let errors = json!([{"payload": blank, "event": blank}, {"topic": blank, "event": blank}, {}]);
    assert_eq!(answer.status, 422);
    assert_eq!(serde_json::from_str::<Value>(&answer.body)?, json!({"errors": {"messages": errors}}));

    let large =
        json!({"messages": [good, {"topic": "a", "event": "e", "payload": {"x": "y".repeat(3_000_500)}}]});
    let answer = post(&server, "/api/broadcast", &[JSON], &large.to_string()).await?;
    let errors = json!({"errors": {"messages": [{}, {"payload": ["Payload size exceeds tenant limit"]}]}});
    assert_eq!((answer.status, serde_json::from_str::<Value>(&answer.body)?), (422, errors));

    let many = json!({"messages": vec![good.clone(); 101]});
    let answer = post(&server, "/api/broadcast", &[JSON], &many.to_string()).await?;
    let text = r#"{"message":"Too many messages to broadcast, please reduce the batch size"}"#;
    assert_eq!((answer.status, &*answer.body), (429, text));

    let private = json!({"messages": [{"topic": "a", "event": "e", "payload": {}, "private": true}]});
    let answer = post(&server, "/api/broadcast", &[JSON], &private.to_string()).await?;
    assert_eq!((answer.status, &*answer.body), (202, ""));

    for (headers, body, status) in [
        (&[JSON][..], "{bad", 400),
        (&[JSON][..], "", 422),
        (&[][..], r#"{"messages":[{"topic":"a","event":"e","payload":{}}]}"#, 422),
    ] {
        assert_eq!(post(&server, "/api/broadcast", headers, body).await?.status, status, "{body}");
    }
    assert_eq!(socket.settle().await?, []);
    Ok(())
}

/// http_and_ops 48, 49, 51
#[tokio::test]
async fn a_single_message() -> Result<()> {
    let (server, _db) = server().await?;
    let mut old = listener(&server, Version::V1, "room:1 2/é").await?;
    let mut new = listener(&server, Version::V2, "room:1 2/é").await?;
    let path = "/api/broadcast/room%3A1%202%2F%C3%A9/events/an%20event";
    let json_utf8 = ("Content-Type", "application/json; charset=utf-8");
    for (body, headers, payload) in [
        (r#"{"a": 1}"#, &[JSON][..], json!({"a": 1})),
        ("{}", &[json_utf8][..], json!({})),
        ("[1]", &[JSON][..], json!({"_json": [1]})),
        ("ignored", &[][..], json!({})),
    ] {
        let answer = post(&server, path, headers, body).await?;
        assert_eq!((answer.status, &*answer.body), (202, ""));
        let text = json!({"type": "broadcast", "event": "an event", "payload": payload});
        assert_eq!(heard(&mut old).await?, [text]);
        let compact = json!({"type": "broadcast", "event": "an event", "payload": payload, "encoding": 1});
        assert_eq!(heard(&mut new).await?, [compact]);
    }
    for body in ["\u{0}\u{1}", ""] {
        let bytes = [("Content-Type", "application/octet-stream")];
        assert_eq!(post(&server, path, &bytes, body).await?.status, 202);
        let compact =
            json!({"type": "broadcast", "event": "an event", "payload": body.as_bytes(), "encoding": 0});
        assert_eq!(heard(&mut new).await?, [compact]);
    }
    assert_eq!(heard(&mut old).await?, [] as [Value; 0]);
    Ok(())
}

/// http_and_ops 50 to 53, without policies
#[tokio::test]
async fn single_messages_that_are_not_delivered() -> Result<()> {
    let (server, _db) = server().await?;
    let mut socket = listener(&server, Version::V2, "a").await?;
    let path = "/api/broadcast/a/events/e";
    for kind in ["text/plain", "application/xml", "multipart/form-data; boundary=x"] {
        let answer = post(&server, path, &[("Content-Type", kind)], "x").await?;
        let text = r#"{"error":"Unsupported Media Type. Use application/json or application/octet-stream"}"#;
        assert_eq!((answer.status, &*answer.body), (415, text));
        assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
        assert_eq!(answer.header("x-rate-limit"), "");
    }
    let too_large = r#"{"errors":{"payload":["Payload size exceeds tenant limit"]}}"#;
    let json = json!({"x": "y".repeat(3_000_500)}).to_string();
    let answer = post(&server, path, &[JSON], &json).await?;
    assert_eq!((answer.status, &*answer.body), (422, too_large));
    let bytes = [("Content-Type", "application/octet-stream")];
    let answer = post(&server, path, &bytes, &"y".repeat(3_000_500)).await?;
    assert_eq!((answer.status, &*answer.body), (422, too_large));
    let answer = server.http("POST", path, &[JSON], b"{}").await?;
    assert_eq!((answer.status, &*answer.body), (401, r#"{"message":"Unauthorized"}"#));
    let answer = post(&server, &format!("{path}?private=true"), &[JSON], "{}").await?;
    assert_eq!((answer.status, &*answer.body), (403, r#"{"message":"Unauthorized"}"#));
    assert_eq!(post(&server, path, &[JSON], "{bad").await?.status, 400);
    assert_eq!(socket.settle().await?, []);
    assert_eq!(post(&server, &format!("{path}?private=false"), &[JSON], "{}").await?.status, 202);
    assert_eq!(heard(&mut socket).await?.len(), 1);
    Ok(())
}

/// http_and_ops 2.4: browsers may call from anywhere, and ask first.
#[tokio::test]
async fn cross_origin_requests() -> Result<()> {
    let (server, _db) = server().await?;
    let origin = ("Origin", "http://a.example");
    for path in ["/api/broadcast", "/realtime/v1/api/broadcast/a/events/e"] {
        let asked = [
            origin,
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "authorization,content-type"),
        ];
        let answer = server.http("OPTIONS", path, &asked, b"").await?;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert_eq!(answer.header("access-control-allow-headers"), "authorization,content-type");
        assert!(answer.header("access-control-allow-methods").contains("POST"));
        let answer = server.http("POST", path, &[origin, JSON], b"{}").await?;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, "*"));
    }
    let answer = server.http("GET", "/api/broadcast", &[origin], b"").await?;
    assert_eq!((answer.status, &*answer.body), (404, "Not Found"));
    Ok(())
}
