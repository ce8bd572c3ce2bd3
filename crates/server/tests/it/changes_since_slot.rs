//! The permanent slots of `SLOT_DURABLE`, with which the journal outlives lost connections and restarts, and what is told
//! when they are of no use (resume 3).

use anyhow::{Result, ensure};
use realtime_testkit::{PATIENCE, Server, ServerOptions, TestDb, until};
use serde_json::{Value, json};
use tokio::time::{self, Duration, Instant};

use crate::{
    BINARY,
    changes_images::event,
    changes_since::{back, change, doc, missed, shown},
};

fn options(suffix: &str) -> ServerOptions {
    ServerOptions::default()
        .env("SLOT_DURABLE", "true")
        .env("SLOT_NAME_SUFFIX", suffix)
        .env("RESUME_DELAY_MS", "0")
        .env("CHANGES_JOURNAL_SECONDS", "4")
}

async fn docs(db: &TestDb) -> Result<()> {
    db.sql(
        "create table docs (id int primary key, body text);
         alter publication supabase_realtime add table docs;
         grant select on docs to authenticated",
    )
    .await
}

/// How many slots there are whose names end so.
async fn slots(db: &TestDb, end: &str) -> Result<i64> {
    let sql = "select count(*) from pg_replication_slots where slot_name like '%' || $1";
    Ok(db.client().query_one(sql, &[&end]).await?.get(0))
}

/// JournalNotRead: the server starts all the same, and who comes back is told of the gap.
#[tokio::test]
async fn a_past_that_takes_too_long_is_told() -> Result<()> {
    let db = TestDb::alone().await?;
    docs(&db).await?;
    let server = Server::start(BINARY, &db, options("slow")).await?;
    let mut first = back(&server, "ann", "docs", &Value::Null).await?;
    until("there is a slot for the journal", async || Ok(slots(&db, "slow_journal").await? == 1)).await?;
    db.sql("insert into docs values (1, 'seen')").await?;
    let since = change(&mut first).await?["commit_timestamp"].clone();
    drop(first);
    server.stop().await?;
    db.sql("insert into docs values (2, 'missed')").await?;
    let server =
        Server::start(BINARY, &db, options("slow").env("FAILPOINTS", "past_read=delay(60000)")).await?;
    server.logged("JournalNotRead").await?;
    let mut socket = back(&server, "ann", "docs", &since).await?;
    let gap = socket.expect(|frame| frame.payload["status"] == "gap").await?.payload;
    ensure!(gap["code"] == "ChangesNotKept", "{gap}");
    db.sql("insert into docs values (3, 'live')").await?;
    while change(&mut socket).await?["record"]["id"] != json!(3) {}
    Ok(())
}

/// JournalSlotNotKept: there is no slot left. Row changes are read all the same, and the slot is made when there is one.
#[tokio::test]
async fn a_slot_that_cannot_be_made_is_told() -> Result<()> {
    let db = TestDb::alone().await?;
    docs(&db).await?;
    db.sql(
        "select pg_create_physical_replication_slot('other' || n)
         from generate_series(2, current_setting('max_replication_slots')::int) n",
    )
    .await?;
    let server = Server::start(BINARY, &db, options("full")).await?;
    let mut socket = back(&server, "ann", "docs", &Value::Null).await?;
    let line = server.logged("JournalSlotNotKept").await?;
    ensure!(line.contains("max_replication_slots"), "{line}");
    db.sql("insert into docs values (1, 'live')").await?;
    ensure!(change(&mut socket).await?["record"]["id"] == json!(1));
    ensure!(slots(&db, "full_journal").await? == 0);
    db.sql("select pg_drop_replication_slot('other2')").await?;
    until("there is a slot for the journal", async || Ok(slots(&db, "full_journal").await? == 1)).await
}

/// A connection that is lost while nothing happens makes no gap: what was read goes on where it was.
#[tokio::test]
async fn a_quiet_connection_that_is_lost_makes_no_gap() -> Result<()> {
    let db = TestDb::alone().await?;
    docs(&db).await?;
    let server = Server::start(BINARY, &db, options("quiet").env("CHANGES_JOURNAL_SECONDS", "300")).await?;
    let mut first = back(&server, "ann", "docs", &Value::Null).await?;
    db.sql("insert into docs values (1, 'seen')").await?;
    let since = change(&mut first).await?["commit_timestamp"].clone();
    db.sql("insert into docs values (2, 'missed')").await?;
    change(&mut first).await?;
    drop(first);
    let end: String = db.client().query_one("select pg_current_wal_lsn()::text", &[]).await?.try_get(0)?;
    let confirmed = format!(
        "select confirmed_flush_lsn >= '{end}' from pg_replication_slots where slot_name like '%\\_quiet'"
    );
    until("all of it is confirmed", async || Ok(db.client().query_one(&confirmed, &[]).await?.try_get(0)?))
        .await?;
    db.sql(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name like '%\\_quiet'",
    )
    .await?;
    let sessions = || server.log().matches("replication session started").count();
    until("it is read again", async || Ok(sessions() >= 2)).await?;
    let mut socket = back(&server, "ann", "docs", &since).await?;
    let row = |id: i32, body: &str| event("INSERT", json!({"id": id, "body": body}));
    assert_eq!(missed(&mut socket).await?, (vec![row(1, "seen"), row(2, "missed")], vec![]));
    db.sql("insert into docs values (3, 'live')").await?;
    assert_eq!(shown(&change(&mut socket).await?), row(3, "live"));
    Ok(())
}

/// resume 3: a permanent slot covers what came before the server was started, by places and by times.
#[tokio::test]
async fn a_restart_is_covered_by_a_permanent_slot() -> Result<()> {
    let db = TestDb::new().await?;
    db.sql(
        "create table docs (id int primary key, owner text, body text);
         create type mood as enum ('sad', 'glad');
         create table moods (id int primary key, mood mood, moods mood[]);
         alter publication supabase_realtime add table docs, moods;
         grant select on all tables in schema public to authenticated",
    )
    .await?;
    let suffix = db.name().trim_start_matches("test_")[..8].to_owned();
    let options = || {
        ServerOptions::default()
            .env("SLOT_DURABLE", "true")
            .env("SLOT_NAME_SUFFIX", &suffix)
            .env("RESUME_DELAY_MS", "0")
            .env("CHANGES_JOURNAL_SECONDS", "4")
    };
    let slot = format!("supabase_realtime_replication_slot_{suffix}");
    let begins = async || -> Result<String> {
        let row = db.client().query_one("select coalesce((select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1), '')", &[&format!("{slot}_journal")]).await?;
        Ok(row.try_get(0)?)
    };
    let mut server = Server::start(BINARY, &db, options()).await?;
    let mut first = back(&server, "ann", "docs", &Value::Null).await?;
    let until = Instant::now() + PATIENCE;
    while begins().await?.is_empty() {
        ensure!(Instant::now() < until, "there is no slot for the journal");
        time::sleep(Duration::from_millis(50)).await;
    }
    // What came more than a second before is known to be older.
    db.sql("insert into docs values (0, 'ann', 'old')").await?;
    db.sql("select pg_sleep(2.5)").await?;
    db.sql("insert into docs values (1, 'ann', 'seen')").await?;
    change(&mut first).await?;
    let since = change(&mut first).await?["commit_timestamp"].clone();
    drop(first);
    db.sql("insert into docs values (2, 'ann', 'missed'); insert into moods values (1, 'sad', '{glad,sad}')")
        .await?;
    let mut expected = vec![event("INSERT", doc(1, "seen")), event("INSERT", doc(2, "missed"))];
    for (id, is_killed) in [(3, true), (4, false)] {
        if is_killed {
            server.kill().await?;
        } else {
            server.stop().await?;
        }
        db.sql(&format!("insert into docs values ({id}, 'ann', 'down')")).await?;
        server = Server::start(BINARY, &db, options()).await?;
        let mut socket = back(&server, "ann", "docs", &since).await?;
        let (came, told) = missed(&mut socket).await?;
        assert_eq!(told, Vec::<Value>::new());
        expected.push(event("INSERT", doc(id, "down")));
        assert_eq!(came, expected, "killed: {is_killed}");
        db.sql(&format!("insert into docs values ({id}0, 'ann', 'live')")).await?;
        expected.push(event("INSERT", doc(10 * id, "live")));
        assert_eq!(Some(&shown(&change(&mut socket).await?)), expected.last());
        let mut socket = back(&server, "ann", "moods", &since).await?;
        let moods = json!({"id": 1, "mood": "sad", "moods": ["glad", "sad"]});
        assert_eq!(missed(&mut socket).await?, (vec![event("INSERT", moods)], vec![]));
    }
    // The slot follows, and what is older is not kept.
    let begun = begins().await?;
    let until = Instant::now() + PATIENCE;
    while begins().await? == begun {
        ensure!(Instant::now() < until, "the slot for the journal stays where it was");
        db.sql("insert into docs values (200, 'ann', repeat('x', 1000)); delete from docs where id = 200")
            .await?;
        time::sleep(Duration::from_millis(200)).await;
    }
    server.stop().await?;
    let active = "select count(*) from pg_replication_slots where database = current_database() and active";
    realtime_testkit::until("the slots are let go", async || {
        Ok(db.client().query_one(active, &[]).await?.get::<_, i64>(0) == 0)
    })
    .await?;
    db.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()").await
}
