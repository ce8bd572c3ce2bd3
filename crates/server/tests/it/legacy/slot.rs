//! The replication slot: what is resumed, what comes again, what is given up.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use realtime_pgoutput::Lsn;
use realtime_testkit::{PATIENCE, Server, Socket, TestDb};
use tokio::{
    task::JoinHandle,
    time::{self, Instant},
};

use super::{drop_slot, joined, logged, logged_times, server, streaming, users, with_users};

/// Before a slot is read that was there before: long enough for a client to come back on a busy machine.
const RESUME: (&str, &str) = ("LEGACY_RESUME_DELAY_MS", "10000");

async fn ids(socket: &mut Socket, count: usize) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let change = socket.event("realtime:*", "INSERT").await?;
        ids.push(change["record"]["id"].as_str().context("id")?.to_owned());
    }
    Ok(ids)
}

/// Where the only slot of the database is confirmed.
async fn confirmed(db: &TestDb) -> Result<Lsn> {
    let sql =
        "select confirmed_flush_lsn::text from pg_replication_slots where database = current_database()";
    Ok(db.client().query_one(sql, &[]).await?.try_get::<_, String>(0)?.parse()?)
}

/// End of the log.
async fn log_end(client: &tokio_postgres::Client) -> Result<Lsn> {
    let sql = "select pg_current_wal_insert_lsn()::text";
    Ok(client.query_one(sql, &[]).await?.try_get::<_, String>(0)?.parse()?)
}

/// legacy 38, 39
#[tokio::test]
async fn a_permanent_slot_resumes() -> Result<()> {
    let db = users().await?;
    let slot = [("SLOT_NAME", "Mine"), RESUME];
    let first = streaming(&db, &slot).await?;
    let mut socket = joined(&first, &["realtime:*"]).await?;
    db.sql("insert into users values (0, 'a')").await?;
    ids(&mut socket, 1).await?;
    let end = log_end(db.client()).await?;
    let limit = Instant::now() + PATIENCE;
    while confirmed(&db).await? < end {
        ensure!(Instant::now() < limit, "the position was not confirmed");
        time::sleep(Duration::from_millis(20)).await;
    }
    first.stop().await?;
    db.sql("insert into users values (1, 'b'); insert into users values (2, 'c'), (3, 'd')").await?;
    let second = server(&db, &slot).await?;
    let mut socket = joined(&second, &["realtime:*"]).await?;
    assert_eq!(ids(&mut socket, 3).await?, ["1", "2", "3"]);
    second.stop().await?;
    let sql = "select slot_name::text from pg_replication_slots where database = current_database()";
    assert_eq!(db.client().query_one(sql, &[]).await?.get::<_, String>(0), "mine");
    drop_slot(&db, "mine").await
}

/// legacy 38: a temporary slot knows nothing of what was committed while the server was away.
#[tokio::test]
async fn a_temporary_slot_does_not() -> Result<()> {
    let db = users().await?;
    streaming(&db, &[RESUME]).await?.stop().await?;
    db.sql("insert into users values (1, 'b')").await?;
    let second = server(&db, &[RESUME]).await?;
    let mut socket = joined(&second, &["realtime:*"]).await?;
    logged(&second, "reading the log").await?;
    db.sql("insert into users values (2, 'c')").await?;
    assert_eq!(ids(&mut socket, 1).await?, ["2"]);
    Ok(())
}

/// What a client hears until its connection breaks.
fn listen(mut socket: Socket, heard: Arc<Mutex<Vec<i64>>>) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(message) = socket.message().await {
            let Ok(text) = message.to_text() else { return };
            let Ok(frame) = serde_json::from_str::<serde_json::Value>(text) else { return };
            let id: Option<i64> = frame["payload"]["record"]["id"].as_str().and_then(|id| id.parse().ok());
            heard.lock().extend(id);
        }
    })
}

async fn wait_for(server: &Server, heard: &Mutex<Vec<i64>>, enough: impl Fn(&[i64]) -> bool) -> Result<()> {
    let limit = Instant::now() + PATIENCE;
    while !enough(&heard.lock()) {
        ensure!(Instant::now() < limit, "rows are missing: {}", server.log());
        time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// What a client of one server heard, and the position that was confirmed when that server was dead.
type Round = (Vec<i64>, Lsn);

/// Listens to a server and kills it in the middle of things, some of which are confirmed and some not.
async fn listen_and_kill(db: &TestDb, server: Server, client: Socket) -> Result<Round> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listening = listen(client, Arc::clone(&heard));
    wait_for(&server, &heard, |heard| heard.len() > 100).await?;
    let (before, limit) = (confirmed(db).await?, Instant::now() + PATIENCE);
    while confirmed(db).await? == before {
        ensure!(Instant::now() < limit, "nothing is confirmed");
        time::sleep(Duration::from_millis(3)).await;
    }
    let more = heard.lock().len() + 50;
    wait_for(&server, &heard, |heard| heard.len() > more).await?;
    server.kill().await?;
    listening.await?;
    let active = "select active from pg_replication_slots where database = current_database()";
    while db.client().query_one(active, &[]).await?.get::<_, bool>(0) {
        ensure!(Instant::now() < limit + PATIENCE, "the slot is still read");
        time::sleep(Duration::from_millis(5)).await;
    }
    let heard = std::mem::take(&mut *heard.lock());
    Ok((heard, confirmed(db).await?))
}

/// legacy 39: the server is killed between commits, while rows are written all the time. Every row arrives; twice only
/// those whose position was not confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_server_is_killed() -> Result<()> {
    let db = users().await?;
    let slot = [("SLOT_NAME", "killed"), RESUME];
    let ends: Arc<Mutex<HashMap<i64, Lsn>>> = Arc::default();
    let (writer, writes) = (db.connect().await?, Arc::clone(&ends));
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let first = streaming(&db, &slot).await?;
    // There before the first row: what nobody listens to is nobody's.
    let client = joined(&first, &["realtime:*"]).await?;
    let writing = tokio::spawn(async move {
        let mut id = 0_i64;
        while stopped.try_recv().is_err() {
            id += 1;
            writer.execute("insert into users values ($1, 'x')", &[&id]).await?;
            let end = log_end(&writer).await?;
            writes.lock().insert(id, end);
            time::sleep(Duration::from_millis(4)).await;
        }
        Ok::<_, anyhow::Error>(id)
    });
    let mut rounds = vec![listen_and_kill(&db, first, client).await?];
    let second = server(&db, &slot).await?;
    let client = joined(&second, &["realtime:*"]).await?;
    rounds.push(listen_and_kill(&db, second, client).await?);

    let last = server(&db, &slot).await?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    listen(joined(&last, &["realtime:*"]).await?, Arc::clone(&heard));
    wait_for(&last, &heard, |heard| !heard.is_empty()).await?;
    let _ = stop.send(());
    let written = writing.await??;
    wait_for(&last, &heard, |heard| heard.last() == Some(&written)).await?;
    rounds.push((std::mem::take(&mut *heard.lock()), Lsn(0)));
    last.stop().await?;
    drop_slot(&db, "killed").await?;

    let all: HashSet<i64> = rounds.iter().flat_map(|(heard, _)| heard).copied().collect();
    let missing: Vec<i64> = (1..=written).filter(|id| !all.contains(id)).collect();
    assert!(missing.is_empty(), "missing {missing:?} of {written}");
    let ends = ends.lock();
    for ((_, confirmed), (heard, _)) in rounds.iter().zip(&rounds[1..]) {
        assert!(heard.is_sorted_by(|a, b| a < b), "out of order");
        // The end of the log that the writer saw is that of its commit, or behind it.
        let again: Vec<_> = heard.iter().filter(|id| ends[id] <= *confirmed).collect();
        assert!(again.is_empty(), "{again:?} were confirmed and came again");
    }
    Ok(())
}

/// legacy 40
#[tokio::test]
async fn publications_come_and_go() -> Result<()> {
    let db = users().await?;
    db.sql("create table teams (id bigint primary key)").await?;
    for slot in [None, Some(("SLOT_NAME", "coming"))] {
        db.sql("drop publication if exists other; truncate users, teams").await?;
        let mut env = vec![("PUBLICATIONS", r#"["supabase_realtime", "other"]"#)];
        env.extend(slot);
        let server = server(&db, &env).await?;
        logged(&server, "publications do not exist").await?;
        assert!(
            server.log().contains("missing=\"other\"") || server.log().contains("missing=other"),
            "{}",
            server.log()
        );
        let mut socket = joined(&server, &["realtime:*"]).await?;
        db.sql("create publication other for table teams").await?;
        logged(&server, "reading the log").await?;
        db.sql("insert into users values (1, 'a'); insert into teams values (2)").await?;
        assert_eq!(ids(&mut socket, 2).await?, ["1", "2"]);

        db.sql("drop publication other; insert into teams values (3)").await?;
        logged_times(&server, "publications do not exist", 2).await?;
        db.sql("create publication other for table teams").await?;
        logged_times(&server, "reading the log", 2).await?;
        db.sql("insert into teams values (4)").await?;
        while ids(&mut socket, 1).await? != ["4"] {}
        server.stop().await?;
    }
    drop_slot(&db, "coming").await
}

/// legacy 41
#[tokio::test]
async fn a_slot_that_keeps_too_much_is_given_up() -> Result<()> {
    // The log is the cluster's, not the database's: others would fill it, too.
    let db = with_users(TestDb::alone().await?).await?;
    db.sql("create table noise (t text)").await?;
    let env = |limit, resume| [("SLOT_NAME", "heavy"), ("MAX_REPLICATION_LAG_MB", limit), resume];
    streaming(&db, &env("0", RESUME)).await?.stop().await?;
    let noise = "insert into noise select repeat(md5(i::text), 30) from generate_series(1, 3000) i";
    db.sql(&format!("insert into users values (1, 'a'); {noise}")).await?;
    let patient = server(&db, &env("0", RESUME)).await?;
    let mut socket = joined(&patient, &["realtime:*"]).await?;
    assert_eq!(ids(&mut socket, 1).await?, ["1"]);
    patient.kill().await?;

    db.sql(&format!("insert into users values (2, 'a'); {noise}; {noise}")).await?;
    let strict = server(&db, &env("1", ("LEGACY_RESUME_DELAY_MS", "0"))).await?;
    let mut socket = joined(&strict, &["realtime:*"]).await?;
    logged(&strict, "replication slot given up").await?;
    logged(&strict, "reading the log").await?;
    db.sql("insert into users values (3, 'a')").await?;
    assert_eq!(ids(&mut socket, 1).await?, ["3"]);
    strict.stop().await?;
    drop_slot(&db, "heavy").await
}

/// A connection that breaks costs nothing: what was handed over does not come again, the rest does.
#[tokio::test]
async fn broken_connections_are_mended() -> Result<()> {
    let db = users().await?;
    let server = streaming(&db, &[("SLOT_NAME", "mended")]).await?;
    let mut socket = joined(&server, &["realtime:*"]).await?;
    for round in 0..3 {
        let base = round * 100;
        db.sql(&format!("insert into users select i, 'x' from generate_series({base}, {}) i", base + 9))
            .await?;
        db.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where backend_type = 'walsender' and datname = current_database()",
        )
        .await?;
        db.sql(&format!("insert into users values ({}, 'y')", base + 50)).await?;
        let mut expected: Vec<String> = (base..base + 10).map(|id| id.to_string()).collect();
        expected.push((base + 50).to_string());
        assert_eq!(ids(&mut socket, 11).await?, expected);
    }
    server.stop().await?;
    drop_slot(&db, "mended").await
}

/// Servers that do not know of each other do not fight for a slot: one reads, the other is there for its end. With either
/// engine.
#[tokio::test]
async fn a_second_server_stands_by() -> Result<()> {
    for (engine, slot, reading) in
        [("STREAM", "spare", "reading the log"), ("RLS", "spare_rls", "replication session started")]
    {
        let db = users().await?;
        let env = [("SLOT_NAME", slot), ("REPLICATION_MODE", engine), ("LEGACY_RESUME_DELAY_MS", "0")];
        let first = server(&db, &env).await?;
        logged(&first, reading).await?;
        let second = server(&db, &env).await?;
        // More often than an attempt that ends the connection of a server that is taken for dead.
        logged_times(&second, "ReplicationSlotBeingUsed", 5).await?;
        assert!(second.log().contains("Another server reads the slot"), "{}", second.log());
        assert!(!second.log().contains(reading), "{}", second.log());
        if engine == "STREAM" {
            let mut socket = joined(&first, &["realtime:*"]).await?;
            db.sql("insert into users values (1, 'a')").await?;
            assert_eq!(ids(&mut socket, 1).await?, ["1"]);
        }
        assert_eq!(first.log().matches(reading).count(), 1, "it is left alone: {}", first.log());
        first.kill().await?;
        logged(&second, reading).await?;
        second.stop().await?;
        drop_slot(&db, slot).await?;
    }
    Ok(())
}
