//! How operators see nodes.

use tokio::time::{Duration, Instant};

use crate::{chance::Map, members::Member};

/// A number of the cluster's metrics: name and value.
pub type Metric = (&'static str, f64);

/// The status of a node.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// The number that it drew when it started.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The region that it runs in.
    pub region: Option<String>,
    /// Version of its program.
    pub version: String,
    /// Whether it is the node that this status comes from.
    pub is_self: bool,
    /// Whether it can be heard and understood.
    pub contact: Contact,
    /// How long ago it was last heard.
    pub heard_ago: Duration,
    /// Time since its start, if it tells.
    pub uptime: Option<Duration>,
    /// Users of all tenants on it.
    pub users: u64,
    /// How many databases that it keeps connections to answer, and how many do not.
    pub databases: (usize, usize),
    /// Round trip to it in milliseconds, if it was measured.
    pub latency_ms: Option<f64>,
    /// Round trips from it to other nodes, as it measured them last.
    pub latencies: Map<u32, f64>,
    /// Nodes that did not answer its last measurement.
    pub unanswered: Vec<u32>,
    /// How long ago it told these measurements; the time since it came if it has told none.
    pub measured_ago: Duration,
}

/// Whether this node can exchange messages with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// It is heard.
    Heard,
    /// It has not been heard for too long, and did not say that it was leaving.
    Lost,
    /// It is heard, but speaks another version: nothing is exchanged with it.
    Refused,
    /// It is heard, but drew the same number as this node: nothing is exchanged with it.
    Namesake,
}

impl NodeStatus {
    /// The status of a member at this moment.
    pub(crate) fn of(
        member: &Member,
        now: Instant,
        contact: Contact,
        is_self: bool,
        latency_ms: Option<f64>,
    ) -> Self {
        let Member { beat, heard, measured } = member;
        let ago = |then: Instant| now.saturating_duration_since(then);
        Self {
            id: beat.id,
            name: beat.name.clone(),
            region: beat.region.clone(),
            version: beat.version.clone(),
            is_self,
            contact,
            heard_ago: ago(*heard),
            uptime: beat.up.map(|up| Duration::from_secs(up) + ago(*heard)),
            users: beat.users,
            databases: beat.databases,
            latency_ms,
            latencies: beat.latencies.clone(),
            unanswered: beat.unanswered.clone(),
            measured_ago: ago(*measured),
        }
    }
}
