//! How nodes and the ways between them are (http_and_ops 4.2). Time comes in as ages, so nothing here has a clock.

mod assess;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

/// Round trips above this are slow.
pub const SLOW: Duration = Duration::from_millis(1000);

/// What was not heard of for longer is stale.
pub const STALE: Duration = Duration::from_secs(30);

/// What a node knows of the cluster; [`assess`](View::assess) tells what to think of it.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Nodes, this one first.
    pub nodes: Vec<Node>,
    /// Latest probe of each pair that was heard of.
    pub probes: Vec<Probe>,
}

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Short id, unique in the cluster.
    pub id: String,
    /// Where it is.
    pub region: Option<String>,
    /// Version of the server.
    pub version: String,
    /// Time since its start, if that is known here.
    pub uptime: Option<Duration>,
    /// The databases it keeps connections to; none if that is not known here.
    pub databases: Databases,
}

/// Databases of a node, counted: their names are nobody's business.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Databases {
    /// Those that answer.
    pub connected: usize,
    /// Those that do not.
    pub failing: usize,
}

/// What became of the latest message from one node to another and back.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Id of the node that asked.
    pub from: String,
    /// Id of the node that was to answer.
    pub to: String,
    /// Time since.
    pub age: Duration,
    /// Round trip; `None` if no answer came.
    pub latency: Option<Duration>,
}

/// How a node or a way between two is; from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not known yet.
    Loading,
    /// As it should be.
    Ok,
    /// Works, but something is wrong.
    Slow,
    /// Nothing was heard for a while.
    Stale,
    /// Does not answer.
    Unreachable,
}

/// What the status page shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Id of the node that tells.
    pub node: String,
    /// The worst of all nodes and databases.
    pub status: Status,
    /// Nodes.
    pub nodes: Vec<NodeReport>,
    /// Every ordered pair of nodes; of a node and itself only if that is known.
    pub pairs: Vec<PairReport>,
    /// Every ordered pair of regions that has pairs of nodes.
    pub regions: Vec<RegionReport>,
}

/// A node on the status page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeReport {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub region: Option<String>,
    /// Version of the server.
    pub version: String,
    /// Seconds since its start, if that is known.
    pub uptime_seconds: Option<u64>,
    /// How it is.
    pub status: Status,
    /// Its databases.
    pub databases: Databases,
}

/// The way from a node to another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairReport {
    /// Id of the node that asks.
    pub from: String,
    /// Id of the node that is asked.
    pub to: String,
    /// How it is.
    pub status: Status,
    /// Round trip in milliseconds, if the latest probe was answered.
    pub latency_ms: Option<f64>,
    /// Seconds since the latest probe, if there was one.
    pub age_seconds: Option<u64>,
}

/// The ways from the nodes of a region to those of another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegionReport {
    /// The one.
    pub from: Option<String>,
    /// The other.
    pub to: Option<String>,
    /// What most of them are.
    pub status: Status,
    /// Mean round trip in milliseconds of the probes that were answered.
    pub latency_ms: Option<f64>,
}
