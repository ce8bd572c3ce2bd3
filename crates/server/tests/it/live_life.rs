//! Live rows over time: lost databases, altered tables, slow queries, bounds (live 9 to 12).

use anyhow::{Context as _, Result};
use realtime_testkit::{SECRET, Server, ServerOptions, TestDb, until};
use serde_json::json;

use crate::{
    BINARY,
    admin::{Admin, TENANT_SECRET},
    live_client::{LiveClient, live, select, tasks},
    server,
};

const ALL: &str = "select * from public.tasks";

/// live 11: after the connection was lost only differences come, and no gap is told.
#[tokio::test]
async fn a_lost_database_brings_differences_only() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    let mut client = LiveClient::one(&server, "anon", live(json!({})), &["id"]).await?;
    client.news().await?;
    for round in 0..3 {
        db.sql(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid();
             insert into public.tasks values ({}, 'lost'); update public.tasks set title = 'lost {round}' where id = 2",
            10 + round
        ))
        .await?;
        client.has(&select(&db, ALL, &["id"]).await?).await?;
        let mut news = client.news().await?;
        news.sort_unstable();
        assert_eq!(news, [format!("INSERT {}", 10 + round), "UPDATE 2".to_owned()]);
    }
    assert!(!client.was_warned(), "{:?}", client.systems);
    Ok(())
}

/// live 12
#[tokio::test]
async fn tables_are_truncated_altered_and_dropped() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    let mut client = LiveClient::one(&server, "anon", live(json!({})), &["id"]).await?;
    db.sql("alter table public.tasks add column extra int default 5").await?;
    client.has(&select(&db, ALL, &["id"]).await?).await?;
    assert_eq!(client.rows[0].map["1"]["extra"], 5);
    db.sql("truncate public.tasks").await?;
    client.has(&select(&db, ALL, &["id"]).await?).await?;
    assert!(client.rows[0].map.is_empty() && !client.was_warned());
    db.sql("insert into public.tasks values (1, 'again')").await?;
    client.has(&select(&db, ALL, &["id"]).await?).await?;

    db.sql("alter publication supabase_realtime drop table public.tasks").await?;
    client.told("alter publication").await?;
    assert!(client.rows[0].map.is_empty());
    client.systems.clear();
    db.sql("insert into public.tasks values (2, 'meanwhile'); alter publication supabase_realtime add table public.tasks").await?;
    client.has(&select(&db, ALL, &["id"]).await?).await?;
    client.told("Live rows are complete").await?;
    db.sql("update public.tasks set title = 'live again'").await?;
    client.has(&select(&db, ALL, &["id"]).await?).await?;

    db.sql("drop table public.tasks").await?;
    client.told("Unable to subscribe").await?;
    assert!(client.rows[0].map.is_empty());
    Ok(())
}

/// live 12
#[tokio::test]
async fn columns_that_are_renamed_or_get_another_type_are_told() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    let mut client = LiveClient::one(&server, "anon", live(json!({})), &["id"]).await?;
    let rows = client.rows[0].map.len();
    for (sql, number, is_key) in [
        ("alter table public.tasks add column extra int default 5", 1, false),
        ("alter table public.tasks rename column extra to other", 2, false),
        ("alter table public.tasks alter column other type text", 3, false),
        // Another key: clients have to let go of the rows that they have under the old one.
        ("alter table public.tasks alter column id type text", 4, true),
    ] {
        client.news().await?;
        db.sql(sql).await?;
        client.has(&select(&db, ALL, &["id"]).await?).await.with_context(|| sql.to_owned())?;
        let news = client.news().await?;
        let updates = news.iter().filter(|told| told.starts_with("UPDATE")).count();
        assert_eq!(
            (updates, news.len()),
            if is_key { (0, 2 * rows) } else { (rows, rows) },
            "{number}: {news:?}"
        );
    }
    db.sql("update public.tasks set other = 'x' where id = '1'").await?;
    client.has(&select(&db, ALL, &["id"]).await?).await?;
    assert!(!client.was_warned(), "{:?}", client.systems);
    Ok(())
}

/// live 12
#[tokio::test]
async fn kinds_of_changes_that_are_not_published_any_more_are_told() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    let mut client = LiveClient::one(&server, "anon", live(json!({})), &["id"]).await?;
    let publish = |kinds: &str| format!("alter publication supabase_realtime set (publish = '{kinds}')");
    let (few, all) = (publish("insert"), publish("insert, update, delete, truncate"));
    // For a moment, which nobody sees but the log.
    db.sql(&format!("begin; {few}; delete from public.tasks where id = 1; {all}; commit")).await?;
    client.has(&select(&db, ALL, &["id"]).await?).await?;
    assert!(!client.was_warned(), "{:?}", client.systems);

    db.sql(&few).await?;
    client.told("does not tell every change").await?;
    assert!(client.rows[0].map.is_empty());
    db.sql(&format!("delete from public.tasks where id = 2; {all}")).await?;
    client.has(&select(&db, ALL, &["id"]).await?).await?;
    Ok(())
}

/// live 9: who asks for what takes long is told; nobody else waits; when it gets faster the rows are right.
#[tokio::test]
async fn a_slow_query_is_told_and_made_up_for() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    tasks(&db).await?;
    db.sql(
        "create table public.pace (seconds float8 primary key);
         insert into public.pace values (0);
         grant select on public.pace to anon;
         alter publication supabase_realtime add table public.pace;
         create view public.slow as select t.* from public.tasks t, public.pace p
            where pg_sleep(p.seconds) is not null;
         grant select on public.slow to anon",
    )
    .await?;
    let options = ServerOptions::default().env("LIVE_STATEMENT_TIMEOUT", "600");
    let server = Server::start(BINARY, &db, options).await?;
    let binding = json!({"event": "*", "schema": "public", "table": "slow", "key": ["id"]});
    let mut slow = LiveClient::one(&server, "anon", binding, &["id"]).await?;
    let mut quick = LiveClient::one(&server, "anon", live(json!({})), &["id"]).await?;
    db.sql("update public.pace set seconds = 1; update public.tasks set title = 'slow'").await?;
    let expected = select(&db, ALL, &["id"]).await?;
    quick.has(&expected).await?;
    let told = slow.told("LiveQueryTooSlow").await?;
    assert_eq!(told["status"], "warning");
    assert_eq!(slow.rows[0].map["1"]["title"], "task 1", "it keeps what it has");
    db.sql("update public.pace set seconds = 0").await?;
    slow.has(&expected).await?;
    assert!(!quick.was_warned());
    Ok(())
}

/// live 10
#[tokio::test]
async fn bounds_are_told() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    tasks(&db).await?;
    let options = ServerOptions::default().env("LIVE_MAX_ROWS", "8").env("LIVE_MAX_RESULTS", "2");
    let options = options.env("METRICS_JWT_SECRET", SECRET);
    let server = Server::start(BINARY, &db, options).await?;
    let mut client = LiveClient::one(&server, "anon", live(json!({})), &["id"]).await?;
    let _second =
        LiveClient::one(&server, "anon", live(json!({"filter": "id=gt.0", "limit": 5})), &["id"]).await?;
    let mut same = LiveClient::one(&server, "anon", live(json!({"event": "INSERT"})), &["id"]).await?;
    let mut socket = server.socket(realtime_testkit::Version::V2, "anon").await?;
    socket
        .join("realtime:x", json!({"config": {"postgres_changes": [live(json!({"filter": "id=gt.1"}))]}}))
        .await?;
    let system = socket.event("realtime:x", "system").await?;
    assert!(system["message"].as_str().unwrap_or_default().contains("LIVE_MAX_RESULTS"), "{system}");

    db.sql("insert into public.tasks select n, 'more' from generate_series(7, 8) n").await?;
    client.has(&select(&db, ALL, &["id"]).await?).await?;
    db.sql("insert into public.tasks values (9, 'too many')").await?;
    let told = client.told("LIVE_MAX_ROWS").await?;
    assert_eq!((&told["code"], &told["status"]), (&json!("LiveResultTooLarge"), &json!("warning")));
    assert!(client.rows[0].map.is_empty(), "a result that ended has no rows");
    same.told("LIVE_MAX_ROWS").await?;
    db.sql("delete from public.tasks where id > 2").await?;
    let again = LiveClient::one(&server, "anon", live(json!({})), &["id"]).await?;
    assert_eq!(again.rows[0].map.len(), 2);
    until("the rows are counted", async || Ok(server.metric("realtime_live_rows").await? > 0.0)).await
}

/// live 10: what is kept of all results has a bound in memory, too
#[tokio::test]
async fn a_result_that_takes_too_much_memory_ends() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    tasks(&db).await?;
    db.sql(
        "create table public.large (id text primary key);
         grant select on public.large to anon;
         alter publication supabase_realtime add table public.large;
         insert into public.large select repeat('x', 295) || n from generate_series(10001, 16000) n",
    )
    .await?;
    let server = Server::start(BINARY, &db, ServerOptions::default().env("LIVE_MAX_MB", "1")).await?;
    let mut small = LiveClient::one(&server, "anon", live(json!({})), &["id"]).await?;
    let socket = server.socket(realtime_testkit::Version::V2, "anon").await?;
    let mut large =
        LiveClient::join(socket, json!([live(json!({"table": "large"}))]), &[&["id"]], None).await?;
    let told = large.told("LIVE_MAX_MB").await?;
    assert_eq!((&told["code"], &told["status"]), (&json!("LiveResultTooLarge"), &json!("warning")));
    assert!(large.rows[0].map.is_empty(), "a result that ended has no rows");
    db.sql("update public.tasks set title = 'goes on'").await?;
    small.has(&select(&db, ALL, &["id"]).await?).await?;
    assert!(!small.was_warned(), "{:?}", small.systems);
    Ok(())
}

/// What clients have goes from one handle of the database to the next: only differences are told.
#[tokio::test]
async fn a_new_handle_of_the_database_brings_differences_only() -> Result<()> {
    let (admin, db) = (Admin::start().await?, TestDb::new().await?);
    tasks(&db).await?;
    admin.make("t", &db).await?;
    let socket = admin.socket("t", TENANT_SECRET).await?;
    let mut client = LiveClient::join(socket, json!([live(json!({}))]), &[&["id"]], None).await?;
    client.complete().await?;
    client.news().await?;
    for round in 0..2 {
        let ended = admin.request("POST", "/api/tenants/t/shutdown", None).await?;
        assert_eq!(ended.status, 204, "{ended:?}");
        db.sql(&format!(
            "insert into public.tasks values ({}, 'new'); update public.tasks set title = 'round {round}' where id = 2;
             delete from public.tasks where id = {}",
            10 + round,
            3 + round
        ))
        .await?;
        client.has(&select(&db, ALL, &["id"]).await?).await?;
        let mut news = client.news().await?;
        news.sort_unstable();
        assert_eq!(
            news,
            [format!("DELETE {}", 3 + round), format!("INSERT {}", 10 + round), "UPDATE 2".to_owned()]
        );
    }
    Ok(())
}
