//! The dashboard in a real Chromium.

use anyhow::{Result, ensure};
use realtime_testkit::{Nats, Server, TestDb, Version};
use serde_json::json;

use super::{options, policies::SCHEMA};
use crate::{BINARY, browser::scenario};

/// Logging in, nodes, a tenant of another node, stopping its database there, feature flags, SQL; accessibility, in the
/// dark, on a telephone, and without scripts
#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    db.sql(SCHEMA).await?;
    let nats = Nats::start(&[]).await?;
    let options = options().env("DB_ENC_KEY", "1234567890123456").env("NATS_URL", &nats.url());
    let other = Server::start(BINARY, &db, options.clone().env("REGION", "us-east-1")).await?;
    other.administered().await?;
    let options = options.env("REGION", "eu-west-2").env("SEED_SELF_HOST", "false");
    let server = Server::start(BINARY, &db, options).await?;
    server.logged("a node has come").await?;
    let mut socket = other.socket(Version::V2, "anon").await?;
    socket.watch("realtime:any", json!([{"schema": "public"}])).await?;
    let url = format!("http://localhost:{}", server.port());
    scenario("dashboard.mjs", &[&url, "realtime-dev"], async |asked| {
        ensure!(asked["stopped"] == true, "{asked}");
        // Whoever watches is told that it was stopped, and that it is back.
        let lost = socket.event("realtime:any", "system").await?;
        ensure!(lost["status"] == "gap", "{lost}");
        let again = socket.event("realtime:any", "system").await?;
        ensure!(again["status"] == "ok", "{again}");
        Ok(())
    })
    .await
}
