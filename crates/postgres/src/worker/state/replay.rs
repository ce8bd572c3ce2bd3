//! Those who have come back get what they have missed (resume 2).
//!
//! The journal is read in passes: one for some who are furthest behind, in slices between the transactions of the log, through the
//! match, the judging and the rendering of live changes. Until a subscription has caught up, it gets nothing live: what
//! comes meanwhile is in the journal too. It has caught up when a pass has reached the end of the journal while no
//! transaction is being read. Who does not read fast enough is left out, and goes on with the next pass.
//!
//! What a slice brings is handed over at its end, and counts as brought then: a slice that is cut off is read once more. It
//! brings nothing but what the journal has: what is live is handed over before it, and lanes go on behind it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
};

use realtime_changes::{Action, Among, ChannelId, Match, Place, SubscriptionKey};
use realtime_journal::Reach;
use realtime_pgoutput::{
    Oid, Position,
    message::{Message, Relation},
};
use rustc_hash::FxHashSet;
use tokio::time::{Duration, Instant};

use super::{
    State,
    behind::What,
    failed::Failed,
    history::{Item, Version},
    judging::now,
    known::Known,
    returning::Name,
    slice::Slice,
    waiting::Waiting,
};
use crate::{Notice, catalog, pool, replication};

/// How long live changes wait for a slice, give or take one change.
const SLICE: Duration = Duration::from_millis(5);

/// The same for rows of tables as they were described once: these are described anew for it.
const SWITCHED_SLICE: Duration = Duration::from_millis(50);

/// With so few changes left, a slice goes on to the end of the journal: where each takes its time, as many may come between
/// two slices, and those who have come back would never have caught up.
const LAST: usize = 16;

/// How long those who do not read are left alone.
const PAUSE: Duration = Duration::from_millis(20);

impl State {
    /// Whether somebody has come back for whom the journal can be read now.
    pub(in crate::worker) fn replays(&self, now: Instant) -> bool {
        let returning = &self.history.returning;
        !returning.is_empty()
            && self.transaction.is_none()
            && self.history.waits_until().is_none_or(|until| until <= now)
            && returning.pause_until.is_none_or(|until| until <= now)
    }

    /// When those who did not read are looked at again.
    pub(in crate::worker) fn replay_at(&self) -> Option<Instant> {
        let returning = &self.history.returning;
        let at = returning.pause_until.max(self.history.waits_until());
        at.filter(|_| !returning.is_empty() && self.transaction.is_none())
    }

    /// The same while the log has more: for half of the time at most.
    pub(in crate::worker) async fn replay_beside_log(&mut self) {
        if self.history.returning.rests_until.is_none_or(|until| until <= Instant::now()) {
            self.replay().await;
        }
    }

    /// Reads the journal a bit further for those who have come back. To be called between two transactions.
    pub(in crate::worker) async fn replay(&mut self) {
        // One that was given up.
        self.cut_slice_off();
        let now = Instant::now();
        if !self.replays(now) {
            return;
        }
        self.history.returning.pause_until = None;
        self.find_ahead();
        self.tell_overtaken();
        if !self.begin_pass() {
            self.history.returning.pause_until = Some(now + PAUSE);
            return;
        }
        // The journal has what waits here: whoever catches up in this slice must not get it again.
        self.flush().await;
        let mut switched = Vec::new();
        self.history.slice = Some(Slice::default());
        let is_over = self.read_on(&mut switched).await;
        // What waits to be judged would be lost with the session, and would not come again.
        self.flush_judged().await;
        self.hand_over_missed();
        self.history.slice = None;
        self.history.returning.advance();
        self.switch_back(switched).await;
        self.go_on_with_lanes().await;
        if is_over {
            self.end_pass();
        }
        let end = Instant::now();
        self.history.returning.rests_until = Some(end + (end - now));
        // The sockets that have got something write it before there is more, and who reads the log has its turn.
        tokio::task::yield_now().await;
    }

    /// The slice is not brought to its end: nobody has got as far as its pass had read.
    pub(super) fn cut_slice_off(&mut self) {
        if self.history.slice.take().is_some() {
            self.history.returning.pass = None;
            self.waiting.retain(|waiting| !waiting.is_missed);
            self.waiting_bytes = self.waiting.iter().map(Waiting::size).sum();
        }
    }

    /// Hands over what the slice has brought.
    pub(super) fn hand_over_missed(&mut self) {
        let Some(slice) = &mut self.history.slice else { return };
        let most = slice.recipients() as u64;
        let deliveries = slice.take();
        self.stats.journal_slice_most.fetch_max(most, Ordering::Relaxed);
        if !deliveries.is_empty() {
            self.sink.deliver_missed(deliveries);
        }
    }

    /// Those who were further than the journal when they came go on where they were: what they have does not come again.
    fn find_ahead(&mut self) {
        let floor = self.history.journal.floor();
        let mut told = FxHashSet::default();
        for (name, since) in std::mem::take(&mut self.history.returning.ahead) {
            let reach = self.reach(&since);
            let found = match reach {
                Reach::From(cursor) => Some(cursor),
                Reach::Beyond => self.history.journal.last(),
                Reach::Gone => None,
            };
            let Some(cursor) = self.history.returning.cursors.get_mut(&name) else { continue };
            *cursor = found.unwrap_or_default().max(*cursor);
            match (since.place, reach) {
                // Whether there is such a change is known when the log has been read up to it.
                (Place::After(position), Reach::Beyond) if position.number > 0 => {
                    self.history.returning.ahead.insert(name, since);
                }
                // All that has come by now is of before its place, and so may be what is still to come.
                (_, Reach::Beyond) if self.history.returning.awaits_log(name, self.history.read) => {
                    self.history.returning.ahead.insert(name, since);
                }
                // What has been forgotten meanwhile is told by itself.
                (Place::After(position), Reach::Gone)
                    if Some(position) >= floor && told.insert((name.0, position)) =>
                {
                    self.tell_not_kept(name.0, &since);
                }
                _ => {}
            }
        }
    }

    /// The journal forgets what somebody has not read: the channels are told, and go on behind it.
    fn tell_overtaken(&mut self) {
        let Some(floor) = self.history.journal.floor() else { return };
        let returning = &mut self.history.returning;
        let mut told = BTreeMap::new();
        for ((channel, _), cursor) in &mut returning.cursors {
            if *cursor < floor {
                told.insert(*channel, *cursor);
                *cursor = floor;
            }
        }
        if let Some(pass) = returning.pass.as_mut().filter(|pass| pass.at < floor) {
            pass.at = floor;
        }
        for (channel, cursor) in told {
            self.tell_not_kept(channel, &cursor);
        }
    }

    /// Begins a pass, or goes on with the one that is under way. Whether it serves anybody.
    fn begin_pass(&mut self) -> bool {
        let far_behind = self.far_behind();
        let returning = &mut self.history.returning;
        let has_room = |channel| self.sink.has_room(channel) && !far_behind.contains(&channel);
        let left_out: FxHashSet<Name> =
            returning.cursors.keys().filter(|(channel, _)| !has_room(*channel)).copied().collect();
        if left_out.len() == returning.cursors.len() {
            returning.pass = None;
            return false;
        }
        match &mut returning.pass {
            Some(pass) => pass.left_out.extend(left_out),
            None => {
                self.stats.journal_passes.fetch_add(1, Ordering::Relaxed);
                returning.begin(left_out);
            }
        }
        self.stats.journal_slices.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Reads the journal for the pass that is under way. Whether it has come to the end.
    async fn read_on(&mut self, switched: &mut Vec<Oid>) -> bool {
        let mut begun = None;
        loop {
            let Some(pass) = &mut self.history.returning.pass else { return true };
            let Some(entry) = self.history.journal.next(pass.at) else { return true };
            let (position, item) = (entry.position, entry.item.clone());
            let known = switched.len();
            if !self.show(&item, switched).await {
                return false;
            }
            if switched.len() > known || begun.is_none() {
                begun = Some(Instant::now());
            }
            if let Some(pass) = &mut self.history.returning.pass {
                pass.at = position;
            }
            if let Some(slice) = &mut self.history.slice {
                slice.read(item.bytes.len());
            }
            self.stats.journal_changes.fetch_add(1, Ordering::Relaxed);
            self.replay_item(position, item).await;
            // To describe a table anew, and back, costs more than a slice: that is not to be done for each change.
            let slice = if switched.is_empty() { SLICE } else { SWITCHED_SLICE };
            let is_full = self.history.slice.as_ref().is_none_or(Slice::is_full);
            let is_late = begun.is_none_or(|begun: Instant| begun + slice <= Instant::now());
            if let Some(is_over) = is_enough(is_full, is_late, self.history.journal.left(position)) {
                return is_over;
            }
        }
    }

    /// Makes the engine read a table as it was described then. False if the database cannot be asked now.
    async fn show(&mut self, item: &Item, switched: &mut Vec<Oid>) -> bool {
        let Some(version) = item.version.as_ref().filter(|_| item.skipped == 0) else { return true };
        let oid = version.relation.oid;
        let shown = self.known.get(&oid).is_some_and(|known| *known.relation == *version.relation);
        if shown && self.engine.table(oid).is_some() {
            return true;
        }
        let is_current = self.history.versions.get(&oid).is_none_or(|current| current.is_like(version));
        if !is_current && !switched.contains(&oid) {
            switched.push(oid);
        }
        self.switch(version).await
    }

    async fn switch(&mut self, version: &Arc<Version>) -> bool {
        self.flush_judged().await;
        let oid = version.relation.oid;
        let known = Known {
            relation: Arc::clone(&version.relation),
            table: Some(Arc::clone(&version.table)),
            logged: version.logged.clone(),
            key: version.key.clone(),
            access: HashMap::new(),
            counters: self.known.get(&oid).map(|known| Arc::clone(&known.counters)).unwrap_or_default(),
            fingerprint: self.known.get(&oid).and_then(|known| known.fingerprint),
            is_attached: false,
        };
        self.known.insert(oid, known);
        let shown = match self.know_types(&version.relation).await {
            Ok(()) => self.attach_all(&version.table, &version.relation, version.places.clone()).await,
            Err(error) => Err(error),
        };
        match shown {
            Ok(()) => true,
            Err(error) => {
                let table = format!("{}.{}", version.relation.schema, version.relation.name);
                tracing::warn!(code = "CheckOidsError", %error, table, "cannot read the catalog; retrying");
                // Who is not attached is attached when the table is described anew.
                self.engine.forget_table(oid);
                self.history.returning.pause_until = Some(Instant::now() + PAUSE);
                false
            }
        }
    }

    /// Learns the types of the columns of a table: a session that has just begun may know none.
    async fn know_types(&mut self, relation: &Relation) -> Result<(), Failed> {
        let client = pool::get(&self.pool).await?;
        let types = relation.columns.iter().map(|column| column.type_oid);
        Ok(catalog::load_types(&client, &mut self.types, types).await?)
    }

    /// Tables are read again as the log describes them now.
    async fn switch_back(&mut self, switched: Vec<Oid>) {
        for oid in switched {
            if let Some(current) =
                self.history.versions.get(&oid).map(|version| Arc::clone(&version.relation))
            {
                self.relation(current).await;
            }
        }
    }

    async fn replay_item(&mut self, position: Position, item: Item) {
        if let Some(version) = item.version.as_ref().filter(|_| item.skipped > 0) {
            return self.tell_skipped(version.relation.oid, position).await;
        }
        let Ok(message) = replication::decoder().decode(item.bytes.clone()) else { return };
        let (action, new, old) = match message {
            Message::Insert { new, .. } => (Action::Insert, Some(new), None),
            Message::Update { old, new, .. } => (Action::Update, Some(new), old),
            Message::Delete { old, .. } => (Action::Delete, None, Some(old)),
            Message::Truncate { relations, .. } => return self.tell_truncated(&relations, position).await,
            _ => return,
        };
        let Some(version) = item.version else { return };
        let waiting = Waiting {
            action,
            relation: Arc::clone(&version.relation),
            new,
            old,
            commit_time: item.commit_time,
            xid: item.xid,
            position: (position.commit, position.number),
            place: Some(position),
            matched: Match::default(),
            is_late: true,
            is_missed: true,
        };
        self.ready(version.relation.oid).await;
        let matched = self.match_returning(&waiting, position).await;
        if !matched.is_empty() || matched.has_late() {
            if let Some(slice) = &mut self.history.slice {
                slice.awaits(matched.guarded().len());
            }
            self.take(waiting, matched).await;
        }
    }

    /// Which of those who have come back a change matches.
    async fn match_returning(&mut self, waiting: &Waiting, position: Position) -> Match {
        let oid = waiting.relation.oid;
        let keys = self.returning_to(oid);
        let of = |state: &Self| {
            let returning = &state.history.returning;
            let takes = |channel, id| returning.takes((channel, id), position);
            state.engine.match_among(&waiting.change(), now(), Among { keys: &keys, takes: &takes })
        };
        let matched = self.matched(oid, of).await;
        self.stats.journal_considered.fetch_add(matched.considered, Ordering::Relaxed);
        matched
    }

    /// The subscriptions of a table that have come back: looked up once in a slice.
    fn returning_to(&mut self, oid: Oid) -> Arc<[SubscriptionKey]> {
        let version = self.engine.version(oid);
        if let Some(keys) = self.history.slice.as_ref().and_then(|slice| slice.meant(oid, version)) {
            return keys;
        }
        let returning = &self.history.returning;
        let watchers = returning.channels().filter_map(|channel| self.watchers.get(&channel));
        let attached = watchers.flat_map(|watcher| &watcher.attached).filter(|(of, _)| *of == oid);
        let is_back = |key: &SubscriptionKey| {
            self.engine.subscription(oid, *key).is_some_and(|name| returning.serves(name))
        };
        let keys: Arc<[SubscriptionKey]> = attached.map(|(_, key)| *key).filter(is_back).collect();
        if let Some(slice) = &mut self.history.slice {
            slice.means(oid, version, Arc::clone(&keys));
        }
        keys
    }

    /// Tells those who have come back of a TRUNCATE, behind all that they get of before. The slice ends with it: what was
    /// handed over must not come again.
    async fn tell_truncated(&mut self, relations: &[Oid], position: Position) {
        let returning = &self.history.returning;
        let takes = |channel: &ChannelId| {
            let mut ids = returning.of(*channel).into_iter();
            ids.any(|(id, _)| returning.takes((*channel, id), position))
        };
        let concerned = self.concerned(returning.channels().filter(takes), relations);
        if concerned.is_empty() {
            return;
        }
        self.flush_judged().await;
        self.hand_over_missed();
        for (channel, text) in concerned {
            self.tell_in_order(channel, What::Notice(Notice::gap("Truncated", text)));
        }
        if let Some(slice) = &mut self.history.slice {
            slice.end();
        }
    }

    /// The pass has come to the end of the journal: those that it has served have caught up.
    fn end_pass(&mut self) {
        let Some(last) = self.history.journal.last() else { return };
        let returning = &mut self.history.returning;
        let Some(pass) = returning.pass.take() else { return };
        let done = returning.take_done(last, self.history.read, &pass.left_out);
        if !returning.is_empty() && !pass.is_full {
            // What others have to get is still to be read, or they do not read.
            returning.pause_until = Some(Instant::now() + PAUSE);
        }
        for channel in done {
            self.tell_in_order(channel, What::CaughtUp(last));
        }
    }

    /// Leaves out of a live change those who have not caught up: they get it from the journal.
    pub(super) fn leave_out_returning(&self, oid: Oid, matched: &mut Match) {
        if self.history.returning.is_empty() {
            return;
        }
        let is_back = |key: SubscriptionKey| {
            !self.engine.subscription(oid, key).is_some_and(|name| self.history.returning.has(name))
        };
        matched.retain_all(is_back);
    }
}

/// Whether a slice ends, with so many changes left; and whether its pass is over with it, which does not wait for what comes
/// before the next slice.
const fn is_enough(is_full: bool, is_late: bool, left: usize) -> Option<bool> {
    match left {
        0 => Some(true),
        1..=LAST if !is_full => None,
        _ if is_full || is_late => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
