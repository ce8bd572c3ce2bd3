//! Counters of the questions to policies.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How long something took, in sum.
#[derive(Debug, Default)]
pub struct Latency {
    count: AtomicU64,
    micros: AtomicU64,
}

impl Latency {
    /// Adds a measurement.
    pub(crate) fn add(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Number of measurements.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Sum of the measurements in microseconds.
    #[must_use]
    pub fn micros(&self) -> u64 {
        self.micros.load(Ordering::Relaxed)
    }
}

/// Counters of the questions to a tenant's policies since the server started.
#[derive(Debug, Default)]
pub struct PolicyStats {
    /// Questions that were asked, answered by whatever means.
    pub asked: AtomicU64,
    /// Transactions in the database: one round trip each. Fewer than `asked`, because equal questions share.
    pub probes: AtomicU64,
    /// Statements in these transactions.
    pub statements: AtomicU64,
    /// Questions that found no connection in time, or were not put because too many had found none.
    pub crowded: AtomicU64,
    /// Time that reading checks took in the database.
    pub read: Latency,
    /// Time that writing checks took in the database.
    pub write: Latency,
}

impl PolicyStats {
    pub(crate) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}
