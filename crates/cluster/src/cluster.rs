//! This node among others, for the rest of the server.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use realtime_hub::{Backlog, Bus, Entry, Hub, MemberId, MessageId, RoomKey, Said};
use tokio::time::{self, Duration, Instant};

use crate::{
    config::NatsConfig,
    incoming::{Incoming, TenantSide},
    link::ConnectError,
    members::Member,
    node::{Node, life, listen},
    questions::{Answerer, AskError},
    scope::Scope,
    status::{Contact, Metric, NodeStatus},
    stream::{self, FollowError, Followed, Owned},
    wire,
};

/// How long the last words of a node may take.
const LEAVE: Duration = Duration::from_secs(2);

/// This node among others.
#[derive(Clone)]
pub struct Cluster(Arc<Node>);

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("id", &self.0.link.id).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A node that is not connected yet. What is said in the rooms of `hub` will be carried.
    #[must_use]
    pub fn new(config: NatsConfig, hub: &Arc<Hub>) -> Self {
        let cluster = Self(Arc::new(Node::new(config, hub)));
        hub.set_bus(Arc::new(cluster.clone()));
        cluster
    }

    /// Keeps the tenant's messages coming from other nodes while what is returned lives, and a while longer. The tenant is
    /// the `side` that was given last.
    #[must_use]
    pub fn interest(&self, tenant: &Arc<str>, side: &Arc<dyn TenantSide>) -> Interest {
        self.interest_in(&Scope::whole(tenant), side)
    }

    /// Keeps what is said in a room of the tenant coming from other nodes while what is returned lives, and a while longer.
    /// The caller is interested in the tenant, too.
    #[must_use]
    pub fn room_interest(&self, tenant: &Arc<str>, topic: &str, side: &Arc<dyn TenantSide>) -> Interest {
        self.interest_in(&Scope::of_room(tenant, topic), side)
    }

    fn interest_in(&self, scope: &Scope, side: &Arc<dyn TenantSide>) -> Interest {
        let found = self.0.peers.incoming.read().get(scope).map(|incoming| Interest::hold(incoming, side));
        if let Some(interest) = found {
            return interest;
        }
        let mut all = self.0.peers.incoming.write();
        if let Some(incoming) = all.get(scope) {
            return Interest::hold(incoming, side);
        }
        let common = self.0.outgoing.common(&scope.tenant);
        let incoming = Arc::new(Incoming::new(scope.clone(), common, Arc::clone(side)));
        all.insert(scope.clone(), Arc::clone(&incoming));
        let interest = Interest::hold(&incoming, side);
        if !incoming.is_whole() {
            // While the table is locked, as at the end: so the last word is right.
            self.0.outgoing.listen(scope, true);
        }
        drop(all);
        self.0.link.spawn(listen::scope(Arc::clone(&self.0), incoming));
        interest
    }

    pub(crate) fn node(&self) -> &Node {
        &self.0
    }

    /// The number that tells this node from others.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.link.id
    }

    /// Whether NATS is connected. If not, clients on other nodes do not hear what is said here.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.link.is_connected()
    }

    /// How long the connection to NATS has been lost.
    #[must_use]
    pub fn lost_for(&self) -> Option<Duration> {
        self.0.link.lost_at().filter(|_| !self.is_connected()).map(|at| at.elapsed())
    }

    /// How long a silent node is believed to be alive.
    #[must_use]
    pub fn node_timeout(&self) -> Duration {
        self.0.link.config.node_timeout
    }

    /// Whether other nodes are heard.
    #[must_use]
    pub fn has_others(&self) -> bool {
        !self.0.peers.members.lock().nodes().is_empty()
    }

    /// First part of all subjects, which tells clusters apart.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0.link.config.prefix
    }

    /// All nodes that are heard or were heard a while ago: this one first, then by name.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let now = Instant::now();
        let own = Member { beat: self.0.beat(false, true), heard: now, measured: now };
        let status = |member: &Member, contact| {
            let latency_ms = own.beat.latencies.get(&member.beat.id).copied();
            let is_self = member.beat.token == self.0.token;
            NodeStatus::of(member, now, contact, is_self, latency_ms)
        };
        let members = self.0.peers.members.lock();
        let others = members.nodes().values().map(|member| status(member, Contact::Heard));
        let refused = members.refused().map(|member| {
            let namesake = member.beat.id == self.0.link.id;
            status(member, if namesake { Contact::Namesake } else { Contact::Refused })
        });
        let lost = members.lost().map(|member| status(member, Contact::Lost));
        let mut nodes: Vec<_> = others.chain(refused).chain(lost).collect();
        drop(members);
        nodes.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        nodes.insert(0, status(&own, Contact::Heard));
        nodes
    }

    /// Users of all tenants on the other nodes, as the nodes said last.
    #[must_use]
    pub fn users_elsewhere(&self) -> u64 {
        self.0.peers.members.lock().users()
    }

    /// Whether a tenant's users on other nodes are known here. They are while it has sockets here.
    #[must_use]
    pub fn counts_users_of(&self, tenant: &str) -> bool {
        let whole = self.0.peers.listened(&Scope::whole(&tenant.into()));
        whole.is_some_and(|incoming| *incoming.ready.borrow())
    }

    /// Sets what heartbeats tell the others: how many databases answer, and how many do not.
    pub fn set_databases(&self, connected: usize, failing: usize) {
        *self.0.databases.lock() = (connected, failing);
    }

    /// Numbers for operators.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let counts = &self.0.link.counts;
        let nodes = self.0.peers.members.lock().nodes().len() + 1;
        vec![
            ("realtime_cluster_connected", f64::from(self.is_connected())),
            ("realtime_cluster_nodes", nodes as f64),
            ("realtime_cluster_messages_sent", count(&counts.sent)),
            ("realtime_cluster_bytes_sent", count(&counts.sent_bytes)),
            ("realtime_cluster_messages_received", count(&counts.received)),
            ("realtime_cluster_bytes_received", count(&counts.received_bytes)),
            ("realtime_cluster_gaps", count(&self.0.gaps)),
            ("realtime_cluster_malformed", count(&counts.malformed)),
            ("realtime_cluster_waiting_bytes", self.0.outgoing.backlog.bytes() as f64),
        ]
    }
}

/// Its life.
impl Cluster {
    /// Connects and begins to talk to others. If the servers cannot be reached it keeps retrying.
    ///
    /// # Errors
    /// When the settings cannot be used.
    pub async fn start(&self) -> Result<(), ConnectError> {
        self.0.link.connect().await?;
        self.begin();
        Ok(())
    }

    /// Begins to talk to others.
    pub(crate) fn begin(&self) {
        let (node, link) = (&self.0, &self.0.link);
        link.spawn(listen::beats(Arc::clone(node)));
        link.spawn(listen::direct(Arc::clone(node)));
        link.spawn(Arc::clone(&node.questions).listen());
        link.spawn(life::send(Arc::clone(node)));
        link.spawn(life::live(Arc::clone(node)));
        link.spawn(life::mind_the_clock(Arc::clone(node)));
    }

    /// Returns when there is a connection, or after `limit`. Cancel safe.
    pub async fn connected(&self, limit: Duration) {
        self.0.link.connected(limit).await;
    }

    /// Tells the others that this node leaves, and ends.
    pub async fn leave(&self) {
        let (node, link) = (&self.0, &self.0.link);
        // What was said last, by sockets that were closed, has still to go out.
        let _ = time::timeout(Duration::from_secs(1), async {
            while link.is_connected() && node.outgoing.backlog.bytes() > 0 {
                time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        link.stop.cancel();
        link.tasks.close();
        // The tasks may wait for NATS, which may be silent without being known to be lost.
        let _ = time::timeout(LEAVE, async {
            link.tasks.wait().await;
            node.say_beat(true, false).await;
        })
        .await;
        if let Some(client) = link.client() {
            let _ = time::timeout(Duration::from_secs(1), client.flush()).await;
        }
    }
}

/// Questions of operators.
impl Cluster {
    /// Sets what answers the questions of other nodes. Until then they are refused.
    pub fn set_answerer(&self, answerer: Arc<dyn Answerer>) {
        self.0.questions.set_answerer(answerer);
    }

    /// Asks another node something, and waits for its answer for `limit` at most, and only while the node is heard. Cancel
    /// safe.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(&self, node: u32, question: Bytes, limit: Duration) -> Result<Bytes, AskError> {
        self.0.questions.ask(node, question, limit).await
    }
}

/// Streams of tenants' databases.
impl Cluster {
    /// Begins the stream of a tenant, at a position; followers are told `about`. The caller holds the lock that says that
    /// nobody else does so.
    #[must_use]
    pub fn own(&self, tenant: &Arc<str>, position: u64, about: Bytes) -> Owned {
        stream::own(&self.0.link, &self.0.peers, tenant, position, about)
    }

    /// Follows the stream of a tenant that another node owns.
    ///
    /// # Errors
    /// [`FollowError`], at once if there is no such node.
    pub async fn follow(&self, tenant: &Arc<str>) -> Result<Followed, FollowError> {
        stream::follow(&self.0.link, tenant).await
    }
}

impl Bus for Cluster {
    fn said(&self, room: &RoomKey, said: &Said<'_>, id: Option<MessageId>) {
        let scope = Scope::of_room(&room.tenant, &room.topic);
        let size = room.topic.len() + 33;
        let begin = |out: &mut BytesMut| id.into_iter().for_each(|id| wire::put_kept(out, id));
        match said {
            Said::Json(payload) => self.0.outgoing.say(&scope, size + payload.len(), |out| {
                begin(out);
                wire::put_json(out, room.audience, &room.topic, payload);
            }),
            Said::User(user) => {
                let size = size + user.event.len() + user.body.len() + 8;
                self.0.outgoing.say(&scope, size, |out| {
                    begin(out);
                    wire::put_user(out, room.audience, &room.topic, user);
                });
            }
        }
    }

    fn dropped(&self, room: &RoomKey, count: u64) {
        let scope = Scope::of_room(&room.tenant, &room.topic);
        self.0.outgoing.say(&scope, room.topic.len() + 16, |out| {
            wire::put_dropped(out, room.audience, &room.topic, count);
        });
    }

    fn presence(&self, room: &RoomKey, member: MemberId, entry: Option<&Arc<Entry>>) {
        self.0.outgoing.present(room, member, entry);
    }

    fn backlog(&self) -> &Arc<Backlog> {
        &self.0.outgoing.backlog
    }

    fn hears(&self) -> bool {
        self.is_connected()
    }
}

/// Keeps messages of a tenant, or of a bucket of its rooms, coming from other nodes.
#[derive(Debug)]
pub struct Interest {
    incoming: Arc<Incoming>,
}

impl Interest {
    fn hold(incoming: &Arc<Incoming>, side: &Arc<dyn TenantSide>) -> Self {
        incoming.serve(side);
        // Under the lock of the table, so that the tenant is not taken for idle meanwhile.
        incoming.holders.fetch_add(1, Ordering::Relaxed);
        *incoming.idle_since.lock() = None;
        Self { incoming: Arc::clone(incoming) }
    }

    /// Whether what other nodes say from now on will be heard, as far as there is a connection.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.incoming.ready.borrow()
    }

    /// Returns when it will be heard; at the latest after a second or two. Cancel safe.
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
