//! What a node holds for its clients, and who goes first when that is too much.
//!
//! Everything counts that waits for a client or of it: frames, wherever they are (one that many share counts once), and
//! what [`Outbox::hold`] is told of: messages that are being assembled or have to wait, bodies of requests, presence.
//! When the sum is over the limit, the sockets that hold most are closed, until it is not.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use realtime_protocol::frame;

use crate::Outbox;

/// Bytes from which on a socket is one of those that may be closed: less helps nobody.
pub(crate) const LARGE: usize = 16 * 1024;

/// Share of the limit that bodies of requests may have together: one in this many parts.
const BODIES: usize = 4;

/// What a node holds for its clients.
pub struct Memory {
    limit: usize,
    /// Bytes beside frames.
    held: AtomicUsize,
    /// Bytes of requests' bodies, which are no socket's.
    bodies: AtomicUsize,
    /// Outboxes whose sockets hold [`LARGE`] or more, by address.
    large: Mutex<HashMap<usize, Weak<Outbox>>>,
    /// Held by whoever closes sockets.
    closing: Mutex<()>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Memory {
    /// Nothing held yet, `limit` bytes at most.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: AtomicUsize::new(0),
            bodies: AtomicUsize::new(0),
            large: Mutex::default(),
            closing: Mutex::default(),
        })
    }

    /// Bytes that are held.
    #[must_use]
    pub fn used(&self) -> usize {
        let bodies = self.bodies.load(Ordering::Relaxed);
        frame::alive().saturating_add(self.held.load(Ordering::Relaxed)).saturating_add(bodies)
    }

    /// Bytes that may be held.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn is_over(&self) -> bool {
        self.used() > self.limit
    }

    /// The body of a request, of which nothing was read yet.
    #[must_use]
    pub fn body(self: &Arc<Self>) -> HeldBody {
        HeldBody { memory: Arc::clone(self), bytes: 0 }
    }

    /// What an outbox counts beside frames was `before` and is `now`.
    pub(crate) fn change(&self, before: usize, now: usize) {
        if now >= before {
            self.held.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    pub(crate) fn enter(&self, outbox: &Weak<Outbox>) {
        self.large.lock().insert(outbox.as_ptr().addr(), Weak::clone(outbox));
    }

    pub(crate) fn leave(&self, outbox: &Weak<Outbox>) {
        self.large.lock().remove(&outbox.as_ptr().addr());
    }

    /// Closes the sockets that hold most while too much is held. To be called without a lock of an outbox.
    pub(crate) fn relieve(&self) {
        if !self.is_over() {
            return;
        }
        let Some(_alone) = self.closing.try_lock() else { return };
        let mut large: Vec<_> = {
            let large = self.large.lock();
            large.values().filter_map(Weak::upgrade).collect()
        };
        large.sort_by_cached_key(|outbox| std::cmp::Reverse(outbox.load()));
        // Twice: those that are closed still hold a frame that is partly written, which goes last.
        for outbox in large.iter().chain(&large) {
            if !self.is_over() {
                return;
            }
            outbox.give_up();
        }
    }
}

/// What was read of a request's body, counted while this lives.
#[derive(Debug)]
pub struct HeldBody {
    memory: Arc<Memory>,
    bytes: usize,
}

impl HeldBody {
    /// It is this long now, and has not become shorter. False: bodies have their share of the memory already.
    #[must_use]
    pub fn set(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        self.bytes += more;
        let before = self.memory.bodies.fetch_add(more, Ordering::Relaxed);
        before.saturating_add(more) <= self.memory.limit / BODIES
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.memory.bodies.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
