//! What becomes of changes that wait to be posted when their webhook is stopped: removed, changed, or suspended with its
//! tenant. The endpoint does not answer, so they wait.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use realtime_testkit::{Server, TestDb, until};
use serde_json::{Value, json};

use super::{
    Endpoint, Post, admin, by_row, database, file,
    restarts::{drop_slots, durable, slots, suffix},
    server,
};
use crate::admin::Admin;

/// Changes of different rows that are posted beside each other.
const AT_ONCE: usize = 8;

/// Nobody gives up waiting for an answer meanwhile.
fn patient() -> Value {
    json!({"timeout_ms": 60_000})
}

/// Writes rows 1 to 20, which an endpoint does not answer: some are under way, the others wait.
async fn write_in_vain(endpoint: &mut Endpoint, db: &TestDb) -> Result<()> {
    endpoint.status.send_replace(0);
    db.sql("insert into things select id, 0, '' from generate_series(1, 20) id").await?;
    for _ in 0..AT_ONCE {
        endpoint.next().await?;
    }
    ensure!(endpoint.posts.try_recv().is_err(), "too many at once");
    Ok(())
}

/// Waits until the log was begun to be read so often.
async fn begun(server: &Server, times: usize) -> Result<()> {
    until("it reads", async || Ok(server.log().matches("reading the log").count() >= times)).await
}

/// What waits for a webhook that is removed is not posted, and its slot goes. One of the same name begins anew.
#[tokio::test]
async fn what_waits_goes_with_a_webhook_that_is_removed() -> Result<()> {
    let db = database().await?;
    let (mut gone, mut stays) = (Endpoint::start().await?, Endpoint::start().await?);
    let dir = tempfile::tempdir()?;
    let suffix = suffix();
    let (a, b) = (gone.hook("a", &patient()), stays.hook("b", &patient()));
    let server = server(&db, &dir, &[a.clone(), b.clone()], durable(&suffix)).await?;
    slots(&db, 2).await?;
    write_in_vain(&mut gone, &db).await?;
    for _ in 1..=20 {
        stays.next().await?;
    }
    file(&dir, std::slice::from_ref(&b))?;
    slots(&db, 1).await?;
    gone.status.send_replace(200);
    db.sql("insert into things values (21, 0, '')").await?;
    assert_eq!(stays.next().await?.row().0, 21);
    ensure!(gone.posts.try_recv().is_err(), "it posts although it was removed");

    file(&dir, &[a, b])?;
    slots(&db, 2).await?;
    begun(&server, 3).await?;
    db.sql("insert into things values (22, 0, '')").await?;
    assert_eq!(gone.next().await?.row().0, 22);
    assert_eq!(stays.next().await?.row().0, 22);
    ensure!(gone.posts.try_recv().is_err() && stays.posts.try_recv().is_err(), "too many posts");
    server.stop().await?;
    drop_slots(&db).await
}

/// A webhook whose filter changes reads anew from where it was: what waited is posted if it still matches.
#[tokio::test]
async fn what_waits_and_still_matches_is_posted_by_a_changed_webhook() -> Result<()> {
    let db = database().await?;
    let mut endpoint = Endpoint::start().await?;
    let dir = tempfile::tempdir()?;
    let suffix = suffix();
    let server = server(&db, &dir, &[endpoint.hook("a", &patient())], durable(&suffix)).await?;
    write_in_vain(&mut endpoint, &db).await?;
    file(&dir, &[endpoint.hook("a", &json!({"filter": "id=gt.10", "timeout_ms": 60_000}))])?;
    begun(&server, 2).await?;
    // Those that were asked for once more meanwhile wait for an answer, too.
    endpoint.status.send_replace(200);
    db.sql("insert into things values (21, 0, '')").await?;
    let mut rows = BTreeSet::new();
    while !rows.contains(&21) || rows.len() < 11 {
        rows.insert(endpoint.next().await?.row().0);
    }
    assert!(rows.into_iter().eq(11..=21));
    ensure!(!server.log().contains("WebhookDeadLetter"), "{}", server.log());
    server.stop().await?;
    drop_slots(&db).await
}

/// While its tenant is suspended a webhook posts nothing. Afterwards all comes that was not answered, and what was committed
/// meanwhile, in the order of each row.
#[tokio::test]
async fn what_waits_is_posted_when_a_suspended_tenant_is_back() -> Result<()> {
    let suffix = suffix();
    let admin = Admin::start_with(durable(&suffix)).await?;
    let db = database().await?;
    admin.make("acme", &db).await?;
    let mut endpoint = Endpoint::start().await?;
    let (status, made) = admin::put(&admin, "orders", &endpoint.hook("orders", &patient())).await?;
    ensure!(status == 200, "{made}");
    admin::reads(&admin).await?;
    write_in_vain(&mut endpoint, &db).await?;
    db.sql("update things set n = 1").await?;
    admin.change("acme", json!({"suspend": true})).await?;
    let is_suspended = async || Ok(admin::list(&admin).await?[0]["state"]["reading"] == "suspended");
    until("it is suspended", is_suspended).await?;
    endpoint.status.send_replace(200);
    db.sql("insert into things values (21, 0, ''); update things set n = 2 where id <= 2").await?;
    ensure!(endpoint.posts.try_recv().is_err(), "it posts although its tenant is suspended");

    admin.change("acme", json!({"suspend": false})).await?;
    let mut posts: Vec<Post> = Vec::new();
    let mut ids = BTreeSet::new();
    while ids.len() < 43 {
        let post = endpoint.next().await?;
        if ids.insert(post.id.clone()) {
            posts.push(post);
        }
    }
    for (row, numbers) in by_row(&posts) {
        let expected: &[i64] = match row {
            1 | 2 => &[0, 1, 2],
            21 => &[0],
            _ => &[0, 1],
        };
        assert_eq!(numbers, expected, "row {row}");
    }
    ensure!(!admin.server.log().contains("WebhookDeadLetter"), "{}", admin.server.log());
    admin.server.stop().await?;
    drop_slots(&db).await
}
