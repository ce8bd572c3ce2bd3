//! What is counted for a node and for its tenants (http_and_ops 11).
//!
//! Everything is counted where it happens, in a few atomics that the counting code holds already: no lock, no look-up,
//! no allocation. Metrics read them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use realtime_metrics::{Bounds, Counter, Histogram, Snapshot, milliseconds};
use realtime_postgres::Stats;
use realtime_protocol::Vsn;

use crate::notices::Notices;

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
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Broadcast, Self::Presence, Self::PostgresChanges];

    /// The label in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
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
    /// HTTP requests (protocol 1.11).
    LongPoll,
    /// A stream of server-sent events (resume 5).
    Events,
}

impl TransportKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::WebSocket, Self::LongPoll, Self::Events];

    /// The label in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::LongPoll => "longpoll",
            Self::Events => "sse",
        }
    }
}

/// What is counted of the node as a whole.
#[derive(Debug)]
pub struct NodeCounters {
    /// Time from reading a client's message to having handled it.
    pub handled_in: Histogram,
    /// Questions to other nodes, by whether they were answered.
    pub asked: [Histogram; 2],
    /// Joins that were decided, by transport and result.
    pub joined: [[Counter; 2]; 3],
    /// Handshakes, by transport, result and serializer.
    pub connected: [[[Histogram; 2]; 2]; 3],
    /// Sockets closed because they read too slowly.
    pub slow_consumers: Counter,
}

impl Default for NodeCounters {
    fn default() -> Self {
        let histogram = || Histogram::new(TIMES);
        Self {
            handled_in: histogram(),
            asked: std::array::from_fn(|_| Histogram::new(RPC_TIMES)),
            joined: Default::default(),
            connected: std::array::from_fn(|_| std::array::from_fn(|_| std::array::from_fn(|_| histogram()))),
            slow_consumers: Counter::default(),
        }
    }
}

impl NodeCounters {
    /// Counts a question to another node.
    pub fn asked(&self, answered: bool, took: tokio::time::Duration) {
        let [yes, no] = &self.asked;
        if answered { yes } else { no }.record_time(took);
    }

    /// Counts a join that was decided.
    pub fn joined(&self, transport: TransportKind, succeeded: bool) {
        let [ok, error] = match transport {
            TransportKind::WebSocket => &self.joined[0],
            TransportKind::LongPoll => &self.joined[1],
            TransportKind::Events => &self.joined[2],
        };
        if succeeded { ok } else { error }.add(1);
    }

    /// Counts a handshake that was decided. The pause before a refusal is not part of its time.
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
            TransportKind::Events => &self.connected[2],
        };
        let [v1, v2] = if succeeded { ok } else { error };
        if vsn == Vsn::V1 { v1 } else { v2 }.record_time(took);
    }
}

/// What is counted for one tenant. It outlives the parts that count: when a tenant's database is connected again,
/// counting goes on.
#[derive(Debug)]
pub struct TenantCounters {
    node: Arc<NodeCounters>,
    /// Joins that passed the checks for which no database is asked.
    pub joins: Arc<Counter>,
    /// Broadcasts accepted and delivered.
    pub events: Arc<Counter>,
    /// Presence states, changes and diffs.
    pub presence_events: Arc<Counter>,
    /// Row changes, times the subscriptions that match each.
    pub db_events: Arc<Counter>,
    /// Messages that were sent again to those who had missed them.
    pub messages_replayed: Counter,
    /// HTTP requests.
    pub requests: Arc<Counter>,
    /// Bytes read from sockets.
    pub input_bytes: Counter,
    /// Bytes written to sockets that have ended.
    pub output_bytes: Counter,
    /// The bytes written that were reported last, so that the reported number never falls.
    output_told: AtomicU64,
    payload_sizes: [Histogram; 3],
    /// What its database counts.
    pub database: Arc<Stats>,
    /// What its channels were told of.
    pub notices: Notices,
}

impl TenantCounters {
    /// Counters of a tenant for which nothing was counted yet.
    #[must_use]
    pub fn new(node: Arc<NodeCounters>) -> Self {
        Self {
            node,
            joins: Arc::default(),
            events: Arc::default(),
            presence_events: Arc::default(),
            db_events: Arc::default(),
            messages_replayed: Counter::default(),
            requests: Arc::default(),
            input_bytes: Counter::default(),
            output_bytes: Counter::default(),
            output_told: AtomicU64::new(0),
            payload_sizes: std::array::from_fn(|_| Histogram::new(SIZES)),
            database: Arc::default(),
            notices: Notices::default(),
        }
    }

    /// The counters of the tenant's node.
    #[must_use]
    pub fn node(&self) -> &NodeCounters {
        &self.node
    }

    /// Counts the payload of an accepted message.
    pub fn payload(&self, message: MessageType, bytes: usize) {
        self.payload_sizes(message).record(bytes as u64);
    }

    /// Sizes of payloads of a type.
    #[must_use]
    pub fn payload_sizes(&self, message: MessageType) -> &Histogram {
        let [broadcast, presence, changes] = &self.payload_sizes;
        match message {
            MessageType::Broadcast => broadcast,
            MessageType::Presence => presence,
            MessageType::PostgresChanges => changes,
        }
    }

    /// All bytes written, including those to living sockets.
    #[must_use]
    pub fn output(&self, live: u64) -> u64 {
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

impl Default for TenantCounters {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

/// Sums over all tenants, including those that are gone.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Joins that passed the checks for which no database is asked.
    pub joins: u64,
    /// Broadcasts accepted and delivered.
    pub events: u64,
    /// Presence states, changes and diffs.
    pub presence_events: u64,
    /// Row changes, times the subscriptions that match each.
    pub db_events: u64,
    /// Bytes read from sockets.
    pub input_bytes: u64,
    /// Bytes written to sockets.
    pub output_bytes: u64,
    /// Sizes of payloads, by type of message.
    pub payload_sizes: [Snapshot; 3],
    /// Times that set-ups of databases took.
    pub set_ups: Snapshot,
    /// Set-ups that failed.
    pub set_up_failures: u64,
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
pub struct Counters {
    node: Arc<NodeCounters>,
    tenants: Mutex<Tenants>,
}

#[derive(Debug, Default)]
struct Tenants {
    by_name: HashMap<Box<str>, Arc<TenantCounters>>,
    /// Sums of the tenants that are gone.
    retired: Totals,
}

impl Counters {
    /// The node's own counters.
    #[must_use]
    pub fn node(&self) -> &Arc<NodeCounters> {
        &self.node
    }

    /// The counters of a tenant. Its parts may come and go; the counters stay.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Arc<TenantCounters> {
        let mut tenants = self.tenants.lock();
        if let Some(counters) = tenants.by_name.get(name) {
            return Arc::clone(counters);
        }
        let counters = Arc::new(TenantCounters::new(Arc::clone(&self.node)));
        tenants.by_name.insert(name.into(), Arc::clone(&counters));
        counters
    }

    /// Forgets tenants for which no part counts any more. The sums keep their share.
    pub fn retire(&self) {
        let mut tenants = self.tenants.lock();
        let Tenants { by_name, retired } = &mut *tenants;
        by_name.retain(|_, counters| {
            let used = Arc::strong_count(counters) > 1;
            if !used {
                retired.add(&counters.totals());
            }
            used
        });
    }

    /// Sums over all tenants.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let tenants = self.tenants.lock();
        let mut totals = tenants.retired.clone();
        for counters in tenants.by_name.values() {
            totals.add(&counters.totals());
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tenant that is gone leaves its share of the sums; one that comes back goes on where it was.
    #[test]
    fn what_was_counted_outlives_who_counts() {
        let counters = Counters::default();
        let tenant = counters.tenant("a");
        tenant.events.add(5);
        tenant.payload(MessageType::Broadcast, 700);
        counters.tenant("b").events.add(1);
        assert!(Arc::ptr_eq(&tenant, &counters.tenant("a")));
        counters.retire();
        let sums = |counters: &Counters| {
            let totals = counters.totals();
            (totals.events, totals.payload_sizes.map(|seen| seen.count()))
        };
        assert_eq!(sums(&counters), (6, [1, 0, 0]));
        drop(tenant);
        counters.retire();
        assert!(counters.tenants.lock().by_name.is_empty());
        assert_eq!(sums(&counters), (6, [1, 0, 0]));
        assert_eq!(counters.tenant("a").events.get(), 0, "gone is gone");
    }
}
