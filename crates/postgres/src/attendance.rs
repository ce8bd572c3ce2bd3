//! Who may get broadcasts from the database: while there is somebody, the replication connection is kept.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, watch};

/// Counts those who may get broadcasts, and knows whether they do.
#[derive(Debug)]
pub(crate) struct Attendees {
    count: AtomicUsize,
    /// Told when the first comes and when the last goes.
    changed: Notify,
    /// Whether inserts into `realtime.messages` reach us.
    replication: watch::Sender<Replication>,
}

impl Default for Attendees {
    fn default() -> Self {
        Self { count: AtomicUsize::new(0), changed: Notify::new(), replication: watch::Sender::default() }
    }
}

impl Attendees {
    /// One more.
    pub(crate) fn enter(self: &Arc<Self>) -> Attendance {
        if self.count.fetch_add(1, Ordering::AcqRel) == 0 {
            self.changed.notify_one();
        }
        Attendance(Arc::clone(self))
    }

    /// Whether there is somebody.
    pub(crate) fn is_any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Has the worker look again, as if the first had come.
    pub(crate) fn look_again(&self) {
        self.changed.notify_one();
    }

    /// Returns when there is somebody again, or nobody any more. Cancel safe; one may wait.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A session has begun. `arrives`: it brings broadcasts. `resumed`: nothing is missing since the last.
    pub(crate) fn begun(&self, arrives: bool, resumed: bool) {
        self.replication.send_modify(|state| {
            state.gaps += u64::from(!resumed && state.open);
            (state.arrives, state.open) = (arrives, false);
        });
    }

    /// The session is over. `resumes`: the next one should go on where it ended.
    pub(crate) fn ended(&self, resumes: bool) {
        self.replication.send_modify(|state| {
            state.gaps += u64::from(state.arrives && !resumes);
            state.open |= state.arrives && resumes;
            state.arrives = false;
        });
    }

    /// Whether broadcasts arrive, and how many gaps there have been.
    pub(crate) fn replication(&self) -> Replication {
        *self.replication.borrow()
    }

    /// Returns when that is no longer so. Cancel safe.
    pub(crate) async fn differs(&self, from: Replication) {
        let differs = |now: &Replication| (now.arrives, now.gaps) != (from.arrives, from.gaps);
        // The sender lives as long as we do: waiting cannot fail.
        let _ = self.replication.subscribe().wait_for(differs).await;
    }
}

/// What is known of broadcasts from the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replication {
    /// Whether every one that is written from now on reaches the sink.
    pub arrives: bool,
    /// How often some may have been missed since the server started.
    pub gaps: u64,
    /// There will have been a gap unless the next session goes on where the last ended.
    open: bool,
}

impl Replication {
    /// A state, for tests.
    #[must_use]
    pub fn new(arrives: bool, gaps: u64) -> Self {
        Self { arrives, gaps, open: false }
    }
}

/// Somebody who may get broadcasts from the database. Dropping it says that they go.
#[derive(Debug)]
pub struct Attendance(Arc<Attendees>);

impl Drop for Attendance {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_and_the_last_are_told_of() {
        let attendees = Arc::new(Attendees::default());
        let (first, second) = (attendees.enter(), attendees.enter());
        attendees.changed().await;
        drop(first);
        assert!(attendees.is_any());
        drop(second);
        attendees.changed().await;
        assert!(!attendees.is_any());
    }

    /// A gap is counted when it is known to be one, and once.
    #[tokio::test]
    async fn gaps_are_counted_once() {
        let attendees = Attendees::default();
        let gaps = || attendees.replication().gaps;
        attendees.begun(true, false);
        assert_eq!((gaps(), attendees.replication().arrives), (0, true), "nothing was promised before");
        let before = attendees.replication();
        attendees.ended(false);
        attendees.differs(before).await;
        attendees.begun(true, false);
        assert_eq!(gaps(), 1);

        attendees.ended(true);
        attendees.begun(true, true);
        assert_eq!(gaps(), 1, "the slot went on where it had ended");
        attendees.ended(true);
        attendees.begun(true, false);
        assert_eq!(gaps(), 2, "it should have, but was lost");
        attendees.begun(false, false);
        attendees.ended(false);
        assert_eq!(gaps(), 2, "nobody was promised anything");
    }
}
