//! What can stop, delay or break the stream of row changes: channels are told, and it goes on.

use anyhow::{Context as _, Result};
use realtime_testkit::{Frame, PATIENCE, Server, ServerOptions, Socket, TestDb, Version};
use serde_json::{Value, json};
use tokio::time::{self, Duration};

use crate::{BINARY, server};

const TOPIC: &str = "realtime:any";

pub(crate) async fn watching(server: &Server, subscriptions: Value) -> Result<Socket> {
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, subscriptions).await?;
    Ok(socket)
}

/// The next notice: status, code and text.
pub(crate) async fn notice(socket: &mut Socket) -> Result<(String, String, String)> {
    let system = socket.event(TOPIC, "system").await?;
    let text = |key: &str| system[key].as_str().unwrap_or_default().to_owned();
    Ok((text("status"), text("code"), text("message")))
}

async fn subscribed(socket: &mut Socket) -> Result<()> {
    let (status, _, text) = notice(socket).await?;
    assert_eq!(status, "ok", "{text}");
    Ok(())
}

pub(crate) async fn details(socket: &mut Socket) -> Result<String> {
    let change = socket.event(TOPIC, "postgres_changes").await?;
    Ok(change["data"]["record"]["details"].as_str().unwrap_or_default().to_owned())
}

async fn insert(db: &TestDb, details: &str) -> Result<()> {
    db.sql(&format!("insert into public.test (details) values ('{details}')")).await
}

async fn until(db: &TestDb, sql: &str) -> Result<()> {
    let reached = async {
        while !db.client().query_one(sql, &[]).await?.get::<_, bool>(0) {
            time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    time::timeout(PATIENCE, reached).await.with_context(|| format!("never: {sql}"))?
}

/// A permanent slot of a test's own.
struct Durable {
    slot: String,
    options: ServerOptions,
}

impl Durable {
    fn of(db: &TestDb) -> Self {
        let suffix = db.name().trim_start_matches("test_")[..8].to_owned();
        let options = ServerOptions::default().env("SLOT_DURABLE", "true").env("SLOT_NAME_SUFFIX", &suffix);
        Self { slot: format!("supabase_realtime_replication_slot_{suffix}"), options }
    }

    async fn drop(&self, db: &TestDb) -> Result<()> {
        let slot = &self.slot;
        until(
            db,
            &format!(
                "select not exists (select from pg_replication_slots where slot_name = '{slot}' and active)"
            ),
        )
        .await?;
        db.sql(&format!("select pg_drop_replication_slot('{slot}')")).await
    }
}

/// A change that the walsender cannot decode is left behind: told, logged with its position, and no storm of sessions.
#[tokio::test]
async fn a_change_that_cannot_be_decoded_is_left_behind() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let version: i32 =
        db.client().query_one("select current_setting('server_version_num')::int4", &[]).await?.get(0);
    if version < 150_000 {
        return Ok(());
    }
    let durable = Durable::of(&db);
    let server = Server::start(BINARY, &db, durable.options.clone()).await?;
    let mut socket = watching(&server, json!([{"schema": "public", "table": "test"}])).await?;
    db.sql("alter publication supabase_realtime set table public.test where (100 / (id - 50) <> 1000)")
        .await?;
    insert(&db, "before").await?;
    assert_eq!(details(&mut socket).await?, "before");
    db.sql("insert into public.test (id, details) values (50, 'poison')").await?;
    let (status, code, text) = notice(&mut socket).await?;
    assert_eq!((&*status, &*code), ("gap", "ChangeNotDecodable"), "{text}");
    subscribed(&mut socket).await?;
    insert(&db, "after").await?;
    assert_eq!(details(&mut socket).await?, "after");
    let log = server.log();
    assert!(log.contains("ChangeNotDecodable"), "{log}");
    let lost = log.matches("replication session lost").count();
    assert!((2..=4).contains(&lost), "{lost} sessions were lost");
    server.stop().await?;
    durable.drop(&db).await
}

/// TRUNCATE is told once to each channel that watches one of the tables, whatever events it wants.
#[tokio::test]
async fn truncation_is_told() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.parent (id int primary key); create table public.child (id int references public.parent);
         create table public.root (id int) partition by range (id);
         create table public.part partition of public.root for values from (0) to (10);
         grant select on public.parent, public.child, public.root to anon;
         create publication roots for table public.root with (publish_via_partition_root = true);
         drop publication supabase_realtime;
         create publication supabase_realtime for table public.test, public.parent, public.child, public.root
            with (publish_via_partition_root = true)",
    )
    .await?;
    let mut of_test =
        watching(&server, json!([{"event": "INSERT", "schema": "public", "table": "test"}])).await?;
    let mut of_both = watching(
        &server,
        json!([{"schema": "public", "table": "parent"}, {"event": "DELETE", "schema": "public", "table": "child"}]),
    )
    .await?;
    let mut of_root = watching(&server, json!([{"schema": "public", "table": "root"}])).await?;

    db.sql("insert into public.test (details) values ('last'); truncate public.test").await?;
    let frame = of_test.expect(|frame| frame.topic == TOPIC && frame.event != "phx_reply").await?;
    assert_eq!(frame.event, "postgres_changes", "what came before is told before");
    let (status, code, text) = notice(&mut of_test).await?;
    assert_eq!((&*status, &*code), ("gap", "Truncated"));
    assert!(text.contains("public.test"), "{text}");

    db.sql("truncate public.parent cascade").await?;
    let (status, code, text) = notice(&mut of_both).await?;
    assert_eq!((&*status, &*code), ("gap", "Truncated"));
    assert!(text.contains("public.parent") && text.contains("public.child"), "{text}");

    db.sql("insert into public.root values (1); truncate public.root").await?;
    let (status, code, text) = notice(&mut of_root).await?;
    assert_eq!((&*status, &*code), ("gap", "Truncated"));
    assert!(text.contains("public.root"), "{text}");

    insert(&db, "witness").await?;
    assert_eq!(details(&mut of_test).await?, "witness");
    for socket in [&mut of_test, &mut of_both, &mut of_root] {
        let more = socket.settle().await?;
        assert!(!more.iter().any(|frame: &Frame| frame.event == "system"), "{more:#?}");
    }
    Ok(())
}

/// A row that waits for a lock: the channels are told after five seconds, and when it goes on.
#[tokio::test]
async fn a_row_that_waits_for_a_lock_is_told() -> Result<()> {
    // No slot of the cluster can be made while the lock is held.
    let db = TestDb::alone().await?;
    db.make_fixture_a().await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    db.sql(
        "create table public.members (id int); insert into public.members values (1); grant select on public.members to anon;
         alter table public.test enable row level security;
         create policy p on public.test using (exists (select from public.members))",
    )
    .await?;
    let mut socket = watching(&server, json!([{"schema": "public", "table": "test"}])).await?;
    insert(&db, "before").await?;
    assert_eq!(details(&mut socket).await?, "before");
    let holder = db.connect().await?;
    holder.batch_execute("begin; lock table public.members in access exclusive mode").await?;
    insert(&db, "locked").await?;
    let (status, code, text) = notice(&mut socket).await?;
    assert_eq!((&*status, &*code), ("warning", "ChangesDelayed"), "{text}");
    assert!(!socket.settle().await?.iter().any(|frame: &Frame| frame.event == "postgres_changes"));
    holder.batch_execute("rollback").await?;
    assert_eq!(details(&mut socket).await?, "locked");
    subscribed(&mut socket).await?;
    server.logged("ChangesDelayed").await?;
    Ok(())
}

/// A long transaction makes the slot keep the log, however well the session keeps up.
#[tokio::test]
async fn a_long_transaction_counts_as_lag() -> Result<()> {
    let db = TestDb::alone().await?;
    db.make_fixture_a().await?;
    let options = ServerOptions::default().env("MAX_REPLICATION_LAG_MB", "8");
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = watching(&server, json!([{"schema": "public", "table": "test"}])).await?;
    db.sql("create table public.filler (v text)").await?;
    let long = db.connect().await?;
    long.batch_execute("begin; insert into public.filler values ('x')").await?;
    let given_up = async {
        loop {
            db.sql("insert into public.filler select repeat(md5(random()::text), 30) from generate_series(1, 2000)")
                .await?;
            insert(&db, "keeps up").await?;
            let told = |frame: &Frame| frame.event == "system" && frame.payload["status"] == "gap";
            if let Some(frame) = socket.settle().await?.into_iter().find(told) {
                return anyhow::Ok(frame.payload);
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    let told = time::timeout(PATIENCE, given_up).await.context("it keeps the log")??;
    assert!(told["message"].as_str().unwrap_or_default().contains("given up"), "{told}");
    long.batch_execute("rollback").await?;
    loop {
        let (status, ..) = notice(&mut socket).await?;
        if status == "ok" {
            break;
        }
    }
    Ok(())
}

/// What was committed while the server was away comes to those who are back in time; others are told of the gap.
#[tokio::test]
async fn a_permanent_slot_waits_for_its_subscribers() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let durable = Durable::of(&db);
    let options = durable.options.clone().env("RESUME_DELAY_MS", "3000");
    let subscription = || json!([{"schema": "public", "table": "test"}]);
    let server = Server::start(BINARY, &db, options.clone()).await?;
    let mut socket = watching(&server, subscription()).await?;
    insert(&db, "0").await?;
    assert_eq!(details(&mut socket).await?, "0");
    server.stop().await?;
    for n in 1..=100 {
        insert(&db, &n.to_string()).await?;
    }
    db.sql(
        "create table public.quiet (id int primary key); grant select on public.quiet to anon;
            alter publication supabase_realtime add table public.quiet",
    )
    .await?;
    let server = Server::start(BINARY, &db, options).await?;
    // As clients do: some at once, some a second later.
    let mut first = watching(&server, subscription()).await?;
    time::sleep(Duration::from_secs(1)).await;
    let mut second = watching(&server, subscription()).await?;
    for socket in [&mut first, &mut second] {
        for n in 1..=100 {
            assert_eq!(details(socket).await?, n.to_string());
        }
        assert!(!socket.settle().await?.iter().any(|frame: &Frame| frame.event == "system"));
    }
    // They are past.
    let mut late = server.socket(Version::V2, "anon").await?;
    late.join(TOPIC, json!({"config": {"postgres_changes": subscription()}})).await?;
    let mut told = vec![notice(&mut late).await?, notice(&mut late).await?];
    told.sort();
    assert_eq!((&*told[0].0, &*told[0].1), ("gap", "ReadBeforeReturn"), "{told:?}");
    assert_eq!(told[1].0, "ok", "{told:?}");
    let mut quiet = watching(&server, json!([{"schema": "public", "table": "quiet"}])).await?;
    insert(&db, "after").await?;
    for socket in [&mut first, &mut second, &mut late] {
        assert_eq!(details(socket).await?, "after");
    }
    assert!(
        !quiet.settle().await?.iter().any(|frame: &Frame| frame.event == "system"),
        "nothing of its table"
    );
    server.stop().await?;
    durable.drop(&db).await
}

/// The delay is for the time after the start. A session that is lost later goes on at once.
#[tokio::test]
async fn a_session_that_is_lost_later_waits_for_nobody() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let durable = Durable::of(&db);
    // Longer than the test is patient.
    let options = durable.options.clone().env("RESUME_DELAY_MS", "3600000");
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = watching(&server, json!([{"schema": "public", "table": "test"}])).await?;
    insert(&db, "0").await?;
    assert_eq!(details(&mut socket).await?, "0");
    let slot = &durable.slot;
    db.sql(&format!(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}'"
    ))
    .await?;
    insert(&db, "1").await?;
    assert_eq!(details(&mut socket).await?, "1");
    server.stop().await?;
    durable.drop(&db).await
}

/// Rows whose key is not in the log, because it is generated or not published, are judged and delivered.
#[tokio::test]
async fn rows_without_their_key_in_the_log_are_delivered() -> Result<()> {
    rows_without_their_key("n < 10").await
}

/// The same where the policy is not compiled, but asked.
#[tokio::test]
async fn rows_without_their_key_in_the_log_are_asked_about() -> Result<()> {
    rows_without_their_key("(n::text || '')::int < 10").await
}

async fn rows_without_their_key(policy: &str) -> Result<()> {
    let (server, db) = server().await?;
    db.sql(&format!(
        "create table public.g (n int, id int primary key generated always as (n * 2) stored);
         create table public.k (id int primary key, n int);
         alter table public.g enable row level security; create policy p on public.g using ({policy});
         alter table public.k enable row level security; create policy p on public.k using ({policy});
         grant select on public.g, public.k to anon;
         drop publication supabase_realtime;
         create publication supabase_realtime for table public.g, public.k, public.test with (publish = 'insert')",
    ))
    .await?;
    let mut of_g = watching(&server, json!([{"schema": "public", "table": "g"}])).await?;
    let mut of_k = watching(&server, json!([{"schema": "public", "table": "k"}])).await?;
    db.sql("insert into public.g values (11), (1); insert into public.k values (11, 11), (1, 1)").await?;
    for socket in [&mut of_g, &mut of_k] {
        assert_eq!(socket.event(TOPIC, "postgres_changes").await?["data"]["record"]["n"], 1);
    }
    let version: i32 =
        db.client().query_one("select current_setting('server_version_num')::int4", &[]).await?.get(0);
    if version >= 150_000 {
        db.sql(
            "alter publication supabase_realtime set table public.g, public.test, public.k (n);
             insert into public.k values (12, 12), (2, 2)",
        )
        .await?;
        let data = of_k.event(TOPIC, "postgres_changes").await?["data"].clone();
        assert_eq!(data["record"], json!({"n": 2}));
    }
    Ok(())
}

/// While the catalog cannot be read, who joins is answered; what waited comes when it can.
#[tokio::test]
async fn who_joins_while_the_catalog_cannot_be_read_is_answered() -> Result<()> {
    const TIMES: usize = 40;
    let db = TestDb::with_fixture_a().await?;
    let options = ServerOptions::default().env("FAILPOINTS", &format!("relation_asked={TIMES}*error"));
    let server = Server::start(BINARY, &db, options).await?;
    let subscription = json!([{"schema": "public", "table": "test"}]);
    let mut first = watching(&server, subscription.clone()).await?;
    insert(&db, "waits").await?;
    server.logged("CheckOidsError").await?;
    let mut second = server.socket(Version::V2, "anon").await?;
    let (reply, _) = second.join(TOPIC, json!({"config": {"postgres_changes": subscription}})).await?;
    assert_eq!(reply["status"], "ok");
    let told = notice(&mut second).await?;
    let tries = server.log().matches("cannot read the catalog; retrying").count();
    assert!((2..TIMES).contains(&tries), "{tries}: {told:?}");
    assert_eq!(told.0, "error", "{told:?}");
    assert_eq!(details(&mut first).await?, "waits");
    second.expect(|frame| frame.payload["message"] == "Subscribed to PostgreSQL").await?;
    insert(&db, "goes on").await?;
    for socket in [&mut first, &mut second] {
        while details(socket).await? != "goes on" {}
    }
    Ok(())
}

/// Channels that were told of a limit are told of its end, also while rows that nobody wants go on to come.
#[tokio::test]
async fn what_is_dropped_is_told_under_load() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let options = ServerOptions::default().env("TENANT_MAX_EVENTS_PER_SECOND", "10");
    let server = Server::start(BINARY, &db, options).await?;
    db.sql("create table public.other (id serial primary key); alter publication supabase_realtime add table public.other")
        .await?;
    let mut socket = watching(&server, json!([{"schema": "public", "table": "test"}])).await?;
    let loading = db.connect().await?;
    // Rows that nobody wants go on to come: what is to be told must not be put off by them.
    let load = async {
        loop {
            loading.batch_execute("insert into public.other default values").await?;
        }
        #[expect(unreachable_code, reason = "it gives the loop its type")]
        anyhow::Ok(())
    };
    let limited = async {
        loop {
            db.sql("insert into public.test (details) select 'x' from generate_series(1, 50)").await?;
            if socket.settle().await?.iter().any(|frame| frame.payload["code"] == "MessagesDropped") {
                return anyhow::Ok(());
            }
            time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        loaded = load => loaded?,
        limited = time::timeout(PATIENCE, limited) => limited.context("never told")??,
    }
    Ok(())
}
