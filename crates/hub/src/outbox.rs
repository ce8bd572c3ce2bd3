//! The queue of finished frames between those who publish and the one socket that writes.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Default limit of an outbox, in bytes of queued frames.
///
/// Twice the largest message a client may send: one such message may wait behind another.
pub const DEFAULT_OUTBOX_BYTES: usize = 10_000_000;

/// A queue that grew beyond this many slots gives its memory back once it is empty.
const KEEP_SLOTS: usize = 16;

/// Why an outbox takes no more frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The socket reads slower than its rooms talk: the byte limit was hit.
    #[error("Outbox is full")]
    SlowConsumer,
    /// Somebody asked for the socket to be closed with this WebSocket close code.
    #[error("Socket is closing with code {0}")]
    Requested(u16),
}

/// Frames that wait to be written to one socket.
///
/// Any number of tasks push, without waiting; one task takes. Frames are shared bytes: pushing one to a
/// thousand outboxes copies nothing. When the limit is hit the outbox closes itself, so a slow reader costs
/// its own connection, never the publisher's time and never memory without bound; the frames that were
/// accepted before stay queued.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    wake: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
    closed: Option<Closed>,
}

impl Outbox {
    /// An empty outbox that accepts up to `limit` bytes of queued frames.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { queue: Mutex::default(), wake: Notify::new(), limit }
    }

    /// Appends a frame.
    ///
    /// A single frame larger than the limit is accepted when the queue is empty.
    ///
    /// # Errors
    /// [`Closed`] when the outbox takes no more; the frame is dropped.
    pub fn push(&self, frame: Bytes) -> Result<(), Closed> {
        let mut queue = self.queue.lock();
        if let Some(closed) = queue.closed {
            return Err(closed);
        }
        if !queue.frames.is_empty() && queue.bytes + frame.len() > self.limit {
            queue.closed = Some(Closed::SlowConsumer);
            drop(queue);
            self.wake.notify_one();
            return Err(Closed::SlowConsumer);
        }
        let was_empty = queue.frames.is_empty();
        queue.bytes += frame.len();
        queue.frames.push_back(frame);
        drop(queue);
        if was_empty {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Asks the socket's task to write what is queued and then close with `code`. The first reason stays.
    pub fn close(&self, code: u16) {
        let mut queue = self.queue.lock();
        if queue.closed.is_none() {
            queue.closed = Some(Closed::Requested(code));
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Moves every queued frame to the end of `into`; returns why the outbox is closed, if it is.
    ///
    /// The bytes taken no longer count against the limit, so the caller must not take again before it has
    /// written what it took.
    pub fn take(&self, into: &mut VecDeque<Bytes>) -> Option<Closed> {
        let mut queue = self.queue.lock();
        if into.is_empty() {
            std::mem::swap(into, &mut queue.frames);
        } else {
            into.append(&mut queue.frames);
        }
        queue.bytes = 0;
        if queue.frames.capacity() > KEEP_SLOTS {
            queue.frames = VecDeque::new();
        }
        queue.closed
    }

    /// Returns when there is, or may be, something to [`take`](Self::take) or the outbox was closed.
    ///
    /// Cancel safe. For one waiting task.
    pub async fn ready(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &Outbox) -> (Vec<Bytes>, Option<Closed>) {
        let mut frames = VecDeque::new();
        let closed = outbox.take(&mut frames);
        (frames.into(), closed)
    }

    #[test]
    fn keeps_the_order_of_pushes() {
        let outbox = Outbox::new(100);
        outbox.push(Bytes::from_static(b"a")).unwrap();
        outbox.push(Bytes::from_static(b"b")).unwrap();
        assert_eq!(drain(&outbox), (vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")], None));
        assert_eq!(drain(&outbox), (vec![], None));
    }

    #[test]
    fn a_slow_consumer_is_closed_and_keeps_what_was_accepted() {
        let outbox = Outbox::new(4);
        outbox.push(Bytes::from_static(b"abc")).unwrap();
        assert_eq!(outbox.push(Bytes::from_static(b"de")), Err(Closed::SlowConsumer));
        assert_eq!(outbox.push(Bytes::from_static(b"f")), Err(Closed::SlowConsumer));
        assert_eq!(drain(&outbox), (vec![Bytes::from_static(b"abc")], Some(Closed::SlowConsumer)));
    }

    #[test]
    fn one_large_frame_fits_an_empty_outbox() {
        let outbox = Outbox::new(4);
        outbox.push(Bytes::from_static(b"larger than four")).unwrap();
        assert_eq!(drain(&outbox).1, None);
    }

    #[tokio::test]
    async fn a_push_wakes_the_waiting_task() {
        let outbox = std::sync::Arc::new(Outbox::new(100));
        let waiter = tokio::spawn({
            let outbox = std::sync::Arc::clone(&outbox);
            async move {
                outbox.ready().await;
                drain(&outbox)
            }
        });
        tokio::task::yield_now().await;
        outbox.close(1012);
        assert_eq!(waiter.await.unwrap(), (vec![], Some(Closed::Requested(1012))));
    }

    #[test]
    fn the_first_reason_to_close_stays() {
        let outbox = Outbox::new(1);
        outbox.close(1012);
        outbox.close(1000);
        assert_eq!(outbox.push(Bytes::from_static(b"x")), Err(Closed::Requested(1012)));
    }
}
