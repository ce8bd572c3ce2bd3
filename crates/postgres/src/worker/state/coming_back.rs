//! What passes is kept, and who comes back is told where it goes on (resume 2, 3).

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use realtime_changes::{ChannelId, Place, Since, SubscriptionSpec, Table};
use realtime_journal::{Past, Reach};
use realtime_pgoutput::{
    Lsn, Position,
    message::{Message, Relation},
};
use rustc_hash::FxHashSet;
use tokio::time::{Duration, Instant};

use super::{
    State,
    failed::Failed,
    history::{Item, Version},
    transaction::Transaction,
};
use crate::{
    Notice, SubscribeRequest,
    catalog::{self, Present},
    pool,
};

/// How long those who come back wait until what another session has left was read.
const PAST_LIMIT: Duration = Duration::from_secs(30);

impl State {
    /// A session begins at a place in the log. `resumed`: it goes on with what was committed before it came.
    pub(in crate::worker) async fn begin_history(&mut self, start: Lsn, resumed: bool) {
        self.history.present = None;
        if !self.history.journal.is_on() || resumed && self.history.continues(start) {
            return;
        }
        // What was committed while nobody read is still to come.
        let past = if resumed { None } else { self.present().await.ok() };
        let past = past.map_or(Past::Unknown, |present| Past::Until(present.clock));
        self.history.journal.begin(start, past);
    }

    /// A session begins at a place in the log. What another one has left is read before those who come back have caught up.
    pub(in crate::worker) async fn begin_reading(&mut self, start: Lsn, resumed: bool) {
        self.history.read = start;
        let is_wanted = resumed && self.history.journal.is_on();
        let present = if is_wanted { self.present().await.ok() } else { None };
        self.history.past_end = present.map(|present| (present.end, Instant::now() + PAST_LIMIT));
    }

    /// The log has been read up to a position, and there is no transaction that has begun.
    pub(in crate::worker) fn has_read(&mut self, position: Lsn) {
        self.history.read = self.history.read.max(position);
    }

    async fn present(&self) -> Result<Present, Failed> {
        let client = pool::get(&self.pool).await?;
        Ok(catalog::present(&client).await?)
    }

    /// Keeps a message of the log, before it is looked at.
    pub(in crate::worker) fn record(&mut self, message: &Message, bytes: Bytes, now: Instant) {
        let Some(transaction) = &self.transaction else { return };
        if !self.history.journal.is_on() {
            return;
        }
        let version = match message {
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. } => match self.history.versions.get(relation) {
                Some(version) if self.publishes(*relation) => Some(Arc::clone(version)),
                _ => return,
            },
            Message::Truncate { .. } => None,
            _ => return,
        };
        let (commit, number) = transaction.position;
        let position = Position { commit, number: number + 1 };
        let (xid, commit_time) = (transaction.xid, transaction.commit_time);
        let size = bytes.len();
        let item = Item { version, xid, commit_time, bytes, skipped: 0 };
        let now = now.duration_since(self.history.begun);
        self.history.journal.push(position, commit_time, now, size, item);
    }

    /// The journal begins before what will be read: see [`recall`](Self::recall).
    pub(in crate::worker) fn begin_past(&mut self, start: Lsn) {
        self.history.journal.begin(start, Past::Unknown);
    }

    /// Keeps a message of the log that another server has handed over, or that is still to come.
    pub(in crate::worker) async fn recall(&mut self, message: Message, bytes: Bytes) {
        self.record(&message, bytes, Instant::now());
        match message {
            Message::Begin { commit_time, final_lsn, xid } => {
                self.transaction = Some(Transaction::new(xid, final_lsn, commit_time));
            }
            Message::Commit { .. } => {
                self.transaction = None;
                self.prune_history();
            }
            Message::Relation { relation, .. } => self.relation(relation).await,
            Message::Insert { .. }
            | Message::Update { .. }
            | Message::Delete { .. }
            | Message::Truncate { .. } => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.position.1 += 1;
                }
            }
            _ => {}
        }
    }

    /// Remembers how a table is described from now on. Without a table: it is gone.
    pub(super) fn keep_version(
        &mut self,
        relation: &Arc<Relation>,
        table: Option<&Arc<Table>>,
        places: Option<&[Option<usize>]>,
        logged: &[i16],
        key: &[i16],
    ) {
        let Some((table, places)) = table.zip(places) else {
            self.history.versions.remove(&relation.oid);
            return;
        };
        let version = Version {
            relation: Arc::clone(relation),
            table: Arc::clone(table),
            places: places.into(),
            logged: logged.into(),
            key: key.into(),
        };
        self.history.versions.insert(relation.oid, Arc::new(version));
    }

    /// How many changes are kept.
    pub(in crate::worker) fn kept_changes(&self) -> usize {
        self.history.journal.len()
    }

    /// Forgets what is too old.
    pub(in crate::worker) fn prune_history(&mut self) {
        let now = self.history.begun.elapsed();
        self.history.journal.prune(now);
        let bytes = self.history.journal.bytes() as u64;
        self.stats.journal_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Finds where the subscriptions of a channel that has just come go on. The channel is told of those for which that
    /// is not kept.
    /// `present`: where the database was after it had come. All who come back have been told by their check.
    pub(super) fn returns(
        &mut self,
        request: &SubscribeRequest,
        present: Option<Present>,
    ) -> Vec<(u32, Position)> {
        let mut cursors = Vec::new();
        if present.is_some() {
            self.history.present = present;
        }
        let end = present.map(|present| present.end);
        let mut told = FxHashSet::default();
        for (id, spec) in &request.subscriptions {
            // A result tells by itself what has changed.
            let Some(since) = plain(spec) else { continue };
            match self.cursor(since) {
                Some(cursor) => {
                    if self.reach(since) == Reach::Beyond {
                        self.history.returning.ahead.insert((request.channel, *id), since.clone());
                    }
                    if let Some(end) = end {
                        let name = (request.channel, *id);
                        self.history.returning.ends.insert(name, (end, Instant::now() + PAST_LIMIT));
                    }
                    cursors.push((*id, cursor));
                }
                None if told.insert(since.to_string()) => self.tell_not_kept(request.channel, since),
                None => {}
            }
        }
        cursors
    }

    /// Tells a channel that what comes after a place is not known.
    pub(super) fn tell_not_kept(&self, channel: ChannelId, since: &impl fmt::Display) {
        let text = format!("Changes after {since} are not kept any more");
        self.sink.notice(channel, Notice::gap("ChangesNotKept", text));
    }

    /// Whether all that comes after a place is kept.
    pub(super) fn reach(&self, since: &Since) -> Reach {
        match since.place {
            Place::After(position) => match self.history.journal.after(position) {
                // The log was read beyond it, and had no such change: it is of another history.
                Reach::Beyond if position.number > 0 && position.commit < self.history.read => Reach::Gone,
                reach => reach,
            },
            Place::From(time) => self.history.journal.since(time),
        }
    }

    /// The place after which a subscription goes on, if all from there on is kept.
    fn cursor(&self, since: &Since) -> Option<Position> {
        match self.reach(since) {
            Reach::From(cursor) => Some(cursor),
            Reach::Gone => None,
            // All that is known came before: if it is of this history, nothing is missing.
            Reach::Beyond => {
                let is_past = self.history.present?.has_passed(since.place);
                self.history.journal.last().filter(|_| is_past)
            }
        }
    }
}

/// Where a subscription of events goes on.
fn plain(spec: &SubscriptionSpec) -> Option<&Since> {
    spec.since.as_ref().filter(|_| spec.live.is_none())
}
