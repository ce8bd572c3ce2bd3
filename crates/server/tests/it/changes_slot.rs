//! Publications and slots while they are in use (postgres_changes 4.5, 5; cases 106 to 117).

use anyhow::{Context as _, Result};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version};
use serde_json::{Value, json};
use tokio::time::{self, Duration};

use crate::{BINARY, server};

const TOPIC: &str = "realtime:any";

async fn watching(server: &Server, subscription: Value) -> Result<Socket> {
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([subscription])).await?;
    Ok(socket)
}

/// A server that leaves the database as it is, so that nothing but row changes keeps a slot.
async fn server_of_row_changes() -> Result<(Server, TestDb)> {
    let db = TestDb::with_fixture_a().await?;
    let options = ServerOptions::default().env("PREPARE_DATABASES", "false");
    let server = Server::start(BINARY, &db, options).await?;
    Ok((server, db))
}

async fn details(socket: &mut Socket) -> Result<String> {
    let change = socket.event(TOPIC, "postgres_changes").await?;
    Ok(change["data"]["record"]["details"].as_str().unwrap_or_default().to_owned())
}

async fn insert(db: &TestDb, details: &str) -> Result<()> {
    db.sql(&format!("insert into public.test (details) values ('{details}')")).await
}

async fn told(socket: &mut Socket, status: &str) -> Result<String> {
    let system = socket.event(TOPIC, "system").await?;
    assert_eq!(system["status"], status, "{system}");
    Ok(system["message"].as_str().unwrap_or_default().to_owned())
}

/// One number of a query.
async fn number(db: &TestDb, sql: &str) -> Result<i64> {
    Ok(db.client().query_one(sql, &[]).await?.get(0))
}

const SLOTS: &str = "select count(*) from pg_replication_slots where database = current_database()";

/// Waits until a query gives a number.
async fn until(db: &TestDb, sql: &str, wanted: i64) -> Result<()> {
    let reached = async {
        while number(db, sql).await? != wanted {
            time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    time::timeout(PATIENCE, reached).await.with_context(|| format!("never {wanted}: {sql}"))?
}

/// postgres_changes 63, 106, 109: tables come and go, subscriptions stay, and everybody hears what concerns them
#[tokio::test]
async fn the_publication_is_altered() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.other (id int primary key, details text); grant select on public.other to anon;
         alter publication supabase_realtime add table public.other;",
    )
    .await?;
    let mut of_test = watching(&server, json!({"schema": "public", "table": "test"})).await?;
    let mut of_other = watching(&server, json!({"schema": "public", "table": "other"})).await?;
    let mut of_all = watching(&server, json!({"schema": "public"})).await?;
    let slots = "select string_agg(slot_name, ',')::text from pg_replication_slots where database = current_database()";
    let before: String = db.client().query_one(slots, &[]).await?.get(0);

    db.sql("alter publication supabase_realtime drop table public.other").await?;
    assert!(told(&mut of_other, "warning").await?.contains("table: other"));
    assert_eq!(told(&mut of_all, "ok").await?, "Subscribed to PostgreSQL");
    db.sql("insert into public.other values (1, 'unpublished')").await?;
    insert(&db, "still").await?;
    assert_eq!((details(&mut of_test).await?, details(&mut of_all).await?), ("still".into(), "still".into()));

    db.sql("alter publication supabase_realtime add table public.other").await?;
    assert_eq!(told(&mut of_other, "ok").await?, "Subscribed to PostgreSQL");
    assert_eq!(told(&mut of_all, "ok").await?, "Subscribed to PostgreSQL");
    db.sql("insert into public.other values (2, 'again')").await?;
    assert_eq!(
        (details(&mut of_other).await?, details(&mut of_all).await?),
        ("again".into(), "again".into())
    );
    assert!(of_test.settle().await?.is_empty(), "nothing of this concerns it");
    let after: String = db.client().query_one(slots, &[]).await?.get(0);
    assert_eq!(before, after, "the slot is not touched");
    Ok(())
}

/// postgres_changes 107: a publication is dropped and made again; the slot goes and comes with it
#[tokio::test]
async fn the_publication_is_dropped() -> Result<()> {
    let (server, db) = server_of_row_changes().await?;
    let mut socket = watching(&server, json!({"schema": "public", "table": "test"})).await?;
    db.sql("drop publication supabase_realtime").await?;
    assert!(told(&mut socket, "warning").await?.contains("Please check Realtime is enabled"));
    until(&db, SLOTS, 0).await?;
    insert(&db, "while there is none").await?;
    db.sql("create publication supabase_realtime for table public.test").await?;
    assert_eq!(told(&mut socket, "ok").await?, "Subscribed to PostgreSQL");
    insert(&db, "again").await?;
    assert_eq!(details(&mut socket).await?, "again");

    // Emptied is as good as dropped.
    db.sql("alter publication supabase_realtime drop table public.test").await?;
    told(&mut socket, "warning").await?;
    until(&db, SLOTS, 0).await?;
    db.sql("alter publication supabase_realtime add table public.test").await?;
    told(&mut socket, "ok").await?;
    insert(&db, "and again").await?;
    assert_eq!(details(&mut socket).await?, "and again");
    Ok(())
}

/// postgres_changes 108: no slot while nothing is published; who asked too early is subscribed when there is a table
#[tokio::test]
async fn the_publication_comes_later() -> Result<()> {
    let (server, db) = server_of_row_changes().await?;
    db.sql("alter publication supabase_realtime drop table public.test").await?;
    let mut early = server.socket(Version::V2, "anon").await?;
    let payload = json!({"config": {"postgres_changes": [{"schema": "public", "table": "test"}]}});
    early.join(TOPIC, payload.clone()).await?;
    assert!(told(&mut early, "error").await?.contains("Please check Realtime is enabled"));
    assert_eq!(number(&db, SLOTS).await?, 0);
    db.sql("alter publication supabase_realtime add table public.test").await?;
    // Another one's session tells of it at once, else it is looked for now and then.
    let mut late = watching(&server, json!({"schema": "public", "table": "test"})).await?;
    assert_eq!(told(&mut early, "ok").await?, "Subscribed to PostgreSQL");
    insert(&db, "seen").await?;
    assert_eq!((details(&mut early).await?, details(&mut late).await?), ("seen".into(), "seen".into()));

    // With a session running, a table that appears is found by the commit that published it.
    db.sql(
        "create table public.soon (id int primary key, details text); grant select on public.soon to anon",
    )
    .await?;
    let mut soon = server.socket(Version::V2, "anon").await?;
    let payload = json!({"config": {"postgres_changes": [{"schema": "public", "table": "soon"}]}});
    soon.join(TOPIC, payload).await?;
    told(&mut soon, "error").await?;
    db.sql("alter publication supabase_realtime add table public.soon").await?;
    told(&mut soon, "ok").await?;
    db.sql("insert into public.soon values (1, 'here')").await?;
    assert_eq!(details(&mut soon).await?, "here");
    Ok(())
}

/// Rights that no table tells of: attributes of roles count within a second or two.
#[tokio::test]
async fn roles_may_change() -> Result<()> {
    let (server, db) = server().await?;
    let role = format!("reader_{}", db.name());
    db.sql(&format!(
        "create role {role} nologin bypassrls; grant usage on schema public to {role};
         grant select on public.test to {role}; alter table public.test enable row level security;
         create table public.marks (id serial primary key, details text); grant select on public.marks to anon;
         alter publication supabase_realtime add table public.marks;"
    ))
    .await?;
    let mut socket = server.socket(Version::V2, &role).await?;
    socket.watch(TOPIC, json!([{"schema": "public", "table": "test"}])).await?;
    insert(&db, "bypassed").await?;
    assert_eq!(details(&mut socket).await?, "bypassed");
    db.sql(&format!("alter role {role} nobypassrls")).await?;
    // Who may see it tells that it was handed over.
    let mut witness = watching(&server, json!({"schema": "public", "table": "marks"})).await?;
    let hidden = async {
        loop {
            insert(&db, "perhaps").await?;
            db.sql("insert into public.marks (details) values ('mark')").await?;
            details(&mut witness).await?;
            if socket.settle().await?.is_empty() {
                return anyhow::Ok(());
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    };
    time::timeout(PATIENCE, hidden).await.context("rows go on to be shown")??;
    db.sql(&format!("drop owned by {role}; drop role {role}")).await?;
    Ok(())
}

/// postgres_changes 112, 114: one slot per tenant, and none when its last user has been gone for a while
#[tokio::test]
async fn the_slot_ends_with_the_last_subscriber() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let options = ServerOptions::default().env("REPLICATION_IDLE_STOP_MS", "300");
    let server = Server::start(BINARY, &db, options).await?;
    assert_eq!(number(&db, SLOTS).await?, 0, "nobody has asked yet");
    let sockets = [
        watching(&server, json!({"schema": "public"})).await?,
        watching(&server, json!({"schema": "public", "table": "test"})).await?,
    ];
    assert_eq!(number(&db, SLOTS).await?, 1);
    drop(sockets);
    until(&db, SLOTS, 0).await?;
    let walsenders = "select count(*) from pg_stat_activity where datname = current_database() and backend_type = 'walsender'";
    until(&db, walsenders, 0).await?;
    let mut socket = watching(&server, json!({"schema": "public"})).await?;
    insert(&db, "back").await?;
    assert_eq!(details(&mut socket).await?, "back");
    Ok(())
}

/// postgres_changes 117: a permanent slot, by its name; nothing committed while the connection or the server was
/// away is missing, and nothing comes twice
#[tokio::test]
async fn a_permanent_slot_goes_on_where_it_ended() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let suffix = db.name().trim_start_matches("test_")[..8].to_owned();
    let options = || ServerOptions::default().env("SLOT_DURABLE", "true").env("SLOT_NAME_SUFFIX", &suffix);
    let slot = format!("supabase_realtime_replication_slot_{suffix}");
    let server = Server::start(BINARY, &db, options()).await?;
    let active = format!(
        "select count(*) from pg_replication_slots where slot_name = '{slot}' and active and not temporary"
    );
    until(&db, &active, 1).await?;
    let mut socket = watching(&server, json!({"schema": "public"})).await?;
    insert(&db, "0").await?;
    assert_eq!(details(&mut socket).await?, "0");

    // The connection is lost again and again while rows are written.
    for round in 0..3 {
        db.sql(&format!(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}'"
        ))
        .await?;
        for n in 1..=20 {
            insert(&db, &(round * 20 + n).to_string()).await?;
        }
    }
    for n in 1..=60 {
        assert_eq!(details(&mut socket).await?, n.to_string());
    }
    assert!(socket.settle().await?.is_empty(), "no gap is told, and nothing comes twice");

    server.stop().await?;
    insert(&db, "while the server was away").await?;
    let server = Server::start(BINARY, &db, options()).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.join(TOPIC, json!({"config": {"postgres_changes": [{"schema": "public"}]}})).await?;
    told(&mut socket, "ok").await?;
    insert(&db, "after").await?;
    let last = details(&mut socket).await?;
    assert!(last == "after" || details(&mut socket).await? == "after", "who is there early sees both");

    // An operator drops the slot: it is made again, and the gap is told.
    let mut gone = false;
    while !gone {
        db.sql(&format!(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}'"
        ))
        .await?;
        gone = db.sql(&format!("select pg_drop_replication_slot('{slot}')")).await.is_ok();
    }
    let told = told(&mut socket, "gap").await?;
    assert!(told.contains("may have been missed"), "{told}");
    assert_eq!(socket.event(TOPIC, "system").await?["status"], "ok");
    insert(&db, "anew").await?;
    assert_eq!(details(&mut socket).await?, "anew");
    server.stop().await?;
    until(&db, &active, 0).await?;
    db.sql(&format!("select pg_drop_replication_slot('{slot}')")).await
}

/// postgres_changes 110, tenant_database 53: what cannot be prepared is tried again until it can
#[tokio::test]
async fn a_slot_that_cannot_be_made() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let suffix = db.name().trim_start_matches("test_")[..8].to_owned();
    let slot = format!("supabase_realtime_replication_slot_{suffix}");
    // The name is taken by a slot that is not ours to read.
    db.sql(&format!("select pg_create_physical_replication_slot('{slot}')")).await?;
    let options = ServerOptions::default().env("SLOT_DURABLE", "true").env("SLOT_NAME_SUFFIX", &suffix);
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.join(TOPIC, json!({"config": {"postgres_changes": [{"schema": "public"}]}})).await?;
    assert!(told(&mut socket, "error").await?.starts_with("{:error, "));
    db.sql(&format!("select pg_drop_replication_slot('{slot}')")).await?;
    while socket.event(TOPIC, "system").await?["status"] != "ok" {}
    insert(&db, "at last").await?;
    assert_eq!(details(&mut socket).await?, "at last");
    server.stop().await?;
    let active = format!("select count(*) from pg_replication_slots where slot_name = '{slot}' and active");
    until(&db, &active, 0).await?;
    db.sql(&format!("select pg_drop_replication_slot('{slot}')")).await
}

/// postgres_changes 111: a permanent slot that a dead connection of ours still holds is taken from it
#[tokio::test]
async fn a_slot_in_use_is_taken_over() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let suffix = db.name().trim_start_matches("test_")[..8].to_owned();
    let options = || ServerOptions::default().env("SLOT_DURABLE", "true").env("SLOT_NAME_SUFFIX", &suffix);
    let slot = format!("supabase_realtime_replication_slot_{suffix}");
    let holder = Server::start(BINARY, &db, options()).await?;
    let active = format!("select count(*) from pg_replication_slots where slot_name = '{slot}' and active");
    // It reads: a slot is active for a moment when it is made, too.
    let streaming = format!(
        "select count(*) from pg_stat_replication join pg_replication_slots on active_pid = pid
         where slot_name = '{slot}' and state = 'streaming'"
    );
    until(&db, &streaming, 1).await?;
    // It does not answer any more, and does not let go.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(holder.pid().try_into()?),
        nix::sys::signal::Signal::SIGSTOP,
    )?;
    let server = Server::start(BINARY, &db, options()).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.join(TOPIC, json!({"config": {"postgres_changes": [{"schema": "public"}]}})).await?;
    let mut last = Value::Null;
    let subscribed = async {
        while last["status"] != "ok" {
            last = socket.event(TOPIC, "system").await?;
        }
        anyhow::Ok(())
    };
    time::timeout(3 * PATIENCE, subscribed).await.context("never subscribed")??;
    insert(&db, "mine").await?;
    assert_eq!(details(&mut socket).await?, "mine");
    server.stop().await?;
    drop(holder);
    until(&db, &active, 0).await?;
    db.sql(&format!("select pg_drop_replication_slot('{slot}')")).await
}

/// A slot that keeps more of the log than it may is given up; the gap is told, and it goes on.
#[tokio::test]
async fn a_slot_too_far_behind_is_given_up() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let options = ServerOptions::default()
        .env("MAX_REPLICATION_LAG_MB", "1")
        .env("TENANT_MAX_EVENTS_PER_SECOND", "1000000");
    let server = Server::start(BINARY, &db, options).await?;
    // A policy so slow that a transaction takes some seconds to check, but by far not so slow as to be cut off: some
    // hundred rows are checked together, which may take two seconds.
    db.sql(
        "alter table public.test enable row level security;
         create policy slow on public.test using (pg_sleep(0.001) is not null);",
    )
    .await?;
    let mut socket = watching(&server, json!({"schema": "public"})).await?;
    db.sql("insert into public.test (details) select repeat('x', 1000) from generate_series(1, 5000)")
        .await?;
    let given_up = socket.event(TOPIC, "system").await?;
    assert!(given_up["message"].as_str().unwrap_or_default().contains("given up"), "{given_up}");
    told(&mut socket, "ok").await?;
    // What came before it is gone with the slot.
    while socket.settle().await?.iter().any(|frame| frame.event == "postgres_changes") {}
    // Tests beside this one fill the log, too: the slot may be given up once more.
    let marked = async {
        loop {
            insert(&db, "mark").await?;
            let frames = socket.settle().await?;
            if frames.iter().any(|frame| frame.payload["data"]["record"]["details"] == "mark") {
                return anyhow::Ok(());
            }
        }
    };
    time::timeout(PATIENCE, marked).await.context("rows do not come again")??;
    until(&db, SLOTS, 1).await?;
    server.logged("ReplicationSlotLagTooHigh").await?;
    Ok(())
}

/// How long nothing may be asked for a server to be idle: longer than the pauses of anything that it does from time to
/// time.
const IDLE: Duration = Duration::from_secs(12);

/// Nothing is asked while the log stands still.
#[tokio::test]
async fn an_idle_server_asks_nothing() -> Result<()> {
    // The log is the cluster's, not the database's.
    let db = TestDb::alone().await?;
    db.make_fixture_a().await?;
    // Its workers make the log grow.
    db.sql("alter system set autovacuum = off").await?;
    // Every statement is written down, with the name of who made it.
    db.sql("alter system set log_statement = 'all'").await?;
    db.sql("alter system set log_line_prefix = '%a %m '").await?;
    db.sql("select pg_reload_conf()").await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let mut socket = watching(&server, json!({"schema": "public"})).await?;
    insert(&db, "1").await?;
    assert_eq!(details(&mut socket).await?, "1");
    let asked = || -> Result<(Vec<String>, usize)> {
        let log = db.log()?;
        let lines = log.lines().filter(|line| line.starts_with("realtime")).map(str::to_owned);
        // The status page's question whether the database answers.
        let (looks, asked): (Vec<_>, Vec<_>) = lines.partition(|line| line.ends_with("statement: select 1"));
        Ok((asked, looks.len()))
    };
    assert!(!asked()?.0.is_empty(), "statements are written down");
    // The commit just made is looked at once more; then there is nothing to ask about.
    let ((mut last, mut looks), mut since) = (asked()?, time::Instant::now());
    let started = since;
    while since.elapsed() < IDLE {
        time::sleep(Duration::from_millis(200)).await;
        let now = asked()?;
        if now.0.len() != last.len() {
            ((last, looks), since) = (now, time::Instant::now());
        }
        let shown = &last[last.len().saturating_sub(20)..];
        assert!(started.elapsed() < PATIENCE, "it goes on asking: {shown:#?}");
    }
    // Every five seconds.
    let looks = asked()?.1 - looks;
    assert!(looks as u64 <= since.elapsed().as_secs() / 5 + 1, "{looks} looks in {:?}", since.elapsed());
    Ok(())
}
