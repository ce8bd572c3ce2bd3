//! What operators see and do, whatever node they ask.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use realtime_testkit::{Answer, PATIENCE, Server, Socket, Version, sign, until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time,
};

use super::Nodes;
use crate::{
    dashboard::{Operator, text},
    metrics::{parse, sum},
};

const TOPIC: &str = "realtime:lobby";

/// Whom the dashboard lets in.
const ANN: [(&str, &str); 2] = [("DASHBOARD_USER", "ann"), ("DASHBOARD_PASSWORD", "of-the-dashboard")];

impl Nodes {
    /// Two nodes in one region and one in another, of which more can be said.
    async fn in_regions(env: &[(&str, &str)], third: &[(&str, &str)]) -> Result<Self> {
        let mut nodes = Self::start_with(0, &[]).await?;
        for (region, further) in [("eu-west-2", &[][..]), ("eu-west-2", &[]), ("us-east-1", third)] {
            nodes.add(&[&[("REGION", region)], &ANN[..], env, further].concat()).await?;
        }
        nodes.see_each_other(3).await?;
        Ok(nodes)
    }

    /// A request of an administrator, who may read the metrics too.
    async fn ask(&self, node: usize, method: &str, path: &str) -> Result<Answer> {
        let bearer = format!("Bearer {}", sign(&json!({})));
        let headers = [("Authorization", &*bearer), ("X-Prometheus-Scrape-Timeout-Seconds", "5")];
        self.nodes[node].http(method, path, &headers, b"").await
    }

    async fn metrics(&self, node: usize, path: &str) -> Result<String> {
        let answer = self.ask(node, "GET", path).await?;
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; charset=utf-8"));
        Ok(answer.body)
    }
}

/// What a node's status page tells.
async fn status(node: &Server) -> Result<Value> {
    Ok(serde_json::from_str(&node.http("GET", "/status.json", &[], b"").await?.body)?)
}

/// The short id of a node.
async fn id(node: &Server) -> Result<String> {
    Ok(status(node).await?["node"].as_str().context("node")?.to_owned())
}

/// The values of a label of all samples.
fn labels(text: &str, label: &str) -> BTreeSet<String> {
    let begin = format!("{label}=\"");
    let value = |line: &str| Some(line.split_once(&begin)?.1.split('"').next()?.to_owned());
    text.lines().filter_map(value).collect()
}

/// http_and_ops 54, 55: any node tells the metrics of all, or of a region's, each family once; one that stands still is
/// left out, and the log says so. A node by itself is there for those who scrape each. Without a metadata database too,
/// what an administrator asks of one node is done on all
#[tokio::test]
async fn the_metrics_of_all_nodes() -> Result<()> {
    // A node that stands still is long believed to be there.
    let nodes = Nodes::in_regions(&[("CLUSTER_NODE_TIMEOUT_MS", "600000")], &[]).await?;
    let mut sockets = Vec::new();
    for node in [0, 0, 1] {
        sockets.push(nodes.join(node, Version::V2, TOPIC, json!({})).await?);
    }
    let mut ids = BTreeSet::new();
    for node in &nodes.nodes {
        ids.insert(id(node).await?);
        until("all count all", || async {
            Ok(node.metric("realtime_connections_global_connected_cluster").await? == 3.0)
        })
        .await?;
    }
    // A node that is busy may be left out.
    let told = async |node: usize, path: &str, of: &BTreeSet<String>| -> Result<String> {
        let limit = time::Instant::now() + PATIENCE;
        loop {
            let body = nodes.metrics(node, path).await?;
            if labels(&body, "id") == *of {
                return Ok(body);
            }
            ensure!(time::Instant::now() < limit, "{path}: {of:?}");
        }
    };
    let counted = "tenant=\"realtime-dev\"} 3";
    // Both that have sockets know of the other's.
    until("both tell", || async {
        let body = told(2, "/metrics", &ids).await?;
        Ok(body.lines().filter(|line| line.ends_with(counted)).count() == 2)
    })
    .await?;
    let body = told(2, "/metrics", &ids).await?;
    assert_eq!(labels(&body, "region").len(), 2);
    let all = parse(&body).await?;
    let number = |name: &str, labels: &[(&str, &str)]| sum(&all, name, name, labels);
    let tenant = ("tenant", "realtime-dev");
    assert_eq!(number("realtime_connections_connected", &[tenant]), 3.0);
    assert_eq!(number("realtime_connections_connected", &[tenant, ("region", "us-east-1")]), 0.0);
    assert_eq!(number("realtime_connections_global_connected_cluster", &[]), 9.0, "three, three times");
    assert_eq!(number("realtime_connections_connected_cluster", &[tenant]), 6.0, "by those who know");
    assert_eq!(number("realtime_cluster_nodes", &[]), 9.0);
    assert_eq!(number("realtime_build_info", &[]), 3.0);
    assert!(number("realtime_channel_joins", &[tenant, ("region", "eu-west-2")]) >= 3.0);

    let asked = nodes.nodes[2].metric("realtime_global_rpc_count").await?;
    assert!(asked >= 2.0, "{asked}");

    let third = [id(&nodes.nodes[2]).await?].into();
    told(0, "/metrics/us-east-1", &third).await?;
    told(2, "/metrics/eu-west-2", &ids.difference(&third).cloned().collect()).await?;
    assert_eq!(nodes.metrics(0, "/metrics/nowhere").await?, "");
    let alone = nodes.metrics(0, "/metrics?scope=node").await?;
    assert_eq!(labels(&alone, "id"), [id(&nodes.nodes[0]).await?].into());
    assert_eq!(nodes.metrics(0, "/metrics/us-east-1?scope=node").await?, "");
    assert_eq!(nodes.ask(0, "GET", "/metrics?scope=pod").await?.status, 400);
    assert_eq!(nodes.nodes[0].http("GET", "/metrics?scope=pod", &[], b"").await?.status, 403);

    let still = id(&nodes.nodes[1]).await?;
    nodes.nodes[1].signal(Signal::SIGSTOP)?;
    let mut others = ids.clone();
    others.remove(&still);
    told(0, "/metrics", &others).await?;
    nodes.nodes[0].logged("TimeoutOnRpcCall").await?;
    nodes.nodes[1].signal(Signal::SIGCONT)?;
    told(0, "/metrics", &ids).await?;

    // There is nothing of the tenant on the node that is asked.
    assert_eq!(nodes.ask(2, "POST", "/api/tenants/realtime-dev/reload").await?.status, 204);
    for socket in &mut sockets {
        assert_eq!(socket.event(TOPIC, "system").await?["message"], "Server requested disconnect");
    }
    Ok(())
}

async fn watch(node: &Server) -> Result<Socket> {
    let mut socket = node.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public"}])).await?;
    Ok(socket)
}

/// Waits until a page says all this: a node that is busy may not answer in time.
async fn shows(ann: &mut Operator<'_>, path: &str, parts: &[&str]) -> Result<()> {
    let limit = time::Instant::now() + PATIENCE;
    loop {
        let page = text(&ann.get(path).await?.body);
        let Some(missing) = parts.iter().find(|part| !page.contains(**part)) else { return Ok(()) };
        ensure!(time::Instant::now() < limit, "{missing}: {page}");
    }
}

/// What was stopped is told, and comes back.
async fn stopped_and_back(socket: &mut Socket) -> Result<()> {
    let mut seen = BTreeSet::new();
    while !(seen.contains("gap") && seen.contains("ok")) {
        let told = socket.event(TOPIC, "system").await?;
        let told = told["status"].as_str().context("status")?;
        assert!(told == "gap" || seen.contains("gap"), "it was not told of the gap");
        seen.insert(told.to_owned());
    }
    Ok(())
}

/// http_and_ops 28, 30: how a tenant is, asked on a node that has nothing of it. The dashboard's pages of nodes and of
/// the tenant, and its buttons, likewise
#[tokio::test]
async fn a_tenant_of_other_nodes() -> Result<()> {
    let stored = [("DB_ENC_KEY", "1234567890123456")];
    let nodes = Nodes::in_regions(&stored, &[("SEED_SELF_HOST", "false")]).await?;
    let health = async || -> Result<Value> {
        let answer = nodes.ask(2, "GET", "/api/tenants/realtime-dev/health").await?;
        let health: Value = serde_json::from_str(&answer.body)?;
        Ok(health["data"].clone())
    };
    let idle = json!({
        "healthy": true, "db_connected": true, "replication_connected": false, "connected_cluster": 0,
        "region": "eu-west-2",
    });
    until("another node is connected", || async {
        let mut told = health().await?;
        let node = told.as_object_mut().and_then(|told| told.remove("node")).unwrap_or_default();
        Ok(told == idle && node.as_str().is_some_and(|node| !node.starts_with("node3@")))
    })
    .await?;

    let mut first = watch(&nodes.nodes[0]).await?;
    let reads = id(&nodes.nodes[0]).await?;
    until("the node that reads it is found", || async {
        let health = health().await?;
        let told = ["healthy", "db_connected", "replication_connected"].iter().all(|key| health[key] == true);
        let node = health["node"].as_str().context("node")?;
        Ok(told && health["connected_cluster"] == 1 && node.starts_with("node1@"))
    })
    .await?;

    let mut second = watch(&nodes.nodes[1]).await?;
    let mut ann = Operator::new(&nodes.nodes[2]);
    let parts = ["node1@", "node2@", "node3@", "us-east-1 serves this page", "eu-west-2 connected"];
    shows(&mut ann, "/nodes", &parts).await?;
    let parts = ["Region eu-west-2", "Sockets 1", "realtime-dev 1 1", "Threads"];
    shows(&mut ann, &format!("/nodes/{reads}"), &parts).await?;
    assert_eq!(ann.get("/nodes/ffffffff").await?.status, 404);
    let page = "/tenants/realtime-dev";
    let parts = [
        "Database connection up Replication up",
        &*format!("Node that reads its log {reads}"),
        "Users (sockets with a channel) 2",
        "eu-west-2 connected reads it for all 1 1 1",
        "eu-west-2 connected follows 1 1 1",
        "Region Users eu-west-2 2 us-east-1 0",
    ];
    shows(&mut ann, page, &parts).await?;

    for (act, done) in [("end-replication", "replication"), ("end-database", "database")] {
        let ended = ann.submit(page, &format!("{page}/{act}"), &[]).await?;
        let location = format!("/admin/dashboard/tenants/realtime%2Ddev?done={done}");
        // Others that are slow to answer end it all the same.
        let late = nodes.nodes[2].log().contains("TimeoutOnRpcCall");
        assert!(ended.status == 303 && (late || ended.header("location") == location), "{ended:?}");
        for socket in [&mut first, &mut second] {
            stopped_and_back(socket).await?;
        }
    }
    nodes.db.sql("insert into public.test (details) values ('after')").await?;
    for socket in [&mut first, &mut second] {
        let change = socket.event(TOPIC, "postgres_changes").await?;
        assert_eq!(change["data"]["record"]["details"], "after");
    }
    Ok(())
}

/// Sends heartbeats as a node of another version of the protocol does.
async fn a_node_of_another_version(nats: u16) -> Result<JoinHandle<Result<()>>> {
    let mut stream = TcpStream::connect(("127.0.0.1", nats)).await?;
    let beat = json!({"wire": 9, "id": 7, "token": 7, "name": "later@there", "version": "9.0.0", "up": 100});
    let beat = beat.to_string();
    Ok(tokio::spawn(async move {
        stream.write_all(b"CONNECT {\"verbose\":false}\r\n").await?;
        loop {
            let message = format!("PUB realtime.nodes {}\r\n{beat}\r\n", beat.len());
            stream.write_all(message.as_bytes()).await?;
            let mut told = [0; 4096];
            // The server's greeting and pings; it goes away if nobody answers.
            let _ = time::timeout(time::Duration::from_millis(100), stream.read(&mut told)).await;
            stream.write_all(b"PONG\r\n").await?;
        }
    }))
}

/// http_and_ops 62 over real nodes: one that stands still is unreachable and comes back; one that was killed is shown
/// until another takes its place; one of another version of the protocol is shown, and nothing is exchanged with it
#[tokio::test]
async fn the_status_of_all_nodes() -> Result<()> {
    let mut nodes = Nodes::in_regions(&[], &[]).await?;
    let shows = async |node: &Server, expected: &[(&str, &str)]| {
        let found = until("the status of nodes", || async {
            let report = status(node).await?;
            let nodes = report["nodes"].as_array().into_iter().flatten();
            let shown: BTreeSet<_> =
                nodes.filter_map(|node| Some((node["id"].as_str()?, node["status"].as_str()?))).collect();
            Ok(shown == expected.iter().copied().collect())
        })
        .await;
        match found {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(format!("{expected:?}: {}", status(node).await?))),
        }
    };
    let mut ids = Vec::new();
    for node in &nodes.nodes {
        ids.push(id(node).await?);
    }
    let with = |third: &'static str| [(&*ids[0], "ok"), (&*ids[1], "ok"), (&*ids[2], third)];
    for node in &nodes.nodes {
        shows(node, &with("ok")).await?;
    }
    until("round trips are measured", || async {
        let report = status(&nodes.nodes[1]).await?;
        let pairs = report["pairs"].as_array().context("pairs")?;
        Ok(pairs.iter().all(|pair| pair["latency_ms"].is_number()))
    })
    .await?;
    let report = status(&nodes.nodes[1]).await?;
    assert!(report["nodes"].as_array().context("nodes")?.iter().all(|node| node["uptime_seconds"].is_u64()));
    assert_eq!(report["regions"].as_array().context("regions")?.len(), 3);
    until("each tells of its databases", || async {
        let report = status(&nodes.nodes[0]).await?;
        let of = |node: &Value| node["databases"]["connected"] == 1;
        Ok(report["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(of)))
    })
    .await?;

    nodes.nodes[2].signal(Signal::SIGSTOP)?;
    for node in &nodes.nodes[..2] {
        shows(node, &with("unreachable")).await?;
    }
    let mut ann = Operator::new(&nodes.nodes[0]);
    let list = text(&ann.get("/nodes").await?.body);
    assert!(list.contains("us-east-1 not heard for"), "{list}");
    nodes.nodes[2].signal(Signal::SIGCONT)?;
    for node in &nodes.nodes {
        shows(node, &with("ok")).await?;
    }

    nodes.nodes.remove(2).kill().await?;
    for node in &nodes.nodes {
        shows(node, &with("unreachable")).await?;
    }
    nodes.add(&[("REGION", "us-east-1")]).await?;
    let anew = id(&nodes.nodes[2]).await?;
    let three = [(&*ids[0], "ok"), (&*ids[1], "ok"), (&*anew, "ok")];
    for node in &nodes.nodes {
        shows(node, &three).await?;
    }

    let stranger = a_node_of_another_version(nodes.nats.port()).await?;
    let four = [&three[..], &[("00000007", "unreachable")]].concat();
    for node in &nodes.nodes {
        shows(node, &four).await?;
    }
    let mut ann = Operator::new(&nodes.nodes[1]);
    let list = text(&ann.get("/nodes").await?.body);
    assert!(list.contains("later@there – another version of the protocol"), "{list}");
    stranger.abort();
    Ok(())
}
