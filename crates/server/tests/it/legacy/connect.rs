//! Handshakes and everything else over HTTP.

use anyhow::Result;
use realtime_testkit::{Refused, Socket, TestDb, Version};
use serde_json::json;
use tokio::process::Command;

use super::{SECRET, connect, join, now, server, socket, token};
use crate::BINARY;

fn refused() -> Refused {
    Refused { status: 403, content_type: None, body: String::new() }
}

/// legacy 1, 10
#[tokio::test]
async fn nobody_is_asked_for_a_token() -> Result<()> {
    let db = TestDb::new().await?;
    let server = server(&db, &[]).await?;
    join(&mut socket(&server).await?, "realtime:*").await?;
    assert!(connect(&server, "?apikey=nonsense&vsn=1.0.0", &[]).await?.is_ok());
    assert_eq!(connect(&server, "?vsn=9.9.9", &[]).await?.err(), Some(refused()));
    let url = format!("ws://127.0.0.1:{}/realtime/v1/websocket?vsn=2.0.0", server.port());
    let mut arrays = Socket::try_connect(&url, &[("host", "anything.example")], Version::V2).await?.unwrap();
    join(&mut arrays, "realtime:public").await?;
    Ok(())
}

/// legacy 2, 3, 4, 5, 6, 7, 8
#[tokio::test]
async fn tokens_at_the_door() -> Result<()> {
    let db = TestDb::new().await?;
    let secured = [("SECURE_CHANNELS", "true"), ("JWT_SECRET", SECRET)];
    let validated = [secured[0], secured[1], ("JWT_CLAIM_VALIDATORS", r#"{"iss":"me"}"#)];
    let newer = server(&db, &validated).await?;
    let older = server(&db, &[secured[0], secured[1], ("LEGACY_PROFILE", "v0.10")]).await?;
    let good = token(&json!({"iss": "me", "aud": "you"}));
    let wrong = token(&json!({"iss": "them"}));
    let old = token(&json!({"exp": now() - 10}));

    assert_eq!(connect(&newer, "", &[]).await?.err(), Some(refused()));
    for (query, headers, accepted) in [
        (format!("?token={good}"), None, true),
        (format!("?apikey={good}"), None, true),
        (String::new(), Some(&good), true),
        (format!("?apikey={wrong}&token={wrong}"), Some(&good), true),
        (format!("?apikey={good}&token={good}"), Some(&wrong), false),
        (format!("?apikey={good}&token={wrong}"), None, true),
        (format!("?apikey={wrong}&token={good}"), None, false),
        (format!("?apikey={old}"), None, false),
        (format!("?apikey={}", token(&json!({}))), None, true),
        (format!("?apikey={}%0A%20{}", &good[..20], &good[20..]), None, true),
        (format!("?other={good}"), None, false),
        ("?apikey=a.b.c".to_owned(), None, false),
    ] {
        let headers: Vec<_> = headers.map(|token| ("x-api-key", token.as_str())).into_iter().collect();
        let outcome = connect(&newer, &query, &headers).await?;
        assert_eq!(outcome.is_ok(), accepted, "{query} {headers:?}");
    }
    assert_eq!(connect(&newer, "", &[("x-other", &good)]).await?.err(), Some(refused()));
    assert!(connect(&older, &format!("?apikey={old}&token={good}"), &[]).await?.is_ok());
    Ok(())
}

/// legacy 50
#[tokio::test]
async fn what_is_served_over_http() -> Result<()> {
    let db = TestDb::new().await?;
    let hidden = server(&db, &[]).await?;
    let page = hidden.http("GET", "/", &[], b"").await?;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    for path in ["/api/tenants", "/api/ping", "/metrics", "/nothing", "/socket/longpoll"] {
        assert_eq!(hidden.http("GET", path, &[], b"").await?.status, 404, "{path}");
    }
    assert_eq!(hidden.http("POST", "/socket/websocket", &[], b"").await?.status, 400);

    let exposed = server(&db, &[("EXPOSE_METRICS", "true")]).await?;
    let mut socket = socket(&exposed).await?;
    join(&mut socket, "realtime:*").await?;
    join(&mut socket, "realtime:public").await?;
    let metrics = exposed.http("GET", "/metrics", &[], b"").await?;
    assert_eq!(metrics.status, 200);
    for line in ["realtime_active_websocket_connection_total 1", "realtime_active_websocket_topic_total 2"] {
        assert!(metrics.body.contains(line), "{}", metrics.body);
    }
    Ok(())
}

/// legacy 9
#[tokio::test]
async fn what_the_server_does_not_start_with() -> Result<()> {
    for (env, line) in [
        (
            [("SECURE_CHANNELS", "true"), ("PORT", "0")],
            "JWT_SECRET must be set unless SECURE_CHANNELS is false",
        ),
        (
            [("JWT_SECRET", "x"), ("JWT_CLAIM_VALIDATORS", "{'iss': 'me'}")],
            "JWT_CLAIM_VALIDATORS must be a JSON object of claims and the values they must have",
        ),
    ] {
        let output = Command::new(BINARY).env_clear().envs(env).output().await?;
        assert_eq!(output.status.code(), Some(64));
        assert_eq!(String::from_utf8(output.stderr)?, format!("Wrong setting: {line}\n"));
    }
    Ok(())
}

/// A silent client is closed after `SOCKET_TIMEOUT`, and never before with `infinity`.
#[tokio::test]
async fn silent_clients() -> Result<()> {
    let db = TestDb::new().await?;
    let short = server(&db, &[("SOCKET_TIMEOUT", "200")]).await?;
    assert_eq!(socket(&short).await?.close_code().await?, 1000);
    let endless = server(&db, &[("SOCKET_TIMEOUT", "infinity")]).await?;
    join(&mut socket(&endless).await?, "realtime:*").await
}
