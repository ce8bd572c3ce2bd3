//! A transaction that waits to be posted, and how much waits for a webhook.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Bytes of bodies that may wait for all webhooks together, in equal shares. One larger body may wait alone.
const MAX_WAITING: usize = 64_000_000;

/// What a transaction that waits takes beside its body, in bytes: small ones have a bound, too.
const OVERHEAD: usize = 1024;

/// A transaction that is to be posted to one webhook.
#[derive(Debug)]
pub(super) struct Post {
    /// The position at which the transaction ends; names it to receivers.
    pub(super) id: Arc<str>,
    /// The body, shared by all webhooks.
    pub(super) body: Bytes,
    /// Cancelled when another node posts it.
    pub(super) void: CancellationToken,
    /// Its place among what waits for the webhook.
    pub(super) _place: Place,
    /// Dropped with the last post of a transaction, which is handed over then.
    pub(super) _all: Arc<Outstanding>,
}

/// A transaction that is not handed over yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// Cancelled when it is.
    pub(super) done: CancellationToken,
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.done.cancel();
    }
}

/// How much waits for a webhook.
#[derive(Debug)]
pub(super) struct Line {
    bytes: AtomicUsize,
    share: usize,
    empty: Notify,
}

impl Line {
    /// An empty line of one of so many webhooks.
    pub(super) fn new(webhooks: usize) -> Arc<Self> {
        let share = MAX_WAITING / webhooks.max(1);
        Arc::new(Self { bytes: AtomicUsize::new(0), share, empty: Notify::new() })
    }

    /// A place for a body, if there is room. Called by one task.
    pub(super) fn place(self: &Arc<Self>, body: &Bytes) -> Option<Place> {
        let bytes = body.len() + OVERHEAD;
        let waiting = self.bytes.load(Ordering::Acquire);
        if waiting > 0 && waiting + bytes > self.share {
            return None;
        }
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        Some(Place { line: Arc::clone(self), bytes })
    }

    /// Returns when nothing waits.
    pub(super) async fn emptied(self: Arc<Self>) {
        loop {
            let emptied = self.empty.notified();
            tokio::pin!(emptied);
            // From here on nothing is missed.
            emptied.as_mut().enable();
            if self.bytes.load(Ordering::Acquire) == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// A place in a line, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    line: Arc<Line>,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.line.bytes.fetch_sub(self.bytes, Ordering::AcqRel) == self.bytes {
            self.line.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_has_room_for_its_share_or_for_one() {
        let line = Line::new(64);
        let small = Bytes::from(vec![0; 498_000]);
        let places = [line.place(&small), line.place(&small)];
        assert!(places.iter().all(Option::is_some) && line.place(&small).is_none());
        drop(places);
        Arc::clone(&line).emptied().await;
        let large = Bytes::from(vec![0; 2_000_000]);
        let place = line.place(&large).unwrap();
        assert!(line.place(&small).is_none() && line.place(&Bytes::new()).is_none());
        let emptied = tokio::spawn(Arc::clone(&line).emptied());
        drop(place);
        emptied.await.unwrap();
        // However small they are.
        let places: Vec<Place> = std::iter::from_fn(|| line.place(&Bytes::new())).collect();
        assert!((900..1000).contains(&places.len()), "{}", places.len());
    }
}
