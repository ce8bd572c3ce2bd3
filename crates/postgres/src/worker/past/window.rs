//! How far behind the slot stays.

use std::{collections::VecDeque, time::Duration};

use realtime_journal::{Bounds, DISORDER};
use realtime_pgoutput::{Lsn, message::UnixMicros};
use tokio::time::Instant;

/// The slot is moved on so often within the time that the journal keeps.
const MOVES: u32 = 4;

/// How often it is moved on, at most and at least: each time the server reads the log from the last checkpoint on.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Transactions whose commits are less than this apart, in microseconds, count as one.
const APART: i64 = 100_000;

/// How far behind the slot stays.
#[derive(Debug)]
pub(super) struct Window {
    bounds: Bounds,
    max_lag_bytes: u64,
    /// How far everything was handed over, and when. The first is older than the journal's time, or the only one.
    samples: VecDeque<(Instant, Lsn)>,
    /// Transactions and their commit times. The first is earlier than the last by more than commit times may be in
    /// disorder, or the first that came: from it on the journal knows of all times that are as late as the last.
    anchors: VecDeque<(Lsn, UnixMicros)>,
}

impl Window {
    pub(super) fn new(bounds: Bounds, max_lag_bytes: u64) -> Self {
        Self { bounds, max_lag_bytes, samples: VecDeque::new(), anchors: VecDeque::new() }
    }

    pub(super) fn interval(&self) -> Duration {
        (self.bounds.age / MOVES).clamp(INTERVALS.0, INTERVALS.1)
    }

    /// A transaction passes.
    pub(super) fn passes(&mut self, commit: Lsn, time: UnixMicros) {
        if self.anchors.back().is_some_and(|(_, last)| time.0 < last.0.saturating_add(APART)) {
            return;
        }
        self.anchors.push_back((commit, time));
        while self.anchors.get(1).is_some_and(|(_, second)| second.0.saturating_add(DISORDER) < time.0) {
            self.anchors.pop_front();
        }
    }

    /// Where the slot may begin. `None`: where it is.
    pub(super) fn target(&mut self, now: Instant, handed: Lsn) -> Option<Lsn> {
        self.samples.push_back((now, handed));
        while self.samples.get(1).is_some_and(|(at, _)| *at + self.bounds.age <= now) {
            self.samples.pop_front();
        }
        let (at, old) = *self.samples.front()?;
        // The last change stays while the log is not much longer than the journal: clients may have it as their place.
        let anchor = self.anchors.front().map(|(anchor, _)| *anchor);
        let bytes = u64::try_from(self.bounds.bytes).unwrap_or(u64::MAX);
        let anchor = anchor.filter(|anchor| handed.0.saturating_sub(anchor.0) <= bytes);
        let aged = (at + self.bounds.age <= now).then_some(old);
        let wanted = aged.map(|aged| anchor.map_or(aged, |anchor| aged.min(anchor)));
        // What all slots keep is bounded.
        let floor = match self.max_lag_bytes {
            0 => Lsn(0),
            max => Lsn(handed.0.saturating_sub(max / 2)),
        };
        wanted.map(|wanted| wanted.max(floor)).or_else(|| (floor > Lsn(0)).then_some(floor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window::new(Bounds { bytes: 1_000, age: Duration::from_secs(100) }, 10_000)
    }

    #[tokio::test(start_paused = true)]
    async fn it_stays_behind_by_the_journals_time() {
        let (mut window, begun) = (window(), Instant::now());
        let mut at = |seconds: u64, handed: u64| {
            window.target(begun + Duration::from_secs(seconds), Lsn(handed)).map(|target| target.0)
        };
        assert_eq!(at(0, 100), None);
        assert_eq!(at(50, 200), None);
        assert_eq!(at(99, 300), None);
        assert_eq!(at(100, 400), Some(100));
        assert_eq!(at(149, 500), Some(100));
        assert_eq!(at(150, 600), Some(200));
        assert_eq!(at(1_000, 700), Some(600));
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_last_change_while_that_costs_little() {
        let (mut window, begun) = (window(), Instant::now());
        let second = |seconds: i64| UnixMicros(seconds * 1_000_000);
        for (commit, time) in [(10, second(1)), (20, second(5)), (30, second(5)), (40, UnixMicros(5_500_000))]
        {
            window.passes(Lsn(commit), time);
        }
        window.target(begun, Lsn(50));
        let later = begun + Duration::from_secs(500);
        assert_eq!(window.target(later, Lsn(900)), Some(Lsn(10)), "all after it are later by a second");
        assert_eq!(window.target(later + Duration::from_secs(100), Lsn(1_010)), Some(Lsn(10)));
        assert_eq!(window.target(later + Duration::from_secs(200), Lsn(1_011)), Some(Lsn(1_010)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_no_more_than_half_of_what_a_slot_may() {
        let (mut window, begun) = (window(), Instant::now());
        assert_eq!(window.target(begun, Lsn(5_000)), None);
        assert_eq!(window.target(begun, Lsn(9_000)), Some(Lsn(4_000)));
    }
}
