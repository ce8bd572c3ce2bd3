//! What was compressed and inflated since the process began.

use std::sync::atomic::{AtomicU64, Ordering};

static PACKED: Counters = Counters::new();
static UNPACKED: Counters = Counters::new();

/// Messages, and their bytes before and after.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Number of messages.
    pub messages: u64,
    /// Their bytes before.
    pub before: u64,
    /// Their bytes after. What does not get smaller is sent as it was and counts so.
    pub after: u64,
}

/// Messages that were compressed. One that many receive counts once.
#[must_use]
pub fn packed() -> Figures {
    PACKED.read()
}

/// Messages of clients that were inflated.
#[must_use]
pub fn unpacked() -> Figures {
    UNPACKED.read()
}

pub(super) fn count_packed(before: usize, after: usize) {
    PACKED.add(before, after);
}

pub(super) fn count_unpacked(before: usize, after: usize) {
    UNPACKED.add(before, after);
}

struct Counters {
    messages: AtomicU64,
    before: AtomicU64,
    after: AtomicU64,
}

impl Counters {
    const fn new() -> Self {
        Self { messages: AtomicU64::new(0), before: AtomicU64::new(0), after: AtomicU64::new(0) }
    }

    fn add(&self, before: usize, after: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.before.fetch_add(before as u64, Ordering::Relaxed);
        self.after.fetch_add(after as u64, Ordering::Relaxed);
    }

    fn read(&self) -> Figures {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures { messages: load(&self.messages), before: load(&self.before), after: load(&self.after) }
    }
}
