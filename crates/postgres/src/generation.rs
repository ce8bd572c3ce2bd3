//! Which of a channel's requests counts.
//!
//! A request to watch tables takes its way over the database before the worker has it; the end of a channel goes to the
//! worker at once, and so may a later request. The owner of the channel therefore numbers its requests: one that was
//! overtaken, by a later one or by the channel's end, leaves nothing behind wherever it is by then. Invariants:
//!
//! - The owner takes a new number, or ends, *before* it says so to the worker.
//! - The worker looks at the number when it takes a request, so a request that it still takes is followed by what
//!   overtook it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The number that no request has: the channel has ended.
const ENDED: u64 = u64::MAX;

/// The generations of one channel. Dropping it ends the channel.
#[derive(Debug, Default)]
pub struct Generations(Arc<AtomicU64>);

impl Generations {
    /// The next one; all before it are overtaken.
    #[must_use]
    pub fn next(&self) -> Generation {
        // One thread owns the channel; the others only look.
        let number = self.0.load(Ordering::Relaxed).wrapping_add(1);
        self.0.store(number, Ordering::Release);
        Generation { latest: Arc::clone(&self.0), number }
    }

    /// Ends the channel: all are overtaken.
    pub fn end(&self) {
        self.0.store(ENDED, Ordering::Release);
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        self.end();
    }
}

/// One request of a channel among those before and after it.
#[derive(Debug, Clone)]
pub struct Generation {
    latest: Arc<AtomicU64>,
    number: u64,
}

impl Generation {
    /// Whether nothing has overtaken it.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.latest.load(Ordering::Acquire) == self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_generation_counts_until_the_channel_ends() {
        let generations = Generations::default();
        let (first, second) = (generations.next(), generations.next());
        assert!(!first.is_current() && second.is_current());
        drop(generations);
        assert!(!first.is_current() && !second.is_current());
    }
}
