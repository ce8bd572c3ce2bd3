//! What has become of a result of late, for clients that come back (resume 2).

use std::collections::{HashMap, VecDeque};

/// Changes of a result that are remembered at most, however few rows it has.
const TOUCHES: usize = 512;

/// Times that are remembered at most.
const BATCHES: usize = 2_000;

/// Milliseconds of a second.
const SECOND: i64 = 1_000;

/// What was told with one time.
#[derive(Debug, Clone, Copy)]
struct Batch {
    told: i64,
    /// The latest time of it and of all before it.
    peak: i64,
    /// The place of its first touch, counted from the first that ever was.
    first: usize,
}

/// A row was told, or left.
#[derive(Debug, Clone)]
struct Touch {
    key: Box<[u8]>,
    /// Whether the clients had a row under this key before, or may have had one.
    had: bool,
}

/// The keys of the rows that were told of late, with the times that were told with them, in milliseconds.
///
/// A client names the last time that it has got. Times do not ascend, and several batches may have one time. So it has had
/// all before the first batch whose *peak* is not before that time, nothing behind the last batch that has it, and perhaps a
/// part of what lies between.
#[derive(Debug, Clone)]
pub(crate) struct Trail {
    batches: VecDeque<Batch>,
    touches: VecDeque<Touch>,
    /// How many touches were forgotten.
    forgotten: usize,
    /// What clients had at an earlier time is not known.
    floor: i64,
    /// The latest time.
    peak: i64,
    /// Bytes of the keys.
    bytes: usize,
}

/// The time of a message that is not the last of those that bring a client all rows: whoever names it has a part of them.
/// It is cut to the second, and no time like this is ever taken for a place. Both in microseconds.
#[must_use]
pub const fn halfway(time: i64) -> i64 {
    time.div_euclid(1_000 * SECOND) * 1_000 * SECOND
}

impl Trail {
    /// Clients that name this time have what the keeper has.
    pub(crate) fn begin(time: i64) -> Self {
        Self {
            batches: VecDeque::from([Batch { told: time, peak: time, first: 0 }]),
            touches: VecDeque::new(),
            forgotten: 0,
            floor: time,
            peak: time,
            bytes: 0,
        }
    }

    /// A row is told with a time. `rows`: how many there are.
    pub(crate) fn touch(&mut self, time: i64, key: &[u8], had: bool, rows: usize) {
        self.date(time);
        self.bytes += key.len();
        self.touches.push_back(Touch { key: key.into(), had });
        // For one that has missed more, all rows are hardly more than what has changed.
        let most = rows / 2 + TOUCHES;
        if self.touches.len() > most {
            self.keep_latest();
            while self.touches.len() > most / 2 {
                self.forget_batch();
            }
        }
    }

    /// Something may be told with this time.
    pub(crate) fn date(&mut self, time: i64) {
        if self.batches.back().is_some_and(|last| last.told == time) {
            return;
        }
        self.peak = self.peak.max(time);
        let first = self.forgotten + self.touches.len();
        self.batches.push_back(Batch { told: time, peak: self.peak, first });
        if self.batches.len() > BATCHES {
            self.forget_batch();
        }
    }

    /// The keys of the rows that a client may have otherwise than now, which names the last time that it has got, each with
    /// whether it may have had a row under it. `None`: it is not known what it has.
    pub(crate) fn since(&self, time: i64) -> Option<impl DoubleEndedIterator<Item = (&[u8], bool)>> {
        if time.rem_euclid(SECOND) == 0 || time < self.floor {
            return None;
        }
        let first = self.batches.partition_point(|batch| batch.peak < time);
        let last = self.batches.iter().rposition(|batch| batch.told == time)?;
        let (from, sure) = (self.place(first), self.place(last + 1));
        let touches = self.touches.range(from..).enumerate();
        Some(touches.map(move |(number, touch)| (&*touch.key, touch.had || from + number < sure)))
    }

    /// Where the touches of a batch begin.
    fn place(&self, batch: usize) -> usize {
        let all = self.touches.len();
        self.batches.get(batch).map_or(all, |batch| batch.first.saturating_sub(self.forgotten).min(all))
    }

    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.batches.capacity() * size_of::<Batch>()
            + self.touches.capacity() * size_of::<Touch>()
            + self.bytes
    }

    /// Forgets the first batch: who names its time, or one of before, is not known any more.
    fn forget_batch(&mut self) {
        let Some(first) = self.batches.pop_front() else {
            self.touches.clear();
            self.bytes = 0;
            return;
        };
        self.floor = self.floor.max(first.peak.saturating_add(1));
        let until = self.batches.front().map_or(self.forgotten + self.touches.len(), |next| next.first);
        let end = until.saturating_sub(self.forgotten).min(self.touches.len());
        self.bytes -= self.touches.drain(..end).map(|touch| touch.key.len()).sum::<usize>();
        self.forgotten = until;
    }

    /// Keeps the latest touch of each row.
    fn keep_latest(&mut self) {
        // By place: nothing for a touch that goes; else whether others went for it.
        let mut stays: Vec<Option<bool>> = vec![None; self.touches.len()];
        let mut latest: HashMap<&[u8], usize> = HashMap::new();
        for (at, touch) in self.touches.iter().enumerate().rev() {
            let known = *latest.entry(&touch.key).or_insert(at);
            if let Some(slot) = stays.get_mut(known) {
                *slot = Some(known != at);
            }
        }
        drop(latest);
        // How many stay of those before each.
        let mut before = vec![0];
        let count = |sum: &mut usize, stays: &Option<bool>| {
            *sum += usize::from(stays.is_some());
            Some(*sum)
        };
        before.extend(stays.iter().scan(0, count));
        for batch in &mut self.batches {
            let at = batch.first.saturating_sub(self.forgotten);
            batch.first = self.forgotten + before.get(at).copied().unwrap_or_default();
        }
        let mut stays = stays.into_iter();
        self.touches.retain_mut(|touch| match stays.next() {
            Some(Some(is_merged)) => {
                touch.had |= is_merged;
                true
            }
            _ => false,
        });
        self.bytes = self.touches.iter().map(|touch| touch.key.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(trail: &Trail, time: i64) -> Option<Vec<u8>> {
        trail.since(time).map(|touches| touches.map(|(key, _)| key[0]).collect())
    }

    #[test]
    fn what_was_told_with_a_time_or_later_is_known() {
        let mut trail = Trail::begin(11);
        trail.touch(12, &[1], false, 10);
        trail.touch(15, &[2], false, 10);
        trail.touch(15, &[3], false, 10);
        trail.touch(13, &[4], false, 10);
        trail.date(20);
        assert_eq!(keys(&trail, 11), Some(vec![1, 2, 3, 4]));
        assert_eq!(keys(&trail, 12), Some(vec![1, 2, 3, 4]));
        assert_eq!(keys(&trail, 13), Some(vec![2, 3, 4]), "15 was told before");
        assert_eq!(keys(&trail, 15), Some(vec![2, 3, 4]));
        assert_eq!(keys(&trail, 20), Some(vec![]));
        for unknown in [10, 14, 16, 21] {
            assert_eq!(keys(&trail, unknown), None, "{unknown}");
        }
    }

    /// Whoever has a part of its first rows names such a time.
    #[test]
    fn a_whole_second_is_no_place() {
        let mut trail = Trail::begin(halfway(1_700_000_000_123_456) / 1_000);
        trail.touch(2_000, &[1], false, 10);
        assert_eq!((keys(&trail, 1_700_000_000_000), keys(&trail, 2_000)), (None, None));
        assert_eq!((halfway(1_999_999), halfway(-1)), (1_000_000, -1_000_000));
    }

    #[test]
    fn what_a_client_has_for_sure_is_known() {
        let mut trail = Trail::begin(11);
        trail.touch(12, &[1], false, 10);
        trail.touch(14, &[2], false, 10);
        trail.touch(13, &[3], true, 10);
        let had = |time| trail.since(time).map(|touches| touches.map(|(_, had)| had).collect::<Vec<_>>());
        assert_eq!(had(11), Some(vec![false, false, true]), "none of them has come");
        assert_eq!(had(12), Some(vec![true, false, true]));
        assert_eq!(had(13), Some(vec![true, true]), "14 came before");
    }

    #[test]
    fn little_is_remembered_and_it_is_the_latest() {
        let mut trail = Trail::begin(1);
        for time in 2..=100_001 {
            trail.touch(time, &[u8::try_from(time % 10).unwrap()], true, 0);
            assert!(trail.touches.len() <= TOUCHES && trail.batches.len() <= BATCHES);
        }
        assert_eq!(keys(&trail, 100_001), Some(vec![1]));
        assert_eq!(keys(&trail, 99_999), Some(vec![9, 0, 1]));
        assert_eq!(keys(&trail, 98_501).map(|keys| keys.len() >= 10), Some(true));
        assert_eq!(keys(&trail, 50_001), None);
        for time in 1..=2_000 {
            trail.touch(200_001, &time_key(time), true, 0);
        }
        assert!(trail.bytes() < 100_000, "{}", trail.bytes());
        assert_eq!(keys(&trail, 200_001), None, "a part of it is forgotten");
    }

    fn time_key(time: u32) -> [u8; 4] {
        time.to_be_bytes()
    }
}
