//! The lane of a party: changes that wait for it, in their order.

use std::{collections::VecDeque, sync::Arc};

use realtime_changes::{ChannelId, SubscriptionKey};
use realtime_pgoutput::Oid;
use tokio::time::{Duration, Instant};

use super::{behind::Behind, for_whom::ForWhom, lanes::Kept};

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
    pub(super) for_whom: Arc<ForWhom>,
    /// Whether no later change of its transaction is about the same key.
    pub(super) is_last: bool,
    since: Instant,
    pub(super) then: Vec<Arc<Behind>>,
}

impl LaneRow {
    pub(super) fn new(kept: Arc<Kept>, for_whom: Arc<ForWhom>, is_last: bool) -> Self {
        Self { kept, for_whom, is_last, since: Instant::now(), then: Vec::new() }
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
    /// Whom the rows are for, each list once, and how many rows have it.
    lists: Vec<(Arc<ForWhom>, usize)>,
    /// Of the rows and the lists.
    bytes: usize,
    pub(super) asking: Option<Asking>,
    batch: usize,
    slow_rows: u32,
    /// The channels that were told that it is late.
    pub(super) told: Vec<ChannelId>,
}

impl Default for Lane {
    fn default() -> Self {
        let (rows, lists, told) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { rows, lists, bytes: 0, asking: None, batch: BATCH.0, slow_rows: 0, told }
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
        self.bytes += row.kept.bytes();
        match self.lists.iter_mut().rev().find(|(known, _)| Arc::ptr_eq(known, &row.for_whom)) {
            Some((_, rows)) => *rows += 1,
            None => {
                self.bytes += row.for_whom.bytes();
                self.lists.push((Arc::clone(&row.for_whom), 1));
            }
        }
        self.rows.push_back(row);
    }

    pub(super) fn pop(&mut self) -> Option<LaneRow> {
        let row = self.rows.pop_front()?;
        self.bytes -= row.kept.bytes();
        let at = self.lists.iter().position(|(known, _)| Arc::ptr_eq(known, &row.for_whom));
        if let Some(at) = at
            && let Some((_, rows)) = self.lists.get_mut(at)
        {
            *rows -= 1;
            if *rows == 0 {
                self.lists.remove(at);
                self.bytes -= row.for_whom.bytes();
            }
        }
        Some(row)
    }

    /// The list of the row that came last of a table, if it has these subscriptions, which are in order.
    pub(super) fn known_list(&self, oid: Oid, keys: &[SubscriptionKey]) -> Option<Arc<ForWhom>> {
        let (last, _) = self.lists.iter().rev().find(|(list, _)| list.oid() == oid)?;
        (last.keys() == keys).then(|| Arc::clone(last))
    }

    /// Whom its rows are for, each list once.
    pub(super) fn lists(&self) -> impl Iterator<Item = &ForWhom> {
        self.lists.iter().map(|(list, _)| &**list)
    }

    /// The last row that is for one of some subscriptions.
    pub(super) fn last_for(&mut self, names: &[(Oid, SubscriptionKey)]) -> Option<&mut LaneRow> {
        let lists: Vec<&Arc<ForWhom>> =
            self.lists.iter().map(|(list, _)| list).filter(|list| list.has_any(names)).collect();
        let is_for = |row: &&mut LaneRow| lists.iter().any(|list| Arc::ptr_eq(list, &row.for_whom));
        if lists.is_empty() { None } else { self.rows.iter_mut().rev().find(is_for) }
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &LaneRow> {
        self.rows.iter()
    }

    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = &mut LaneRow> {
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
            self.bytes -= gone.iter().map(|row| row.kept.bytes()).sum::<usize>();
            let of_table = self.lists.extract_if(.., |(list, _)| list.oid() == oid);
            self.bytes -= of_table.map(|(list, _)| list.bytes()).sum::<usize>();
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
    use realtime_changes::{Action, Match};
    use realtime_pgoutput::{
        Lsn,
        message::{Relation, ReplicaIdentity, UnixMicros, Value},
    };

    use super::{
        super::{lanes::Aside, waiting::Waiting},
        *,
    };

    fn row(oid: Oid, number: u64) -> Waiting {
        let relation = Relation {
            oid,
            schema: "public".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: Vec::new(),
        };
        Waiting {
            action: Action::Insert,
            relation: Arc::new(relation),
            new: Some(vec![Value::Text("x".repeat(100).into())]),
            old: None,
            commit_time: UnixMicros(0),
            xid: 1,
            position: (Lsn::default(), number),
            place: None,
            matched: Match::default(),
            is_late: false,
            is_missed: false,
        }
    }

    fn keys(range: std::ops::Range<u64>) -> Vec<SubscriptionKey> {
        range.map(SubscriptionKey).collect()
    }

    /// Puts a row into a lane as the worker does.
    fn put(aside: &mut Aside, lane: &mut Lane, oid: Oid, number: u64, keys: Vec<SubscriptionKey>) -> bool {
        if lane.is_full(false) {
            return false;
        }
        let Some(kept) = aside.keep(&row(oid, number)) else { return false };
        let for_whom = lane.known_list(oid, &keys).unwrap_or_else(|| aside.for_whom(oid, keys));
        lane.push(LaneRow::new(kept, for_whom, false));
        true
    }

    #[test]
    fn ten_thousand_subscriptions_of_a_party_are_kept_once_for_all_rows() {
        let (mut aside, mut lane) = (Aside::default(), Lane::default());
        // Rows of two tables by turns.
        for number in 0..MAX_ROWS as u64 {
            assert!(put(&mut aside, &mut lane, 1 + (number % 2) as Oid, number, keys(0..10_000)));
        }
        assert!(lane.is_full(false), "it has as many rows as it may have");
        let looked_at: usize = lane.lists().map(|list| list.keys().len()).sum();
        assert_eq!(looked_at, 2 * 10_000, "and not for each row");
        let rows: usize = lane.rows().map(|row| row.kept.bytes()).sum();
        let lists = lane.bytes - rows;
        assert!((2 * 80_000..2 * 81_000).contains(&lists), "{lists}");
        assert_eq!(aside.bytes(), lane.bytes, "all of it counts for all lanes");
        // Whose subscriptions wait is found without walking through rows.
        assert!(lane.lists().any(|list| list.has_any(&[(2, SubscriptionKey(9_999))])));
        assert!(
            !lane.lists().any(|list| list.has_any(&[(1, SubscriptionKey(10_000)), (3, SubscriptionKey(1))]))
        );
        let last = lane.last_for(&[(1, SubscriptionKey(7))]).unwrap();
        assert_eq!(last.kept.waiting.position.1, MAX_ROWS as u64 - 2);
        assert!(lane.last_for(&[(1, SubscriptionKey(10_001))]).is_none());
        lane.take_out(1);
        assert_eq!((aside.bytes(), lane.lists().count()), (lane.bytes, 1));
        while lane.pop().is_some() {}
        assert_eq!((lane.bytes, aside.bytes()), (0, 0));
    }

    #[test]
    fn lists_that_differ_fill_a_lane() {
        let (mut aside, mut lane) = (Aside::default(), Lane::default());
        let mut taken = 0;
        while put(&mut aside, &mut lane, 1, taken, keys(taken..taken + 10_000)) {
            taken += 1;
        }
        assert!((40..60).contains(&taken), "80 kB each, of 4 MB: {taken}");
        assert_eq!(aside.bytes(), lane.bytes);
        drop(lane);
        assert_eq!(aside.bytes(), 0);
    }

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
