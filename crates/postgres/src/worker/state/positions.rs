//! Streams are told how far they are (resume 1, 5).

use realtime_changes::ChannelId;
use realtime_pgoutput::{Lsn, Position};

use super::{State, transaction::place};

impl State {
    /// Tells streams that they have got everything up to a place in the log, which is behind the last transaction that
    /// came whole. False if that is not so for all that was read: something waits to be checked or for an answer. Those
    /// who have not caught up, or whose rows wait in a lane, are left out.
    pub(in crate::worker) fn tell_positions(&self, reached: Lsn) -> bool {
        if self.is_reading() || self.is_due() || self.aside.has_rows() {
            return false;
        }
        let returning = &self.history.returning;
        let waiting = self.waiting_in_lanes();
        let has_caught_up = |channel| returning.is_empty() || returning.of(channel).is_empty();
        let has_all = |channel| !waiting.contains(&channel) && has_caught_up(channel);
        self.sink.positions(self.passed(reached), &has_all);
        self.beside.is_idle()
    }

    /// Tells a channel that was subscribed where it is, if it is a stream, and unless it has yet to catch up. Whether it
    /// was told.
    pub(in crate::worker) fn tell_beginning(&self, channel: ChannelId, reached: Lsn) -> bool {
        let Some(watcher) = self.watchers.get(&channel) else { return false };
        if self.aside.has_rows()
            || self.beside.waits_for(&watcher.attached)
            || !self.history.returning.of(channel).is_empty()
        {
            return false;
        }
        let position = match &self.transaction {
            // Of a change that is not kept nobody knows later whether it came.
            Some(transaction) => self.history.journal.place(place(transaction.position)),
            None => self.passed(reached),
        };
        self.sink.position(channel, position)
    }

    /// The last place that has passed, between two transactions.
    fn passed(&self, reached: Lsn) -> Position {
        let reached = Position { commit: reached, number: 0 };
        self.history.journal.last().map_or(reached, |last| last.max(reached))
    }
}
