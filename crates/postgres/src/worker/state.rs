//! What a worker knows: relations, types, who watches what.

mod ahead;
mod along;
mod aside;
mod away;
mod behind;
mod beside;
mod bound;
mod coming_back;
mod compare;
mod counted;
mod dropped;
mod errand;
mod failed;
mod for_whom;
mod gone;
mod held_up;
mod history;
mod in_lanes;
mod judging;
mod known;
mod lane;
mod lanes;
mod late;
mod latest;
mod live;
mod live_rows;
mod living;
mod looking_up;
mod messages;
mod missed;
mod narrowed;
mod policies;
mod positions;
mod reading_along;
mod recalled;
mod refresh;
mod replay;
mod returning;
mod rows;
mod self_check;
mod sight;
mod skipped;
mod slice;
mod slow;
mod tables;
mod transaction;
mod truncated;
mod waiting;
mod watching;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use along::Along;
use away::Away;
use beside::Beside;
use bound::Bound;
use deadpool_postgres::Pool;
use dropped::Dropped;
use gone::Gone;
use history::History;
use judging::Judging;
use known::{Known, Watcher};
use lanes::Aside;
use latest::Latest;
use live::Live;
pub use live::LiveResult;
pub(super) use living::Answer;
use realtime_changes::{ChannelId, Engine, SubscribeRefusal, SubscriptionKey};
use realtime_pgoutput::{Lsn, Oid, TypeRegistry};
pub(super) use refresh::Refreshed;
use rustc_hash::FxHashSet;
use self_check::SelfCheck;
use transaction::{Position, Transaction};
use waiting::{Unjudged, Waiting};

use super::roster::Roster;

use crate::{
    ChangeSink, DatabaseConfig, MessageColumns, Notice, Stats, SubscribeRequest,
    catalog::Published,
    heirloom::Heirloom,
    policy_memory::Share,
    subscribe::{Checked, Literals},
    visibility::{PolicyCache, Troubled},
};

pub(super) struct State {
    pool: Pool,
    sink: Arc<dyn ChangeSink>,
    stats: Arc<Stats>,
    publication: String,
    along: Along,
    /// Which of the publications exist: that of row changes and that of messages. `None`: not looked at yet.
    publications: Option<Vec<String>>,
    /// `realtime.messages` and its partitions, as the walsender has described them.
    messages: HashMap<Oid, MessageColumns>,
    /// The last message that was handed over.
    broadcast: Position,
    engine: Engine,
    types: TypeRegistry,
    known: HashMap<Oid, Known>,
    /// Those of them that are gone from the catalog, while rows of them may still be in the log.
    gone: Gone,
    /// The publication's tables as they were last seen, in order.
    published: Vec<Published>,
    /// Whether watchers may know of other tables than these.
    differs: bool,
    watchers: HashMap<ChannelId, Watcher>,
    /// The channels of `watchers`, for code that cannot borrow the state.
    roster: Roster,
    /// Channels whose subscription found no table: they are subscribed when one appears.
    vain: HashMap<ChannelId, Arc<SubscribeRequest>>,
    literals: Literals,
    /// Filters that take long.
    aside: Aside,
    /// Parties that take long.
    beside: Beside,
    /// Known once the database was asked.
    collation_is_c: Option<bool>,
    /// Whether plans of policies may serve several roles and claims.
    shares_plans: bool,
    /// The transaction that is being read, if one is.
    transaction: Option<Transaction>,
    /// The last row that was handed over, or that nobody wanted. What comes again up to here has been delivered.
    handed: Position,
    /// The policies of tables that were watched.
    policies: Arc<PolicyCache>,
    /// Policies that are compiled.
    judging: Judging,
    /// How long rows wait for parties that are asked.
    policy_wait: Duration,
    /// The memory that they take.
    policy_share: Share,
    /// Verdicts of theirs that the database is asked about too.
    self_check: SelfCheck,
    troubled: Troubled,
    /// Changes that wait to be checked, and those that came after them.
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    /// Changes of the transaction that is being read, which wait for its end.
    unjudged: Vec<Unjudged>,
    /// Those of them that are judged after the one that is being judged.
    coming: VecDeque<Unjudged>,
    /// Answers of one round trip for them; none after they came too late or not at all.
    ahead: usize,
    unjudged_bytes: usize,
    /// Whether some of them wait for those of other transactions: parties are asked for all of them together.
    awaits_company: bool,
    /// Subscriptions that ended while changes wait: their channels get none of these.
    left: FxHashSet<SubscriptionKey>,
    latest: Latest,
    dropped: Dropped,
    away: Option<Away>,
    live: Live,
    /// Channels that have live bindings only.
    live_only: FxHashSet<ChannelId>,
    /// What is kept for those who come back, and who has.
    history: History,
}

impl State {
    pub(super) fn new(
        pool: Pool,
        sink: Arc<dyn ChangeSink>,
        stats: Arc<Stats>,
        config: &DatabaseConfig,
        heirloom: Arc<Heirloom>,
    ) -> Self {
        let (shared, counts) = (Arc::clone(&sink), Arc::clone(&stats));
        let (publication, settings) = (config.publication.clone(), config.live.clone());
        let live = Live::new(pool.clone(), publication, shared, counts, settings, heirloom, config.journal);
        Self {
            live,
            live_only: FxHashSet::default(),
            pool,
            sink,
            stats,
            publication: config.publication.clone(),
            along: Along::new(config),
            publications: None,
            messages: HashMap::new(),
            broadcast: Position::default(),
            engine: Engine::dropping_unjudged(config.row_security.drop_unjudged_deletes),
            types: TypeRegistry::default(),
            known: HashMap::new(),
            gone: Gone::default(),
            published: Vec::new(),
            differs: false,
            watchers: HashMap::new(),
            roster: Roster::default(),
            vain: HashMap::new(),
            literals: Literals::default(),
            aside: Aside::default(),
            beside: Beside::default(),
            collation_is_c: None,
            shares_plans: false,
            transaction: None,
            handed: Position::default(),
            policies: Arc::default(),
            judging: Judging::default(),
            policy_wait: config.policy_wait,
            policy_share: Share::new(Arc::clone(&config.policy_memory)),
            self_check: SelfCheck::new(config.row_security.check_every),
            troubled: Troubled::default(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            unjudged: Vec::new(),
            coming: VecDeque::new(),
            ahead: 0,
            unjudged_bytes: 0,
            awaits_company: false,
            left: FxHashSet::default(),
            latest: Latest::default(),
            dropped: Dropped::default(),
            away: None,
            history: History::new(config.journal),
        }
    }

    /// Whether nobody watches anything.
    pub(super) fn is_empty(&self) -> bool {
        self.watchers.is_empty() && self.live.is_empty()
    }

    /// Whether somebody waits for a table to appear.
    pub(super) fn has_vain(&self) -> bool {
        !self.vain.is_empty()
    }

    pub(super) fn roster(&self) -> &Roster {
        &self.roster
    }

    pub(super) fn sink(&self) -> &Arc<dyn ChangeSink> {
        &self.sink
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
        self.live.close();
        self.clear_lanes(None);
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.cut_slice_off();
        self.unjudged.clear();
        self.coming.clear();
        self.unjudged_bytes = 0;
        self.awaits_company = false;
        self.left.clear();
        self.latest.clear();
        self.transaction = None;
        self.engine.clear();
        self.policy_share.takes(0);
        self.messages.clear();
        self.known.clear();
        self.policies.clear();
        self.judging.clear();
        self.self_check.void_all();
        self.along.clear();
        self.gone = Gone::default();
        self.types = TypeRegistry::default();
        for watcher in self.watchers.values_mut() {
            watcher.attached.clear();
        }
    }

    /// A new session begins. Unless it goes on where the last one ended, nothing comes twice; what was before it is nobody's,
    /// also if a later one begins before that.
    pub(super) fn start(&mut self, resumed: bool, start: Lsn) {
        if !resumed {
            self.handed = (start, 0);
            self.broadcast = (start, 0);
        }
        self.live.open();
    }

    /// Ends what a channel watches or waits for. Idempotent.
    pub(super) fn remove(&mut self, channel: ChannelId) {
        self.live.remove(channel);
        self.live_only.remove(&channel);
        self.remove_watcher(channel, false);
        self.count_watchers();
    }

    /// Ends what a channel watches beside live bindings. `goes_on`: whether it watches something else in its place.
    fn remove_watcher(&mut self, channel: ChannelId, goes_on: bool) {
        self.vain.remove(&channel);
        let Some(watcher) = self.watchers.remove(&channel) else { return };
        self.roster.leave(channel);
        if !goes_on {
            self.history.returning.forget(channel);
        }
        self.leave_lanes(channel, &watcher.attached, goes_on);
        for (oid, key) in watcher.attached {
            self.engine.detach(oid, key);
            if !self.waiting.is_empty() {
                self.left.insert(key);
            }
        }
    }

    fn count_watchers(&self) {
        let all = self.watchers.len() + self.live_only.len();
        self.stats.subscribers.store(all as u64, Ordering::Relaxed);
    }

    /// Remembers a channel whose subscription found no table, in place of what it had: that may have been watched with
    /// other rights.
    pub(super) fn wait(&mut self, request: SubscribeRequest) {
        if request.generation.is_current() {
            self.remove(request.channel);
            self.vain.insert(request.channel, Arc::new(request));
        }
    }

    /// What a channel is to watch in the tables that are known.
    async fn bind_all(&mut self, request: &SubscribeRequest) -> Result<Vec<(Oid, Bound)>, SubscribeRefusal> {
        let watched: Vec<Oid> = self
            .known
            .values()
            .filter_map(|known| known.table.as_ref())
            // Rows of a table that is gone were committed before this channel came.
            .filter(|table| !self.gone.contains(table.oid))
            .filter(|table| request.names(&table.schema, &table.name))
            .map(|table| table.oid)
            .collect();
        let asked = self.ask_accesses(&watched, &request.role).await;
        asked.map_err(|error| SubscribeRefusal::Unavailable(error.told()))?;
        let mut bounds = Vec::new();
        for oid in watched {
            let bound = self.bind(oid, request).await;
            bounds.push((oid, bound.map_err(|error| SubscribeRefusal::Unavailable(error.told()))?));
        }
        Ok(bounds)
    }

    /// Subscribes a channel in place of what it had, or leaves that if the database cannot be asked.
    pub(super) async fn add(
        &mut self,
        request: SubscribeRequest,
        checked: Checked,
    ) -> Result<(), SubscribeRefusal> {
        self.flush().await;
        if self.literals.is_full() {
            self.literals = Literals::default();
        }
        self.literals.extend(checked.literals);
        if !checked.live.is_empty() {
            self.live.collation_is_c = self.ask_collation().await?;
            self.publish_for(&checked.live).await?;
        }
        let plain = request.without(&checked.live);
        let live = self.live_bindings(&request, checked.live)?;
        let channel = request.channel;
        let request = Arc::new(plain);
        if request.subscriptions.is_empty() {
            self.remove_watcher(channel, false);
            self.live.replace(channel, live);
            self.live_only.insert(channel);
            self.count_watchers();
            return Ok(());
        }
        let bounds = self.bind_all(&request).await?;
        // Who has been here goes on where it was; what it knew when it came is past.
        let was_here = self.watchers.contains_key(&channel);
        let cursors = match was_here {
            true => Vec::new(),
            false => self.returns(&request, checked.present),
        };
        self.differs |= checked.tables != request.tables(&self.published);
        // Who says where it was has been told what it has missed.
        if !was_here
            && !request.says_where_it_was()
            && let Some(notice) = self.missed(&checked.tables)
        {
            self.sink.notice(channel, notice);
        }
        self.remove_watcher(channel, true);
        self.history.returning.keep(channel, |id| request.subscriptions.iter().any(|(of, _)| *of == id));
        self.live.replace(channel, live);
        self.live_only.remove(&channel);
        self.roster.enter(channel);
        let watcher = Watcher {
            request,
            attached: Vec::new(),
            tables: checked.tables,
            refused: HashMap::new(),
            ended: HashMap::new(),
        };
        self.watchers.insert(channel, watcher);
        self.history.returning.enter(channel, cursors);
        self.count_watchers();
        for (oid, mut bound) in bounds {
            // The catalog has just allowed it. What is known here may be older: then the table is described anew before
            // its next row, and the channel is attached or told.
            bound.refused.clear();
            self.attach(channel, oid, bound);
        }
        Ok(())
    }
}
