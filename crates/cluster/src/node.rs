//! This node among others: the connection to NATS, and the tasks around it.

mod connection;
mod life;
mod listen;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_nats::Client;
use bytes::Bytes;
pub use connection::ConnectError;
use parking_lot::{Mutex, RwLock};
use realtime_hub::{Backlog, Bus, Entry, Hub, MemberId, RoomKey, Said};
use tokio::{
    sync::{Notify, watch},
    time::{Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use life::MARGIN;

use crate::{
    config::NatsConfig,
    incoming::{Asks, Incoming, TenantSide},
    members::{Beat, Members},
    outgoing::Outgoing,
    subjects::Subjects,
    wire::{self, Direct, WIRE_VERSION},
};

/// How long the first socket of a tenant waits for what is so on other nodes. Who comes later is told as it becomes
/// known, which is right too, only in more frames.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);

/// This node among others.
#[derive(Clone)]
pub struct Cluster(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: NatsConfig,
    pub(crate) subjects: Subjects,
    hub: Arc<Hub>,
    pub(crate) id: u32,
    token: u64,
    pub(crate) client: OnceLock<Client>,
    connected: watch::Sender<bool>,
    /// Whether there ever was a connection.
    was_connected: AtomicBool,
    /// Why there is none to be had, as far as it was told.
    refusals: Mutex<Vec<String>>,
    /// When the connection was lost.
    lost_at: Mutex<Option<Instant>>,
    /// Told when the connection stands anew.
    resumed: Notify,
    outgoing: Outgoing,
    members: Mutex<Members>,
    incoming: RwLock<HashMap<Arc<str>, Arc<Incoming>>>,
    asks: Asks,
    latencies: Mutex<Latencies>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Latencies {
    next: u64,
    /// Pings that are out: to whom, since when.
    pings: HashMap<u64, (u32, Instant)>,
    /// Round trips in milliseconds.
    measured: HashMap<u32, f64>,
}

/// What is counted, since the start.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    gaps: AtomicU64,
    malformed: AtomicU64,
}

/// A number of the cluster's metrics: name and value.
pub type Metric = (&'static str, f64);

/// A node, as another or itself sees it.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// The number that it drew when it started.
    pub id: u32,
    /// What people call it.
    pub name: String,
    /// Where it is.
    pub region: Option<String>,
    /// Version of its program.
    pub version: String,
    /// Whether it is the one that tells.
    pub is_self: bool,
    /// Whether it is of another version, so that nothing is exchanged with it.
    pub refused: bool,
    /// How long ago it was last heard.
    pub heard_ago: Duration,
    /// Round trip from the node that tells, in milliseconds, if it was measured.
    pub latency_ms: Option<f64>,
    /// Round trips from it to others, as it measured them last.
    pub latencies: HashMap<u32, f64>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("id", &self.0.id).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A node that is not connected yet. What is said in the rooms of `hub` will be carried.
    #[must_use]
    pub fn new(config: NatsConfig, hub: &Arc<Hub>) -> Self {
        let id = hub.node();
        let token = rand::random();
        let cluster = Self(Arc::new(Inner {
            subjects: Subjects::new(&config.prefix),
            hub: Arc::clone(hub),
            id,
            token,
            client: OnceLock::new(),
            connected: watch::Sender::new(false),
            was_connected: AtomicBool::new(false),
            refusals: Mutex::default(),
            lost_at: Mutex::default(),
            resumed: Notify::new(),
            outgoing: Outgoing::new(id),
            members: Mutex::new(Members::new(id, token, config.node_timeout)),
            incoming: RwLock::default(),
            asks: Asks::default(),
            latencies: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            counts: Counts::default(),
            config,
        }));
        hub.set_bus(Arc::new(cluster.clone()));
        cluster
    }

    /// Keeps the tenant's messages coming from other nodes while what is returned lives, and a while longer. They concern
    /// the `side` that was given last.
    #[must_use]
    pub fn interest(&self, tenant: &Arc<str>, side: &Arc<dyn TenantSide>) -> Interest {
        let found = self.0.incoming.read().get(tenant).map(|incoming| self.hold(incoming, side));
        if let Some(interest) = found {
            return interest;
        }
        let mut all = self.0.incoming.write();
        if let Some(incoming) = all.get(tenant) {
            return self.hold(incoming, side);
        }
        let incoming = Arc::new(Incoming::new(Arc::clone(tenant), Arc::clone(side)));
        all.insert(Arc::clone(tenant), Arc::clone(&incoming));
        let interest = self.hold(&incoming, side);
        drop(all);
        self.0.tasks.spawn(listen::tenant(Arc::clone(&self.0), incoming));
        interest
    }

    fn hold(&self, incoming: &Arc<Incoming>, side: &Arc<dyn TenantSide>) -> Interest {
        incoming.serve(side);
        // Under the lock of the table: it is not taken for idle meanwhile.
        incoming.holders.fetch_add(1, Ordering::Relaxed);
        *incoming.idle_since.lock() = None;
        Interest { incoming: Arc::clone(incoming) }
    }

    /// What tells this node from others.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// Whether NATS is connected: if not, only those on this node hear what is said here.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.0.connected.borrow()
    }

    /// How long the connection to NATS has been lost.
    #[must_use]
    pub fn lost_for(&self) -> Option<Duration> {
        (*self.0.lost_at.lock()).filter(|_| !self.is_connected()).map(|at| at.elapsed())
    }

    /// How long a node that says nothing is believed to be there.
    #[must_use]
    pub fn node_timeout(&self) -> Duration {
        self.0.config.node_timeout
    }

    /// Whether other nodes are heard.
    #[must_use]
    pub fn has_others(&self) -> bool {
        !self.0.members.lock().nodes().is_empty()
    }

    /// First part of all subjects: what tells clusters apart.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0.config.prefix
    }

    /// All nodes that are heard, this one first, then by name.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let now = Instant::now();
        let own = self.0.beat(false, true);
        let latencies = own.latencies.clone();
        let status = |beat: &Beat, heard: Instant, refused| NodeStatus {
            id: beat.id,
            name: beat.name.clone(),
            region: beat.region.clone(),
            version: beat.version.clone(),
            is_self: beat.token == self.0.token,
            refused,
            heard_ago: now.saturating_duration_since(heard),
            latency_ms: latencies.get(&beat.id).copied(),
            latencies: beat.latencies.clone(),
        };
        let members = self.0.members.lock();
        let others = members.nodes().values().map(|member| status(&member.beat, member.heard, false));
        let refused = members.refused().map(|member| status(&member.beat, member.heard, true));
        let mut nodes: Vec<_> = others.chain(refused).collect();
        drop(members);
        nodes.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        nodes.insert(0, status(&own, now, false));
        nodes
    }

    /// Numbers for operators.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let counts = &self.0.counts;
        let nodes = self.0.members.lock().nodes().len() + 1;
        vec![
            ("realtime_cluster_connected", f64::from(self.is_connected())),
            ("realtime_cluster_nodes", nodes as f64),
            ("realtime_cluster_messages_sent", count(&counts.sent)),
            ("realtime_cluster_bytes_sent", count(&counts.sent_bytes)),
            ("realtime_cluster_messages_received", count(&counts.received)),
            ("realtime_cluster_bytes_received", count(&counts.received_bytes)),
            ("realtime_cluster_gaps", count(&counts.gaps)),
            ("realtime_cluster_malformed", count(&counts.malformed)),
            ("realtime_cluster_waiting_bytes", self.0.outgoing.backlog.bytes() as f64),
        ]
    }
}

impl Inner {
    fn beat(&self, bye: bool, latencies: bool) -> Beat {
        Beat {
            wire: WIRE_VERSION,
            id: self.id,
            token: self.token,
            name: self.config.node_name.clone(),
            version: self.config.version.to_owned(),
            region: self.config.region.clone(),
            bye,
            latencies: if latencies { self.latencies.lock().measured.clone() } else { HashMap::new() },
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Publishes, if there is a connection. A failure shows as a gap to those who miss it. Waits while NATS takes nothing,
    /// but not beyond the loss of the connection: the client's queue is as full as it was until there is another one.
    pub(crate) async fn publish(&self, subject: String, message: Bytes) {
        let Some(client) = self.client.get().filter(|_| self.is_connected()) else { return };
        let length = message.len() as u64;
        let sent = tokio::select! {
            biased;
            sent = client.publish(subject, message) => sent,
            () = self.lost() => return,
        };
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        self.counts.sent_bytes.fetch_add(length, Ordering::Relaxed);
        if let Err(error) = sent {
            tracing::warn!(code = "RpcError", %error, "message to other nodes not sent");
        }
    }

    /// Returns when there is no connection. Cancel safe.
    pub(crate) async fn lost(&self) {
        // The sender lives as long as this does.
        let _ = self.connected.subscribe().wait_for(|connected| !connected).await;
    }

    async fn tell(&self, node: u32, direct: &Direct) {
        self.publish(self.subjects.node(node), direct.encode(self.id)).await;
    }

    fn received(&self, message: &Bytes) {
        self.counts.received.fetch_add(1, Ordering::Relaxed);
        self.counts.received_bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
    }

    pub(crate) fn malformed(&self, error: wire::Malformed) {
        if self.counts.malformed.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!(code = "RpcError", %error, "message from another node dropped; further ones are counted");
        }
    }

    /// Largest message that NATS takes; 0 before the first connection.
    pub(crate) fn max_payload(&self) -> usize {
        self.client.get().map_or(0, |client| client.server_info().max_payload)
    }

    fn interests(&self) -> Vec<Arc<Incoming>> {
        self.incoming.read().values().map(Arc::clone).collect()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Bus for Cluster {
    fn said(&self, room: &RoomKey, said: &Said<'_>) {
        let size = room.topic.len() + 16;
        match said {
            Said::Json(payload) => self.0.outgoing.say(&room.tenant, size + payload.len(), |out| {
                wire::put_json(out, room.audience, &room.topic, payload);
            }),
            Said::User(user) => {
                let size = size + user.event.len() + user.body.len() + 8;
                self.0.outgoing.say(&room.tenant, size, |out| {
                    wire::put_user(out, room.audience, &room.topic, user);
                });
            }
        }
    }

    fn presence(&self, room: &RoomKey, member: MemberId, entry: Option<&Arc<Entry>>) {
        self.0.outgoing.present(&room.tenant, room.audience, &room.topic, member, entry);
    }

    fn backlog(&self) -> &Arc<Backlog> {
        &self.0.outgoing.backlog
    }
}

/// Keeps a tenant's messages coming from other nodes.
#[derive(Debug)]
pub struct Interest {
    incoming: Arc<Incoming>,
}

impl Interest {
    /// Whether what is said elsewhere from now on will be heard, as far as there is a connection.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.incoming.ready.borrow()
    }

    /// Returns when it is so; at the latest after a second or two. Cancel safe.
    pub async fn ready(&self) {
        let mut ready = self.incoming.ready.subscribe();
        // The sender lives as long as this does.
        let _ = ready.wait_for(|ready| *ready).await;
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        if self.incoming.holders.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.incoming.idle_since.lock() = Some(Instant::now());
        }
    }
}
