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
    replicating: watch::Sender<bool>,
}

impl Default for Attendees {
    fn default() -> Self {
        Self { count: AtomicUsize::new(0), changed: Notify::new(), replicating: watch::Sender::new(false) }
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

    /// Says whether broadcasts arrive from now on.
    pub(crate) fn set_replicating(&self, replicating: bool) {
        self.replicating.send_if_modified(|now| std::mem::replace(now, replicating) != replicating);
    }

    /// Whether they arrive.
    pub(crate) fn is_replicating(&self) -> bool {
        *self.replicating.borrow()
    }

    /// Returns when they do. Cancel safe.
    pub(crate) async fn replicating(&self) {
        // The sender lives as long as we do: waiting cannot fail.
        let _ = self.replicating.subscribe().wait_for(|replicating| *replicating).await;
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
