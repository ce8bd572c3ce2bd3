//! What the parts of a tenant have in common: where others listen to its rooms, and how much waits for rooms here.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::scope::Part;

/// All buckets: other nodes may listen to any of them.
const EVERYWHERE: u64 = u64::MAX;

/// What the parts of a tenant have in common.
#[derive(Debug)]
pub(crate) struct Common {
    /// The buckets that other nodes listen to. There may be more than these nodes have, never fewer than they were told
    /// that are known.
    buckets: AtomicU64,
    /// Buckets that a node listens to without having asked about them first: it may have been forgotten for a while.
    regained: AtomicU64,
    /// Bytes of messages from other nodes that wait for rooms.
    waiting: AtomicUsize,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            buckets: AtomicU64::new(EVERYWHERE),
            regained: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Common {
    /// Whether anybody may listen to a part. What concerns the whole tenant is always said.
    pub(crate) fn is_heard(&self, part: Part) -> bool {
        part == Part::Whole || self.buckets.load(Ordering::SeqCst) & part.bit() != 0
    }

    /// Sets the buckets that are listened to; `None`: not known, so it may be any.
    pub(crate) fn set_heard(&self, buckets: Option<u64>) {
        self.buckets.store(buckets.unwrap_or(EVERYWHERE), Ordering::SeqCst);
    }

    /// Notes buckets whose listeners may have to be told that they missed something.
    pub(crate) fn regain(&self, buckets: u64) {
        self.regained.fetch_or(buckets, Ordering::SeqCst);
    }

    /// Takes these buckets.
    pub(crate) fn take_regained(&self) -> u64 {
        self.regained.swap(0, Ordering::SeqCst)
    }

    /// Counts bytes that have to wait, unless there would be more than `max`.
    pub(crate) fn wait(&self, bytes: usize, max: usize) -> bool {
        let more = |waiting: usize| waiting.checked_add(bytes).filter(|all| *all <= max);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts bytes that wait no longer.
    pub(crate) fn relieve(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
}
