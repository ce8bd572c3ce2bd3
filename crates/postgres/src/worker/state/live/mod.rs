//! Live results: who has them, when they are read, and what becomes of a reading (live 3).
//!
//! A result is shared by all bindings that ask for the same with the same rights. It is read beside the stream, once at a
//! time; while it is read, its keepers are with the reading. Invariants:
//!
//! - A keeper has what its bindings have been sent, nothing else.
//! - A result that a transaction may have changed is read in a snapshot that has the transaction.
//! - Who comes to a result gets its rows by a reading, in which the others get what is new.
//! - A binding that goes to another result takes along what it has, when no reading can send it anything any more.

mod binding;
mod direct;
mod ended;
mod finished;
mod group;
mod report;
mod result;
mod run;
mod view;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering},
};

pub(in crate::worker::state) use binding::Binding;
use binding::{Identity, Name};
use deadpool_postgres::Pool;
use direct::{Change, Direct, Touched};
use group::{Group, Stage, send};
use realtime_changes::{ChannelId, Party, RowView};
use realtime_live::{Keeper, Secret};
use realtime_pgoutput::{
    Oid,
    message::{OldTuple, Relation, Tuple, UnixMicros},
};
pub use report::LiveResult;
use result::{Kept, Moving, Queued, Stale};
use run::{Done, Job};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Duration, Instant},
};
use tracing::Instrument as _;

use crate::{
    ChangeSink, LiveSettings, Stats,
    heirloom::{Heirloom, Held},
    live::{Bounds, Limits, Source},
    policy_memory::Share,
    visibility::Passed,
};

/// Pause after a reading: at least so long, and so many times as long as the reading took.
const PAUSE: (Duration, u32) = (Duration::from_millis(50), 3);

/// Part of the pool that readings may have.
const SHARE_OF_POOL: usize = 4;

/// Results of a table that are looked at for one whose rows are told in the same way.
const MAX_LOOKED_AT: usize = 100;

/// How long readings are waited for at the end.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Transactions that are kept for a result while it is read. Beyond it it is read again.
const MAX_QUEUED: usize = 1_000;

/// Pause before a receiver without room is looked at again.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

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
    results: FxHashMap<u64, Kept>,
    identities: HashMap<Identity, u64>,
    /// The results that read a table.
    readers: FxHashMap<Oid, FxHashSet<u64>>,
    /// Where each binding is.
    places: FxHashMap<Name, u64>,
    channels: FxHashMap<ChannelId, Vec<u32>>,
    /// Channels that were refused and still have rows, how many bindings of each, and who waits for their leaving.
    refused: FxHashMap<ChannelId, (usize, oneshot::Sender<()>)>,
    next: u64,
    /// Tables that the transaction that is being read has changed, of those that somebody reads.
    touched: FxHashMap<Oid, Touched>,
    /// Whether the database orders texts by their bytes.
    pub(super) collation_is_c: bool,
    /// The results that are to be read, by time.
    queue: BTreeSet<(Instant, u64)>,
    running: usize,
    /// Whether the log is read: without it nothing is read here either.
    is_open: bool,
    tell: mpsc::UnboundedSender<Done>,
    done: mpsc::UnboundedReceiver<Done>,
    share: Share,
    bytes: usize,
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
            places: FxHashMap::default(),
            channels: FxHashMap::default(),
            refused: FxHashMap::default(),
            next: 0,
            touched: FxHashMap::default(),
            collation_is_c: false,
            queue: BTreeSet::new(),
            running: 0,
            is_open: false,
            tell,
            done,
            share: Share::new(Arc::clone(&settings.memory)),
            settings,
            bytes: 0,
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
        let those: Vec<u64> =
            self.results.iter().filter(|(_, kept)| concerns(kept)).map(|(result, _)| *result).collect();
        for result in those {
            if let Some(kept) = self.results.get_mut(&result) {
                kept.is_doubted = true;
                kept.stale = Stale::Yes;
            }
            self.schedule(result);
        }
    }

    /// Whether there is room for these.
    pub(super) fn has_room(&self, bindings: &[(Binding, Arc<Source>)]) -> bool {
        let is_new = |(binding, source): &&(Binding, Arc<Source>)| {
            !self.identities.contains_key(&Identity::of(binding, source))
        };
        let more = bindings.iter().filter(is_new).count();
        more == 0 || self.results.len() + more <= self.settings.max_results
    }

    /// The relations that the catalog is to be asked about.
    pub(super) fn relations(&self) -> Vec<Oid> {
        let all: FxHashSet<Oid> =
            self.results.values().flat_map(|kept| kept.source.relations.iter().copied()).collect();
        all.into_iter().collect()
    }

    /// Takes what the catalog says: results that depend on what is new are read again. `shared`: what is not of one
    /// relation.
    pub(super) fn learn(&mut self, shared: i64, prints: Vec<(Oid, i64)>) {
        let mut prints: FxHashMap<Oid, i64> = prints.into_iter().collect();
        prints.insert(0, shared);
        let before = std::mem::replace(&mut self.prints, prints);
        if before.get(&0) != self.prints.get(&0) {
            return self.doubt(|_| true);
        }
        let differs = |relation: &Oid| before.get(relation) != self.prints.get(relation);
        let new: FxHashSet<Oid> =
            before.keys().chain(self.prints.keys()).copied().filter(|oid| differs(oid)).collect();
        self.doubt(|kept| kept.lost.is_some() || kept.source.relations.iter().any(|oid| new.contains(oid)));
    }

    /// Sets the live bindings of a channel in place of those that it had. What stays the same goes on.
    pub(super) fn replace(&mut self, channel: ChannelId, bindings: Vec<(Binding, Arc<Source>)>) {
        let had = self.channels.get(&channel).cloned().unwrap_or_default();
        for id in had {
            if !bindings.iter().any(|(binding, _)| binding.id == id) {
                self.leave((channel, id));
            }
        }
        let mut inherited = self.heirloom.take(channel);
        for (binding, source) in bindings {
            match inherited.iter().position(|(id, _)| *id == binding.id) {
                Some(at) => self.inherit(Arc::new(binding), source, inherited.swap_remove(at).1),
                None => self.enter(Arc::new(binding), source),
            }
        }
        self.count();
    }

    /// Takes a binding to its result that has rows already, from another handle of the database.
    fn inherit(&mut self, binding: Arc<Binding>, source: Arc<Source>, held: Held) {
        let identity = Identity::of(&binding, &source);
        let mut group = Group::new(Arc::unwrap_or_clone(held.keeper), vec![binding], Stage::Moved);
        if !view::of(&source).has_key_of(&held.view) {
            self.send_left(&group.keeper.clear(), &group.to, &held.view, &held.source);
        }
        self.come(group, identity, source);
    }

    /// Leaves what the bindings have to the next handle. Waits for readings that end, but not for long.
    pub(super) async fn hand_over(&mut self) {
        let ending = async {
            while self.running > 0 {
                let event = self.event().await;
                self.happens(event);
            }
        };
        let _ = time::timeout(END_LIMIT, ending).await;
        for kept in self.results.values_mut() {
            let (view, source) = (Arc::clone(&kept.view), Arc::clone(&kept.source));
            let mut groups = std::mem::take(&mut kept.newcomers);
            if let Some(keeper) = kept.keeper.take() {
                groups.push(Group::new(keeper, std::mem::take(&mut kept.members), Stage::Complete));
            }
            for Group { keeper, to, .. } in groups {
                let keeper = Arc::new(keeper);
                for binding in to {
                    let (keeper, view, source) =
                        (Arc::clone(&keeper), Arc::clone(&view), Arc::clone(&source));
                    self.heirloom.keep(binding.channel, binding.id, Held { keeper, view, source });
                }
            }
        }
    }

    /// A channel ends.
    pub(super) fn remove(&mut self, channel: ChannelId) {
        for id in self.channels.get(&channel).cloned().unwrap_or_default() {
            self.leave((channel, id));
        }
        self.count();
    }

    /// Takes a binding to the result that it asks for.
    fn enter(&mut self, binding: Arc<Binding>, source: Arc<Source>) {
        let name = binding.name();
        let identity = Identity::of(&binding, &source);
        let Some(from) = self.places.get(&name).copied() else {
            let group = Group::new(Keeper::new(self.secret), vec![binding], Stage::First);
            return self.come(group, identity, source);
        };
        let Some(kept) = self.results.get_mut(&from) else { return };
        kept.moving.retain(|moving| moving.binding.name() != name);
        if kept.identity == identity && kept.reading.is_none() {
            // It goes on, with claims that make no difference.
            for known in
                kept.members.iter_mut().chain(kept.newcomers.iter_mut().flat_map(|group| &mut group.to))
            {
                if known.name() == name {
                    *known = Arc::clone(&binding);
                }
            }
            return;
        }
        let moving = Moving { binding, to: Some(source) };
        if kept.reading.is_some() {
            kept.moving.push(moving);
        } else {
            self.goes(from, moving);
        }
    }

    /// Takes a binding from a result that is not being read to another one.
    fn goes(&mut self, from: u64, Moving { binding, to }: Moving) {
        let Some(kept) = self.results.get_mut(&from) else { return };
        let Some(mut group) = kept.take(binding.name()) else {
            if to.is_none() {
                self.is_out(binding.name());
            }
            return;
        };
        group.to = vec![Arc::clone(&binding)];
        let (view, source) = (Arc::clone(&kept.view), Arc::clone(&kept.source));
        let keeps = to.as_ref().is_some_and(|to| view::of(to).has_key_of(&view));
        if !keeps {
            self.send_left(&group.keeper.clear(), &group.to, &view, &source);
        }
        if self.results.get(&from).is_some_and(Kept::is_empty) {
            self.drop_result(from);
        }
        match to {
            Some(to) => self.come(group, Identity::of(&binding, &to), to),
            None => self.is_out(binding.name()),
        }
    }

    /// A channel was refused: its rows leave, and that is answered. What it had was had with other rights.
    pub(super) fn refuse(&mut self, channel: ChannelId, reply: oneshot::Sender<()>) {
        let ids = self.channels.get(&channel).cloned().unwrap_or_default();
        if ids.is_empty() {
            // The caller may already be gone.
            let _ = reply.send(());
            return;
        }
        self.refused.insert(channel, (ids.len(), reply));
        for id in ids {
            let Some(from) = self.places.get(&(channel, id)).copied() else { continue };
            let Some(kept) = self.results.get_mut(&from) else { continue };
            kept.moving.retain(|moving| moving.binding.name() != (channel, id));
            let Some(binding) = kept.bindings().find(|known| known.name() == (channel, id)).map(Arc::clone)
            else {
                continue;
            };
            let moving = Moving { binding, to: None };
            if kept.reading.is_some() {
                kept.moving.push(moving);
            } else {
                self.goes(from, moving);
            }
        }
        self.count();
    }

    /// The rows of a binding that was refused have left.
    fn is_out(&mut self, name: Name) {
        self.leave(name);
        let Some((left, _)) = self.refused.get_mut(&name.0) else { return };
        *left = left.saturating_sub(1);
        if *left == 0
            && let Some((_, reply)) = self.refused.remove(&name.0)
        {
            // The caller may already be gone.
            let _ = reply.send(());
        }
    }

    /// Somebody comes to a result, which is made if there is none.
    fn come(&mut self, group: Group, identity: Identity, source: Arc<Source>) {
        let result = match self.identities.get(&identity) {
            Some(result) => *result,
            None => self.make(identity, source),
        };
        for binding in &group.to {
            self.places.insert(binding.name(), result);
            let ids = self.channels.entry(binding.channel).or_default();
            if !ids.contains(&binding.id) {
                ids.push(binding.id);
            }
        }
        if let Some(kept) = self.results.get_mut(&result) {
            kept.newcomers.push(group);
            // The catalog has just allowed it.
            if kept.lost.take().is_some() {
                (kept.is_doubted, kept.stale) = (true, Stale::Yes);
            }
        }
        self.schedule(result);
    }

    fn make(&mut self, identity: Identity, source: Arc<Source>) -> u64 {
        self.next += 1;
        let result = self.next;
        self.identities.insert(identity.clone(), result);
        self.reads(result, &source);
        let view = self.view_of(&source);
        let direct = Direct::of(&source, self.collation_is_c).map(Arc::new);
        self.results.insert(result, Kept { direct, ..Kept::new(identity, source, view) });
        result
    }

    /// How the rows of a source are told. Results of one table have it in common.
    fn view_of(&self, source: &Source) -> Arc<RowView> {
        let view = Arc::new(view::of(source));
        let others = self.readers.get(&source.oid).into_iter().flatten().take(MAX_LOOKED_AT);
        let mut known = others.filter_map(|result| self.results.get(result)).map(|kept| &kept.view);
        known.find(|known| known.is_like(&view)).map_or(view, Arc::clone)
    }

    fn reads(&mut self, result: u64, source: &Source) {
        for table in &source.reads {
            self.readers.entry(*table).or_default().insert(result);
        }
    }

    fn reads_no_more(&mut self, result: u64, source: &Source) {
        for table in &source.reads {
            if let Some(readers) = self.readers.get_mut(table) {
                readers.remove(&result);
                if readers.is_empty() {
                    self.readers.remove(table);
                }
            }
        }
    }

    fn leave(&mut self, name: Name) {
        let Some(result) = self.places.remove(&name) else { return };
        if let Some(ids) = self.channels.get_mut(&name.0) {
            ids.retain(|id| *id != name.1);
            if ids.is_empty() {
                self.channels.remove(&name.0);
            }
        }
        let Some(kept) = self.results.get_mut(&result) else { return };
        kept.leave(name);
        if kept.is_empty() {
            self.drop_result(result);
        }
    }

    /// Forgets a result that nobody wants. If it is being read, what comes of that finds nobody.
    fn drop_result(&mut self, result: u64) {
        let Some(kept) = self.results.remove(&result) else { return };
        self.identities.remove(&kept.identity);
        if let Some(due) = kept.due {
            self.queue.remove(&(due, result));
        }
        self.bytes = self.bytes.saturating_sub(kept.bytes);
        self.share.takes(self.bytes);
        self.reads_no_more(result, &kept.source);
    }

    /// Whether somebody reads a table.
    pub(super) fn reads_table(&self, table: Oid) -> bool {
        !self.readers.is_empty() && self.readers.contains_key(&table)
    }

    /// A row of a table that somebody reads has changed.
    pub(super) fn touch(
        &mut self,
        table: Oid,
        relation: &Arc<Relation>,
        new: Option<&Tuple>,
        old: Option<&OldTuple>,
    ) {
        let change = || Change { relation: Arc::clone(relation), new: new.cloned(), old: old.cloned() };
        self.touched.entry(table).or_insert_with(Touched::nothing).push(change());
    }

    /// Nobody knows which rows of a table have changed.
    pub(super) fn touch_all(&mut self, table: Oid) {
        if self.reads_table(table) {
            self.touched.insert(table, Touched::default());
        }
    }

    /// The transaction that has changed them has passed.
    pub(super) fn commit(&mut self, xid: u32, at: UnixMicros) {
        if self.touched.is_empty() {
            return;
        }
        let touched = std::mem::take(&mut self.touched);
        let mut concerned: FxHashSet<u64> = FxHashSet::default();
        for table in touched.keys() {
            concerned.extend(self.readers.get(table).into_iter().flatten());
        }
        let changed: FxHashSet<Oid> = touched.keys().copied().collect();
        let rows: FxHashMap<Oid, Arc<[Change]>> =
            touched.into_iter().filter_map(|(table, touched)| Some((table, touched.rows?.into()))).collect();
        for result in concerned {
            let Some(kept) = self.results.get_mut(&result) else { continue };
            if kept.has_seen(xid) {
                continue;
            }
            let of_others = |table: &Oid| *table != kept.source.oid && kept.source.reads.contains(table);
            let others = changed.iter().any(of_others);
            match rows.get(&kept.source.oid).filter(|_| !others && kept.direct.is_some()) {
                Some(changes) => self.takes(result, xid, at, changes),
                None => {
                    kept.stale.by(xid);
                    self.schedule(result);
                }
            }
        }
    }

    /// A result takes changes of its table: at once, or when it has been read.
    fn takes(&mut self, result: u64, xid: u32, at: UnixMicros, changes: &Arc<[Change]>) {
        let Some(kept) = self.results.get_mut(&result) else { return };
        if kept.reading.is_some() && kept.queued.len() < MAX_QUEUED {
            kept.queued.push(Queued { xid, at, changes: Arc::clone(changes) });
        } else if kept.reading.is_some() || !matches!(kept.stale, Stale::No) {
            kept.stale.by(xid);
            self.schedule(result);
        } else {
            self.apply(result, xid, at, changes);
        }
    }

    /// Applies changes to a result that is not being read, or finds that it has to be read.
    fn apply(&mut self, result: u64, xid: u32, at: UnixMicros, changes: &[Change]) {
        let Some(kept) = self.results.get_mut(&result) else { return };
        // Newcomers read all that has passed.
        let Some(keeper) = &mut kept.keeper else { return };
        let told = match &kept.direct {
            Some(direct) if matches!(kept.stale, Stale::No) => {
                direct.apply((&kept.source, &kept.view, self.secret), keeper, changes, at)
            }
            _ => None,
        };
        match told {
            Some(rows)
                if kept.keeper.as_ref().is_some_and(|keeper| keeper.len() > self.settings.max_rows) =>
            {
                send(&*self.sink, &kept.members, &rows, false);
                self.end_for_rows(result);
            }
            Some(rows) => {
                send(&*self.sink, &kept.members, &rows, false);
                self.stats.live_changes.fetch_add(rows.len() as u64, Ordering::Relaxed);
            }
            None => {
                kept.stale.by(xid);
                self.schedule(result);
            }
        }
    }

    /// Puts a result into the queue, if it has to be read.
    fn schedule(&mut self, result: u64) {
        let Some(kept) = self.results.get_mut(&result) else { return };
        if kept.due.is_none() && kept.wants_reading() {
            let at = kept.not_before.max(Instant::now());
            kept.due = Some(at);
            self.queue.insert((at, result));
        }
    }

    /// How many results may be read at once.
    fn places_for_reading(&self) -> usize {
        (self.pool.status().max_size / SHARE_OF_POOL).max(1)
    }

    /// What has to be done next; never while there is nothing. Cancel safe.
    pub(super) async fn event(&mut self) -> Event {
        let due = match self.queue.first() {
            Some((at, _)) if self.is_open && self.running < self.places_for_reading() => Some(*at),
            _ => None,
        };
        let is_due = async {
            match due {
                Some(at) => time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(done) = self.done.recv() => Event::Done(Box::new(done)),
            () = is_due => Event::Due,
        }
    }

    /// Begins the readings that are due, as many as may run at once.
    pub(super) fn begin(&mut self, passed: &Passed) {
        let now = Instant::now();
        let mut shared: Option<Arc<Passed>> = None;
        while self.is_open && self.running < self.places_for_reading() {
            let Some((at, result)) = self.queue.first().copied().filter(|(at, _)| *at <= now) else { break };
            self.queue.remove(&(at, result));
            let passed = Arc::clone(shared.get_or_insert_with(|| Arc::new(passed.clone())));
            let job = self.job(result, passed);
            self.schedule(result);
            if let Some(job) = job {
                self.running += 1;
                let tell = self.tell.clone();
                let work = async move {
                    tokio::select! {
                        done = job.run() => drop(tell.send(done)),
                        () = tell.closed() => {}
                    }
                };
                tokio::spawn(work.in_current_span());
            }
        }
    }

    /// A reading of a result, with its keepers.
    fn job(&mut self, result: u64, passed: Arc<Passed>) -> Option<Job> {
        let kept = self.results.get_mut(&result)?;
        kept.due = None;
        if !kept.wants_reading() {
            return None;
        }
        let sink = &self.sink;
        let has_room =
            |group: &Group| group.to.first().is_none_or(|binding| sink.room(binding.channel) != Some(false));
        let (mut newcomers, wait): (Vec<Group>, Vec<Group>) =
            std::mem::take(&mut kept.newcomers).into_iter().partition(has_room);
        kept.newcomers = wait;
        if newcomers.is_empty() && matches!(kept.stale, Stale::No) {
            kept.not_before = Instant::now() + ROOM_PAUSE;
            return None;
        }
        let first = kept.members.iter().chain(newcomers.iter().flat_map(|group| &group.to)).next();
        let Some(first) = first.map(Arc::clone) else {
            kept.not_before = Instant::now() + ROOM_PAUSE;
            return None;
        };
        let mut groups = Vec::with_capacity(1 + newcomers.len());
        if let Some(keeper) = kept.keeper.take() {
            groups.push(Group::new(keeper, kept.members.clone(), Stage::Complete));
        }
        groups.append(&mut newcomers);
        let newcomers = groups.iter().filter(|group| group.stage != Stage::Complete);
        kept.reading = Some(newcomers.flat_map(|group| &group.to).map(Arc::clone).collect());
        kept.stale = Stale::No;
        Some(Job {
            result,
            pool: self.pool.clone(),
            sink: Arc::clone(&self.sink),
            publication: self.publication.clone(),
            bounds: Bounds::of(&self.settings),
            limits: Limits { time: self.settings.statement_timeout, rows: self.settings.max_rows },
            secret: self.secret,
            spec: Arc::clone(&first.spec),
            party: Party { role: (&*first.role).into(), claims: Arc::clone(&first.claims) },
            source: Arc::clone(&kept.source),
            view: Arc::clone(&kept.view),
            is_doubted: std::mem::take(&mut kept.is_doubted) || kept.lost.is_some(),
            passed,
            groups,
        })
    }

    /// Does what has to be done.
    pub(super) fn happens(&mut self, event: Event) {
        match event {
            Event::Due => {}
            Event::Done(done) => {
                self.running = self.running.saturating_sub(1);
                self.finished(*done);
                self.count();
            }
        }
    }

    fn count(&self) {
        self.stats.live_results.store(self.results.len() as u64, Ordering::Relaxed);
        let rows: usize = self.results.values().map(Kept::rows).sum();
        self.stats.live_rows.store(rows as u64, Ordering::Relaxed);
    }
}
