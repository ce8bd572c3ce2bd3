//! What is posted, in which order, and what becomes of it when the endpoint fails.

use std::{collections::HashSet, sync::atomic::Ordering};

use anyhow::Result;
use realtime_testkit::{SECRET as TOKENS, ServerOptions, Version};
use serde_json::json;

use super::{Endpoint, by_row, database, metric, server, signature};

fn measured() -> ServerOptions {
    ServerOptions::default().env("METRICS_JWT_SECRET", TOKENS)
}

/// Each change once, those of a row in their order, signed; whole rows, whatever row-level security says.
#[tokio::test]
async fn each_change_is_posted_once_in_the_order_of_its_row() -> Result<()> {
    let db = database().await?;
    db.sql("alter table things enable row level security").await?;
    let mut endpoint = Endpoint::start().await?;
    let dir = tempfile::tempdir()?;
    let hooks = [endpoint.hook("all", &json!({}))];
    let server = server(&db, &dir, &hooks, measured()).await?;
    db.sql("insert into things select id, 0, 'new' from generate_series(1, 5) id").await?;
    for n in 1..=10 {
        db.sql(&format!("update things set n = {n}")).await?;
    }
    db.sql("begin; update things set n = 11 where id = 1; update things set n = 12 where id = 1; commit")
        .await?;
    let mut posts = Vec::new();
    for _ in 0..57 {
        posts.push(endpoint.next().await?);
    }
    for (id, numbers) in by_row(&posts) {
        let last = if id == 1 { 12 } else { 10 };
        assert_eq!(numbers, (0..=last).collect::<Vec<i64>>(), "row {id}");
    }
    let ids: HashSet<&str> = posts.iter().map(|post| &*post.id).collect();
    assert_eq!(ids.len(), posts.len());
    let first = &posts[0];
    let body = first.json();
    assert_eq!(body["webhook"], "all");
    assert_eq!(first.id, format!("all:{}", body["position"].as_str().unwrap()));
    let data = &body["data"];
    assert_eq!(
        (&data["schema"], &data["table"], &data["type"]),
        (&json!("public"), &json!("things"), &json!("INSERT"))
    );
    assert_eq!(data["record"]["note"], "new");
    assert_eq!(data["columns"][0], json!({"name": "id", "type": "int8"}));
    for post in [first, posts.last().unwrap()] {
        assert_eq!(post.signature, signature(post).await?);
    }
    // The row that moves to another key, and the one that leaves, come after what they were.
    db.sql("update things set id = 100, n = 1 where id = 1; update things set n = 2 where id = 100; delete from things where id = 100").await?;
    assert_eq!(endpoint.next().await?.row(), (100, 1));
    assert_eq!(endpoint.next().await?.row(), (100, 2));
    assert_eq!(endpoint.next().await?.json()["data"]["old_record"], json!({"id": 100}));
    metric(&server, "realtime_webhooks_delivered", 60.0).await?;
    Ok(())
}

/// Only what is asked for: event, table, filter; also one that the database has to evaluate.
#[tokio::test]
async fn events_tables_and_filters_choose() -> Result<()> {
    let db = database().await?;
    let mut updates = Endpoint::start().await?;
    let mut others = Endpoint::start().await?;
    let mut all = Endpoint::start().await?;
    let dir = tempfile::tempdir()?;
    let hooks = [
        updates.hook("updates", &json!({"event": "UPDATE", "filter": "n=gt.5"})),
        others.hook("others", &json!({"table": "others", "filter": "note=imatch.^wan?ted"})),
        all.hook("all", &json!({"table": "*"})),
    ];
    let _server = server(&db, &dir, &hooks, ServerOptions::default()).await?;
    db.sql(
        "insert into things values (1, 9, 'insert'); update things set n = 1; update things set n = 7;
         insert into others values (1, 9, 'no'), (2, 9, 'WANTED'); insert into keyless values (1, 1, 'a'), (1, 2, 'b');
         update keyless set n = 3 where n = 1; update things set n = 8",
    )
    .await?;
    assert_eq!([updates.next().await?.row(), updates.next().await?.row()], [(1, 7), (1, 8)]);
    assert_eq!(others.next().await?.row(), (2, 9));
    let mut keyless = Vec::new();
    for _ in 0..9 {
        let post = all.next().await?;
        if post.json()["data"]["table"] == "keyless" {
            keyless.push(post.row().1);
        }
    }
    assert_eq!(keyless, [1, 2, 3], "without a key in the order of the table");
    assert!(updates.posts.try_recv().is_err() && others.posts.try_recv().is_err());
    Ok(())
}

/// A request that fails is repeated with the same id, and those that come after it on the same row wait for it.
#[tokio::test]
async fn an_endpoint_that_fails_gets_the_same_change_again() -> Result<()> {
    let db = database().await?;
    let mut endpoint = Endpoint::start().await?;
    let dir = tempfile::tempdir()?;
    let hooks = [endpoint.hook("all", &json!({}))];
    let server = server(&db, &dir, &hooks, measured()).await?;
    endpoint.failures.store(5, Ordering::SeqCst);
    db.sql("insert into things values (1, 0, 'a'); update things set n = 1").await?;
    let mut posts = Vec::new();
    for _ in 0..7 {
        posts.push(endpoint.next().await?);
    }
    let statuses: Vec<u16> = posts.iter().map(|post| post.status).collect();
    assert_eq!(statuses, [503, 503, 503, 503, 503, 200, 200]);
    assert!(posts[..6].iter().all(|post| post.id == posts[0].id && post.row() == (1, 0)));
    assert_eq!(posts[6].row(), (1, 1));
    assert_eq!(posts[5].signature, signature(&posts[5]).await?);
    metric(&server, "realtime_webhooks_delivered", 2.0).await?;
    assert_eq!(server.metric("realtime_webhooks_failed_attempts").await?, 5.0);
    assert_eq!(server.metric("realtime_webhooks_dead_letters").await?, 0.0);
    Ok(())
}

/// What is given up is counted, named by its position without its values, and the next go on.
#[tokio::test]
async fn dead_letters_are_counted_and_the_next_go_on() -> Result<()> {
    let db = database().await?;
    let mut endpoint = Endpoint::start().await?;
    let dir = tempfile::tempdir()?;
    let hooks = [endpoint.hook("all", &json!({"attempts": 3}))];
    let server = server(&db, &dir, &hooks, measured()).await?;
    // It is away: each attempt fails.
    endpoint.status.send_replace(503);
    db.sql("insert into things values (1, 0, 'hidden-value'); update things set n = 1").await?;
    metric(&server, "realtime_webhooks_dead_letters", 2.0).await?;
    assert_eq!(server.metric("realtime_webhooks_failed_attempts").await?, 6.0);
    // It refuses one: that is not repeated.
    endpoint.status.send_replace(422);
    db.sql("insert into things values (2, 0, 'refused')").await?;
    metric(&server, "realtime_webhooks_dead_letters", 3.0).await?;
    endpoint.status.send_replace(200);
    db.sql("insert into things values (3, 0, 'good')").await?;
    assert_eq!(endpoint.taken().await?.row(), (3, 0));
    let line = server.logged("WebhookDeadLetter").await?;
    assert!(line.contains("503") && line.contains("all") && line.contains("position"), "{line}");
    // What cannot be told one by one is not passed over in silence.
    db.sql("truncate things").await?;
    metric(&server, "realtime_webhooks_dead_letters", 4.0).await?;
    for hidden in ["hidden-value", "token=hidden", "user:pass", super::SECRET] {
        assert!(!server.log().contains(hidden), "{hidden} was logged");
    }
    Ok(())
}

/// An endpoint that does not answer harms neither clients nor other webhooks.
#[tokio::test]
async fn a_slow_endpoint_delays_only_its_own_webhook() -> Result<()> {
    let db = database().await?;
    let (mut slow, mut quick) = (Endpoint::start().await?, Endpoint::start().await?);
    let dir = tempfile::tempdir()?;
    let hooks = [slow.hook("slow", &json!({"timeout_ms": 60_000})), quick.hook("quick", &json!({}))];
    let options = ServerOptions::default().env("TENANT_MAX_EVENTS_PER_SECOND", "100000");
    let server = server(&db, &dir, &hooks, options).await?;
    slow.status.send_replace(0);
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch("realtime:any", json!([{"event": "*", "schema": "public", "table": "things"}])).await?;
    // More transactions than may wait for one webhook.
    db.sql(
        "do $$ begin for id in 1..1100 loop insert into things values (id, 0, ''); commit; end loop; end $$",
    )
    .await?;
    for id in 1..=1100 {
        let change = socket.event("realtime:any", "postgres_changes").await?;
        assert_eq!(change["data"]["record"]["id"], id);
    }
    let mut quickly = Vec::new();
    for _ in 1..=1100 {
        quickly.push(quick.next().await?);
    }
    assert_eq!(by_row(&quickly).len(), 1100);
    slow.status.send_replace(200);
    let mut slowly = Vec::new();
    for _ in 1..=1100 {
        slowly.push(slow.next().await?);
    }
    assert_eq!(by_row(&slowly).len(), 1100);
    Ok(())
}
