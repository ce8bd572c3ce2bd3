//! This node among others: the connection to NATS, and the tasks around it.

mod connection;
mod life;
mod listen;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
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
pub(crate) use listen::subscribe;

use crate::{
    config::NatsConfig,
    incoming::{Asks, Incoming, TenantSide},
    members::{Beat, Member, Members},
    outgoing::Outgoing,
    questions::Answers,
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
    /// Why there is none to be had, as far as it was told.
    refusals: Mutex<Vec<String>>,
    /// When the connection was lost; nothing before the first.
    lost_at: Mutex<Option<Instant>>,
    /// Told when the connection stands anew.
    resumed: Notify,
    outgoing: Outgoing,
    members: Mutex<Members>,
    incoming: RwLock<HashMap<Arc<str>, Arc<Incoming>>>,
    asks: Asks,
    latencies: Mutex<Latencies>,
    started: Instant,
    /// Databases that answer, and those that do not.
    databases: Mutex<(usize, usize)>,
    pub(crate) answers: Answers,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Latencies {
    next: u64,
    /// Pings that are out: to whom, since when.
    pings: HashMap<u64, (u32, Instant)>,
    /// Round trips in milliseconds; `None` if the last ping was not answered.
    measured: HashMap<u32, Option<f64>>,
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
    /// Whether it is heard, and understood.
    pub contact: Contact,
    /// How long ago it was last heard.
    pub heard_ago: Duration,
    /// Time since its start, if it says so.
    pub uptime: Option<Duration>,
    /// Users of all tenants on it.
    pub users: u64,
    /// Databases that it keeps connections to: those that answer, and those that do not.
    pub databases: (usize, usize),
    /// Round trip from the node that tells, in milliseconds, if it was measured.
    pub latency_ms: Option<f64>,
    /// Round trips from it to others, as it measured them last.
    pub latencies: HashMap<u32, f64>,
    /// Nodes that did not answer it then.
    pub unanswered: Vec<u32>,
    /// How long ago it told these; since it came, if it has not.
    pub measured_ago: Duration,
}

/// How a node stands to the one that tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// It is heard.
    Heard,
    /// It has not been heard for too long, and did not say that it goes.
    Lost,
    /// It is heard, but of another version: nothing is exchanged with it.
    Refused,
    /// It is heard, but drew the same number as the one that tells: likewise.
    Namesake,
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
            refusals: Mutex::default(),
            lost_at: Mutex::default(),
            resumed: Notify::new(),
            outgoing: Outgoing::new(id),
            members: Mutex::new(Members::new(id, token, config.node_timeout)),
            incoming: RwLock::default(),
            asks: Asks::default(),
            latencies: Mutex::default(),
            started: Instant::now(),
            databases: Mutex::default(),
            answers: Answers::default(),
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

    /// All nodes that are heard or were heard a while ago, this one first, then by name.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let now = Instant::now();
        let own = Member { beat: self.0.beat(false, true), heard: now, measured: now };
        let ago = |then: Instant| now.saturating_duration_since(then);
        let status = |member: &Member, contact| {
            let Member { beat, heard, measured } = member;
            NodeStatus {
                id: beat.id,
                name: beat.name.clone(),
                region: beat.region.clone(),
                version: beat.version.clone(),
                is_self: beat.token == self.0.token,
                contact,
                heard_ago: ago(*heard),
                uptime: beat.up.map(|up| Duration::from_secs(up) + ago(*heard)),
                users: beat.users,
                databases: beat.databases,
                latency_ms: own.beat.latencies.get(&beat.id).copied(),
                latencies: beat.latencies.clone(),
                unanswered: beat.unanswered.clone(),
                measured_ago: ago(*measured),
            }
        };
        let members = self.0.members.lock();
        let others = members.nodes().values().map(|member| status(member, Contact::Heard));
        let refused = members.refused().map(|member| {
            let namesake = member.beat.id == self.0.id;
            status(member, if namesake { Contact::Namesake } else { Contact::Refused })
        });
        let lost = members.lost().map(|member| status(member, Contact::Lost));
        let mut nodes: Vec<_> = others.chain(refused).chain(lost).collect();
        drop(members);
        nodes.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        nodes.insert(0, status(&own, Contact::Heard));
        nodes
    }

    /// Users of all tenants on the other nodes, as these said last.
    #[must_use]
    pub fn users_elsewhere(&self) -> u64 {
        self.0.members.lock().users()
    }

    /// Whether a tenant's users on other nodes are counted here, which is so while it has sockets here.
    #[must_use]
    pub fn counts_users_of(&self, tenant: &str) -> bool {
        self.0.incoming.read().get(tenant).is_some_and(|incoming| *incoming.ready.borrow())
    }

    /// Takes note of what the others are told with heartbeats: databases that answer, and those that do not.
    pub fn set_databases(&self, connected: usize, failing: usize) {
        *self.0.databases.lock() = (connected, failing);
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
    fn beat(&self, bye: bool, measured: bool) -> Beat {
        let (latencies, unanswered) = if measured { self.measured() } else { Default::default() };
        let users = self.interests().iter().map(|incoming| u64::from(incoming.side().users())).sum();
        Beat {
            wire: WIRE_VERSION,
            id: self.id,
            token: self.token,
            name: self.config.node_name.clone(),
            version: self.config.version.to_owned(),
            region: self.config.region.clone(),
            bye,
            latencies,
            unanswered,
            up: Some(self.started.elapsed().as_secs()),
            users,
            databases: *self.databases.lock(),
        }
    }

    /// Round trips to others in milliseconds, and who does not answer. Of another version is as silent as not there.
    fn measured(&self) -> (HashMap<u32, f64>, Vec<u32>) {
        let mut latencies = HashMap::new();
        let mut unanswered = Vec::new();
        for (node, latency) in &self.latencies.lock().measured {
            match latency {
                Some(latency) => drop(latencies.insert(*node, *latency)),
                None => unanswered.push(*node),
            }
        }
        let members = self.members.lock();
        let silent = members.lost().chain(members.refused()).map(|member| member.beat.id);
        unanswered.extend(silent.filter(|id| *id != self.id));
        (latencies, unanswered)
    }

    pub(crate) fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Whether a node is heard.
    pub(crate) fn hears(&self, node: u32) -> bool {
        self.members.lock().contains(node)
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

    pub(crate) fn received(&self, message: &Bytes) {
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

    /// The other nodes.
    pub(crate) fn others(&self) -> Vec<u32> {
        self.members.lock().nodes().keys().copied().collect()
    }

    /// Other nodes on which a tenant has users, as far as this one listens for it.
    pub(crate) fn populated(&self, tenant: &str) -> Vec<u32> {
        self.incoming.read().get(tenant).map(|incoming| incoming.populated()).unwrap_or_default()
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

    fn dropped(&self, room: &RoomKey, count: u64) {
        self.0.outgoing.say(&room.tenant, room.topic.len() + 16, |out| {
            wire::put_dropped(out, room.audience, &room.topic, count);
        });
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
