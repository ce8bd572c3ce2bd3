//! What becomes of the permanent slots when the node is gone that has read them.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use realtime_testkit::{Frame, Socket, TestDb, Version, token, until};
use serde_json::{Value, json};
use tokio::time::{self, Duration};

use super::Nodes;

const TOPIC: &str = "realtime:db";

/// What is said of a slot that somebody reads, when it is to be read by another node.
const LOOKS: &str = "select exists (select from pg_stat_activity
    where backend_start > $1::text::timestamptz and query like '%wal_status = ''lost''%' and pid <> pg_backend_pid())";

/// Whether a query says true.
async fn is_so(db: &TestDb, sql: &str) -> Result<bool> {
    Ok(db.client().query_one(sql, &[]).await?.try_get(0)?)
}

/// A client of a node that goes on at a place.
async fn back(nodes: &Nodes, node: usize, since: &Value) -> Result<Socket> {
    let mut socket = Socket::connect(nodes.nodes[node].port(), Version::V2, &token("anon")).await?;
    let entry = json!({"event": "INSERT", "schema": "public", "table": "test", "since": since});
    let (reply, _) = socket.join(TOPIC, json!({"config": {"postgres_changes": [entry]}})).await?;
    ensure!(reply["status"] == "ok", "{reply}");
    Ok(socket)
}

/// The rows that come until one has come, and the codes of gaps in row changes that were told.
async fn until_row(socket: &mut Socket, last: i64) -> Result<(Vec<i64>, Vec<Value>)> {
    let (mut rows, mut gaps) = (Vec::new(), Vec::new());
    while rows.last() != Some(&last) {
        let Frame { event, payload, .. } = socket.frame().await?;
        if event == "postgres_changes" {
            rows.push(payload["data"]["record"]["id"].as_i64().context("id")?);
        } else if payload["status"] == "gap" && payload["extension"] == "postgres_changes" {
            gaps.push(payload["code"].clone());
        }
    }
    Ok((rows, gaps))
}

/// A node is cut off while the one that reads goes on and confirms what that node has not had. When it takes the slot over
/// it begins behind that: its clients are told.
#[tokio::test]
async fn a_node_that_was_left_behind_tells_of_the_gap() -> Result<()> {
    let suffix = format!("{:08x}", rand::random::<u32>());
    let env: &[(&str, &str)] =
        &[("SLOT_DURABLE", "true"), ("SLOT_NAME_SUFFIX", &suffix), ("CLUSTER_NODE_TIMEOUT_MS", "3000")];
    let nodes = Nodes::start_with(2, env).await?;
    let mut watchers = [back(&nodes, 0, &Value::Null).await?, back(&nodes, 1, &Value::Null).await?];
    until("one reads", async || Ok(nodes.reads(0) || nodes.reads(1))).await?;
    let reader = usize::from(nodes.reads(1));
    let behind = 1 - reader;
    for watcher in &mut watchers {
        watcher.expect(|frame| frame.payload["message"] == "Subscribed to PostgreSQL").await?;
    }
    nodes.db.sql("insert into test (id, details) values (1, 'before')").await?;
    for watcher in &mut watchers {
        assert_eq!(until_row(watcher, 1).await?, (vec![1], vec![]));
    }
    nodes.links[behind].cut();
    nodes.db.sql("insert into test (id, details) values (2, 'meanwhile')").await?;
    until_row(&mut watchers[reader], 2).await?;
    let end: String =
        nodes.db.client().query_one("select pg_current_wal_lsn()::text", &[]).await?.try_get(0)?;
    let confirmed = format!(
        "select confirmed_flush_lsn >= '{end}' from pg_replication_slots where slot_name like '%\\_{suffix}'"
    );
    until("the other node is waited for no more", async || is_so(&nodes.db, &confirmed).await).await?;
    nodes.nodes[reader].signal(Signal::SIGKILL)?;
    nodes.links[behind].mend();
    until("it takes over", async || Ok(nodes.reads(behind))).await?;
    nodes.db.sql("insert into test (id, details) values (3, 'after')").await?;
    let (rows, gaps) = until_row(&mut watchers[behind], 3).await?;
    ensure!(rows == [3] && gaps == ["ReplicationConnectionDown"], "{rows:?}, told {gaps:?}");
    Ok(())
}

/// A node that has just come reads what was before it from the second slot. Another one reads that, and is killed: it is waited
/// for, and nothing is missing.
#[tokio::test]
async fn a_new_node_waits_for_the_slot_of_the_journal() -> Result<()> {
    let db = TestDb::alone().await?;
    db.make_fixture_a().await?;
    let dir = tempfile::tempdir()?;
    let held = dir.path().join("held");
    std::fs::write(&held, "")?;
    let suffix = format!("{:08x}", rand::random::<u32>());
    let env: &[(&str, &str)] = &[("SLOT_DURABLE", "true"), ("SLOT_NAME_SUFFIX", &suffix)];
    let mut nodes = Nodes::start_on(db, 1, env).await?;
    let mut first = back(&nodes, 0, &Value::Null).await?;
    first.expect(|frame| frame.payload["message"] == "Subscribed to PostgreSQL").await?;
    let of_journal = format!("from pg_replication_slots where slot_name like '%{suffix}\\_journal'");
    let is_made = format!("select exists (select {of_journal})");
    until("there is a slot for the journal", async || is_so(&nodes.db, &is_made).await).await?;
    // What came more than a second before is known to be older.
    nodes.db.sql("insert into test (id, details) values (1, 'old')").await?;
    nodes.db.sql("select pg_sleep(1.5)").await?;
    nodes.db.sql("insert into test (id, details) values (2, 'seen')").await?;
    let seen = first.expect(|frame| frame.payload["data"]["record"]["id"] == 2).await?;
    let since = seen.payload["data"]["commit_timestamp"].clone();
    drop(first);
    nodes.db.sql("insert into test (id, details) values (3, 'missed')").await?;

    let holds = format!("past_read=hold({})", held.display());
    let holding: Vec<(&str, &str)> = env.iter().copied().chain([("FAILPOINTS", holds.as_str())]).collect();
    nodes.add(&holding).await?;
    let is_read = format!("select exists (select {of_journal} and active)");
    until("it reads the slot of the journal", async || is_so(&nodes.db, &is_read).await).await?;
    let now: String = nodes.db.client().query_one("select clock_timestamp()::text", &[]).await?.try_get(0)?;
    nodes.add(env).await?;
    let looks = async || Ok(nodes.db.client().query_one(LOOKS, &[&now]).await?.try_get(0)?);
    until("another one looks for it", looks).await?;
    nodes.nodes[1].signal(Signal::SIGKILL)?;
    let line = nodes.nodes[2].logged("the journal has what came before the start").await?;
    ensure!(line.contains("changes="), "{line}");
    let mut socket = back(&nodes, 2, &since).await?;
    assert_eq!(until_row(&mut socket, 3).await?, (vec![2, 3], vec![]));
    nodes.db.sql("insert into test (id, details) values (4, 'live')").await?;
    assert_eq!(until_row(&mut socket, 4).await?, (vec![4], vec![]));
    Ok(())
}

/// The database is away for a while, for all nodes alike. Whoever reads first when it is back waits for the others, however often
/// they have tried in vain: nobody misses a row.
#[tokio::test]
async fn an_outage_of_the_database_costs_no_row() -> Result<()> {
    let suffix = format!("{:08x}", rand::random::<u32>());
    let nodes = Nodes::start_with(3, &[("SLOT_DURABLE", "true"), ("SLOT_NAME_SUFFIX", &suffix)]).await?;
    let mut watchers = Vec::new();
    for node in 0..3 {
        let mut watcher = back(&nodes, node, &Value::Null).await?;
        watcher.expect(|frame| frame.payload["message"] == "Subscribed to PostgreSQL").await?;
        watchers.push(watcher);
    }
    let name = nodes.db.name();
    let admin = realtime_testkit::cluster().await?.connect("postgres").await?;
    admin.batch_execute(&format!("alter database {name} allow_connections false")).await?;
    nodes
        .db
        .sql(
            "select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await?;
    // Pauses between attempts have doubled seven or eight times by then.
    time::sleep(Duration::from_secs(20)).await;
    admin.batch_execute(&format!("alter database {name} allow_connections true")).await?;
    for id in 1..=60 {
        nodes.db.sql(&format!("insert into test (id, details) values ({id}, 'after')")).await?;
        time::sleep(Duration::from_millis(250)).await;
    }
    for watcher in &mut watchers {
        let (rows, gaps) = until_row(watcher, 60).await?;
        ensure!(rows == (1..=60).collect::<Vec<_>>() && gaps.is_empty(), "{rows:?}, told {gaps:?}");
    }
    Ok(())
}
