//! What is done to a tenant at one node holds on all: three nodes that share NATS and a metadata database.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{Nats, PATIENCE, ServerOptions, Socket, TestDb, until};
use serde_json::{Value, json};
use tokio::time::{self, Duration, Instant};

use super::{TIMES, changes::walsenders, say};
use crate::admin::{Admin, TENANT_SECRET, connections, extension, tenant_token};

const TOPIC: &str = "realtime:room";

/// The nodes, and a socket of tenant `t` on each.
struct Served {
    nodes: Vec<Admin>,
    sockets: Vec<Socket>,
    db: TestDb,
    _nats: Nats,
}

impl Served {
    async fn start() -> Result<Self> {
        let nats = Nats::start(&[]).await?;
        let metadata = Arc::new(TestDb::new().await?);
        let mut nodes = Vec::new();
        for number in 0..3 {
            let options = ServerOptions::default()
                .env("NATS_URL", &nats.url())
                .env("NODE_NAME", &format!("node{number}"))
                // What is changed is known by being told, not by being looked up.
                .env("TENANT_CACHE_EXPIRATION_IN_MS", "3600000");
            let options = TIMES.iter().fold(options, |options, (name, value)| options.env(name, value));
            nodes.push(Admin::on(Arc::clone(&metadata), options).await?);
        }
        let db = TestDb::with_fixture_a().await?;
        nodes[0].make("t", &db).await?;
        Ok(Self { nodes, sockets: Vec::new(), db, _nats: nats })
    }

    /// One socket on each node, in a channel.
    async fn join(&mut self, secret: &str) -> Result<()> {
        self.sockets.clear();
        for node in &self.nodes {
            let mut socket = node.socket("t", secret).await?;
            let (reply, _) = socket.join(TOPIC, json!({"config": {"private": false}})).await?;
            ensure!(reply["status"] == "ok", "{reply}");
            self.sockets.push(socket);
        }
        Ok(())
    }

    /// Joins one socket on each node, as soon as every node lets them.
    async fn come_again(&mut self, secret: &str) -> Result<()> {
        let limit = Instant::now() + PATIENCE;
        while let Err(error) = self.join(secret).await {
            ensure!(Instant::now() < limit, "{error}");
            time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Changes the tenant at a node.
    async fn change(&self, node: usize, fields: Value) -> Result<()> {
        self.nodes[node].change("t", fields).await
    }

    /// Every socket of every node is told and closed.
    async fn disconnected(&mut self) -> Result<()> {
        for socket in &mut self.sockets {
            let told = socket.event(TOPIC, "system").await?;
            let message = "Server requested disconnect";
            assert_eq!(told, json!({"extension": "system", "status": "ok", "message": message}));
            assert_eq!(socket.close_code().await?, 1012);
        }
        Ok(())
    }

    /// On every node a handshake with this secret is refused for this reason, by and by.
    async fn refused(&self, secret: &str, reason: &str) -> Result<()> {
        for node in &self.nodes {
            until(reason, || async {
                let refused = node.socket("t", secret).await.err();
                Ok(refused.is_some_and(|refused| refused.to_string().contains(reason)))
            })
            .await?;
        }
        Ok(())
    }

    /// Every node counts so many users of all nodes.
    async fn counted(&self, users: u32) -> Result<()> {
        for (number, node) in self.nodes.iter().enumerate() {
            until("users of all nodes are counted", || async {
                Ok(node.health("t").await?["connected_cluster"] == users)
            })
            .await
            .with_context(|| format!("{users} on node {number}"))?;
        }
        Ok(())
    }

    /// What is said on each node is heard on the others.
    async fn hear_each_other(&mut self) -> Result<()> {
        for from in 0..self.sockets.len() {
            say(&mut self.sockets[from], TOPIC, "e", json!({ "from": from })).await?;
            for (_, socket) in self.sockets.iter_mut().enumerate().filter(|(to, _)| *to != from) {
                assert_eq!(socket.event(TOPIC, "broadcast").await?["payload"]["from"], json!(from));
            }
        }
        Ok(())
    }
}

/// http_and_ops 19 to 22, 25, 29; protocol 8, 36, 91: limits, keys, suspension and reload, each at another node
#[tokio::test]
async fn changes_hold_on_every_node() -> Result<()> {
    let mut served = Served::start().await?;
    let mut first = served.nodes[0].socket("t", TENANT_SECRET).await?;
    first.join(TOPIC, json!({"config": {}})).await?;
    // Also by nodes that no socket of the tenant was ever on.
    served.counted(1).await?;
    drop(first);
    served.join(TENANT_SECRET).await?;
    served.counted(3).await?;

    // Limits, and nobody is disturbed. Users are those of all nodes.
    served.change(0, json!({"max_concurrent_users": 3, "max_channels_per_client": 1})).await?;
    served.refused(TENANT_SECRET, "Too many connected users").await?;
    for socket in &mut served.sockets {
        let (reply, _) = socket.join("realtime:second", json!({"config": {}})).await?;
        assert_eq!(reply["response"]["reason"], "ChannelRateLimitReached: Too many channels");
    }
    served.change(1, json!({"max_concurrent_users": 4, "max_channels_per_client": 2})).await?;
    let mut fourth = None;
    until("there is room for a fourth on another node", || async {
        Ok(served.nodes[2].socket("t", TENANT_SECRET).await.is_ok())
    })
    .await?;
    if let Ok(mut socket) = served.nodes[2].socket("t", TENANT_SECRET).await {
        let (reply, _) = socket.join(TOPIC, json!({"config": {}})).await?;
        assert_eq!(reply["status"], "ok", "{reply}");
        fourth = Some(socket);
    }
    served.counted(4).await?;
    served.refused(TENANT_SECRET, "Too many connected users").await?;
    drop(fourth);
    served.counted(3).await?;
    for socket in &mut served.sockets {
        let (reply, _) = socket.join("realtime:second", json!({"config": {}})).await?;
        assert_eq!(reply["status"], "ok", "{reply}");
        assert_eq!(socket.settle().await?, []);
    }
    served.hear_each_other().await?;
    served.change(2, json!({"max_concurrent_users": 200, "max_channels_per_client": 100})).await?;
    until("there is room again", || async {
        let sockets = [
            served.nodes[0].socket("t", TENANT_SECRET).await,
            served.nodes[1].socket("t", TENANT_SECRET).await,
        ];
        Ok(sockets.iter().all(Result::is_ok))
    })
    .await?;

    // Another secret.
    served.change(1, json!({"jwt_secret": "another-secret"})).await?;
    served.disconnected().await?;
    served.refused(TENANT_SECRET, "401").await?;
    served.join("another-secret").await?;
    served.hear_each_other().await?;

    // Private channels alone.
    served.change(2, json!({"private_only": true})).await?;
    served.disconnected().await?;
    for node in &served.nodes {
        let mut socket = node.socket("t", "another-secret").await?;
        let (reply, _) = socket.join(TOPIC, json!({"config": {}})).await?;
        assert_eq!(reply["response"]["reason"], "PrivateOnly: This project only allows private channels");
    }
    served.change(0, json!({"private_only": false})).await?;

    // Suspended, and back.
    served.come_again("another-secret").await?;
    served.change(2, json!({"suspend": true})).await?;
    served.disconnected().await?;
    served.refused("another-secret", "Realtime was disabled for this tenant").await?;
    until("no connection to its database is left", || async {
        Ok(connections(&served.db).await?.is_empty())
    })
    .await?;
    let bearer = format!("Bearer {}", tenant_token("another-secret"));
    let headers = [("Host", "t"), ("Authorization", &*bearer), ("Content-Type", "application/json")];
    let broadcast = br#"{"messages":[{"topic":"room","event":"e","payload":{}}]}"#;
    for node in &served.nodes {
        let answer = node.server.http("POST", "/api/broadcast", &headers, broadcast).await?;
        assert_eq!((answer.status, &*answer.body), (403, r#"{"message":"Tenant is suspended"}"#));
    }
    served.change(0, json!({"suspend": false})).await?;
    served.come_again("another-secret").await?;

    // Reload.
    let answer = served.nodes[1].request("POST", "/api/tenants/t/reload", None).await?;
    assert_eq!(answer.status, 204);
    served.disconnected().await?;
    served.join("another-secret").await?;
    served.counted(3).await?;
    served.hear_each_other().await
}

const WATCHED: &str = "realtime:w";

impl Served {
    /// The sockets of all nodes watch table `test`.
    async fn watch(&mut self) -> Result<()> {
        for socket in &mut self.sockets {
            socket.watch(WATCHED, json!([{"event": "*", "schema": "public", "table": "test"}])).await?;
        }
        Ok(())
    }

    /// Whoever watches is told of the gap, then watches again, and gets what is written there. Each node ends its
    /// connections when it learns of it: one may follow another that ends a little later, and is told once more then,
    /// so what was written before may still come.
    async fn watched_anew(&mut self, db: &TestDb, details: &str) -> Result<()> {
        for socket in &mut self.sockets {
            let ended = "The connection to the database was ended: changes may have been missed";
            while socket.event(WATCHED, "system").await?["message"] != ended {}
            while socket.event(WATCHED, "system").await?["status"] != "ok" {}
        }
        let limit = Instant::now() + PATIENCE;
        let mut waiting: Vec<&mut Socket> = self.sockets.iter_mut().collect();
        while !waiting.is_empty() {
            ensure!(Instant::now() < limit, "{} sockets do not get {details}", waiting.len());
            db.sql(&format!("insert into public.test (details) values ('{details}')")).await?;
            let mut still = Vec::new();
            for socket in waiting {
                let change = written(socket, details);
                match time::timeout(Duration::from_millis(500), change).await {
                    Ok(change) => change?,
                    Err(_) => still.push(socket),
                }
            }
            waiting = still;
        }
        Ok(())
    }
}

/// Waits for the row with these details.
async fn written(socket: &mut Socket, details: &str) -> Result<()> {
    while socket.event(WATCHED, "postgres_changes").await?["data"]["record"]["details"] != details {}
    Ok(())
}

/// http_and_ops 20, 23, 26; protocol 38: the tenant's database is another one, its connections are ended, the tenant is
/// removed and made again, each at another node
#[tokio::test]
async fn databases_follow_on_every_node() -> Result<()> {
    let mut served = Served::start().await?;
    served.join(TENANT_SECRET).await?;
    served.watch().await?;
    assert_eq!(walsenders(&served.db).await?, 1, "one node reads for all");

    let next = TestDb::with_fixture_a().await?;
    served.change(1, json!({"extensions": [extension(&next).await?]})).await?;
    served.watched_anew(&next, "moved").await?;
    for socket in &mut served.sockets {
        socket.settle().await?;
    }
    served.db.sql("insert into public.test (details) values ('nobody looks here')").await?;
    until("nobody is left in the old database", || async { Ok(connections(&served.db).await?.is_empty()) })
        .await?;
    until("one node reads the new one for all", || async { Ok(walsenders(&next).await? == 1) }).await?;

    let answer = served.nodes[2].request("POST", "/api/tenants/t/shutdown", None).await?;
    assert_eq!(answer.status, 204);
    served.watched_anew(&next, "after a shutdown").await?;
    for socket in &mut served.sockets {
        socket.settle().await?;
    }
    until("one node reads for all", || async { Ok(walsenders(&next).await? == 1) }).await?;

    // Removed.
    let answer = served.nodes[0].request("DELETE", "/api/tenants/t", None).await?;
    assert_eq!(answer.status, 204, "{answer:?}");
    served.disconnected().await?;
    served.refused(TENANT_SECRET, "404").await?;
    until("no connection is left", || async { Ok(connections(&next).await?.is_empty()) }).await?;
    let slots = "select count(*) from pg_replication_slots where database = current_database()";
    until("no slot is left", || async {
        Ok(next.client().query_one(slots, &[]).await?.get::<_, i64>(0) == 0)
    })
    .await?;

    // One of the same name, while the nodes still listen for the old one: it counts from nothing, over all nodes.
    served.nodes[1].make("t", &next).await?;
    served.change(1, json!({"max_concurrent_users": 3})).await?;
    served.come_again(TENANT_SECRET).await?;
    served.counted(3).await?;
    served.refused(TENANT_SECRET, "Too many connected users").await?;
    served.hear_each_other().await?;
    served.watch().await?;
    next.sql("insert into public.test (details) values ('again')").await?;
    for socket in &mut served.sockets {
        let change = socket.event(WATCHED, "postgres_changes").await?;
        assert_eq!(change["data"]["record"]["details"], "again");
    }
    Ok(())
}
