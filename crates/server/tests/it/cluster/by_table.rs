//! A node gets the rows of the tables that its clients watch, and no others; whoever comes later misses nothing.

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use realtime_testkit::{Frame, Socket, Version, sign, unix_now, until};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{self, Duration},
};

use super::Nodes;

const TOPIC: &str = "realtime:tables";

/// Bytes of the text in a row, which is not compressible.
const TEXT: usize = 1_000;

impl Nodes {
    /// Makes published tables `t0` to `t9`.
    async fn make_tables(&self) -> Result<()> {
        for n in 0..10 {
            let sql = format!(
                "create table public.t{n} (id int primary key, body text);
                grant select on public.t{n} to anon;
                alter publication supabase_realtime add table public.t{n};"
            );
            self.db.sql(&sql).await?;
        }
        Ok(())
    }

    async fn watch_tables(&self, node: usize, tables: impl Iterator<Item = usize>) -> Result<Socket> {
        let mut socket = self.nodes[node].socket(Version::V2, "anon").await?;
        let wanted: Vec<Value> =
            tables.map(|n| json!({"event": "*", "schema": "public", "table": format!("t{n}")})).collect();
        socket.watch(TOPIC, json!(wanted)).await?;
        Ok(socket)
    }

    /// Waits until the nodes that follow have said what they do not want. Which they are.
    async fn followers(&self, left_out: usize) -> Result<Vec<usize>> {
        let mut followers = Vec::new();
        until("two nodes follow", || async { Ok((0..3).filter(|node| self.reads(*node)).count() == 1) })
            .await?;
        for node in (0..3).filter(|node| !self.reads(*node)) {
            until("tables are left out", || async {
                Ok(self.nodes[node].metric("realtime_changes_left_out_tables").await? >= left_out as f64)
            })
            .await?;
            followers.push(node);
        }
        Ok(followers)
    }
}

fn id(frame: &Frame) -> Result<i64> {
    frame.payload["data"]["record"]["id"].as_i64().context("id")
}

/// The next change; nothing is told meanwhile.
async fn change(socket: &mut Socket) -> Result<Frame> {
    let frame = socket
        .expect(|frame| {
            frame.event == "postgres_changes" || frame.event == "system" && frame.payload["status"] != "ok"
        })
        .await?;
    ensure!(frame.event == "postgres_changes", "{frame:?}");
    Ok(frame)
}

/// Ten tables, three nodes, each of which watches others.
#[tokio::test]
async fn a_node_gets_the_rows_of_its_tables() -> Result<()> {
    let nodes = Nodes::start(3).await?;
    nodes.make_tables().await?;
    let mine = |node: usize| if node == 2 { 6..10 } else { node * 3..node * 3 + 3 };
    let mut watchers = Vec::new();
    for node in 0..3 {
        watchers.push(nodes.watch_tables(node, mine(node)).await?);
    }
    let followers = nodes.followers(6).await?;
    let received = async |node: usize, what: &str| {
        nodes.nodes[node].metric(&format!("realtime_cluster_{what}_received")).await
    };
    let mut before = Vec::new();
    for node in 0..3 {
        before.push([received(node, "bytes").await?, received(node, "messages").await?]);
    }
    let rounds = 50;
    let text = "x".repeat(TEXT);
    for round in 0..rounds {
        for n in 0..10 {
            nodes.db.sql(&format!("insert into t{n} values ({round}, '{text}')")).await?;
        }
    }
    for (node, watcher) in watchers.iter_mut().enumerate() {
        for round in 0..rounds {
            for n in mine(node) {
                let frame = change(watcher).await?;
                let data = &frame.payload["data"];
                assert_eq!((&data["table"], &data["record"]["id"]), (&json!(format!("t{n}")), &json!(round)));
            }
        }
        assert_eq!(watcher.settle().await?, []);
    }
    let all = (rounds * 10 * TEXT) as f64;
    for node in followers {
        let own = (rounds * mine(node).len() * TEXT) as f64;
        let [bytes, messages] = before[node];
        let (bytes, messages) =
            (received(node, "bytes").await? - bytes, received(node, "messages").await? - messages);
        let skipped = nodes.nodes[node].metric("realtime_changes_skipped").await?;
        println!(
            "node {node}: {bytes} bytes and {messages} messages for {own} bytes of text of its own, {all} in all; {skipped} rows left out"
        );
        assert!(bytes > own && bytes < own + all * 0.25, "{bytes} bytes for {own}");
        assert!(skipped >= (rounds * (10 - mine(node).len())) as f64);
    }
    Ok(())
}

/// Writes rows as fast as it can until it is told that it is enough: ids ascend from 1 in each table.
fn write(client: tokio_postgres::Client, tables: usize) -> JoinHandle<Result<tokio_postgres::Client>> {
    tokio::spawn(async move {
        for id in 1..100_000 {
            let into = |n: usize| format!("insert into t{n} values ({id}, 'x');");
            client.batch_execute(&(0..tables).map(into).collect::<String>()).await?;
            let is_over: bool = client.query_one("select exists (select from t9)", &[]).await?.get(0);
            if is_over {
                break;
            }
        }
        Ok(client)
    })
}

/// Whoever comes for a table that was left out gets every row that is committed after the reply, once, and no gap is told.
#[tokio::test]
async fn who_comes_for_another_table_misses_nothing() -> Result<()> {
    let nodes = Nodes::start(3).await?;
    nodes.make_tables().await?;
    let mut first = Vec::new();
    for node in 0..3 {
        first.push(nodes.watch_tables(node, 8..9).await?);
    }
    let followers = nodes.followers(9).await?;
    let writer = write(nodes.db.connect().await?, 8);
    let mut watchers = Vec::new();
    for n in 0..8 {
        let node = followers[n % 2];
        time::sleep(Duration::from_millis(100)).await;
        let begun = time::Instant::now();
        let socket = nodes.watch_tables(node, n..n + 1).await?;
        let last: Option<i32> =
            nodes.db.client().query_one(&format!("select max(id) from t{n}"), &[]).await?.get(0);
        println!("t{n} on node {node}: joined after {:?}, behind {last:?}", begun.elapsed());
        watchers.push((n, socket, i64::from(last.unwrap_or_default())));
    }
    time::sleep(Duration::from_millis(500)).await;
    nodes.db.sql("insert into t9 values (1, 'enough')").await?;
    let client = writer.await??;
    for (n, mut socket, behind) in watchers {
        let max: i32 = client.query_one(&format!("select max(id) from t{n}"), &[]).await?.get(0);
        let mut expected = id(&change(&mut socket).await?)?;
        assert!(
            expected <= behind + 1,
            "t{n}: {expected} came first, {behind} were committed after the reply"
        );
        while expected < i64::from(max) {
            expected += 1;
            assert_eq!(id(&change(&mut socket).await?)?, expected, "t{n}");
        }
        assert_eq!(socket.settle().await?, [], "t{n}");
    }
    Ok(())
}

/// What was left out comes to who comes back for it: the node that reads has it.
#[tokio::test]
async fn who_comes_back_on_another_node_gets_what_it_has_missed() -> Result<()> {
    let nodes = Nodes::start(3).await?;
    nodes.make_tables().await?;
    let mut first = Vec::new();
    for node in 0..3 {
        first.push(nodes.watch_tables(node, 8..9).await?);
    }
    let followers = nodes.followers(9).await?;
    // On the node that reads, or that follows and gets the table.
    for (n, node) in [(0, 3 - followers[0] - followers[1]), (1, followers[0])] {
        let mut watcher = nodes.watch_tables(node, n..n + 1).await?;
        nodes.db.sql(&format!("insert into t{n} values (1, 'a')")).await?;
        let place = change(&mut watcher).await?.payload["data"]["commit_timestamp"].clone();
        drop(watcher);
        for id in 2..30 {
            // Rows of others in the same transaction count too.
            let text = "y".repeat(id * 100);
            let sql = format!(
                "insert into t7 values ({id}{n}, ''); insert into t{n} values ({id}, '{text}'); insert into t8 values ({id}{n}, '')"
            );
            nodes.db.sql(&sql).await?;
        }
        let mut socket = nodes.nodes[followers[1]].socket(Version::V2, "anon").await?;
        let entry = json!({"event": "*", "schema": "public", "table": format!("t{n}"), "since": place});
        let (reply, _) = socket.join(TOPIC, json!({"config": {"postgres_changes": [entry]}})).await?;
        assert_eq!(reply["status"], "ok", "{reply}");
        nodes.db.sql(&format!("insert into t{n} values (30, 'z')")).await?;
        // A time is not a place: what was committed then comes again.
        for expected in 1..31 {
            assert_eq!(id(&change(&mut socket).await?)?, expected, "t{n}");
        }
        assert_eq!(
            socket.settle().await?.iter().filter(|frame| frame.event == "postgres_changes").count(),
            0
        );
    }
    Ok(())
}

/// Policies that read memberships decide on all nodes from the next row on, although nobody watches the memberships.
#[tokio::test]
async fn memberships_count_on_all_nodes() -> Result<()> {
    let nodes = Nodes::start(3).await?;
    nodes.make_tables().await?;
    nodes
        .db
        .sql(
            "create table public.members (doc int, who text, primary key (doc, who));
             create table public.docs (id int primary key, doc int);
             grant select on public.members, public.docs to authenticated;
             alter table public.docs enable row level security;
             create policy members on public.docs for select to authenticated using (exists (
                 select from public.members m
                 where m.doc = docs.doc and m.who = (current_setting('request.jwt.claims', true)::jsonb ->> 'sub')));
             alter publication supabase_realtime add table public.docs, public.members;",
        )
        .await?;
    let mut first = Vec::new();
    for node in 0..3 {
        first.push(nodes.watch_tables(node, 0..1).await?);
    }
    // Memberships are among what is left out.
    nodes.followers(11).await?;
    let sockets = (0..3).map(|node| {
        let port = nodes.nodes[node].port();
        async move {
            let claims =
                json!({"role": "authenticated", "sub": format!("u{node}"), "exp": unix_now() + 3600});
            let mut socket = Socket::connect(port, Version::V2, &sign(&claims)).await?;
            socket.watch(TOPIC, json!([{"event": "INSERT", "schema": "public", "table": "docs"}])).await?;
            Ok::<_, anyhow::Error>(socket)
        }
    });
    let mut sockets = try_join_all(sockets).await?;
    // Within a second, and after it: what is left out changes meanwhile.
    let mut expected = vec![Vec::new(); 3];
    for n in 0..60_i64 {
        let who = usize::try_from(n % 3)?;
        // A transaction each. What policies read is as of a moment after the row: who leaves does so much later.
        nodes.db.sql(&format!("insert into members values ({n}, 'u{who}')")).await?;
        nodes.db.sql(&format!("insert into docs values ({n}, {n})")).await?;
        let past = n - 20;
        nodes.db.sql(&format!("delete from members where doc = {past}")).await?;
        nodes.db.sql(&format!("insert into docs values ({past} + 1000, {past})")).await?;
        expected[who].push(n);
        time::sleep(Duration::from_millis(100)).await;
    }
    for (socket, expected) in sockets.iter_mut().zip(expected) {
        for expected in expected {
            assert_eq!(id(&change(socket).await?)?, expected);
        }
        assert_eq!(socket.settle().await?, []);
    }
    Ok(())
}

/// A permanent slot moves on, whatever is left out: a node that takes over does not read once more what all have had.
#[tokio::test]
async fn what_is_left_out_counts_as_handed_over() -> Result<()> {
    let suffix = format!("{:08x}", rand::random::<u32>());
    let env: &[(&str, &str)] = &[("SLOT_DURABLE", "true"), ("SLOT_NAME_SUFFIX", &suffix)];
    let mut nodes = Nodes::start_with(3, env).await?;
    nodes.make_tables().await?;
    let mut watchers = Vec::new();
    for node in 0..3 {
        watchers.push(nodes.watch_tables(node, node..node + 1).await?);
    }
    for round in 0..3 {
        if round > 0 {
            let old = nodes.nodes.remove(0);
            nodes.links.remove(0);
            old.stop().await?;
            nodes.add(env).await?;
            nodes.see_each_other(3).await?;
        }
        nodes.followers(9).await?;
        for n in 0..20 {
            nodes.db.sql(&format!("insert into t9 values ({}, 'x')", round * 100 + n)).await?;
        }
        let place: String =
            nodes.db.client().query_one("select pg_current_wal_lsn()::text", &[]).await?.get(0);
        nodes.db.sql("insert into t8 values (-1, 'x'); delete from t8").await?;
        until("the slot has moved on", || async {
            let sql = "select coalesce(bool_and(confirmed_flush_lsn >= $1::text::pg_lsn), false)
                from pg_replication_slots where database = current_database() and slot_name not like '%journal'";
            Ok(nodes.db.client().query_one(sql, &[&place]).await?.get::<_, bool>(0))
        })
        .await
        .with_context(|| format!("round {round}"))?;
    }
    Ok(())
}
