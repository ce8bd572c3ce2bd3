//! A transaction that waits to be posted, and how much waits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

/// Bytes of bodies that may wait. Beyond it the log is not read. One larger body may wait alone.
const MAX_WAITING: usize = 64_000_000;

/// A transaction that is to be posted to one webhook.
#[derive(Debug)]
pub(super) struct Post {
    /// The position at which the transaction ends; names it to receivers.
    pub(super) id: Arc<str>,
    /// The body, shared by all webhooks.
    pub(super) body: Bytes,
    /// Cancelled when another node posts it.
    pub(super) void: CancellationToken,
    /// Dropped with the last post of a transaction, which is handed over then.
    pub(super) _all: Arc<Outstanding>,
}

/// A transaction that is not handed over yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) bytes: usize,
    pub(super) waiting: Arc<Waiting>,
    pub(super) _done: oneshot::Sender<()>,
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.waiting.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.waiting.less.notify_one();
    }
}

/// What waits to be posted.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) bytes: AtomicUsize,
    pub(super) less: Notify,
}

impl Waiting {
    pub(super) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > MAX_WAITING
    }
}
