//! A second permanent slot, which stays behind the one that is read (resume 3): when the server starts again, the log is
//! read from there on, so that the journal has what came before.
//!
//! The slot is named after the one that is read and is made as a copy of it. Nobody reads it while the server runs; it is
//! moved on now and then. What it keeps of the log is bounded by the journal's bounds and by `MAX_REPLICATION_LAG_MB`.

mod slot;
mod window;

use deadpool_postgres::Pool;
use realtime_journal::Bounds;
use realtime_pgoutput::{Lsn, message::UnixMicros};
pub(super) use slot::{look, name};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;
use window::Window;

/// The slot that stays behind.
#[derive(Debug)]
pub(super) struct Past {
    window: Window,
    /// The slot that is read.
    slot: String,
    /// Moves it on. One at a time.
    moving: Option<AbortOnDropHandle<()>>,
    move_at: Instant,
}

impl Past {
    /// For a permanent slot.
    pub(super) fn new(slot: String, bounds: Bounds, max_lag_bytes: u64) -> Self {
        Self { window: Window::new(bounds, max_lag_bytes), slot, moving: None, move_at: Instant::now() }
    }

    /// A transaction passes.
    pub(super) fn passes(&mut self, commit: Lsn, time: UnixMicros) {
        self.window.passes(commit, time);
    }

    /// When it is to be moved on.
    pub(super) fn move_at(&self) -> Instant {
        self.move_at
    }

    /// Moves it on, if it is time. `handed`: everything before it was handed over.
    pub(super) fn look(&mut self, pool: &Pool, handed: Lsn) {
        let now = Instant::now();
        if self.move_at > now {
            return;
        }
        self.move_at = now + self.window.interval();
        let target = self.window.target(now, handed);
        if self.moving.as_ref().is_some_and(|moving| !moving.is_finished()) {
            return;
        }
        let (pool, slot) = (pool.clone(), self.slot.clone());
        let moving = async move {
            if let Err(error) = slot::keep(&pool, &slot, target).await {
                tracing::warn!(
                    code = "JournalSlotNotKept",
                    %error,
                    slot = slot::name(&slot),
                    "cannot keep a slot for the journal; a restart may make a gap for clients that come back. It needs one more of max_replication_slots"
                );
            }
        };
        self.moving = Some(AbortOnDropHandle::new(tokio::spawn(moving.in_current_span())));
    }
}
