//! Rows that another node has read and not handed on, because nobody here watches their tables.

use std::sync::{Arc, atomic::Ordering};

use realtime_changes::ChannelId;
use realtime_pgoutput::{Oid, Position};
use rustc_hash::FxHashSet;
use tokio::time::Instant;

use super::{State, behind::What, history::Item};
use crate::{Notice, publication};

/// What channels are told if rows of theirs were left out. The node learns at once that it needs them.
const LEFT_OUT: &str = "The node that reads the database was not told in time that this table is watched: changes have been missed";

impl State {
    /// Takes rows that were left out. What they would have made out of date is; channels that watch the table are told.
    /// Whether somebody needs rows of it.
    pub(in crate::worker) async fn skipped(&mut self, oid: Oid, rows: u32, now: Instant) -> bool {
        self.stats.skipped.fetch_add(u64::from(rows), Ordering::Relaxed);
        self.record_skipped(oid, rows, now);
        let Some(transaction) = &mut self.transaction else { return false };
        transaction.position.1 += u64::from(rows);
        let position = transaction.position;
        self.touch_all_live(oid);
        let is_read = self.engine.is_read(oid) || self.live.depends_on(oid);
        if position <= self.handed {
            return is_read;
        }
        self.passes(oid);
        self.reads_change(oid);
        let is_watched = self.engine.is_watched(oid);
        if is_watched && !self.along.hides(oid, position.0) {
            self.flush().await;
            for channel in self.watching_table(self.watchers.keys().copied(), oid) {
                // Who has come back is told in its turn.
                if self.history.returning.of(channel).is_empty() {
                    self.tell_in_order(channel, What::Notice(Notice::gap("ChangesLeftOut", LEFT_OUT)));
                }
            }
        }
        // As for rows that nobody wants.
        if self.unjudged.is_empty() && self.waiting.is_empty() {
            self.handed = self.handed.max(position);
        }
        is_read || is_watched
    }

    /// Keeps that there were rows which are not kept.
    fn record_skipped(&mut self, oid: Oid, rows: u32, now: Instant) {
        let Some(transaction) = self.transaction.filter(|_| self.history.journal.is_on()) else { return };
        let Some(version) = self.history.versions.get(&oid).filter(|_| self.publishes(oid)) else { return };
        let (commit, number) = transaction.position;
        let position = Position { commit, number: number + u64::from(rows) };
        let item = Item {
            version: Some(Arc::clone(version)),
            xid: transaction.xid,
            commit_time: transaction.commit_time,
            bytes: bytes::Bytes::new(),
            skipped: rows,
        };
        let now = now.duration_since(self.history.begun);
        self.history.skipped += 1;
        self.history.journal.push(position, transaction.commit_time, now, 0, item);
    }

    /// Tells those who have come back that rows of their table are not kept here, behind all that they get of before. Once:
    /// the slice ends with it.
    pub(super) async fn tell_skipped(&mut self, oid: Oid, position: Position) {
        let returning = &self.history.returning;
        let takes = |channel: &ChannelId| {
            let mut ids = returning.of(*channel).into_iter();
            !returning.told_skipped.contains(channel)
                && ids.any(|(id, _)| returning.takes((*channel, id), position))
        };
        let concerned = self.watching_table(returning.channels().filter(takes), oid);
        if concerned.is_empty() {
            return;
        }
        self.flush_judged().await;
        self.hand_over_missed();
        for channel in concerned {
            self.history.returning.told_skipped.insert(channel);
            let text = format!("Changes up to {position} are not kept on this node");
            self.tell_in_order(channel, What::Notice(Notice::gap("ChangesNotKept", text)));
        }
        if let Some(slice) = &mut self.history.slice {
            slice.end();
        }
    }

    /// Those of some channels that watch a table and may read a column of it.
    fn watching_table(&self, channels: impl Iterator<Item = ChannelId>, oid: Oid) -> Vec<ChannelId> {
        let watches =
            |channel: &ChannelId| self.watchers.get(channel).is_some_and(|watcher| self.sees(watcher, oid));
        channels.filter(watches).collect()
    }

    /// The tables whose rows make a difference here.
    pub(in crate::worker) fn needed(&self) -> FxHashSet<Oid> {
        let mut needed = self.live.needed();
        for watcher in self.watchers.values() {
            needed.extend(watcher.tables.iter().copied());
            needed.extend(watcher.attached.iter().map(|(oid, _)| *oid));
        }
        let read = self.may_be_left_out().into_iter().filter(|oid| self.engine.is_read(*oid));
        needed.extend(read);
        needed
    }

    /// The tables whose rows may be left out if nobody needs them: what is not known as one comes in any case. Messages
    /// are for rooms.
    pub(in crate::worker) fn may_be_left_out(&self) -> Vec<Oid> {
        let published = self.published.iter().filter(|table| table.schema != publication::SCHEMA);
        let all = published.map(|table| table.oid).chain(self.along.tables.keys().copied());
        all.filter(|oid| !self.messages.contains_key(oid)).collect()
    }
}
