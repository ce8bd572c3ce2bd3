//! Turns for large messages.
//!
//! To read, parse, copy or write megabytes takes a worker for milliseconds, and a hundred sockets that do so are a queue
//! in front of everybody's heartbeats. So half of the workers at most are busy with what is large, one socket after the
//! other, each for a part of what it has. The other workers are for small messages.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use realtime_hub::BULK;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::PollSemaphore;

/// The turns of a node.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Semaphore>);

/// Whoever holds it may do some milliseconds of work. Not to be kept while something is awaited.
pub type Turn = OwnedSemaphorePermit;

impl Turns {
    /// Turns for half of the workers of the runtime.
    #[must_use]
    pub fn new() -> Self {
        let workers = Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        Self(Arc::new(Semaphore::new((workers / 2).max(1))))
    }

    /// A place in the queue, for somebody who comes again and again.
    #[must_use]
    pub fn line(&self) -> Line {
        Line { turns: PollSemaphore::new(Arc::clone(&self.0)), waits: false }
    }

    /// Waits for a turn, if so many bytes need one.
    pub async fn of(&self, bytes: usize) -> Option<Turn> {
        if bytes > BULK { Arc::clone(&self.0).acquire_owned().await.ok() } else { None }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

/// A place in the queue for turns.
///
/// A turn that comes up is held for whoever waits until they take it. So who wants none any more has to
/// [leave](Self::leave), or nobody else has one.
#[derive(Debug)]
pub struct Line {
    turns: PollSemaphore,
    waits: bool,
}

impl Line {
    /// Waits for a turn, in the order of the first polls. Cancel safe: a place in the queue is kept.
    pub async fn turn(&mut self) -> Option<Turn> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// As [`turn`](Self::turn), for what is polled itself.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Turn>> {
        // `None` only from a semaphore that is closed, which this one never is.
        let polled = self.turns.poll_acquire(cx);
        self.waits = polled.is_pending();
        polled
    }

    /// Gives up the place in the queue, if there is one.
    pub fn leave(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.turns = PollSemaphore::new(self.turns.clone_inner());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn turns_go_in_order_and_waiting_is_not_begun_anew() {
        let turns = Turns::new();
        let (mut first, mut second, mut third) = (turns.line(), turns.line(), turns.line());
        let held = first.turn().now_or_never().flatten();
        assert!(held.is_some());
        assert!(second.turn().now_or_never().is_none());
        assert!(third.turn().now_or_never().is_none());
        // Woken for another reason, it looks again.
        assert!(second.turn().now_or_never().is_none());
        drop(held);
        assert!(third.turn().now_or_never().is_none(), "the second is before it");
        let held = second.turn().now_or_never().flatten();
        assert!(held.is_some());
        drop(held);
        assert!(third.turn().now_or_never().flatten().is_some());
    }

    /// Before or after it has come up.
    #[tokio::test]
    async fn a_turn_that_nobody_wants_any_more_is_the_next_ones() {
        let turns = Turns::new();
        let (mut first, mut second, mut third) = (turns.line(), turns.line(), turns.line());
        for come_up in [false, true] {
            let held = first.turn().await;
            assert!(second.turn().now_or_never().is_none());
            assert!(third.turn().now_or_never().is_none());
            if come_up {
                drop(held);
                second.leave();
            } else {
                second.leave();
                drop(held);
            }
            assert!(third.turn().now_or_never().flatten().is_some());
        }
    }

    #[tokio::test]
    async fn small_messages_need_no_turn() {
        let turns = Turns::new();
        let held = turns.of(BULK + 1).await;
        assert!(held.is_some());
        assert!(turns.of(BULK).now_or_never().flatten().is_none());
        assert!(turns.of(BULK + 1).now_or_never().is_none());
    }
}
