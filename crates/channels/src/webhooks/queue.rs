//! Changes that wait to be posted to one endpoint.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use realtime_pgoutput::Position;
use realtime_webhooks::{Lanes, Ticket};
use tokio::sync::{Notify, oneshot};

/// Changes that are posted at once to one endpoint: of different rows.
const PARALLEL: usize = 8;

/// Changes that may wait. Beyond it the log is not read for this webhook.
const MAX_WAITING: usize = 10_000;

/// Bytes of them that may wait. One larger change may wait alone.
const MAX_BYTES: usize = 16 << 20;

/// A change that is to be posted.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) position: Position,
    /// The object `data`.
    pub(super) data: Bytes,
    /// Dropped with the last change of a transaction, which is handed over then.
    pub(super) _transaction: Arc<Outstanding>,
}

/// A transaction that is not handed over yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// Closed when it is dropped.
    pub(super) _done: oneshot::Sender<()>,
}

/// Changes that wait, in their lanes.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Something has come.
    pub(super) came: Notify,
    /// Something has gone.
    gone: Notify,
}

#[derive(Debug)]
struct Waiting {
    lanes: Lanes<Event>,
    bytes: usize,
}

impl Default for Queue {
    fn default() -> Self {
        let waiting = Mutex::new(Waiting { lanes: Lanes::new(PARALLEL), bytes: 0 });
        Self { waiting, came: Notify::new(), gone: Notify::new() }
    }
}

impl Queue {
    /// Adds a change; returns how many wait.
    pub(super) fn push(&self, key: u64, old_key: Option<u64>, event: Event) -> usize {
        let mut waiting = self.waiting.lock();
        waiting.bytes += event.data.len();
        waiting.lanes.push(key, old_key, event);
        let all = waiting.lanes.len();
        drop(waiting);
        self.came.notify_one();
        all
    }

    /// The next change that may be posted now.
    pub(super) fn take(&self) -> Option<(Ticket, Event)> {
        self.waiting.lock().lanes.take()
    }

    /// A change of so many bytes was posted or given up; returns how many are left.
    pub(super) fn done(&self, ticket: Ticket, bytes: usize) -> usize {
        let mut waiting = self.waiting.lock();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        waiting.lanes.done(ticket);
        let left = waiting.lanes.len();
        drop(waiting);
        self.gone.notify_one();
        left
    }

    fn is_full(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.bytes > MAX_BYTES || waiting.lanes.len() >= MAX_WAITING
    }

    /// A wait for room, if there is none.
    pub(super) fn relieve(&self) -> Option<BoxFuture<'_, ()>> {
        if !self.is_full() {
            return None;
        }
        Some(Box::pin(async {
            while self.is_full() {
                self.gone.notified().await;
            }
        }))
    }
}
