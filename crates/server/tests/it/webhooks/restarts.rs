//! What becomes of webhooks when the server ends, and when their file changes.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use realtime_testkit::{PATIENCE, Server, ServerOptions, TestDb};
use serde_json::json;
use tokio::time::{self, Duration};

use super::{Endpoint, by_row, database, file, server};
use crate::BINARY;

/// A name for permanent slots: all databases of a cluster share them.
pub(super) fn suffix() -> String {
    format!("{:08x}", rand::random::<u32>())
}

pub(super) fn durable(suffix: &str) -> ServerOptions {
    ServerOptions::default()
        .env("SLOT_DURABLE", "true")
        .env("SLOT_NAME_SUFFIX", suffix)
        .env("RESUME_DELAY_MS", "0")
}

const SLOTS: &str = "select count(*) from pg_replication_slots
    where database = current_database() and slot_name like '%\\_hook\\_%'";

/// Waits until there are so many permanent slots of webhooks.
pub(super) async fn slots(db: &TestDb, wanted: i64) -> Result<()> {
    let limit = time::Instant::now() + PATIENCE;
    while db.client().query_one(SLOTS, &[]).await?.get::<_, i64>(0) != wanted {
        ensure!(time::Instant::now() < limit, "never {wanted} slots");
        time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Drops all permanent slots of the database when nobody reads them.
pub(super) async fn drop_slots(db: &TestDb) -> Result<()> {
    let limit = time::Instant::now() + PATIENCE;
    loop {
        db.sql(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots
             where database = current_database() and not active",
        )
        .await?;
        let left = "select count(*) from pg_replication_slots where database = current_database()";
        if db.client().query_one(left, &[]).await?.get::<_, i64>(0) == 0 {
            return Ok(());
        }
        ensure!(time::Instant::now() < limit, "slots are still read");
        time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server that is killed in the middle of its work loses nothing where slots are permanent: each change is posted at
/// least once, also those that were committed while no server ran.
#[tokio::test]
async fn a_killed_server_posts_each_change_at_least_once() -> Result<()> {
    let db = database().await?;
    let mut endpoint = Endpoint::start().await?;
    let dir = tempfile::tempdir()?;
    let hooks = [endpoint.hook("all", &json!({}))];
    let suffix = suffix();
    let first = server(&db, &dir, &hooks, durable(&suffix)).await?;
    db.sql("insert into things select id, 0, '' from generate_series(1, 20) id").await?;
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        seen.insert(endpoint.taken().await?.row().0);
    }
    // Nobody answers these before the end.
    endpoint.status.send_replace(0);
    for id in 21..=40 {
        db.sql(&format!("insert into things values ({id}, 0, '')")).await?;
    }
    endpoint.next().await?;
    first.kill().await?;
    db.sql("insert into things select id, 0, '' from generate_series(41, 60) id").await?;
    endpoint.status.send_replace(200);
    while endpoint.posts.try_recv().is_ok() {}
    let second = server(&db, &dir, &hooks, durable(&suffix)).await?;
    while seen.len() < 60 {
        seen.insert(endpoint.next().await?.row().0);
    }
    ensure!(!second.log().contains("WebhookGap"), "{}", second.log());
    second.stop().await?;
    drop_slots(&db).await
}

/// Of several servers one posts. When it is gone another one goes on where it was.
#[tokio::test]
async fn another_server_takes_over() -> Result<()> {
    let db = database().await?;
    let mut endpoint = Endpoint::start().await?;
    let dir = tempfile::tempdir()?;
    let hooks = [endpoint.hook("all", &json!({}))];
    let suffix = suffix();
    let first = server(&db, &dir, &hooks, durable(&suffix)).await?;
    let options = durable(&suffix).env("WEBHOOKS_FILE", &file(&dir, &hooks)?);
    let second = Server::start(BINARY, &db, options).await?;
    db.sql("insert into things select id, 0, '' from generate_series(1, 20) id").await?;
    let mut posts = Vec::new();
    for _ in 1..=20 {
        posts.push(endpoint.next().await?);
    }
    assert_eq!(by_row(&posts).len(), 20, "none comes twice");
    first.kill().await?;
    db.sql("insert into things select id, 0, '' from generate_series(21, 40) id").await?;
    let mut seen = BTreeSet::new();
    while !(21..=40).all(|id| seen.contains(&id)) {
        seen.insert(endpoint.next().await?.row().0);
    }
    ensure!(!second.log().contains("WebhookGap"), "{}", second.log());
    second.stop().await?;
    drop_slots(&db).await
}

/// Without permanent slots what was committed meanwhile is missing, which is told.
#[tokio::test]
async fn a_gap_is_told_where_slots_are_temporary() -> Result<()> {
    let db = database().await?;
    let mut endpoint = Endpoint::start().await?;
    let dir = tempfile::tempdir()?;
    let hooks = [endpoint.hook("all", &json!({}))];
    let first = server(&db, &dir, &hooks, ServerOptions::default()).await?;
    db.sql("insert into things values (1, 0, '')").await?;
    assert_eq!(endpoint.next().await?.row().0, 1);
    first.stop().await?;
    db.sql("insert into things values (2, 0, '')").await?;
    let second = server(&db, &dir, &hooks, ServerOptions::default()).await?;
    second.logged("WebhookGap").await?;
    db.sql("insert into things values (3, 0, '')").await?;
    assert_eq!(endpoint.next().await?.row().0, 3);
    Ok(())
}

/// The file is read again when it changes; the slot of a webhook that leaves it is dropped, also if no server ran then.
#[tokio::test]
async fn the_file_is_followed() -> Result<()> {
    let db = database().await?;
    let (mut one, mut two) = (Endpoint::start().await?, Endpoint::start().await?);
    let dir = tempfile::tempdir()?;
    let suffix = suffix();
    let (a, b) = (one.hook("a", &json!({})), one.hook("b", &json!({"table": "others"})));
    let first = server(&db, &dir, &[a, b.clone()], durable(&suffix)).await?;
    slots(&db, 2).await?;
    db.sql("insert into things values (1, 0, '')").await?;
    assert_eq!(one.next().await?.json()["webhook"], "a");
    // A wrong file changes nothing.
    std::fs::write(dir.path().join("webhooks.json"), "[{}]")?;
    first.logged("the file with webhooks is not used").await?;
    db.sql("insert into things values (2, 0, '')").await?;
    assert_eq!(one.next().await?.json()["webhook"], "a");
    // Another address; the other webhook is gone.
    file(&dir, &[two.hook("a", &json!({}))])?;
    first.logged("webhooks have changed").await?;
    slots(&db, 1).await?;
    db.sql("insert into others values (3, 0, ''); insert into things values (3, 0, '')").await?;
    assert_eq!(two.next().await?.row().0, 3);
    assert!(one.posts.try_recv().is_err());
    first.stop().await?;
    // All are gone while no server runs.
    let second = Server::start(BINARY, &db, durable(&suffix)).await?;
    slots(&db, 0).await?;
    second.stop().await?;
    drop_slots(&db).await
}
