//! Row changes above the tenant's limit: dropped, counted, told once a second at most (spec README, decision 23).

use std::sync::atomic::Ordering;

use tokio::time::{Duration, Instant};

use super::State;
use crate::Notice;

/// How long dropped changes are counted before the channels are told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Row changes that were dropped and that nobody was told of yet.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    count: u64,
    /// When the channels are told, while there are some.
    tell_at: Option<Instant>,
}

impl State {
    /// Whether a row that somebody wants is dropped because there are too many.
    pub(super) fn drops(&mut self) -> bool {
        if !self.sink.is_limited() {
            return false;
        }
        self.stats.dropped.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        self.dropped.count += 1;
        self.dropped.tell_at.get_or_insert(now + TELL_EVERY);
        self.tell_dropped(now);
        true
    }

    /// When channels are to be told of rows that were dropped.
    pub(in crate::worker) fn tell_dropped_at(&self) -> Option<Instant> {
        self.dropped.tell_at
    }

    /// Tells the channels how many rows were dropped, if it is time.
    pub(in crate::worker) fn tell_dropped(&mut self, now: Instant) {
        if self.dropped.tell_at.is_none_or(|at| at > now) {
            return;
        }
        let count = std::mem::take(&mut self.dropped).count;
        let code = "MessagePerSecondRateLimitReached";
        tracing::error!(code, dropped = count, "Too many postgres changes messages per second");
        self.tell_all(&Notice::Dropped(count));
    }
}
