//! Three real nodes and a real NATS.

mod admin;
mod balancer;
mod broadcast;
mod by_table;
mod changes;
mod faults;
mod histories;
mod history;
mod limits;
mod live;
mod operations;
mod presence;
mod private;
mod rolling;
mod rolling_since;
mod rooms;
mod security;
mod takeover;
mod versions;

use anyhow::Result;
use realtime_testkit::{Link, Nats, SECRET, Server, ServerOptions, Socket, TestDb, Version, until};
use serde_json::{Value, json};

use crate::BINARY;

/// Nodes, each with a link of its own to NATS.
struct Nodes {
    nodes: Vec<Server>,
    links: Vec<Link>,
    nats: Nats,
    db: TestDb,
}

/// Shows what the nodes have logged, when `REALTIME_LOGS` is set.
#[expect(clippy::print_stdout, reason = "asked for")]
impl Drop for Nodes {
    fn drop(&mut self) {
        if std::env::var_os("REALTIME_LOGS").is_some() {
            for (number, node) in self.nodes.iter().enumerate() {
                println!("== node {number}\n{}", node.log());
            }
        }
    }
}

/// How often nodes say that they are there, and how long they are believed to be without. The machine may be busy.
const TIMES: [(&str, &str); 2] = [("CLUSTER_HEARTBEAT_MS", "200"), ("CLUSTER_NODE_TIMEOUT_MS", "5000")];

impl Nodes {
    async fn start(count: usize) -> Result<Self> {
        Self::start_with(count, &[]).await
    }

    async fn start_with(count: usize, env: &[(&str, &str)]) -> Result<Self> {
        Self::start_on(TestDb::with_fixture_a().await?, count, env).await
    }

    async fn start_on(db: TestDb, count: usize, env: &[(&str, &str)]) -> Result<Self> {
        let nats = Nats::start(&[]).await?;
        let mut nodes = Self { nodes: Vec::new(), links: Vec::new(), nats, db };
        for _ in 0..count {
            nodes.add(env).await?;
        }
        nodes.see_each_other(count).await?;
        for node in &nodes.nodes {
            until("it is connected", async || Ok(node.metric("realtime_cluster_connected").await? == 1.0))
                .await?;
        }
        Ok(nodes)
    }

    /// Starts one more.
    async fn add(&mut self, env: &[(&str, &str)]) -> Result<()> {
        let link = Link::to(self.nats.port()).await?;
        let options = [
            ("NATS_URL", &*format!("nats://127.0.0.1:{}", link.port())),
            ("NODE_NAME", &*format!("node{}", self.nodes.len() + 1)),
            ("METRICS_JWT_SECRET", SECRET),
            ("TENANT_MAX_EVENTS_PER_SECOND", "1000000"),
            ("TENANT_MAX_JOINS_PER_SECOND", "1000000"),
            ("TENANT_MAX_PRESENCE_EVENTS_PER_SECOND", "1000000"),
            ("CLIENT_PRESENCE_MAX_CALLS", "1000000"),
        ];
        let options = options.iter().chain(&TIMES).chain(env);
        let options =
            options.fold(ServerOptions::default(), |options, (name, value)| options.env(name, value));
        self.nodes.push(Server::start(BINARY, &self.db, options).await?);
        self.links.push(link);
        Ok(())
    }

    /// Waits until every node that runs knows of so many.
    async fn see_each_other(&self, count: usize) -> Result<()> {
        for node in &self.nodes {
            self.sees(node, count).await?;
        }
        Ok(())
    }

    async fn sees(&self, node: &Server, count: usize) -> Result<()> {
        until("the nodes know each other", || async {
            Ok(node.metric("realtime_cluster_nodes").await? == count as f64)
        })
        .await
    }

    async fn join(&self, node: usize, version: Version, topic: &str, config: Value) -> Result<Socket> {
        let mut socket = self.nodes[node].socket(version, "anon").await?;
        let (reply, _) = socket.join(topic, json!({ "config": config })).await?;
        assert_eq!(reply["status"], "ok", "{reply}");
        Ok(socket)
    }
}

/// Sends a broadcast.
async fn say(socket: &mut Socket, topic: &str, event: &str, payload: Value) -> Result<()> {
    let message = json!({"type": "broadcast", "event": event, "payload": payload});
    socket.send(json!("1"), Value::Null, topic, "broadcast", message).await
}
