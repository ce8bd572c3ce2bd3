//! The journal.

use std::{collections::VecDeque, time::Duration};

use realtime_pgoutput::{Lsn, Position, message::UnixMicros};

/// Commit times ascend with the log but for this much, in microseconds: a transaction takes its time before it writes
/// its commit record, and another one may come in between.
pub const DISORDER: i64 = 1_000_000;

/// What a journal keeps at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes, as told when they are pushed. 0: nothing is kept.
    pub bytes: usize,
    /// How long. The last transaction is kept longer: who has its changes has missed nothing.
    pub age: Duration,
}

/// What is known of the commit times before the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// None is later than this.
    Until(UnixMicros),
    /// None is later than those that come, but for disorder.
    Unknown,
}

/// Whether a journal has all that comes after a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All that comes after this position, which is in the journal or its floor.
    From(Position),
    /// No: it has been forgotten, or was never known.
    Gone,
    /// Nothing has come yet that is behind that place.
    Beyond,
}

/// A change that is kept.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    /// Where it stands.
    pub position: Position,
    /// The latest commit time of it and of all before it.
    peak: UnixMicros,
    arrived: Duration,
    bytes: usize,
    /// What was pushed.
    pub item: T,
}

/// A place in the log.
#[derive(Debug, Clone, Copy)]
struct Floor {
    position: Position,
    /// The latest commit time up to there. `None`: not known.
    peak: Option<UnixMicros>,
}

/// Changes as they came.
#[derive(Debug)]
pub struct Journal<T> {
    bounds: Bounds,
    entries: VecDeque<Entry<T>>,
    bytes: usize,
    /// `None`: nothing has begun.
    floor: Option<Floor>,
}

impl<T> Journal<T> {
    /// An empty journal.
    #[must_use]
    pub const fn new(bounds: Bounds) -> Self {
        Self { bounds, entries: VecDeque::new(), bytes: 0, floor: None }
    }

    /// Begins anew: everything committed at `start` or behind it will be pushed.
    pub fn begin(&mut self, start: Lsn, past: Past) {
        self.entries.clear();
        self.bytes = 0;
        let peak = match past {
            Past::Until(time) => Some(time),
            Past::Unknown => None,
        };
        self.floor = Some(Floor { position: Position { commit: start, number: 0 }, peak });
    }

    /// Whether what begins at `start` goes on where this journal ends, perhaps with what it has.
    #[must_use]
    pub fn continues(&self, start: Lsn) -> bool {
        self.last().is_some_and(|last| start <= last.commit)
    }

    /// The last position that is known.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        self.entries.back().map(|entry| entry.position).or(self.floor.map(|floor| floor.position))
    }

    /// Everything after this position is here.
    #[must_use]
    pub fn floor(&self) -> Option<Position> {
        self.floor.map(|floor| floor.position)
    }

    /// Bytes that are kept.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of changes that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no change is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether anything would be kept.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.bounds.bytes > 0
    }

    /// Takes a change. One that has come before is left out. `now`: the time since some fixed moment.
    pub fn push(&mut self, position: Position, committed: UnixMicros, now: Duration, bytes: usize, item: T) {
        let Some(floor) = &mut self.floor else { return };
        let before = self.entries.back().map_or(floor.position, |last| last.position);
        if position <= before {
            return;
        }
        // Nothing is known of what came before the first change: it is not later than this one, but for disorder.
        let known = *floor.peak.get_or_insert(UnixMicros(committed.0.saturating_add(DISORDER)));
        let peak = self.entries.back().map_or(known, |last| last.peak).max(committed);
        let bytes = bytes + size_of::<Entry<T>>();
        self.bytes += bytes;
        self.entries.push_back(Entry { position, peak, arrived: now, bytes, item });
        self.prune(now);
    }

    /// Forgets what is too old or too much. `now`: as in [`push`](Self::push).
    pub fn prune(&mut self, now: Duration) {
        while let Some((first, last)) = self.entries.front().zip(self.entries.back()) {
            let is_old = now.saturating_sub(first.arrived) > self.bounds.age
                && first.position.commit != last.position.commit;
            if !is_old && self.bytes <= self.bounds.bytes {
                return;
            }
            self.floor = Some(Floor { position: first.position, peak: Some(first.peak) });
            self.bytes -= first.bytes;
            self.entries.pop_front();
        }
    }

    /// Whether it has all that comes after a position. A change that never came is of another history: a database that
    /// was restored writes its log once more, and what came before such a place is not what its client has.
    #[must_use]
    pub fn after(&self, position: Position) -> Reach {
        let Some((floor, last)) = self.floor.zip(self.last()) else { return Reach::Gone };
        match position {
            position if position < floor.position => Reach::Gone,
            position if position > last => Reach::Beyond,
            position if position == floor.position || self.is_place(position) => Reach::From(position),
            _ => Reach::Gone,
        }
    }

    /// Whether a position may have been told to a client: it is that of a change that is kept, or stands between two
    /// transactions, where no change is.
    fn is_place(&self, position: Position) -> bool {
        position.number == 0 || self.entries.binary_search_by_key(&position, |entry| entry.position).is_ok()
    }

    /// The place in a transaction that is as far as a position: its last change up to there that is kept, or its beginning.
    #[must_use]
    pub fn place(&self, position: Position) -> Position {
        let came = self.entries.partition_point(|entry| entry.position <= position);
        let last = came.checked_sub(1).and_then(|at| self.entries.get(at)).map(|entry| entry.position);
        let beginning = Position { number: 0, ..position };
        let known = last.or_else(|| self.floor().filter(|floor| *floor <= position));
        known.map_or(beginning, |known| known.max(beginning))
    }

    /// Whether it has all from the first change on whose peak of commit times is not before a time (resume 1).
    #[must_use]
    pub fn since(&self, time: UnixMicros) -> Reach {
        let Some(floor) = self.floor else { return Reach::Gone };
        if floor.peak.is_none_or(|peak| peak >= time) {
            return Reach::Gone;
        }
        let from = self.entries.partition_point(|entry| entry.peak < time);
        if from == self.entries.len() {
            return Reach::Beyond;
        }
        let before = from.checked_sub(1).and_then(|at| self.entries.get(at));
        Reach::From(before.map_or(floor.position, |entry| entry.position))
    }

    /// Puts other changes in the place of some: those that end where it stood. `with`: which, each with its bytes, in order;
    /// `None`: it stays. `now`: as in [`push`](Self::push).
    pub fn replace(
        &mut self,
        now: Duration,
        mut with: impl FnMut(Position, &T) -> Option<Vec<(Position, usize, T)>>,
    ) {
        let entries = std::mem::take(&mut self.entries);
        self.bytes = 0;
        for entry in entries {
            match with(entry.position, &entry.item) {
                None => {
                    self.bytes += entry.bytes;
                    self.entries.push_back(entry);
                }
                Some(others) => {
                    for (position, bytes, item) in others {
                        let bytes = bytes + size_of::<Entry<T>>();
                        self.bytes += bytes;
                        self.entries.push_back(Entry { position, bytes, item, ..entry });
                    }
                }
            }
        }
        self.prune(now);
    }

    /// The changes after a position, in order.
    pub fn changes(&self, after: Position) -> impl Iterator<Item = &Entry<T>> {
        self.entries.range(self.entries.partition_point(|entry| entry.position <= after)..)
    }

    /// The first change after a position.
    #[must_use]
    pub fn next(&self, after: Position) -> Option<&Entry<T>> {
        self.entries.get(self.entries.partition_point(|entry| entry.position <= after))
    }

    /// How many changes there are after a position.
    #[must_use]
    pub fn left(&self, after: Position) -> usize {
        self.entries.len() - self.entries.partition_point(|entry| entry.position <= after)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 1 << 20, age: Duration::from_secs(100) };

    fn at(commit: u64, number: u64) -> Position {
        Position { commit: Lsn(commit), number }
    }

    fn journal(past: Past) -> Journal<u64> {
        let mut journal = Journal::new(BOUNDS);
        journal.begin(Lsn(10), past);
        journal
    }

    #[test]
    fn what_came_is_there_once() {
        let mut journal = journal(Past::Until(UnixMicros(0)));
        let now = Duration::ZERO;
        for (position, item) in [(at(12, 1), 1), (at(12, 2), 2), (at(12, 1), 3), (at(15, 1), 4)] {
            journal.push(position, UnixMicros(5), now, 10, item);
        }
        assert_eq!(journal.len(), 3);
        let mut cursor = at(10, 0);
        let mut items = Vec::new();
        while let Some(entry) = journal.next(cursor) {
            items.push(entry.item);
            cursor = entry.position;
        }
        assert_eq!(items, [1, 2, 4]);
        assert_eq!(
            [at(9, 9), at(12, 1), at(13, 1), at(15, 1)].map(|after| journal.left(after)),
            [3, 2, 1, 0]
        );
        assert_eq!(journal.after(at(9, 9)), Reach::Gone);
        assert_eq!(journal.after(at(10, 0)), Reach::From(at(10, 0)));
        assert_eq!(journal.after(at(13, 0)), Reach::From(at(13, 0)));
        assert_eq!(journal.after(at(15, 2)), Reach::Beyond);
    }

    /// What was not kept at first.
    #[test]
    fn changes_come_in_the_place_of_one() {
        let mut journal = journal(Past::Until(UnixMicros(0)));
        for position in [at(12, 1), at(12, 4), at(15, 1)] {
            journal.push(position, UnixMicros(5), Duration::ZERO, 10, 0);
        }
        let bytes = journal.bytes();
        journal.replace(Duration::ZERO, |position, _| {
            (position == at(12, 4)).then(|| (2..=4).map(|number| (at(12, number), 20, number)).collect())
        });
        let all: Vec<(Position, u64)> =
            journal.changes(at(12, 1)).map(|entry| (entry.position, entry.item)).collect();
        assert_eq!(all, [(at(12, 2), 2), (at(12, 3), 3), (at(12, 4), 4), (at(15, 1), 0)]);
        assert_eq!(journal.bytes(), bytes + 50 + 2 * size_of::<Entry<u64>>());
        assert_eq!(journal.after(at(12, 3)), Reach::From(at(12, 3)), "it is a place now");
        assert_eq!(journal.since(UnixMicros(5)), Reach::From(at(10, 0)));
    }

    /// A client of another history may name a place in the middle of this one.
    #[test]
    fn a_change_that_never_came_is_no_place() {
        let mut journal = journal(Past::Until(UnixMicros(0)));
        for position in [at(12, 1), at(12, 3), at(15, 1)] {
            journal.push(position, UnixMicros(5), Duration::ZERO, 10, 0);
        }
        for position in [at(10, 1), at(11, 1), at(12, 2), at(12, 4), at(13, 1)] {
            assert_eq!(journal.after(position), Reach::Gone, "{position}");
        }
        for position in [at(10, 0), at(12, 0), at(12, 1), at(12, 3), at(13, 0), at(15, 1)] {
            assert_eq!(journal.after(position), Reach::From(position));
        }
        assert_eq!(journal.after(at(15, 2)), Reach::Beyond);
        let places =
            [(at(12, 2), at(12, 1)), (at(12, 0), at(12, 0)), (at(13, 4), at(13, 0)), (at(15, 1), at(15, 1))];
        for (position, place) in places {
            assert_eq!(journal.place(position), place);
            assert_eq!(journal.after(place), Reach::From(place));
        }
        journal.prune(Duration::from_secs(3_600));
        assert_eq!(journal.after(at(12, 3)), Reach::From(at(12, 3)), "it is the floor");
        assert_eq!(journal.place(at(12, 4)), at(12, 3));
    }

    #[test]
    fn nothing_is_there_before_it_begins() {
        let journal = Journal::<()>::new(BOUNDS);
        assert_eq!(journal.after(Position::default()), Reach::Gone);
        assert_eq!(journal.since(UnixMicros(i64::MAX)), Reach::Gone);
        assert!(!journal.continues(Lsn(0)));
    }

    /// The stream begins with the first change whose peak is not before the time.
    #[test]
    fn times_that_do_not_ascend_hide_nothing() {
        let mut journal = journal(Past::Until(UnixMicros(100)));
        let now = Duration::ZERO;
        for (commit, time) in [(11, 150), (12, 300), (13, 200), (14, 250), (15, 400)] {
            journal.push(at(commit, 1), UnixMicros(time), now, 1, commit);
        }
        assert_eq!(journal.since(UnixMicros(100)), Reach::Gone);
        assert_eq!(journal.since(UnixMicros(101)), Reach::From(at(10, 0)));
        assert_eq!(journal.since(UnixMicros(200)), Reach::From(at(11, 1)), "13 comes after 12");
        assert_eq!(journal.since(UnixMicros(300)), Reach::From(at(11, 1)));
        assert_eq!(journal.since(UnixMicros(301)), Reach::From(at(14, 1)));
        assert_eq!(journal.since(UnixMicros(401)), Reach::Beyond);
    }

    /// What was committed before the first change is not later than it by more than disorder.
    #[test]
    fn an_unknown_past_is_no_later_than_what_comes() {
        let mut journal = journal(Past::Unknown);
        assert_eq!(journal.since(UnixMicros(i64::MAX)), Reach::Gone);
        let second = |n: i64| UnixMicros(n * 1_000_000);
        journal.push(at(11, 1), second(10), Duration::ZERO, 1, 0);
        journal.push(at(12, 1), second(20), Duration::ZERO, 1, 0);
        assert_eq!(journal.since(second(11)), Reach::Gone);
        assert_eq!(journal.since(second(12)), Reach::From(at(11, 1)));
    }

    /// Somebody who has been there all the time and comes back after a quiet hour has missed nothing.
    #[test]
    fn the_last_transaction_is_kept_however_old() {
        let mut journal = journal(Past::Until(UnixMicros(0)));
        let now = Duration::ZERO;
        journal.push(at(11, 1), UnixMicros(5), now, 1, 1);
        journal.push(at(12, 1), UnixMicros(6), now, 1, 2);
        journal.push(at(12, 2), UnixMicros(6), now, 1, 3);
        journal.prune(now + Duration::from_secs(3_600));
        assert_eq!(journal.len(), 2);
        assert_eq!(journal.since(UnixMicros(6)), Reach::From(at(11, 1)));
        assert_eq!(journal.since(UnixMicros(5)), Reach::Gone);
        assert_eq!(journal.after(at(12, 2)), Reach::From(at(12, 2)));
    }

    #[test]
    fn bytes_are_bounded_within_a_transaction_too() {
        let bytes = 10 * (100 + size_of::<Entry<u64>>());
        let mut journal = Journal::new(Bounds { bytes, ..BOUNDS });
        journal.begin(Lsn(10), Past::Until(UnixMicros(0)));
        for number in 1..=25 {
            journal.push(at(11, number), UnixMicros(5), Duration::ZERO, 100, number);
            assert!(journal.bytes() <= bytes);
        }
        assert_eq!(journal.len(), 10);
        assert_eq!(
            (journal.after(at(11, 15)), journal.after(at(11, 14))),
            (Reach::From(at(11, 15)), Reach::Gone)
        );
        assert_eq!(journal.since(UnixMicros(5)), Reach::Gone, "a part of the transaction is gone");
        let mut off = Journal::new(Bounds { bytes: 0, ..BOUNDS });
        off.begin(Lsn(10), Past::Until(UnixMicros(0)));
        off.push(at(11, 1), UnixMicros(5), Duration::ZERO, 100, 1);
        assert!(off.is_empty());
        assert_eq!(off.after(at(10, 0)), Reach::Gone);
    }

    proptest! {
        /// Whatever is kept: what a reach promises is all that came after the place, and by time nothing that was
        /// committed then or later is left out.
        #[test]
        fn promises_hold(
            changes in prop::collection::vec((1u64..3, 0i64..50, 0usize..60, 0u64..40), 1..80),
            start in 0i64..60,
            asked in 0i64..400,
            limit in 0usize..3_000,
        ) {
            let mut journal = Journal::new(Bounds { bytes: limit, age: Duration::from_secs(30) });
            journal.begin(Lsn(10), Past::Until(UnixMicros(start)));
            let mut all: Vec<(Position, i64)> = Vec::new();
            let (mut commit, mut seconds) = (11, 0);
            for (rows, time, bytes, pause) in changes {
                seconds += pause;
                for number in 1..=rows {
                    // Commit times go back now and then.
                    let committed = start + i64::try_from(commit).unwrap() * 3 + time;
                    journal.push(at(commit, number), UnixMicros(committed), Duration::from_secs(seconds), bytes, 0);
                    all.push((at(commit, number), committed));
                }
                commit += 1;
            }
            let read = |mut cursor: Position| {
                let mut positions = Vec::new();
                while let Some(entry) = journal.next(cursor) {
                    positions.push(entry.position);
                    cursor = entry.position;
                }
                positions
            };
            for (position, _) in &all {
                if let Reach::From(cursor) = journal.after(*position) {
                    let expected: Vec<Position> = all.iter().map(|(known, _)| *known).filter(|known| known > position).collect();
                    prop_assert_eq!(read(cursor), expected);
                }
            }
            if let Reach::From(cursor) = journal.since(UnixMicros(asked)) {
                let positions = read(cursor);
                for (position, time) in &all {
                    prop_assert!(*time < asked || positions.contains(position), "{} of {}", position, time);
                }
            }
        }
    }
}
