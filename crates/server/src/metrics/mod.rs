//! What operators watch (http_and_ops 11).
//!
//! Everything is counted where it happens, in a few atomics that whoever counts holds already: no lock, no look-up, no
//! allocation. [`collect`] reads them when somebody asks.

mod collect;
pub mod errors;
mod exposition;
pub mod families;
mod gather;
mod host;
mod merge;
pub mod push;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub use collect::{Part, render};
pub use exposition::{CONTENT_TYPE, Exposition};
pub use gather::{Gathered, gather, of_this_node};
use host::Host;
use parking_lot::Mutex;
use realtime_metrics::{Bounds, Counter, Histogram, Snapshot, milliseconds};
use realtime_postgres::Stats;
use realtime_protocol::Vsn;

/// Buckets of payload sizes, in bytes (http_and_ops 11.1).
const SIZES: Bounds =
    &[250, 500, 1_000, 3_000, 5_000, 10_000, 25_000, 100_000, 500_000, 1_000_000, 3_000_000];

/// Buckets of handling messages and connecting, in microseconds.
const TIMES: Bounds = &milliseconds([10, 100, 500, 1_000, 5_000, 10_000]);

/// Buckets of questions to other nodes, in microseconds.
const RPC_TIMES: Bounds = &milliseconds([10, 250, 5_000, 15_000]);

/// What a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    /// A broadcast, wherever it came from.
    Broadcast,
    /// What a client tracks.
    Presence,
    /// A row change.
    PostgresChanges,
}

impl MessageType {
    const ALL: [Self; 3] = [Self::Broadcast, Self::Presence, Self::PostgresChanges];

    fn as_str(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Presence => "presence",
            Self::PostgresChanges => "postgres_changes",
        }
    }
}

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportKind {
    /// A WebSocket.
    #[default]
    WebSocket,
    /// Requests (protocol 1.11).
    LongPoll,
}

impl TransportKind {
    const ALL: [Self; 2] = [Self::WebSocket, Self::LongPoll];

    fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::LongPoll => "longpoll",
        }
    }
}

/// Label values of results, by place.
const RESULTS: [&str; 2] = ["ok", "error"];

/// Label values of serializers, by place.
const SERIALIZERS: [&str; 2] = ["1.0.0", "2.0.0"];

/// What is counted of the node as a whole.
#[derive(Debug)]
pub struct NodeMetrics {
    /// From reading what a client sent to having handled it.
    pub handled_in: Histogram,
    /// Questions that other nodes answered, and those that they did not.
    asked: [Histogram; 2],
    /// By transport and result.
    joined: [[Counter; 2]; 2],
    /// By transport, result and serializer.
    connected: [[[Histogram; 2]; 2]; 2],
}

impl Default for NodeMetrics {
    fn default() -> Self {
        let histogram = || Histogram::new(TIMES);
        Self {
            handled_in: histogram(),
            asked: std::array::from_fn(|_| Histogram::new(RPC_TIMES)),
            joined: Default::default(),
            connected: std::array::from_fn(|_| std::array::from_fn(|_| std::array::from_fn(|_| histogram()))),
        }
    }
}

impl NodeMetrics {
    /// Another node was asked something.
    pub fn asked(&self, answered: bool, took: tokio::time::Duration) {
        let [yes, no] = &self.asked;
        if answered { yes } else { no }.record_time(took);
    }

    /// A join was decided.
    pub fn joined(&self, transport: TransportKind, succeeded: bool) {
        let [ok, error] = match transport {
            TransportKind::WebSocket => &self.joined[0],
            TransportKind::LongPoll => &self.joined[1],
        };
        if succeeded { ok } else { error }.add(1);
    }

    /// A handshake was decided, not counting the pause before a refusal.
    pub fn connected(
        &self,
        transport: TransportKind,
        succeeded: bool,
        vsn: Vsn,
        took: tokio::time::Duration,
    ) {
        let [ok, error] = match transport {
            TransportKind::WebSocket => &self.connected[0],
            TransportKind::LongPoll => &self.connected[1],
        };
        let [v1, v2] = if succeeded { ok } else { error };
        if vsn == Vsn::V1 { v1 } else { v2 }.record_time(took);
    }
}

/// What is counted of one tenant. It outlives the parts that count: a tenant whose database is connected anew goes on
/// where it was.
#[derive(Debug)]
pub struct TenantMetrics {
    node: Arc<NodeMetrics>,
    /// Attempts to join.
    pub joins: Arc<Counter>,
    /// Broadcasts accepted and delivered.
    pub events: Arc<Counter>,
    /// Presence states, changes and diffs.
    pub presence_events: Arc<Counter>,
    /// Row changes, times subscriptions.
    pub db_events: Arc<Counter>,
    /// HTTP requests.
    pub requests: Arc<Counter>,
    /// Bytes read from sockets.
    pub input_bytes: Counter,
    /// Bytes written to sockets that have ended.
    pub output_bytes: Counter,
    /// All bytes written to sockets, as last told: what is told never falls.
    output_told: AtomicU64,
    payload_sizes: [Histogram; 3],
    /// What its database counts.
    pub database: Arc<Stats>,
}

impl TenantMetrics {
    /// Of a tenant for which nothing was counted.
    #[must_use]
    pub fn new(node: Arc<NodeMetrics>) -> Self {
        Self {
            node,
            joins: Arc::default(),
            events: Arc::default(),
            presence_events: Arc::default(),
            db_events: Arc::default(),
            requests: Arc::default(),
            input_bytes: Counter::default(),
            output_bytes: Counter::default(),
            output_told: AtomicU64::new(0),
            payload_sizes: std::array::from_fn(|_| Histogram::new(SIZES)),
            database: Arc::default(),
        }
    }

    /// What is counted of the node it is on.
    #[must_use]
    pub fn node(&self) -> &NodeMetrics {
        &self.node
    }

    /// An accepted message's payload.
    pub fn payload(&self, message: MessageType, bytes: usize) {
        self.payload_sizes(message).record(bytes as u64);
    }

    fn payload_sizes(&self, message: MessageType) -> &Histogram {
        let [broadcast, presence, changes] = &self.payload_sizes;
        match message {
            MessageType::Broadcast => broadcast,
            MessageType::Presence => presence,
            MessageType::PostgresChanges => changes,
        }
    }

    /// All bytes written, with those of the sockets that there are.
    fn output(&self, live: u64) -> u64 {
        let now = self.output_bytes.get() + live;
        self.output_told.fetch_max(now, Ordering::Relaxed).max(now)
    }

    fn totals(&self) -> Totals {
        Totals {
            joins: self.joins.get(),
            events: self.events.get(),
            presence_events: self.presence_events.get(),
            db_events: self.db_events.get(),
            input_bytes: self.input_bytes.get(),
            output_bytes: self.output_told.load(Ordering::Relaxed),
            payload_sizes: MessageType::ALL.map(|message| self.payload_sizes(message).snapshot()),
            set_ups: self.database.set_ups.snapshot(),
            set_up_failures: self.database.set_up_failures.get(),
        }
    }
}

impl Default for TenantMetrics {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

/// Sums over tenants, those that are gone included.
#[derive(Debug, Clone, Default)]
struct Totals {
    joins: u64,
    events: u64,
    presence_events: u64,
    db_events: u64,
    input_bytes: u64,
    output_bytes: u64,
    payload_sizes: [Snapshot; 3],
    set_ups: Snapshot,
    set_up_failures: u64,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.joins += other.joins;
        self.events += other.events;
        self.presence_events += other.presence_events;
        self.db_events += other.db_events;
        self.input_bytes += other.input_bytes;
        self.output_bytes += other.output_bytes;
        for (mine, theirs) in self.payload_sizes.iter_mut().zip(&other.payload_sizes) {
            mine.merge(theirs);
        }
        self.set_ups.merge(&other.set_ups);
        self.set_up_failures += other.set_up_failures;
    }
}

/// What is counted on a node.
#[derive(Debug, Default)]
pub struct Metrics {
    node: Arc<NodeMetrics>,
    tenants: Mutex<Tenants>,
    host: Host,
}

#[derive(Debug, Default)]
struct Tenants {
    by_name: HashMap<Box<str>, Arc<TenantMetrics>>,
    /// Of tenants that are gone.
    retired: Totals,
}

impl Metrics {
    /// What is counted of the node.
    #[must_use]
    pub fn node(&self) -> &Arc<NodeMetrics> {
        &self.node
    }

    /// What is counted of a tenant, whatever became of its parts so far.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Arc<TenantMetrics> {
        let mut tenants = self.tenants.lock();
        if let Some(metrics) = tenants.by_name.get(name) {
            return Arc::clone(metrics);
        }
        let metrics = Arc::new(TenantMetrics::new(Arc::clone(&self.node)));
        tenants.by_name.insert(name.into(), Arc::clone(&metrics));
        metrics
    }

    /// Forgets tenants that nobody counts for any more; their share of the sums is kept.
    fn retire(&self) {
        let mut tenants = self.tenants.lock();
        let Tenants { by_name, retired } = &mut *tenants;
        by_name.retain(|_, metrics| {
            let used = Arc::strong_count(metrics) > 1;
            if !used {
                retired.add(&metrics.totals());
            }
            used
        });
    }

    /// Sums over all tenants.
    fn totals(&self) -> Totals {
        let tenants = self.tenants.lock();
        let mut totals = tenants.retired.clone();
        for metrics in tenants.by_name.values() {
            totals.add(&metrics.totals());
        }
        totals
    }
}
