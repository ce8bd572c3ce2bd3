//! Whether a database answers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::sharing::Reader;

/// How long an answer of the database counts: joins ask again after that, all of them one question.
const READY_LIFE: Duration = Duration::from_secs(30);

/// When the database last answered.
#[derive(Debug)]
pub(crate) struct Contact {
    start: Instant,
    /// Milliseconds after `start` up to which the answer counts; 0 for none.
    until: AtomicU64,
    /// Whether it did not answer when it was last needed.
    failing: AtomicBool,
    /// The reader of the log, while a replication session runs.
    reader: Mutex<Option<Reader>>,
}

/// Whether a database answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nobody has asked for a while.
    Idle,
    /// It answered a short while ago.
    Connected,
    /// It did not answer when it was last needed.
    Failing,
}

impl Contact {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            until: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            reader: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.now() < self.until.load(Ordering::Acquire)
    }

    /// Notes who reads in the replication session that runs; `None` if none runs any more.
    pub(crate) fn replicates(&self, reader: Option<Reader>) {
        *self.reader.lock() = reader;
    }

    pub(crate) fn reader(&self) -> Option<Reader> {
        *self.reader.lock()
    }

    /// Whether it answered when last asked, however long ago.
    pub(crate) fn is_made(&self) -> bool {
        self.until.load(Ordering::Acquire) > 0
    }

    /// Notes that it answered.
    pub(crate) fn made(&self) {
        let life = u64::try_from(READY_LIFE.as_millis()).unwrap_or(u64::MAX);
        self.until.store(self.now().saturating_add(life), Ordering::Release);
        self.failing.store(false, Ordering::Release);
    }

    /// Notes that it did not answer.
    pub(crate) fn lost(&self) {
        self.until.store(0, Ordering::Release);
        self.failing.store(true, Ordering::Release);
    }

    pub(crate) fn health(&self) -> Health {
        if self.failing.load(Ordering::Acquire) {
            Health::Failing
        } else if self.is_fresh() {
            Health::Connected
        } else {
            Health::Idle
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_contact_grows_old_but_a_failure_stays() {
        let contact = Contact::new();
        assert_eq!(contact.health(), Health::Idle);
        contact.made();
        assert_eq!(contact.health(), Health::Connected);
        tokio::time::advance(READY_LIFE).await;
        assert_eq!(contact.health(), Health::Idle);
        contact.lost();
        tokio::time::advance(READY_LIFE * 10).await;
        assert_eq!(contact.health(), Health::Failing);
        contact.made();
        assert_eq!(contact.health(), Health::Connected);
    }
}
