//! Live results: who has them, when they are read, and what becomes of a reading (live 3).
//!
//! A result is shared by all bindings that ask for the same with the same rights. It is read beside the stream, once at a
//! time; while it is read, its keepers are with the reading. Invariants:
//!
//! - A keeper has what its bindings have been sent, nothing else.
//! - A result that a transaction may have changed is read in a snapshot that has the transaction, unless the log tells what
//!   has become of its rows ([`commit`]).
//! - Who comes to a result gets its rows by a reading, in which the others get what is new.
//! - A binding that goes to another result takes along what it has, when no reading can send it anything any more.
//! - What clients have had of a result that nobody has any more is kept for a while, for those who come back ([`resting`]).
//! - The rows of a keeper that is not with a reading are found from the rows' keys ([`ring::Ring::holders`]).

mod binding;
mod bindings;
mod commit;
mod direct;
mod doubts;
mod ended;
mod finished;
mod group;
mod heirs;
mod lacking;
mod parties;
mod places;
mod reading;
mod report;
mod resting;
mod result;
mod ring;
mod run;
mod tellings;
mod view;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak, atomic::Ordering},
};

pub(in crate::worker::state) use binding::Binding;
use binding::{Identity, Name};
use deadpool_postgres::Pool;
use direct::Touched;
use realtime_changes::{ChannelId, RowView};
use realtime_live::Secret;
use realtime_pgoutput::Oid;
pub use report::LiveResult;
use result::{Kept, Stale};
use ring::ByRow;
use run::Done;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant},
};

use crate::{
    ChangeSink, JournalBounds, LiveSettings, Stats,
    heirloom::Heirloom,
    live::{LiveRefusal, PolicyTables, Source},
    policy_memory::Share,
};

/// Pause after a reading: at least so long, and so many times as long as the reading took.
const PAUSE: (Duration, u32) = (Duration::from_millis(50), 3);

/// Ways of telling the rows of a table that are looked at for one that is the same.
const MAX_LOOKED_AT: usize = 100;

/// Transactions that are kept for a result while it is read. Beyond it it is read again.
const MAX_QUEUED: usize = 1_000;

/// The live results of a database.
pub(super) struct Live {
    pool: Pool,
    publication: String,
    sink: Arc<dyn ChangeSink>,
    stats: Arc<Stats>,
    settings: LiveSettings,
    /// What clients got by the handle of the database before this one.
    heirloom: Arc<Heirloom>,
    secret: Secret,
    results: FxHashMap<u32, Kept>,
    identities: HashMap<Identity, u32>,
    /// The results that are read again when a table changes.
    readers: FxHashMap<Oid, FxHashSet<u32>>,
    /// The results of a table of whose rows the log tells.
    tables: FxHashMap<Oid, ByRow>,
    /// Tables that the policies on these read, and for how many of their results.
    policy_tables: FxHashMap<Oid, FxHashMap<Oid, usize>>,
    /// Those whose parties the engine does not know as they are.
    unknown_parties: BTreeSet<Oid>,
    /// How rows are told, by table. Results of one table have it in common.
    views: FxHashMap<Oid, Vec<Weak<RowView>>>,
    /// Where each binding is.
    places: FxHashMap<Name, u32>,
    channels: FxHashMap<ChannelId, Vec<u32>>,
    /// Channels that were refused and still have rows, how many bindings of each, and who waits for their leaving.
    refused: FxHashMap<ChannelId, (usize, oneshot::Sender<()>)>,
    next: u32,
    /// Transactions that have changed rows of tables of which the log tells row by row.
    passed: u64,
    /// Tables that the transaction that is being read has changed, of those that somebody reads.
    touched: FxHashMap<Oid, Touched>,
    /// Whether the database orders texts by their bytes.
    pub(super) collation_is_c: bool,
    /// The results that are to be read, by time.
    queue: BTreeSet<(Instant, u32)>,
    /// How long a result that nobody has is kept for those who come back.
    rests_for: Option<Duration>,
    /// The results that nobody has, by the time until which they are kept.
    resting: BTreeSet<(Instant, u32)>,
    running: usize,
    /// Where the log has tables that only policies read.
    policies: PolicyTables,
    /// Whether the log is read: without it nothing is read here either.
    is_open: bool,
    tell: mpsc::UnboundedSender<Done>,
    done: mpsc::UnboundedReceiver<Done>,
    share: Share,
    bytes: usize,
    /// Results that wait for tables to be published which only policies read, each with what is said if that cannot be done.
    lacking: Vec<(u32, Vec<(Oid, LiveRefusal)>)>,
    /// What the catalog said about everything that results depend on, by relation; what they have in common is 0.
    prints: FxHashMap<Oid, i64>,
}

/// Something for [`Live::happens`] to do.
pub(in crate::worker) enum Event {
    /// A reading is over.
    Done(Box<Done>),
    /// A result may be read now.
    Due,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Done(_) => "Done",
            Self::Due => "Due",
        })
    }
}

impl Live {
    pub(super) fn new(
        pool: Pool,
        publication: String,
        sink: Arc<dyn ChangeSink>,
        stats: Arc<Stats>,
        settings: LiveSettings,
        heirloom: Arc<Heirloom>,
        journal: JournalBounds,
    ) -> Self {
        let (tell, done) = mpsc::unbounded_channel();
        Self {
            pool,
            publication,
            sink,
            stats,
            heirloom,
            secret: Secret::of_process(),
            results: FxHashMap::default(),
            identities: HashMap::new(),
            readers: FxHashMap::default(),
            tables: FxHashMap::default(),
            policy_tables: FxHashMap::default(),
            unknown_parties: BTreeSet::new(),
            views: FxHashMap::default(),
            places: FxHashMap::default(),
            channels: FxHashMap::default(),
            refused: FxHashMap::default(),
            next: 0,
            passed: 0,
            touched: FxHashMap::default(),
            collation_is_c: false,
            queue: BTreeSet::new(),
            rests_for: (journal.bytes > 0).then_some(journal.age),
            resting: BTreeSet::new(),
            running: 0,
            policies: PolicyTables::Published,
            is_open: false,
            tell,
            done,
            share: Share::new(Arc::clone(&settings.memory)),
            settings,
            bytes: 0,
            lacking: Vec::new(),
            prints: FxHashMap::default(),
        }
    }

    /// Whether nobody has a live binding.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) const fn settings(&self) -> &LiveSettings {
        &self.settings
    }

    /// The log is read from now on, or again: what was read before may have been missed.
    pub(super) fn open(&mut self) {
        self.is_open = true;
        self.touched.clear();
        self.prints.clear();
        self.doubt(|_| true);
    }

    /// The log is not read any more.
    pub(super) fn close(&mut self) {
        self.is_open = false;
        self.touched.clear();
    }

    /// These results may have other rows, or come from elsewhere.
    fn doubt(&mut self, concerns: impl Fn(&Kept) -> bool) {
        let those: Vec<u32> =
            self.results.iter().filter(|(_, kept)| concerns(kept)).map(|(result, _)| *result).collect();
        for result in those {
            if let Some(kept) = self.results.get_mut(&result) {
                kept.is_doubted = true;
                kept.stale = Stale::Yes;
            }
            self.schedule(result);
        }
    }

    /// What policies mean may be something else by now: what they have said of rows does not count.
    pub(super) fn doubt_policies(&mut self) {
        let is_guarded = |kept: &Kept| kept.direct.as_ref().is_some_and(|direct| direct.is_guarded);
        let those: Vec<u32> =
            self.results.iter().filter(|(_, kept)| is_guarded(kept)).map(|(result, _)| *result).collect();
        for result in those {
            if let Some(kept) = self.results.get_mut(&result) {
                kept.stale = Stale::Yes;
            }
            self.schedule(result);
        }
    }

    /// Whether there is room for these.
    pub(super) fn has_room(&self, bindings: &[(Binding, Arc<Source>)]) -> bool {
        let is_new = |(binding, source): &&(Binding, Arc<Source>)| {
            let known = self.identities.get(&Identity::of(binding, source));
            known.and_then(|result| self.results.get(result)).is_none_or(Kept::is_resting)
        };
        let more = bindings.iter().filter(is_new).count();
        more == 0 || self.results.len() - self.resting.len() + more <= self.settings.max_results
    }

    /// The relations that the catalog is to be asked about.
    pub(super) fn relations(&self) -> Vec<Oid> {
        let all: FxHashSet<Oid> =
            self.results.values().flat_map(|kept| kept.source.relations.iter().copied()).collect();
        all.into_iter().collect()
    }

    /// Takes what the catalog says: results that depend on what is new are read again. `shared`: what is not of one
    /// relation. Whether something was altered.
    pub(super) fn learn(&mut self, shared: i64, prints: Vec<(Oid, i64)>) -> bool {
        let mut prints: FxHashMap<Oid, i64> = prints.into_iter().collect();
        prints.insert(0, shared);
        let before = std::mem::replace(&mut self.prints, prints);
        if before.get(&0) != self.prints.get(&0) {
            self.doubt(|_| true);
            return true;
        }
        let differs = |relation: &Oid| before.get(relation) != self.prints.get(relation);
        let new: FxHashSet<Oid> =
            before.keys().chain(self.prints.keys()).copied().filter(|oid| differs(oid)).collect();
        let is_altered =
            before.iter().any(|(oid, print)| self.prints.get(oid).is_some_and(|new| new != print));
        self.doubt(|kept| kept.lost.is_some() || kept.source.relations.iter().any(|oid| new.contains(oid)));
        is_altered
    }

    fn count(&self) {
        let results = self.results.len() - self.resting.len();
        self.stats.live_results.store(results as u64, Ordering::Relaxed);
        let rows: usize = self.results.values().filter(|kept| !kept.is_resting()).map(Kept::rows).sum();
        self.stats.live_rows.store(rows as u64, Ordering::Relaxed);
    }
}
