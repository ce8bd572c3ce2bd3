//! Subscriptions over time: alterations, lost connections, new tokens (postgres_changes 4, 5).

use anyhow::{Context as _, Result};
use realtime_testkit::{PATIENCE, SECRET, Server, ServerOptions, TestDb, Version, sign, unix_now, until};
use serde_json::{Value, json};

use tokio::time::{self, Duration};

use crate::{BINARY, server};

const TOPIC: &str = "realtime:any";

/// postgres_changes 104 and recording 09: a table is altered while it is watched
#[tokio::test]
async fn tables_may_be_altered() -> Result<()> {
    let (server, db) = server().await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public", "table": "test"}])).await?;
    let columns = |data: &Value| -> Vec<String> {
        data["columns"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| Some(c["name"].as_str()?.to_owned()))
            .collect()
    };
    db.sql("insert into public.test (details) values ('before')").await?;
    socket.event(TOPIC, "postgres_changes").await?;
    db.sql("alter table public.test add column extra int default 3; insert into public.test (details) values ('added')").await?;
    let data = socket.event(TOPIC, "postgres_changes").await?["data"].clone();
    assert_eq!(
        (columns(&data), &data["record"]["extra"]),
        (["id", "details", "binary_data", "extra"].map(String::from).to_vec(), &json!(3))
    );
    db.sql("alter table public.test rename column extra to renamed; alter table public.test drop column binary_data; insert into public.test (details) values ('renamed')").await?;
    let data = socket.event(TOPIC, "postgres_changes").await?["data"].clone();
    assert_eq!(columns(&data), ["id", "details", "renamed"]);
    assert_eq!(data["record"], json!({"id": 3, "details": "renamed", "renamed": 3}));
    Ok(())
}

/// A wildcard takes in tables that are published later; privileges and row-level security count from then on.
#[tokio::test]
async fn what_is_granted_and_published_later() -> Result<()> {
    let (server, db) = server().await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public"}])).await?;
    db.sql(
        "create table public.later (id int primary key, v text); grant select on public.later to anon;
         alter publication supabase_realtime add table public.later; insert into public.later values (1, 'a')",
    )
    .await?;
    let change = socket.event(TOPIC, "postgres_changes").await?;
    assert_eq!(
        (&change["data"]["table"], &change["data"]["record"]),
        (&json!("later"), &json!({"id": 1, "v": "a"}))
    );

    db.sql("revoke select on public.later from anon; grant select (id) on public.later to anon; insert into public.later values (2, 'b')").await?;
    assert_eq!(socket.event(TOPIC, "postgres_changes").await?["data"]["record"], json!({"id": 2}));

    db.sql(
        "alter table public.later enable row level security; insert into public.later values (3, 'c');
         insert into public.test (details) values ('mark')",
    )
    .await?;
    let change = socket.event(TOPIC, "postgres_changes").await?;
    assert_eq!(change["data"]["table"], "test", "no policy lets the role see the row");
    Ok(())
}

/// A filter on a column that is dropped ends that subscription alone, and its channel is told.
#[tokio::test]
async fn a_filter_whose_column_is_dropped() -> Result<()> {
    let (server, db) = server().await?;
    let mut filtered = server.socket(Version::V2, "anon").await?;
    filtered.watch(TOPIC, json!([{"schema": "public", "table": "test", "filter": "details=eq.x"}])).await?;
    let mut plain = server.socket(Version::V2, "anon").await?;
    plain.watch(TOPIC, json!([{"schema": "public", "table": "test"}])).await?;
    db.sql("alter table public.test drop column details; insert into public.test default values").await?;
    plain.event(TOPIC, "postgres_changes").await?;
    let system = filtered.event(TOPIC, "system").await?;
    assert_eq!(system["status"], "warning");
    assert!(
        system["message"].as_str().unwrap_or_default().ends_with("invalid column for filter details"),
        "{system}"
    );
    Ok(())
}

/// Decision 2: a lost connection is told, and then that changes come again; and they do.
#[tokio::test]
async fn a_lost_connection_is_told_and_mended() -> Result<()> {
    let (server, db) = server().await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public"}])).await?;
    for round in 0..2 {
        db.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and backend_type = 'walsender'",
        )
        .await?;
        let gap = socket.event(TOPIC, "system").await?;
        assert_eq!(gap["status"], "gap");
        assert!(gap["message"].as_str().unwrap_or_default().contains("may have been missed"), "{gap}");
        assert_eq!(socket.event(TOPIC, "system").await?["message"], "Subscribed to PostgreSQL");
        db.sql(&format!("insert into public.test (details) values ('{round}')")).await?;
        let change = socket.event(TOPIC, "postgres_changes").await?;
        assert_eq!(change["data"]["record"]["details"], json!(round.to_string()));
    }
    Ok(())
}

/// postgres_changes 112: who leaves gets nothing more, and others do.
#[tokio::test]
async fn leaving_ends_the_subscription() -> Result<()> {
    let (server, db) = server().await?;
    let mut leaver = server.socket(Version::V2, "anon").await?;
    leaver.watch(TOPIC, json!([{"schema": "public"}])).await?;
    let mut stayer = server.socket(Version::V2, "anon").await?;
    stayer.watch(TOPIC, json!([{"schema": "public"}])).await?;
    leaver.send(Value::Null, json!("l"), TOPIC, "phx_leave", json!({})).await?;
    leaver.reply("l").await?;
    leaver.event(TOPIC, "phx_close").await?;
    db.sql("insert into public.test (details) values ('x')").await?;
    stayer.event(TOPIC, "postgres_changes").await?;
    assert!(leaver.settle().await?.is_empty());
    Ok(())
}

/// protocol 74 to 76 for public channels, and the second confirmation of 5.6
#[tokio::test]
async fn new_tokens() -> Result<()> {
    let (server, db) = server().await?;
    db.sql("revoke all on public.test from anon").await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public", "table": "test"}])).await?;
    let push = |token: Value| json!({ "access_token": token });
    for ignored in [json!("sb_secret_x"), Value::Null, json!(5)] {
        socket.send(json!("1"), json!("t"), TOPIC, "access_token", push(ignored)).await?;
    }
    assert!(socket.settle().await?.is_empty());
    let token = sign(&json!({"role": "authenticated", "exp": unix_now() + 100}));
    socket.send(json!("1"), json!("t"), TOPIC, "access_token", push(json!(token))).await?;
    assert_eq!(socket.event(TOPIC, "system").await?["message"], "Subscribed to PostgreSQL");
    db.sql("insert into public.test (details) values ('as authenticated')").await?;
    let change = socket.event(TOPIC, "postgres_changes").await?;
    assert_eq!(change["data"]["record"]["details"], "as authenticated", "the new role may read");

    socket.send(json!("1"), json!("t"), TOPIC, "access_token", push(json!(""))).await?;
    let system = socket.event(TOPIC, "system").await?;
    let expected = json!({"extension": "system", "status": "error", "message": "The token provided is not a valid JWT", "channel": "any"});
    assert_eq!(system, expected);
    socket.event(TOPIC, "phx_close").await?;
    Ok(())
}

/// protocol 78: a token whose key is not known closes its channel, and the key is named
#[tokio::test]
async fn tokens_of_unknown_keys() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let options = ServerOptions::default().env("API_JWT_JWKS", r#"{"keys":[]}"#);
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.join(TOPIC, json!({"config": {}})).await?;
    // {"alg":"RS256","kid":"lost"} . {"role":"anon","exp":4102444800}
    let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6Imxvc3QifQ.eyJyb2xlIjoiYW5vbiIsImV4cCI6NDEwMjQ0NDgwMH0.c2ln";
    socket.send(json!("1"), json!("t"), TOPIC, "access_token", json!({ "access_token": token })).await?;
    let system = socket.event(TOPIC, "system").await?;
    let text = "Failed to generate JWT signer for key ID (kid) \"lost\", check your JWT secret or JWKS configuration";
    assert_eq!((&system["status"], &system["message"]), (&json!("error"), &json!(text)));
    socket.event(TOPIC, "phx_close").await?;
    assert!(socket.settle().await?.is_empty(), "and no phx_error");
    Ok(())
}

/// protocol 77: a token that expires closes its channel
#[tokio::test]
async fn tokens_expire() -> Result<()> {
    let (server, _db) = server().await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    // As soon as a busy machine lets it in at all.
    let mut soon = async |seconds: u64| {
        let token = sign(&json!({"role": "anon", "exp": unix_now() + seconds}));
        let (reply, _) = socket.join(TOPIC, json!({"config": {}, "access_token": token})).await?;
        anyhow::Ok(reply["status"] == "ok")
    };
    assert!(soon(2).await? || soon(20).await?, "it is not let in");
    let system = socket.event(TOPIC, "system").await?;
    assert!(system["message"].as_str().unwrap_or_default().starts_with("Token has expired"), "{system}");
    socket.event(TOPIC, "phx_close").await?;
    Ok(())
}

/// What the publication says counts (docs/differences.md): its column lists and row filters, and the root's
/// name for partitions; generated columns are not in the log before PostgreSQL 18.
#[tokio::test]
async fn publications_choose_rows_columns_and_names() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.part (id int primary key, v text) partition by range (id);
         create table public.part_1 partition of public.part for values from (0) to (100);
         grant select on public.part to anon;
         alter publication supabase_realtime add table public.part;
         alter publication supabase_realtime set (publish_via_partition_root = true);",
    )
    .await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public", "table": "part"}])).await?;
    db.sql("insert into public.part values (1, 'a')").await?;
    let data = socket.event(TOPIC, "postgres_changes").await?["data"].clone();
    assert_eq!((&data["table"], &data["record"]), (&json!("part"), &json!({"id": 1, "v": "a"})));

    let version: i32 =
        db.client().query_one("select current_setting('server_version_num')::int", &[]).await?.get(0);
    if version < 150_000 {
        // Column lists and row filters came with PostgreSQL 15.
        return Ok(());
    }
    db.sql(
        "create table public.chosen (id int primary key, shown text, kept text, twice int generated always as (id * 2) stored);
         grant select on public.chosen to anon;
         alter publication supabase_realtime add table public.chosen (id, shown) where (id > 10);",
    )
    .await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public", "table": "chosen"}])).await?;
    db.sql("insert into public.chosen values (5, 'no', 'x'), (11, 'yes', 'x')").await?;
    let data = socket.event(TOPIC, "postgres_changes").await?["data"].clone();
    assert_eq!(data["record"], json!({"id": 11, "shown": "yes"}));
    assert_eq!(data["columns"].as_array().map(Vec::len), Some(4));
    Ok(())
}

/// The log may have a commit before any snapshot sees it: a table is not read from the catalog, nor a row checked,
/// until it does.
#[tokio::test]
async fn commits_that_are_not_visible_yet() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.guarded (id int primary key); alter table public.guarded enable row level security;
         create policy every on public.guarded to anon using (true); grant select on public.guarded to anon;
         alter publication supabase_realtime add table public.guarded;",
    )
    .await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public"}])).await?;
    db.sql("insert into public.test (details) values ('known'); insert into public.guarded values (1)")
        .await?;
    socket.event(TOPIC, "postgres_changes").await?;
    socket.event(TOPIC, "postgres_changes").await?;
    for (statements, record) in [
        ("insert into public.guarded values (2)", json!({"id": 2})),
        (
            "alter table public.test add column extra int default 3; insert into public.test (details) values ('x')",
            json!({"id": 2, "details": "x", "binary_data": null, "extra": 3}),
        ),
        (
            "revoke select on public.test from anon; grant select (id) on public.test to anon; insert into public.test (details) values ('x')",
            json!({"id": 3}),
        ),
    ] {
        let writer = db.connect().await?;
        writer.batch_execute("set synchronous_commit = on").await?;
        let statements = statements.to_owned();
        let written = tokio::spawn(async move { writer.batch_execute(&statements).await });
        // Time enough for a check that does not wait to find nothing: no signal tells of it.
        tokio::time::sleep(tokio::time::Duration::from_millis(300)).await;
        let release = "select count(pg_cancel_backend(pid)) from pg_stat_activity
            where datname = current_database() and wait_event = 'SyncRep'";
        until("the writer waits", async || {
            Ok(db.client().query_one(release, &[]).await?.try_get::<_, i64>(0)? > 0)
        })
        .await?;
        written.await??;
        let data = socket.event(TOPIC, "postgres_changes").await?["data"].clone();
        assert_eq!(data["record"], record, "{data}");
    }
    Ok(())
}

/// postgres_changes 54, 56: changes are counted per subscription; when there are too many, those above the limit are
/// dropped, which is told once a second with their number
#[tokio::test]
async fn too_many_changes() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let options = ServerOptions::default().env("TENANT_MAX_EVENTS_PER_SECOND", "10");
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public"}])).await?;
    // Counts are looked at every five seconds: until then all pass. That may be in the middle of them.
    db.sql("insert into public.test (details) select 'early' from generate_series(1, 150)").await?;
    let (mut rows, mut dropped, mut written) = (0u64, 0u64, 150u64);
    let limited = async {
        while dropped == 0 {
            db.sql("insert into public.test (details) select 'more' from generate_series(1, 20)").await?;
            written += 20;
            for frame in socket.settle().await? {
                match &*frame.event {
                    "system" => {
                        let told = frame.payload;
                        assert_eq!(
                            (&told["status"], &told["code"]),
                            (&json!("warning"), &json!("MessagesDropped"))
                        );
                        assert_eq!(told["extension"], "postgres_changes");
                        dropped += told["count"].as_u64().unwrap_or_default();
                    }
                    _ => rows += 1,
                }
            }
            time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    time::timeout(2 * PATIENCE, limited).await??;
    assert!(rows >= 100, "{rows}");
    // Everything was delivered, or told.
    let counted = async {
        while rows + dropped < written {
            let frame = socket.frame().await?;
            match &*frame.event {
                "system" => dropped += frame.payload["count"].as_u64().unwrap_or_default(),
                _ => rows += 1,
            }
        }
        anyhow::Ok(())
    };
    time::timeout(PATIENCE, counted).await??;
    assert_eq!(rows + dropped, written);
    // A second later there is room for as many as the limit allows.
    let passes = async {
        loop {
            time::sleep(Duration::from_millis(1100)).await;
            db.sql("insert into public.test (details) values ('late')").await?;
            let late = |frame: &realtime_testkit::Frame| frame.payload["data"]["record"]["details"] == "late";
            if socket.settle().await?.iter().any(late) {
                return anyhow::Ok(());
            }
        }
    };
    time::timeout(PATIENCE, passes).await??;
    server.logged("MessagePerSecondRateLimitReached").await?;
    Ok(())
}

/// A client says how many channels and subscriptions it has: they use up nobody's limit.
#[tokio::test]
async fn many_subscriptions_of_one_client_drop_nobodys_changes() -> Result<()> {
    let (server, db) = server().await?;
    let mut watcher = server.socket(Version::V2, "anon").await?;
    watcher.watch(TOPIC, json!([{"schema": "public", "table": "test"}])).await?;
    let mut greedy = server.socket(Version::V1, "anon").await?;
    let topics: Vec<String> = (0..10).map(|n| format!("realtime:greedy-{n}")).collect();
    for topic in &topics {
        let binding = |n: i64| json!({"event": "*", "schema": "public", "table": "test", "filter": format!("id=gt.{}", -n)});
        greedy.watch(topic, (0..100).map(binding).collect()).await?;
    }
    // Counts are looked at every five seconds.
    for n in 0..30 {
        time::sleep(Duration::from_millis(250)).await;
        db.sql(&format!("insert into public.test (details) values ('{n}')")).await?;
    }
    let details = |frame: &Value| frame["data"]["record"]["details"].clone();
    for n in 0..30 {
        assert_eq!(details(&watcher.event(TOPIC, "postgres_changes").await?), json!(n.to_string()));
    }
    for topic in &topics {
        for n in 0..30 {
            assert_eq!(details(&greedy.event(topic, "postgres_changes").await?), json!(n.to_string()));
        }
    }
    Ok(())
}

/// More than an outbox holds, all at once: the log is not read faster than who reads on takes it. How long it waits, and
/// for whom, is shown in `patience::tests`.
#[tokio::test]
async fn a_burst_that_no_outbox_holds() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let options = ServerOptions::fast().env("METRICS_JWT_SECRET", SECRET);
    let server = Server::start(BINARY, &db, options).await?;
    let mut slow = server.socket(Version::V2, "anon").await?;
    slow.watch(TOPIC, json!([{"schema": "public"}])).await?;
    let rows = 30_000;
    db.sql(&format!(
        "insert into public.test (details) select repeat('x', 1000) from generate_series(1, {rows})"
    ))
    .await?;
    // It begins to read when more waits for it than the log is read ahead for.
    let full = async {
        while server.metric("realtime_client_memory_bytes").await? <= 5_000_000.0 {
            time::sleep(Duration::from_millis(2)).await;
        }
        anyhow::Ok(())
    };
    time::timeout(PATIENCE, full).await.context("no outbox was full")??;
    for id in 1..=rows {
        assert_eq!(slow.event(TOPIC, "postgres_changes").await?["data"]["record"]["id"], id);
    }
    Ok(())
}
