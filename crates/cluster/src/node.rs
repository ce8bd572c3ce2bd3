//! The state of this node among others. What it does with it is in `listen` and `life`; [`cluster`](crate::cluster) is
//! what the rest of the server uses.

pub(crate) mod life;
pub(crate) mod listen;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
};

use parking_lot::Mutex;
use realtime_hub::Hub;
use tokio::time::Instant;

use crate::{
    asking::Asking,
    chance::{self, Map},
    config::NatsConfig,
    incoming::Asks,
    link::Link,
    members::{Beat, Members},
    outgoing::Outgoing,
    peers::Peers,
    questions::Questions,
    wire::{Direct, WIRE_VERSION},
};

/// The state of this node among others.
pub(crate) struct Node {
    pub(crate) link: Arc<Link>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) hub: Arc<Hub>,
    /// Drawn at the start: tells this node from another that drew the same number.
    pub(crate) token: u64,
    pub(crate) outgoing: Outgoing,
    pub(crate) asks: Asks,
    latencies: Mutex<Latencies>,
    started: Instant,
    /// How many databases answer, and how many do not.
    pub(crate) databases: Mutex<(usize, usize)>,
    pub(crate) questions: Arc<Questions>,
    /// The rooms that others are asked about.
    pub(crate) asking: Asking,
    /// Gaps in what other nodes say.
    pub(crate) gaps: AtomicU64,
}

#[derive(Debug, Default)]
struct Latencies {
    next: u64,
    /// Pings that are out: to which node, since when.
    pings: Map<u64, (u32, Instant)>,
    /// Round trips in milliseconds; `None` if the last ping was not answered.
    measured: Map<u32, Option<f64>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.link.id).finish_non_exhaustive()
    }
}

impl Node {
    /// A node that is not connected yet.
    pub(crate) fn new(config: NatsConfig, hub: &Arc<Hub>) -> Self {
        let id = hub.node();
        let token = chance::draw();
        let peers = Arc::new(Peers::new(Members::new(id, token, config.node_timeout)));
        let outgoing = Outgoing::new(id, config.heartbeat, config.node_timeout);
        let link = Arc::new(Link::new(config, id));
        Self {
            questions: Arc::new(Questions::new(&link, &peers, hub)),
            asking: Asking::default(),
            link,
            peers,
            hub: Arc::clone(hub),
            token,
            outgoing,
            asks: Asks::default(),
            latencies: Mutex::default(),
            started: Instant::now(),
            databases: Mutex::default(),
            gaps: AtomicU64::new(0),
        }
    }

    /// A heartbeat of this node; with its measurements if `measured`.
    pub(crate) fn beat(&self, bye: bool, measured: bool) -> Beat {
        let (latencies, unanswered) = if measured { self.measured() } else { Default::default() };
        let users = self.peers.tenants().iter().map(|incoming| u64::from(incoming.side().users())).sum();
        let config = &self.link.config;
        Beat {
            wire: WIRE_VERSION,
            id: self.link.id,
            token: self.token,
            name: config.node_name.clone(),
            version: config.version.to_owned(),
            region: config.region.clone(),
            bye,
            latencies,
            unanswered,
            up: Some(self.started.elapsed().as_secs()),
            users,
            databases: *self.databases.lock(),
        }
    }

    /// Round trips to other nodes in milliseconds, and the nodes that do not answer. A node of another version does not
    /// answer either.
    fn measured(&self) -> (Map<u32, f64>, Vec<u32>) {
        let mut latencies = Map::default();
        let mut unanswered = Vec::new();
        for (node, latency) in &self.latencies.lock().measured {
            match latency {
                Some(latency) => drop(latencies.insert(*node, *latency)),
                None => unanswered.push(*node),
            }
        }
        let members = self.peers.members.lock();
        let silent = members.lost().chain(members.refused()).map(|member| member.beat.id);
        unanswered.extend(silent.filter(|id| *id != self.link.id));
        (latencies, unanswered)
    }

    async fn tell(&self, node: u32, direct: &Direct) {
        self.link.publish(self.link.subjects.node(node), direct.encode(self.link.id)).await;
    }
}
