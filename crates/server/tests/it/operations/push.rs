//! Metrics that are pushed (http_and_ops 3).

use std::io::Read as _;

use anyhow::Result;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::read::GzDecoder;
use realtime_testkit::{Server, ServerOptions, TestDb, Version};
use serde_json::json;

use super::{collector::Collector, line};
use crate::BINARY;

fn pushing(port: u16) -> ServerOptions {
    ServerOptions::default()
        .env("METRICS_PUSHER_ENABLED", "true")
        .env("METRICS_PUSHER_URL", &format!("http://127.0.0.1:{port}/import?a=b"))
        .env("METRICS_PUSHER_INTERVAL_MS", "200")
        .env("REGION", "eu-central-1")
}

/// Two requests a push: the node's and the tenants' figures, compressed, with a password and labels
#[tokio::test]
async fn metrics_are_pushed() -> Result<()> {
    let db = TestDb::new().await?;
    let mut collector = Collector::start(Some(204)).await?;
    let options = pushing(collector.port)
        .env("METRICS_PUSHER_AUTH", "s3cret")
        .env("METRICS_PUSHER_EXTRA_LABELS", "cluster=main,kind=a b");
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.join("realtime:a", json!({"config": {}})).await?;
    let (mut global, mut tenants) = (String::new(), String::new());
    // Until the join shows.
    while !tenants.contains("realtime_channel_joins{") || tenants.contains("realtime_channel_joins{} 0") {
        for text in [&mut global, &mut tenants] {
            let request = collector.next().await?;
            assert_eq!(
                request.line,
                "POST /import?a=b&extra_label=cluster%3Dmain&extra_label=kind%3Da+b HTTP/1.1"
            );
            assert_eq!(request.headers["content-type"], "text/plain");
            assert_eq!(request.headers["content-encoding"], "gzip");
            let credentials = BASE64_STANDARD.encode("realtime:s3cret");
            assert_eq!(request.headers["authorization"], format!("Basic {credentials}"));
            text.clear();
            GzDecoder::new(&*request.body).read_to_string(text)?;
        }
    }
    assert!(global.contains("realtime_channel_global_joins{") && global.contains("eu-central-1"), "{global}");
    assert!(!global.contains("tenant="), "{global}");
    assert!(tenants.contains("tenant=\"realtime-dev\"") && !tenants.contains("_global_"), "{tenants}");
    assert!(!server.log().contains("MetricsPusher"), "{}", server.log());
    // A push under way does not keep the server.
    server.stop().await
}

/// What fails is told by its code, without the password, and tried again
#[tokio::test]
async fn failed_pushes_are_told() -> Result<()> {
    let db = TestDb::new().await?;
    for (status, code) in [(Some(503), "MetricsPusherFailed"), (None, "MetricsPusherTimeout")] {
        let mut collector = Collector::start(status).await?;
        let options = pushing(collector.port)
            .env("METRICS_PUSHER_AUTH", "s3cret")
            .env("METRICS_PUSHER_COMPRESS", "false")
            .env("METRICS_PUSHER_TIMEOUT_MS", "300");
        let server = Server::start(BINARY, &db, options).await?;
        let request = collector.next().await?;
        assert!(!request.headers.contains_key("content-encoding"));
        assert!(String::from_utf8(request.body)?.starts_with("# HELP realtime_connections_global_connected"));
        line(&server, |line| line.contains(code)).await?;
        collector.next().await?;
        collector.next().await?;
        assert!(!server.log().contains("s3cret"));
    }
    // Nobody listens there.
    let options = pushing(1).env("METRICS_PUSHER_URL", "http://user:s3cret@127.0.0.1:1/import");
    let server = Server::start(BINARY, &db, options).await?;
    line(&server, |line| line.contains("MetricsPusherException")).await?;
    assert!(!server.log().contains("s3cret"), "{}", server.log());
    Ok(())
}
