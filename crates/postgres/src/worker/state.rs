//! What a worker knows: relations, types, who watches what.

mod dropped;
mod messages;
mod refresh;
mod rows;
mod sight;
mod tables;
mod waiting;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use deadpool_postgres::Pool;
use dropped::Dropped;
use realtime_changes::{ChannelId, Engine, RoleAccess, SubscribeRefusal, SubscriptionKey, Table};
use realtime_pgoutput::{
    Lsn, Oid, TypeRegistry,
    message::{Relation, UnixMicros},
};
pub(super) use refresh::Refreshed;
use tokio::time::Duration;
use waiting::Waiting;

use crate::{
    ChangeSink, MessageColumns, Notice, Stats, SubscribeRequest,
    catalog::Published,
    pool,
    subscribe::{Checked, Literals},
    visibility::Troubled,
};

/// Pause before a database that could not be asked is asked again. Rows must not pass unchecked.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Literals kept at most; beyond it they are asked anew.
const MAX_LITERALS: usize = 100_000;

/// What channels are told when rows are dropped because there are too many (postgres_changes 4.3).
const LIMITED: &str =
    "Too many postgres changes messages per second: changes are dropped until there are fewer";

/// A channel and where it is attached.
struct Watcher {
    request: Arc<SubscribeRequest>,
    attached: Vec<(Oid, SubscriptionKey)>,
    /// The published tables that it knows itself to watch.
    tables: Vec<Oid>,
}

/// A table that the walsender has described.
struct Known {
    relation: Arc<Relation>,
    /// `None`: the table is gone from the catalog.
    table: Option<Arc<Table>>,
    access: HashMap<Arc<str>, Arc<RoleAccess>>,
}

/// A row change's place in the log: the end of its transaction and its number in it. Ascends with the stream.
type Place = (Lsn, u64);

pub(super) struct State {
    pool: Pool,
    sink: Arc<dyn ChangeSink>,
    stats: Arc<Stats>,
    publication: String,
    /// Which of the publications exist: that of row changes and that of messages. `None`: not looked at yet.
    publications: Option<Vec<String>>,
    /// `realtime.messages` and its partitions, as the walsender has described them.
    messages: HashMap<Oid, MessageColumns>,
    /// The last message that was handed over.
    broadcast: Place,
    engine: Engine,
    types: TypeRegistry,
    known: HashMap<Oid, Known>,
    /// Those of them that are gone from the catalog, while rows of them may still be in the log.
    dropped: Dropped,
    /// The publication's tables as they were last seen, in order.
    published: Vec<Published>,
    /// Watchers may know of other tables than these.
    differs: bool,
    watchers: HashMap<ChannelId, Watcher>,
    /// Channels whose subscription found no table: they are subscribed when one appears.
    vain: HashMap<ChannelId, Arc<SubscribeRequest>>,
    literals: Literals,
    /// Known once the database was asked.
    collation_is_c: Option<bool>,
    /// Whether plans of policies may serve several roles and claims.
    shares_plans: bool,
    /// The transaction that is being read, if one is.
    transaction: Option<Transaction>,
    /// The last row that was handed over, or that nobody wanted. What comes again up to here has been delivered.
    handed: Place,
    troubled: Troubled,
    /// Changes that wait to be checked, and those that came after them.
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    /// Rows are being dropped because there are too many, and the channels know it.
    limited: bool,
}

/// A transaction whose rows are coming.
#[derive(Debug, Clone, Copy)]
struct Transaction {
    xid: u32,
    commit_time: UnixMicros,
    /// Place of the row that came last.
    place: Place,
}

impl State {
    pub(super) fn new(pool: Pool, sink: Arc<dyn ChangeSink>, stats: Arc<Stats>, publication: String) -> Self {
        Self {
            pool,
            sink,
            stats,
            publication,
            publications: None,
            messages: HashMap::new(),
            broadcast: Place::default(),
            engine: Engine::default(),
            types: TypeRegistry::default(),
            known: HashMap::new(),
            dropped: Dropped::default(),
            published: Vec::new(),
            differs: false,
            watchers: HashMap::new(),
            vain: HashMap::new(),
            literals: Literals::default(),
            collation_is_c: None,
            shares_plans: false,
            transaction: None,
            handed: Place::default(),
            troubled: Troubled::default(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            limited: false,
        }
    }

    /// Whether nobody watches anything.
    pub(super) fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Whether somebody waits for a table to appear.
    pub(super) fn has_vain(&self) -> bool {
        !self.vain.is_empty()
    }

    /// Whether rows are being dropped because there are too many.
    pub(super) fn is_limited(&self) -> bool {
        self.limited
    }

    /// Tells every channel that watches something.
    pub(super) fn tell_all(&self, notice: &Notice) {
        for channel in self.watchers.keys() {
            self.sink.notice(*channel, notice.clone());
        }
    }

    /// Forgets what the walsender has told; a new session tells it again. What waits belongs to transactions that are
    /// not confirmed: they come again, or the gap is told.
    pub(super) fn forget_relations(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.transaction = None;
        self.engine.clear();
        self.messages.clear();
        self.known.clear();
        self.dropped = Dropped::default();
        self.types = TypeRegistry::default();
        for watcher in self.watchers.values_mut() {
            watcher.attached.clear();
        }
    }

    /// A new session begins. Unless it goes on where the last one ended, nothing comes twice.
    pub(super) fn start(&mut self, resumed: bool) {
        if !resumed {
            self.handed = Place::default();
            self.broadcast = Place::default();
        }
    }

    /// Ends what a channel watches or waits for. Idempotent.
    pub(super) fn remove(&mut self, channel: ChannelId) {
        self.vain.remove(&channel);
        let Some(watcher) = self.watchers.remove(&channel) else { return };
        self.count_watchers();
        for (oid, key) in watcher.attached {
            self.engine.detach(oid, key);
        }
    }

    fn count_watchers(&self) {
        self.stats.subscribers.store(self.watchers.len() as u64, Ordering::Relaxed);
    }

    /// Remembers a channel whose subscription found no table, in place of what it had: that may have been watched with
    /// other rights.
    pub(super) fn wait(&mut self, request: SubscribeRequest) {
        if request.generation.is_current() {
            self.remove(request.channel);
            self.vain.insert(request.channel, Arc::new(request));
        }
    }

    /// Subscribes a channel in place of what it had, or leaves that if the database cannot be asked.
    pub(super) async fn add(
        &mut self,
        request: SubscribeRequest,
        checked: Checked,
    ) -> Result<(), SubscribeRefusal> {
        self.flush().await;
        if self.literals.len() > MAX_LITERALS {
            self.literals = Literals::default();
        }
        self.literals.extend(checked.literals);
        let request = Arc::new(request);
        let watched: Vec<Oid> = self
            .known
            .values()
            .filter_map(|known| known.table.as_ref())
            // Rows of a table that is gone were committed before this channel came.
            .filter(|table| !self.dropped.contains(table.oid))
            .filter(|table| request.names(&table.schema, &table.name))
            .map(|table| table.oid)
            .collect();
        let mut attachments = Vec::new();
        for oid in watched {
            let bound = self.bind(oid, &request).await;
            attachments.push((oid, bound.map_err(|error| SubscribeRefusal::Unavailable(error.to_string()))?));
        }
        let channel = request.channel;
        self.differs |= checked.tables != request.tables(&self.published);
        self.remove(channel);
        self.watchers.insert(channel, Watcher { request, attached: Vec::new(), tables: checked.tables });
        self.count_watchers();
        for (oid, attachments) in attachments {
            self.attach(channel, oid, attachments);
        }
        Ok(())
    }
}

/// The database could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Connect(#[from] crate::ConnectError),
    #[error("{}", pool::describe(.0))]
    Query(#[from] tokio_postgres::Error),
}
