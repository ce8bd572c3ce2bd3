//! Metrics (http_and_ops 3, 11).

use anyhow::{Context as _, Result};
use realtime_testkit::{Server, ServerOptions, TestDb, Version, sign_with};
use serde_json::json;

use crate::BINARY;

/// The value of a metric of the seeded tenant.
fn value(text: &str, name: &str) -> Result<f64> {
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")) && line.contains("tenant=\"realtime-dev\""))
        .with_context(|| format!("no {name} in {text}"))?;
    Ok(line.rsplit(' ').next().context("value")?.parse()?)
}

/// http_and_ops 54, protocol 90: for bearers of a token of the metrics secret, and nobody else
#[tokio::test]
async fn what_operators_watch() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    db.sql(
        "alter table public.test enable row level security;
         create policy every on public.test to anon using (true);",
    )
    .await?;
    let options =
        ServerOptions::default().env("METRICS_JWT_SECRET", "of-the-metrics").env("REGION", "eu-central-1");
    let server = Server::start(BINARY, &db, options).await?;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let mut socket = server.socket(Version::V2, "anon").await?;
        socket.watch("realtime:any", json!([{"schema": "public"}])).await?;
        sockets.push(socket);
    }
    db.sql("insert into public.test (details) select 'x' from generate_series(1, 5)").await?;
    for socket in &mut sockets {
        for _ in 0..5 {
            socket.event("realtime:any", "postgres_changes").await?;
        }
    }
    let get = |token: &str| {
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        let server = &server;
        async move { server.request(&request).await }
    };
    for refused in
        [server.get("/metrics").await?, get("potato").await?, get(&sign_with("else", &json!({}))).await?]
    {
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    }
    let text = get(&sign_with("of-the-metrics", &json!({}))).await?;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("text/plain; charset=utf-8"), "{text}");
    assert!(text.contains("region=\"eu-central-1\""), "{text}");
    for (name, wanted) in [
        ("realtime_connections_connected", 2.0),
        ("realtime_channel_joins", 2.0),
        ("realtime_channel_events", 0.0),
        ("realtime_channel_db_events", 10.0),
        ("realtime_changes_rows", 5.0),
        ("realtime_replication_poller_changes_dispatch", 5.0),
        ("realtime_replication_sessions", 1.0),
        ("realtime_replication_poller_changes_skip", 0.0),
    ] {
        assert_eq!(value(&text, name)?, wanted, "{name}");
    }
    assert!(value(&text, "realtime_changes_checks")? >= 1.0);
    assert!(value(&text, "realtime_changes_check_seconds")? > 0.0);
    assert!(value(&text, "realtime_replication_lag_bytes")? >= 0.0);
    Ok(())
}

/// Without a secret nobody may read them.
#[tokio::test]
async fn no_secret_no_metrics() -> Result<()> {
    let (server, _db) = crate::server().await?;
    let token = sign_with("", &json!({}));
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    assert!(server.request(&request).await?.starts_with("HTTP/1.1 403"));
    Ok(())
}
