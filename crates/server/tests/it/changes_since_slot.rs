//! The second slot of `SLOT_DURABLE`, with which the journal outlives a restart: what is told when it is of no use
//! (resume 3).

use anyhow::{Result, ensure};
use realtime_testkit::{Server, ServerOptions, TestDb, until};
use serde_json::{Value, json};

use crate::{
    BINARY,
    changes_since::{back, change},
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
