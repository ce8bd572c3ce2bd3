//! The first generation on several nodes: three processes, a NATS, one database.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use realtime_testkit::{Nats, Server, Socket, TestDb, Version, until};
use serde_json::json;
use tokio::{sync::oneshot, task::JoinHandle, time};

use super::{
    SECRET,
    clients::{self, Client, TOPICS},
    drop_slot, join, joined, logged, now, rls, server, token, users, webhooks,
};

/// Nodes of one cluster.
struct Nodes {
    nodes: Vec<Server>,
    nats: Option<Nats>,
}

impl Nodes {
    /// Starts three; one of them reads the log for all.
    async fn streaming(db: &TestDb, env: &[(&str, &str)]) -> Result<Self> {
        let nodes = Self::start(db, env).await?;
        for node in &nodes.nodes {
            logged(node, "reading the log").await?;
        }
        // One that could not reach NATS yet read for itself.
        until("one reads the log", async || Ok(walsenders(db).await? == 1)).await?;
        Ok(nodes)
    }

    async fn start(db: &TestDb, env: &[(&str, &str)]) -> Result<Self> {
        let nats = Nats::start(&[]).await?;
        let url = nats.url();
        // A machine that is busy is not a node that is dead.
        let mut all = vec![
            ("NATS_URL", &*url),
            ("CLUSTER_HEARTBEAT_MS", "200"),
            ("CLUSTER_NODE_TIMEOUT_MS", "8000"),
            ("LEGACY_STAR_EVENTS", "false"),
        ];
        all.extend(env);
        let start = async || {
            let node = server(db, &all).await?;
            anyhow::Ok(node)
        };
        let (a, b, c) = tokio::try_join!(start(), start(), start())?;
        let nodes = vec![a, b, c];
        Ok(Self { nodes, nats: Some(nats) })
    }

    /// Takes out the node that reads the database for all.
    fn take_owner(&mut self) -> Result<Server> {
        let owners: Vec<usize> = (0..self.nodes.len()).filter(|place| owns(&self.nodes[*place])).collect();
        ensure!(owners.len() == 1, "one node reads the database, not {owners:?}: {}", self.logs());
        Ok(self.nodes.remove(owners[0]))
    }

    fn logs(&self) -> String {
        self.nodes.iter().map(Server::log).collect::<Vec<_>>().join("\n==\n")
    }
}

/// Whether a node reads the database for all, as it has logged last.
fn owns(node: &Server) -> bool {
    let log = node.log();
    let last = log.lines().rfind(|line| line.contains("reader="));
    last.is_some_and(|line| line.contains("reader=this node") && !line.contains("for itself"))
}

/// How many connections read the log of a database.
async fn walsenders(db: &TestDb) -> Result<i64> {
    let sql = "select count(*) from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
        where s.database = current_database()";
    Ok(db.client().query_one(sql, &[]).await?.try_get(0)?)
}

/// legacy 19 to 21, 23, 43, 47 on three nodes: the clients of each get each change of their topics once; a transaction is
/// posted once; one connection reads the log, and another when its node ends.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_reads_for_all() -> Result<()> {
    let db = clients::users().await?;
    let mut endpoint = webhooks::Endpoint::start(&[]).await?;
    let dir = tempfile::tempdir()?;
    let file = webhooks::file(&dir, &[endpoint.hook("/hook", "*", "*")])?;
    let mut nodes = Nodes::streaming(&db, &[("CONFIGURATION_FILE", &*file)]).await?;
    let (types, none) = (json!(["INSERT", "UPDATE", "DELETE"]), json!({}));
    let mut watching = Vec::new();
    for (node, library) in nodes.nodes.iter().zip(["realtime-js-0.9", "realtime-js-1.7", "realtime-js-1.7"]) {
        watching.push(Client::javascript(node, library, &TOPICS, &types, &none).await?);
    }
    clients::write(&db).await?;
    for client in &mut watching {
        assert_eq!(client.changes().await?, clients::everything(&TOPICS));
    }
    for (kind, id) in [
        ("INSERT", "99"),
        ("INSERT", "1"),
        ("UPDATE", "99"),
        ("DELETE", "1"),
        ("DELETE", "99"),
        ("INSERT", "-1"),
        ("DELETE", "-1"),
    ] {
        let posted = endpoint.next().await?.json();
        let change = &posted["changes"][0];
        let row = if kind == "DELETE" { &change["old_record"] } else { &change["record"] };
        assert_eq!((&change["type"], &row["id"]), (&json!(kind), &json!(id)));
    }
    // Nobody posts late: all have read this far.
    assert!(endpoint.posted.try_recv().is_err(), "a transaction is posted once");

    // Who comes next goes on with both.
    drop(watching);
    nodes.take_owner()?.stop().await?;
    let count = |wanted: fn(&Server) -> bool| nodes.nodes.iter().filter(|node| wanted(node)).count();
    until("another node reads the database", async || Ok(count(owns) == 1)).await?;
    let came_again = |node: &Server| node.log().matches("reading the log").count() > 1;
    until("and the last one follows", async || Ok(count(came_again) == 2)).await?;
    let mut sockets = Vec::new();
    for node in &nodes.nodes {
        sockets.push(joined(node, &["realtime:*"]).await?);
    }
    db.sql("insert into users values (3, 'd')").await?;
    for socket in &mut sockets {
        assert_eq!(socket.event("realtime:*", "INSERT").await?["record"]["id"], "3");
    }
    assert_eq!(endpoint.next().await?.json()["changes"][0]["record"]["id"], "3");
    for node in nodes.nodes {
        node.stop().await?;
    }
    assert!(endpoint.posted.try_recv().is_err());
    Ok(())
}

/// While NATS is away every node reads for itself, and the one with the lock posts. If that is killed, another takes the
/// lock: nothing remains unposted, nor is posted twice.
#[tokio::test(flavor = "multi_thread")]
async fn without_nats_one_posts() -> Result<()> {
    let db = users().await?;
    let mut endpoint = webhooks::Endpoint::start(&[]).await?;
    let dir = tempfile::tempdir()?;
    let file = webhooks::file(&dir, &[endpoint.hook("/hook", "*", "*")])?;
    let mut nodes = Nodes::streaming(&db, &[("CONFIGURATION_FILE", &*file)]).await?;
    let owner = nodes.take_owner()?;
    nodes.nats.take();
    for node in &nodes.nodes {
        logged(node, "reader=this node, for itself").await?;
    }
    let topic = "realtime:*";
    let mut sockets = Vec::new();
    for node in [&owner].into_iter().chain(&nodes.nodes) {
        sockets.push(joined(node, &[topic]).await?);
    }
    db.sql("insert into users values (1, 'a')").await?;
    for socket in &mut sockets {
        assert_eq!(socket.event(topic, "INSERT").await?["record"]["id"], "1");
    }
    assert_eq!(endpoint.next().await?.json()["changes"][0]["record"]["id"], "1");
    owner.kill().await?;
    sockets.remove(0);
    let heir = "no other node reads the database; reading it for all nodes";
    until("one reads for all", async || {
        Ok(nodes.nodes.iter().filter(|node| node.log().contains(heir)).count() == 1)
    })
    .await
    .with_context(|| nodes.logs())?;
    for id in ["2", "3"] {
        db.sql(&format!("insert into users values ({id}, 'b')")).await?;
        for socket in &mut sockets {
            assert_eq!(socket.event(topic, "INSERT").await?["record"]["id"], id, "once, and in order");
        }
        assert_eq!(endpoint.next().await?.json()["changes"][0]["record"]["id"], id);
    }
    for node in nodes.nodes {
        node.stop().await?;
    }
    assert!(endpoint.posted.try_recv().is_err(), "each is posted once");
    Ok(())
}

/// What a client hears until its connection breaks.
fn listen(mut socket: Socket) -> (Arc<Mutex<Vec<i64>>>, JoinHandle<()>) {
    let heard: Arc<Mutex<Vec<i64>>> = Arc::default();
    let hears = Arc::clone(&heard);
    let listening = tokio::spawn(async move {
        while let Ok(frame) = socket.frame().await {
            let id: Option<i64> = frame.payload["record"]["id"].as_str().and_then(|id| id.parse().ok());
            hears.lock().extend(id);
        }
    });
    (heard, listening)
}

/// legacy 38, 39, 43: the node that reads the permanent slot is killed again and again, while rows are written. Those on
/// other nodes get every row once and in order, and every row is posted.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_reader_is_killed() -> Result<()> {
    let db = users().await?;
    // The first post is not answered: all that the first node has to post waits until it is killed.
    let mut endpoint = webhooks::Endpoint::start(&[("/hook", &[0, 200])]).await?;
    let dir = tempfile::tempdir()?;
    let file = webhooks::file(&dir, &[endpoint.hook("/hook", "*", "*")])?;
    let env = [
        ("CONFIGURATION_FILE", &*file),
        ("SLOT_NAME", "Shared"),
        ("WEBHOOK_RETRIES", "1"),
        ("WEBHOOK_TIMEOUT_MS", "600000"),
    ];
    let mut nodes = Nodes::streaming(&db, &env).await?;
    let mut clients = Vec::new();
    for node in &nodes.nodes {
        clients.push((node.port(), listen(joined(node, &["realtime:*"]).await?).0));
    }
    let (stop, mut stopped) = oneshot::channel::<()>();
    let writer = db.connect().await?;
    let written = Arc::new(Mutex::new(0_i64));
    let writes = Arc::clone(&written);
    let writing = tokio::spawn(async move {
        while stopped.try_recv().is_err() {
            let id = *writes.lock() + 1;
            writer.execute("insert into users values ($1, 'x')", &[&id]).await?;
            *writes.lock() = id;
            time::sleep(Duration::from_millis(4)).await;
        }
        anyhow::Ok(())
    });
    for _ in 0..2 {
        let so_far = *written.lock() + 100;
        for (port, heard) in &clients {
            let enough = async || Ok(heard.lock().last().is_some_and(|last| *last > so_far));
            until(&format!("{port} hears"), enough).await.with_context(|| nodes.logs())?;
        }
        let owner = nodes.take_owner()?;
        clients.retain(|(port, _)| *port != owner.port());
        owner.kill().await?;
    }
    let so_far = *written.lock() + 100;
    let heard = &clients[0].1;
    until("the last one hears", async || Ok(heard.lock().last().is_some_and(|last| *last > so_far)))
        .await
        .with_context(|| nodes.logs())?;
    let _ = stop.send(());
    writing.await??;
    let written = *written.lock();
    until("the last row comes", async || Ok(heard.lock().last() == Some(&written))).await?;
    let heard = heard.lock().clone();
    assert!(heard == (1..=written).collect::<Vec<_>>(), "{written} rows, heard {heard:?}\n{}", nodes.logs());

    // Posted: all of them, and of those that come again receivers know.
    let mut posted: HashMap<String, HashSet<String>> = HashMap::new();
    let mut rows = HashSet::new();
    while rows.len() < usize::try_from(written)? {
        let post = endpoint
            .next()
            .await
            .with_context(|| format!("{} of {written}\n{}", rows.len(), nodes.logs()))?;
        let row = post.json()["changes"][0]["record"]["id"].as_str().context("id")?.to_owned();
        posted.entry(post.header("webhook-id").to_owned()).or_default().insert(row.clone());
        rows.insert(row);
    }
    assert_eq!(posted.len(), rows.len());
    assert!(posted.values().all(|rows| rows.len() == 1), "an id names one transaction");
    for node in nodes.nodes {
        node.stop().await?;
    }
    drop_slot(&db, "shared").await
}

/// legacy 36, 37 on three nodes, with a temporary and a permanent slot: the database decides for everybody, and is read by
/// one connection.
#[tokio::test(flavor = "multi_thread")]
async fn policies_decide_on_all_nodes() -> Result<()> {
    let db = rls::notes().await?;
    let env = [
        ("SECURE_CHANNELS", "true"),
        ("JWT_SECRET", SECRET),
        ("REPLICATION_MODE", "RLS"),
        ("SLOT_NAME", "policies"),
    ];
    for (temporary, id) in [("true", 1), ("false", 2)] {
        let mut all = env.to_vec();
        all.push(("TEMPORARY_SLOT", temporary));
        let nodes = Nodes::start(&db, &all).await?;
        let mut sockets = Vec::new();
        for (node, sub) in nodes.nodes.iter().zip(["ada", "bob", "ada"]) {
            let mut socket = rls::anonymous(node).await?;
            let topic = "realtime:public:notes";
            assert_eq!(socket.join(topic, rls::user(sub)).await?.0["status"], "ok");
            sockets.push(socket);
        }
        let expected = json!({"id": id, "owner": "ada", "details": null, "big": null});
        db.sql(&format!("insert into notes values ({id}, 'ada')")).await?;
        for place in [0, 2] {
            let change = sockets[place].event("realtime:public:notes", "INSERT").await?;
            assert_eq!(change["record"], expected);
        }
        db.sql(&format!("insert into notes values ({id} + 10, 'bob')")).await?;
        let change = sockets[1].event("realtime:public:notes", "INSERT").await?;
        assert_eq!(change["record"]["id"], id + 10, "not what is Ada's");
        until("one reads the log", async || Ok(walsenders(&db).await? == 1)).await?;
        for node in nodes.nodes {
            node.stop().await?;
        }
    }
    drop_slot(&db, "policies").await
}

/// Both generations on the same nodes: each has a stream of its own, which one node reads.
#[tokio::test(flavor = "multi_thread")]
async fn both_generations_on_all_nodes() -> Result<()> {
    let db = users().await?;
    db.sql("grant select on users to anon").await?;
    let env = [("LEGACY_MODE", "stream"), ("API_JWT_SECRET", SECRET), ("SECURE_CHANNELS", "true")];
    let nodes = Nodes::start(&db, &env).await?;
    let anon = token(&json!({"role": "anon", "exp": now() + 1000}));
    let (old, new) = ("realtime:public:users", "realtime:new");
    let mut sockets = Vec::new();
    for node in &nodes.nodes {
        logged(node, "reading the log").await?;
        let mut first = rls::anonymous(node).await?;
        join(&mut first, old).await?;
        let mut second = Socket::connect(node.port(), Version::V2, &anon).await?;
        second.watch(new, json!([{"event": "*", "schema": "public", "table": "users"}])).await?;
        sockets.push((first, second));
    }
    until("two read the log", async || Ok(walsenders(&db).await? == 2)).await?;
    db.sql("insert into users values (1, 'a'); delete from users").await?;
    for (first, second) in &mut sockets {
        assert_eq!(first.event(old, "INSERT").await?["record"], json!({"id": "1", "name": "a"}));
        assert_eq!(first.event(old, "DELETE").await?["old_record"]["id"], "1");
        let inserted = second.event(new, "postgres_changes").await?;
        assert_eq!(inserted["data"]["record"], json!({"id": 1, "name": "a"}));
        assert_eq!(second.event(new, "postgres_changes").await?["data"]["old_record"], json!({"id": 1}));
    }
    Ok(())
}

/// A node that has the lock and hangs before it reads loses it as well; one that only waits keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_hangs_before_it_reads_loses_the_lock() -> Result<()> {
    let db = clients::users().await?;
    let nats = Nats::start(&[]).await?;
    let (url, slot) = (nats.url(), format!("hangs_{}", db.name()));
    db.sql(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await?;
    let env = [
        ("NATS_URL", &*url),
        ("SLOT_NAME", &slot),
        ("LEGACY_RESUME_DELAY_MS", "600000"),
        ("REPLICATION_WATCHDOG_MS", "9000"),
    ];
    let node = server(&db, &env).await?;
    let holders = async || -> Result<i64> {
        let sql = "select count(*) from pg_locks join pg_stat_activity using (pid)
            where locktype = 'advisory' and application_name = 'realtime_replication' and datname = current_database()";
        Ok(db.client().query_one(sql, &[]).await?.try_get(0)?)
    };
    until("it has the lock", async || Ok(holders().await? == 1)).await?;
    let spoke = async || -> Result<Option<f64>> {
        let sql = "select extract(epoch from state_change - backend_start)::float8 from pg_stat_activity
            where datname = current_database() and application_name = 'realtime_replication'
            and pid in (select pid from pg_locks where locktype = 'advisory')";
        Ok(db.client().query_opt(sql, &[]).await?.and_then(|row| row.get(0)))
    };
    until("it has kept it for longer than one that hangs", async || {
        let Some(age) = spoke().await? else { bail!("it has lost the lock: {}", node.log()) };
        Ok(age > 10.0)
    })
    .await?;
    assert_eq!(holders().await?, 1, "{}", node.log());
    node.signal(Signal::SIGSTOP)?;
    until("it has lost the lock", async || Ok(holders().await? == 0)).await?;
    node.signal(Signal::SIGCONT)?;
    node.stop().await?;
    drop_slot(&db, &slot).await
}
