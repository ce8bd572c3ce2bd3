//! Row changes above the tenant's limit: dropped, counted, told once a second at most (spec README, decision 23).

use tokio::time::{Duration, Instant};

/// How long dropped changes are counted before the channels are told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Row changes that were dropped and that nobody was told of yet.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    count: u64,
    /// When the channels are told, while there are some.
    tell_at: Option<Instant>,
}

impl Dropped {
    /// Counts a row.
    pub(super) fn count(&mut self, now: Instant) {
        self.count += 1;
        self.tell_at.get_or_insert(now + TELL_EVERY);
    }

    /// When the channels are to be told.
    pub(super) fn tell_at(&self) -> Option<Instant> {
        self.tell_at
    }

    /// How many rows the channels are to be told of, if it is time.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<u64> {
        self.tell_at.filter(|at| *at <= now)?;
        Some(std::mem::take(self).count)
    }
}
