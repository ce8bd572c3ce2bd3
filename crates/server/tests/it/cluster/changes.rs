//! One node reads the database for all.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use realtime_testkit::{PATIENCE, Socket, TestDb, Version, sign, unix_now, until};
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{self, Duration, Instant},
};

use super::Nodes;

const TOPIC: &str = "realtime:db";

impl Nodes {
    /// The node that reads the database.
    fn owner(&self) -> Option<usize> {
        (0..self.nodes.len()).find(|node| self.reads(*node))
    }

    /// Whether a node reads for all, as it has logged last.
    pub(super) fn reads(&self, node: usize) -> bool {
        let log = self.nodes[node].log();
        let last = log.lines().rfind(|line| line.contains("replication session"));
        last.is_some_and(|line| line.contains("reader=this node"))
    }

    async fn watch(&self, node: usize) -> Result<Socket> {
        let mut socket = self.nodes[node].socket(Version::V2, "anon").await?;
        socket.watch(TOPIC, json!([{"event": "*", "schema": "public", "table": "test"}])).await?;
        Ok(socket)
    }
}

/// Connections that read the log of the test's database.
pub(super) async fn walsenders(db: &TestDb) -> Result<i64> {
    let sql = "select count(*) from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
        where s.database = current_database()";
    Ok(db.client().query_one(sql, &[]).await?.get(0))
}

async fn ids(socket: &mut Socket, count: usize) -> Result<Vec<i64>> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let change = socket.event(TOPIC, "postgres_changes").await?;
        ids.push(change["data"]["record"]["id"].as_i64().context("id")?);
    }
    Ok(ids)
}

/// postgres_changes 57, 116: whatever node they are on, subscribers get every change in order, filtered and checked for
/// them; a single connection reads the log
#[tokio::test]
async fn one_node_reads_for_all() -> Result<()> {
    let nodes = Nodes::start(3).await?;
    nodes
        .db
        .sql(
            "create table public.mine (id int primary key, owner text);
             grant select on public.mine to authenticated;
             alter table public.mine enable row level security;
             create policy own on public.mine for select to authenticated
                 using (owner = (current_setting('request.jwt.claims', true)::jsonb ->> 'sub'));
             alter publication supabase_realtime add table public.mine;",
        )
        .await?;
    let mut watchers = Vec::new();
    for node in 0..3 {
        watchers.push(nodes.watch(node).await?);
    }
    assert_eq!(walsenders(&nodes.db).await?, 1);
    for n in 0..20 {
        let details = "x".repeat(n * 1000);
        nodes.db.sql(&format!("insert into test (details) values ('{details}'), ('second')")).await?;
    }
    // Larger than a message of NATS.
    nodes
        .db
        .sql(
            "insert into test (details) select string_agg(md5(n::text), '') from generate_series(1, 60000) n",
        )
        .await?;
    for watcher in &mut watchers {
        assert_eq!(ids(watcher, 41).await?, (1..=41).collect::<Vec<_>>());
    }
    // Who comes later knows the tables that were described before.
    let mut owners = Vec::new();
    for node in 0..3 {
        let claims = json!({"role": "authenticated", "sub": format!("u{node}"), "exp": unix_now() + 3600});
        let mut socket = Socket::connect(nodes.nodes[node].port(), Version::V2, &sign(&claims)).await?;
        socket.watch(TOPIC, json!([{"event": "INSERT", "schema": "public", "table": "mine"}])).await?;
        owners.push(socket);
    }
    nodes.db.sql("insert into mine select n, 'u' || (n % 3) from generate_series(0, 29) n").await?;
    for (node, socket) in owners.iter_mut().enumerate() {
        let expected: Vec<i64> = (0..30).filter(|n| n % 3 == node as i64).collect();
        assert_eq!(ids(socket, 10).await?, expected);
    }
    nodes.db.sql("delete from test where id < 3").await?;
    for watcher in &mut watchers {
        for id in [1, 2] {
            let change = watcher.event(TOPIC, "postgres_changes").await?;
            assert_eq!(change["data"]["old_record"]["id"], id);
        }
        assert_eq!(watcher.settle().await?, []);
    }
    assert_eq!(walsenders(&nodes.db).await?, 1);
    Ok(())
}

/// The node that reads is killed, stands still, loses NATS: another one reads within seconds, the gap is told, and there
/// are never two for all.
#[tokio::test]
async fn another_takes_over() -> Result<()> {
    let nodes = Nodes::start(3).await?;
    let mut watchers = Vec::new();
    for node in 0..3 {
        watchers.push(Some(nodes.watch(node).await?));
    }
    // Stands still.
    let frozen = nodes.owner().context("nobody reads")?;
    nodes.nodes[frozen].signal(Signal::SIGSTOP)?;
    let begun = Instant::now();
    for watcher in
        watchers.iter_mut().enumerate().filter(|(node, _)| *node != frozen).filter_map(|(_, w)| w.as_mut())
    {
        let told = watcher.event(TOPIC, "system").await?;
        assert_eq!((&told["status"], &told["extension"]), (&json!("gap"), &json!("postgres_changes")));
        watched_again(watcher).await?;
    }
    println!("after a freeze: {:?}", begun.elapsed());
    nodes.db.sql("insert into test (details) values ('while one stands still')").await?;
    for watcher in
        watchers.iter_mut().enumerate().filter(|(node, _)| *node != frozen).filter_map(|(_, w)| w.as_mut())
    {
        assert_eq!(ids(watcher, 1).await?, [1]);
    }
    nodes.nodes[frozen].signal(Signal::SIGCONT)?;
    let watcher = watchers[frozen].as_mut().context("watcher")?;
    assert_eq!(watcher.event(TOPIC, "system").await?["status"], "gap");
    watched_again(watcher).await?;
    nodes.see_each_other(3).await?;
    until("one reads", || async { Ok(walsenders(&nodes.db).await? == 1) }).await?;

    // Is killed.
    for watcher in watchers.iter_mut().flatten() {
        watcher.settle().await?;
    }
    until("one is known to read", || async { Ok(nodes.owner().is_some()) }).await?;
    let killed = nodes.owner().context("nobody reads")?;
    watchers[killed] = None;
    nodes.nodes[killed].signal(Signal::SIGKILL)?;
    let begun = Instant::now();
    for watcher in watchers.iter_mut().flatten() {
        assert_eq!(watcher.event(TOPIC, "system").await?["status"], "gap");
        watched_again(watcher).await?;
    }
    println!("after a kill: {:?}", begun.elapsed());
    nodes.db.sql("insert into test (details) values ('after a kill')").await?;
    for watcher in watchers.iter_mut().flatten() {
        assert_eq!(ids(watcher, 1).await?, [2]);
    }
    until("one reads", || async { Ok(walsenders(&nodes.db).await? == 1) }).await?;

    // Loses NATS: both sides read for themselves, until they are together again.
    until("one is known to read", || async { Ok((0..3).any(|node| node != killed && nodes.reads(node))) })
        .await?;
    let cut = (0..3).find(|node| *node != killed && nodes.reads(*node)).context("nobody reads")?;
    nodes.links[cut].cut();
    let other = 3 - killed - cut;
    let watcher = watchers[other].as_mut().context("watcher")?;
    loop {
        let told = watcher.event(TOPIC, "system").await?;
        if told["extension"] == "postgres_changes" && told["status"] == "gap" {
            break;
        }
    }
    watched_again(watcher).await?;
    nodes.db.sql("insert into test (details) values ('apart')").await?;
    for watcher in watchers.iter_mut().flatten() {
        assert_eq!(ids(watcher, 1).await?, [3]);
    }
    nodes.links[cut].mend();
    until("one reads", || async {
        nodes.db.sql("insert into test (details) values ('together')").await?;
        time::sleep(Duration::from_millis(200)).await;
        Ok(walsenders(&nodes.db).await? == 1)
    })
    .await?;
    // Whoever went over from one stream to the other missed nothing and got nothing twice.
    let last: i32 = nodes.db.client().query_one("select max(id) from test", &[]).await?.get(0);
    for watcher in watchers.iter_mut().flatten() {
        assert_eq!(ids(watcher, last as usize - 3).await?, (4..=i64::from(last)).collect::<Vec<_>>());
    }
    Ok(())
}

async fn watched_again(watcher: &mut Socket) -> Result<()> {
    watcher
        .expect(|frame| {
            frame.event == "system"
                && frame.payload["extension"] == "postgres_changes"
                && frame.payload["status"] == "ok"
        })
        .await?;
    Ok(())
}

/// What a watcher has got, written down until its socket ends.
#[derive(Default)]
struct Notes {
    ids: Mutex<Vec<i64>>,
    gaps: Mutex<Vec<String>>,
    ended: AtomicBool,
}

fn note(mut socket: Socket) -> (Arc<Notes>, JoinHandle<()>) {
    let notes = Arc::new(Notes::default());
    let kept = Arc::clone(&notes);
    let task = tokio::spawn(async move {
        while let Ok(Ok(frame)) = time::timeout(PATIENCE * 10, socket.frame()).await {
            if frame.event == "postgres_changes" {
                kept.ids.lock().extend(frame.payload["data"]["record"]["id"].as_i64());
            } else if frame.event == "system" && frame.payload["status"] == "gap" {
                kept.gaps.lock().push(frame.payload["message"].to_string());
            }
        }
        kept.ended.store(true, Ordering::SeqCst);
    });
    (notes, task)
}

/// With a permanent slot no change is lost and none comes twice to those whose node lives, across ten changes of the node
/// that reads, killed and ended in turn, under a steady load.
#[tokio::test]
async fn ten_owners_and_no_change_lost() -> Result<()> {
    // Names of slots are those of the whole cluster of databases, which other tests use too.
    let suffix = format!("{:08x}", rand::random::<u32>());
    let env: &[(&str, &str)] = &[("SLOT_DURABLE", "true"), ("SLOT_NAME_SUFFIX", &suffix)];
    let mut nodes = Nodes::start_with(3, env).await?;
    let mut notes = Vec::new();
    for node in 0..3 {
        notes.push(note(nodes.watch(node).await?).0);
    }
    let mut all = notes.clone();
    let written = Arc::new(AtomicI64::new(0));
    let enough = Arc::new(AtomicBool::new(false));
    let writer = {
        let (client, written, enough) =
            (nodes.db.connect().await?, Arc::clone(&written), Arc::clone(&enough));
        tokio::spawn(async move {
            while !enough.load(Ordering::SeqCst) {
                let row =
                    client.query_one("insert into test (details) values ('x') returning id", &[]).await?;
                written.store(i64::from(row.get::<_, i32>(0)), Ordering::SeqCst);
                time::sleep(Duration::from_millis(3)).await;
            }
            Ok::<_, tokio_postgres::Error>(())
        })
    };
    let reached = |notes: Vec<Arc<Notes>>, id: i64| async move {
        until("everybody has got what was written", || async {
            Ok(notes.iter().all(|notes| notes.ids.lock().last().is_some_and(|last| *last >= id)))
        })
        .await
    };
    for change in 0..10 {
        until("somebody reads", || async { Ok(nodes.owner().is_some()) }).await?;
        reached(notes.clone(), written.load(Ordering::SeqCst))
            .await
            .with_context(|| format!("change {change}"))?;
        let owner = nodes.owner().context("nobody reads")?;
        let old = nodes.nodes.remove(owner);
        nodes.links.remove(owner);
        notes.remove(owner);
        if change % 2 == 0 {
            old.signal(Signal::SIGKILL)?;
        } else {
            old.stop().await?;
        }
        until("another reads", || async { Ok(nodes.owner().is_some()) })
            .await
            .with_context(|| format!("change {change}"))?;
        nodes.add(env).await?;
        let newcomer = note(nodes.watch(2).await?).0;
        notes.push(Arc::clone(&newcomer));
        all.push(newcomer);
    }
    until("enough was written", || async { Ok(written.load(Ordering::SeqCst) > 1000) }).await?;
    // Who came last has to hear something before there is nothing more to hear.
    reached(notes.clone(), written.load(Ordering::SeqCst) + 1).await?;
    enough.store(true, Ordering::SeqCst);
    writer.await??;
    let last = written.load(Ordering::SeqCst);
    reached(notes.clone(), last).await?;
    println!("{last} rows written");
    for (number, notes) in all.iter().enumerate() {
        let ids = notes.ids.lock().clone();
        let gaps = notes.gaps.lock().clone();
        println!("watcher {number}: {:?} to {:?}, {gaps:?}", ids.first(), ids.last());
        let hole = ids.windows(2).find(|pair| pair[1] != pair[0] + 1);
        assert_eq!(hole, None, "watcher {number}: lost, twice, or out of order; told {gaps:?}");
        assert!(gaps.iter().all(|gap| !gap.contains("changes may have been missed")), "{gaps:?}");
    }
    assert_eq!(walsenders(&nodes.db).await?, 1);
    Ok(())
}
