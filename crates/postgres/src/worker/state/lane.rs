//! The lane of a party: changes that wait for it, in their order.

use std::{collections::VecDeque, sync::Arc};

use realtime_changes::{ChannelId, SubscriptionKey};
use realtime_pgoutput::Oid;
use tokio::time::{Duration, Instant};

use super::{behind::Behind, lanes::Kept};

/// Rows of a lane at most.
const MAX_ROWS: usize = 1_000;

/// The same for rows that come out of the journal: it is not read for those whose lanes are long, but a piece of it is
/// read at a time.
const MAX_ROWS_MISSED: usize = 4_000;

/// Rows of a lane from which on the journal is not read for its party.
const LONG: usize = 200;

/// Bytes of the rows of a lane from which on it takes no more: one party alone must not fill the room that all share.
const MAX_BYTES: usize = 4_000_000;

/// Rows that the database is asked about in one round trip: at first, and at most.
const BATCH: (usize, usize) = (4, 256);

/// A round trip that takes less is quick: the next one may have more rows. One that takes four times as long has too many.
pub(super) const QUICK: Duration = Duration::from_millis(50);

/// Rows in a row that take too long by themselves until the party is not asked for a while.
const SLOW_ROWS: u32 = 3;

/// A change that waits.
#[derive(Debug)]
pub(super) struct LaneRow {
    pub(super) kept: Arc<Kept>,
    /// The subscriptions of the party that it is for.
    pub(super) keys: Vec<SubscriptionKey>,
    /// Whether no later change of its transaction is about the same key.
    pub(super) is_last: bool,
    since: Instant,
    pub(super) then: Vec<Arc<Behind>>,
}

impl LaneRow {
    pub(super) fn new(kept: Arc<Kept>, keys: Vec<SubscriptionKey>, is_last: bool) -> Self {
        Self { kept, keys, is_last, since: Instant::now(), then: Vec::new() }
    }

    pub(super) fn oid(&self) -> Oid {
        self.kept.waiting.relation.oid
    }
}

/// What the database is being asked about a lane.
#[derive(Debug)]
pub(super) struct Asking {
    /// The question.
    pub(super) number: u64,
    /// How many of the first rows it is about.
    pub(super) rows: usize,
    /// By image: the place of the row, and whether it is the old one.
    pub(super) images: Vec<(usize, bool)>,
}

/// The changes that wait for a party.
#[derive(Debug)]
pub(super) struct Lane {
    rows: VecDeque<LaneRow>,
    bytes: usize,
    pub(super) asking: Option<Asking>,
    batch: usize,
    slow_rows: u32,
    /// The channels that were told that it is late.
    pub(super) told: Vec<ChannelId>,
}

impl Default for Lane {
    fn default() -> Self {
        let (rows, told) = (VecDeque::new(), Vec::new());
        Self { rows, bytes: 0, asking: None, batch: BATCH.0, slow_rows: 0, told }
    }
}

impl Lane {
    /// Whether it takes no more rows. `is_missed`: rows that come out of the journal.
    pub(super) fn is_full(&self, is_missed: bool) -> bool {
        let most = if is_missed { MAX_ROWS_MISSED } else { MAX_ROWS };
        self.rows.len() >= most || self.bytes >= MAX_BYTES
    }

    /// Whether so much waits that no more is to be brought.
    pub(super) fn is_long(&self) -> bool {
        self.rows.len() >= LONG || self.bytes >= MAX_BYTES / 2
    }

    pub(super) fn push(&mut self, row: LaneRow) {
        self.bytes += row.kept.bytes;
        self.rows.push_back(row);
    }

    pub(super) fn pop(&mut self) -> Option<LaneRow> {
        let row = self.rows.pop_front()?;
        self.bytes -= row.kept.bytes;
        Some(row)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &LaneRow> {
        self.rows.iter()
    }

    pub(super) fn rows_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut LaneRow> {
        self.rows.iter_mut()
    }

    /// The rows that the next question is about: the first ones, of one table.
    pub(super) fn head(&self) -> impl Iterator<Item = &LaneRow> {
        let oid = self.rows.front().map(LaneRow::oid);
        self.rows.iter().take(self.batch).take_while(move |row| Some(row.oid()) == oid)
    }

    /// How long the first row has waited.
    pub(super) fn waits(&self) -> Duration {
        self.rows.front().map(|row| row.since.elapsed()).unwrap_or_default()
    }

    /// Takes out the rows of a table: they are not delivered. What is being asked does not count any more.
    pub(super) fn take_out(&mut self, oid: Oid) -> Vec<LaneRow> {
        let (gone, left): (Vec<LaneRow>, Vec<LaneRow>) =
            std::mem::take(&mut self.rows).into_iter().partition(|row| row.oid() == oid);
        self.rows = left.into();
        if !gone.is_empty() {
            self.bytes -= gone.iter().map(|row| row.kept.bytes).sum::<usize>();
            self.asking = None;
        }
        gone
    }

    pub(super) fn into_rows(self) -> impl Iterator<Item = LaneRow> {
        self.rows.into_iter()
    }

    /// A question was answered, after so long.
    pub(super) fn answered(&mut self, took: Duration) {
        self.slow_rows = 0;
        if took < QUICK {
            self.batch = (self.batch * 2).min(BATCH.1);
        } else if took > QUICK * 4 {
            self.batch = (self.batch / 2).max(1);
        }
    }

    /// So many rows together took too long: fewer are asked about next.
    pub(super) fn asks_fewer(&mut self, rows: usize) {
        self.batch = (rows / 4).max(1);
    }

    /// A row took too long by itself. Whether that is the rule by now.
    pub(super) fn is_stuck(&mut self) -> bool {
        self.slow_rows += 1;
        self.slow_rows >= SLOW_ROWS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_asks_about_as_many_rows_as_its_party_can_be_asked_about_in_a_short_time() {
        let mut lane = Lane::default();
        let batches: Vec<usize> = (0..8)
            .map(|_| {
                lane.answered(Duration::from_millis(1));
                lane.batch
            })
            .collect();
        assert_eq!(batches, [8, 16, 32, 64, 128, 256, 256, 256]);
        lane.answered(QUICK * 2);
        assert_eq!(lane.batch, 256, "that is neither quick nor slow");
        lane.answered(QUICK * 5);
        assert_eq!(lane.batch, 128);
        lane.asks_fewer(128);
        assert_eq!(lane.batch, 32);
        lane.asks_fewer(3);
        assert_eq!(lane.batch, 1);
    }

    #[test]
    fn one_row_that_takes_too_long_is_not_the_rule() {
        let mut lane = Lane::default();
        assert!(!lane.is_stuck() && !lane.is_stuck());
        lane.answered(QUICK);
        assert!(!lane.is_stuck() && !lane.is_stuck() && lane.is_stuck());
    }
}
