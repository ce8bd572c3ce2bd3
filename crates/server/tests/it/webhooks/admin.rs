//! Webhooks in the admin API, in the metadata database, on the dashboard, and in configurations that are refused.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{ServerOptions, TestDb};
use serde_json::{Value, json};
use tokio::{
    process::Command,
    time::{self, Duration},
};

use super::{Endpoint, SECRET, database};
use crate::{
    BINARY,
    admin::{Admin, extension},
};

/// The webhooks of the tenant `acme`.
pub(super) async fn list(admin: &Admin) -> Result<Value> {
    let answer = admin.request("GET", "/api/tenants/acme/webhooks", None).await?;
    ensure!(answer.status == 200 && !answer.body.contains(SECRET), "{answer:?}");
    Ok(serde_json::from_str::<Value>(&answer.body)?["data"].take())
}

pub(super) async fn put(admin: &Admin, name: &str, body: &Value) -> Result<(u16, Value)> {
    let path = format!("/api/tenants/acme/webhooks/{name}");
    let answer = admin.request("PUT", &path, Some(body)).await?;
    Ok((answer.status, serde_json::from_str(&answer.body).unwrap_or_default()))
}

/// Waits until the webhook reads the log.
pub(super) async fn reads(admin: &Admin) -> Result<Value> {
    let limit = time::Instant::now() + realtime_testkit::PATIENCE;
    loop {
        let found = list(admin).await?;
        if found[0]["state"]["reading"] == "reading" {
            return Ok(found);
        }
        ensure!(time::Instant::now() < limit, "{found}: {}", admin.server.log());
        time::sleep(Duration::from_millis(20)).await;
    }
}

/// Made, changed and removed while the server runs; secrets are kept encrypted and shown to nobody.
#[tokio::test]
async fn webhooks_are_set_without_a_restart() -> Result<()> {
    let admin = Admin::start().await?;
    let db = database().await?;
    admin.make("acme", &db).await?;
    let (mut one, mut two) = (Endpoint::start().await?, Endpoint::start().await?);
    assert_eq!(list(&admin).await?, json!([]));
    let (status, made) = put(&admin, "orders", &one.hook("orders", &json!({}))).await?;
    assert_eq!(status, 200, "{made}");
    assert_eq!(made["data"]["url"], format!("http://127.0.0.1:{}/orders", one.port));
    reads(&admin).await?;
    db.sql("insert into things values (1, 0, '')").await?;
    assert_eq!(one.next().await?.row().0, 1);
    // Another address: the secret stays.
    let mut other = two.hook("orders", &json!({}));
    other.as_object_mut().unwrap().remove("secret");
    assert_eq!(put(&admin, "orders", &other).await?.0, 200);
    db.sql("insert into things values (2, 0, '')").await?;
    let post = two.next().await?;
    assert_eq!((post.row().0, &post.signature), (2, &super::signature(&post).await?));
    // Whoever changes the database need not know of webhooks.
    let answer = admin
        .request(
            "PUT",
            "/api/tenants/acme",
            Some(&json!({"tenant": {"extensions": [extension(&db).await?]}})),
        )
        .await?;
    ensure!(answer.status == 200 && !answer.body.contains("realtime_webhooks"), "{answer:?}");
    let found = list(&admin).await?;
    assert_eq!(found[0]["name"], "orders");
    assert_eq!(found[0]["state"]["dead_letters"], 0);
    let stored = admin.stored("select string_agg(settings::text, '') from _realtime.extensions").await?;
    assert!(!stored.contains(SECRET) && !stored.contains("127.0.0.1:"), "{stored}");
    // Removed: nothing is posted any more.
    let answer = admin.request("DELETE", "/api/tenants/acme/webhooks/orders", None).await?;
    assert_eq!(answer.status, 204);
    assert_eq!(list(&admin).await?, json!([]));
    Ok(())
}

#[tokio::test]
async fn webhooks_that_cannot_be_used_are_refused() -> Result<()> {
    let admin = Admin::start().await?;
    let db = TestDb::new().await?;
    admin.make("acme", &db).await?;
    let endpoint = Endpoint::start().await?;
    for (change, told) in [
        (json!({"url": "ftp://x/"}), "url must begin with http:// or https://"),
        (json!({"secret": "short"}), "secret must have 16 bytes at least, and 512 characters at most"),
        (json!({"event": "TRUNCATE"}), "event must be INSERT, UPDATE, DELETE or *"),
        (json!({"filter": "wrong"}), "Error parsing `filter` params: [\"wrong\"]"),
    ] {
        let (status, body) = put(&admin, "a", &endpoint.hook("a", &change)).await?;
        assert_eq!((status, body), (422, json!({"errors": {"webhook": [told]}})));
    }
    let (status, _) = put(&admin, "Not-a-name", &endpoint.hook("a", &json!({}))).await?;
    assert_eq!(status, 422);
    let missing = admin.request("GET", "/api/tenants/nobody/webhooks", None).await?;
    assert_eq!(missing.status, 404);
    // The list is not to be set in clear beside the database.
    let entry = json!({"type": "realtime_webhooks", "settings": {"list": "[]"}});
    let body = json!({"tenant": {"extensions": [extension(&db).await?, entry]}});
    assert_eq!(admin.request("PUT", "/api/tenants/acme", Some(&body)).await?.status, 422);
    assert_eq!(list(&admin).await?, json!([]));
    Ok(())
}

/// A server does not start with a file that it cannot use, and says what is wrong with it.
#[tokio::test]
async fn a_wrong_file_ends_the_start() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("webhooks.json");
    let path = path.to_str().context("path")?;
    for (text, told) in [
        ("{", "is no JSON"),
        (
            r#"[{"name": "orders", "url": "x", "secret": "0123456789abcdef", "table": "t"}]"#,
            "webhook orders: url must",
        ),
    ] {
        std::fs::write(path, text)?;
        let mut command = Command::new(BINARY);
        command.arg("check-config").env_clear().env("WEBHOOKS_FILE", path).stderr(Stdio::piped());
        let output = command.output().await?;
        let errors = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(64), "{errors}");
        assert!(errors.contains("WEBHOOKS_FILE") && errors.contains(told), "{errors}");
    }
    Ok(())
}

/// Operators see what webhooks have done.
#[tokio::test]
async fn the_dashboard_shows_webhooks() -> Result<()> {
    let db = database().await?;
    let endpoint = Endpoint::start().await?;
    let dir = tempfile::tempdir()?;
    let options = ServerOptions::default()
        .env("DASHBOARD_USER", "ann")
        .env("DASHBOARD_PASSWORD", "of-the-dashboard")
        .env("METRICS_JWT_SECRET", realtime_testkit::SECRET);
    let hooks = [endpoint.hook("orders", &json!({"attempts": 1}))];
    let server = super::server(&db, &dir, &hooks, options).await?;
    endpoint.status.send_replace(500);
    db.sql("insert into things values (1, 0, 'a-value')").await?;
    super::metric(&server, "realtime_webhooks_dead_letters", 1.0).await?;
    // ann:of-the-dashboard
    let basic = "Basic YW5uOm9mLXRoZS1kYXNoYm9hcmQ=";
    let path = "/admin/dashboard/tenants/realtime-dev";
    let page = server.http("GET", path, &[("Authorization", basic)], b"").await?.body;
    for shown in ["orders", "public.things", "Last dead letters", "500"] {
        assert!(page.contains(shown), "{shown} is not on {page}");
    }
    for hidden in [SECRET, "user:pass", "token=hidden", "a-value"] {
        assert!(!page.contains(hidden), "{hidden} is shown");
    }
    Ok(())
}
