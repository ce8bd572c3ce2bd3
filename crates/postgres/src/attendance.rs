//! Counts the channels that may get broadcasts from the database. While there are any, the replication connection is kept.

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

    /// Another handle of the database takes over, under the number that is returned. The sessions of the last one
    /// are over from this moment on, whatever they still say. `resumes`: as in [`ended`](Self::ended).
    pub(crate) fn succeed(&self, resumes: bool) -> u64 {
        self.replication.send_modify(|state| {
            state.end(resumes);
            state.reign += 1;
        });
        self.replication.borrow().reign
    }

    /// A session of a handle has begun. `arrives`: it brings broadcasts. `resumed`: nothing is missing since the last.
    pub(crate) fn begun(&self, reign: u64, arrives: bool, resumed: bool) {
        self.of(reign, |state| {
            state.gaps += u64::from(!resumed && state.open);
            (state.arrives, state.open) = (arrives, false);
        });
    }

    /// The session of a handle is over. `resumes`: the next one should go on where it ended.
    pub(crate) fn ended(&self, reign: u64, resumes: bool) {
        self.of(reign, |state| state.end(resumes));
    }

    /// Takes what the handle in charge says; what an earlier one says counts no more.
    fn of(&self, reign: u64, change: impl FnOnce(&mut Replication)) {
        self.replication.send_if_modified(|state| {
            let current = state.reign == reign;
            if current {
                change(state);
            }
            current
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
    /// Number of the handle in charge.
    reign: u64,
}

impl Replication {
    /// A state, for tests.
    #[must_use]
    pub fn new(arrives: bool, gaps: u64) -> Self {
        Self { arrives, gaps, ..Self::default() }
    }

    fn end(&mut self, resumes: bool) {
        self.gaps += u64::from(self.arrives && !resumes);
        self.open |= self.arrives && resumes;
        self.arrives = false;
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
        attendees.begun(0, true, false);
        assert_eq!((gaps(), attendees.replication().arrives), (0, true), "nothing was promised before");
        let before = attendees.replication();
        attendees.ended(0, false);
        attendees.differs(before).await;
        attendees.begun(0, true, false);
        assert_eq!(gaps(), 1);

        attendees.ended(0, true);
        attendees.begun(0, true, true);
        assert_eq!(gaps(), 1, "the slot went on where it had ended");
        attendees.ended(0, true);
        attendees.begun(0, true, false);
        assert_eq!(gaps(), 2, "it should have, but was lost");
        attendees.begun(0, false, false);
        attendees.ended(0, false);
        assert_eq!(gaps(), 2, "nobody was promised anything");
    }

    /// What a handle still says after another has taken over means nothing.
    #[tokio::test]
    async fn handles_take_over_at_once() {
        let attendees = Attendees::default();
        let now = || attendees.replication();
        attendees.begun(0, true, false);
        let before = now();
        let reign = attendees.succeed(false);
        attendees.differs(before).await;
        assert_eq!((now().arrives, now().gaps), (false, 1));
        attendees.begun(0, true, false);
        assert!(!now().arrives, "the last one had not heard yet");
        attendees.begun(reign, true, false);
        attendees.ended(0, false);
        assert_eq!((now().arrives, now().gaps), (true, 1), "the last one comes to its end");
    }
}
