//! What a node holds for its clients, and which sockets are closed first when that is too much.
//!
//! Everything that waits for a client or comes from it counts: frames, wherever they are (a frame that many share counts
//! once), and what [`Outbox::hold`](crate::Outbox::hold) is told of: messages that are being assembled or have to wait,
//! bodies of requests, presence. What waits in an answer to a poll ([`Batch`](crate::Batch)) can be taken back like a socket.
//! While the sum is over the limit, the sockets that hold most are closed.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use realtime_protocol::frame;

/// A socket that holds this many bytes may be closed for it: closing smaller ones helps nobody.
pub(crate) const LARGE: usize = 16 * 1024;

/// Share of the limit that bodies of requests and answers may have together: one in this many parts. An address may have as
/// much of it as it leaves free: alone a half, two addresses a third each. So there is something for whoever comes next.
const BODIES: usize = 4;

/// Somebody who holds memory and can be made to give it up: an outbox, or a batch.
pub(crate) trait Holder: Send + Sync {
    /// Bytes that it holds.
    fn load(&self) -> usize;

    /// Gives up what it holds, which no longer counts: its socket is closed. At the second time not even a frame that is
    /// partly written is written to its end.
    fn give_up(&self);
}

/// What a node holds for its clients.
pub struct Memory {
    limit: usize,
    /// Bytes beside frames.
    held: AtomicUsize,
    /// Bytes of the bodies of requests and answers, which belong to no socket.
    bodies: AtomicUsize,
    /// The same of each address.
    addresses: Mutex<HashMap<IpAddr, Bodies>>,
    /// Those that hold [`LARGE`] or more, by address.
    large: Mutex<HashMap<usize, Weak<dyn Holder>>>,
    /// Held while sockets are being closed, by one thread at a time.
    closing: Mutex<()>,
    /// Gives memory up before sockets do.
    spare: OnceLock<Arc<dyn Spare>>,
}

/// The bodies of an address.
#[derive(Default)]
struct Bodies {
    number: usize,
    bytes: usize,
}

/// Something that can give memory up without harm to a client.
pub(crate) trait Spare: Send + Sync {
    /// Gives up about this many bytes.
    fn spare(&self, bytes: usize);
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
            addresses: Mutex::default(),
            large: Mutex::default(),
            closing: Mutex::default(),
            spare: OnceLock::new(),
        })
    }

    /// Sets what gives memory up before sockets are closed, once.
    pub(crate) fn set_spare(&self, spare: Arc<dyn Spare>) {
        let _ = self.spare.set(spare);
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

    /// The body of a request or of an answer, of which nothing is there yet, for an address or a network of addresses.
    #[must_use]
    pub fn body(self: &Arc<Self>, address: IpAddr) -> HeldBody {
        self.addresses.lock().entry(address).or_default().number += 1;
        HeldBody { memory: Arc::clone(self), address, bytes: 0 }
    }

    /// What an outbox or a batch counts beside frames was `before` and is `now`.
    pub(crate) fn change(&self, before: usize, now: usize) {
        if now >= before {
            self.held.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Somebody holds [`LARGE`] or more from now on.
    pub(crate) fn enter(&self, holder: Weak<dyn Holder>) {
        self.large.lock().insert(holder.as_ptr().addr(), holder);
    }

    /// The holder at this address holds less from now on.
    pub(crate) fn leave(&self, address: usize) {
        self.large.lock().remove(&address);
    }

    /// Closes the sockets that hold most while too much is held. To be called without a lock of an outbox.
    pub(crate) fn relieve(&self) {
        if !self.is_over() {
            return;
        }
        let Some(_alone) = self.closing.try_lock() else { return };
        if let Some(spare) = self.spare.get() {
            spare.spare(self.used().saturating_sub(self.limit));
            if !self.is_over() {
                return;
            }
        }
        let mut large: Vec<_> = {
            let large = self.large.lock();
            large.values().filter_map(Weak::upgrade).collect()
        };
        large.sort_by_cached_key(|holder| std::cmp::Reverse(holder.load()));
        // Twice: closed sockets still hold a frame that is partly written. Those frames go last.
        for holder in large.iter().chain(&large) {
            if !self.is_over() {
                return;
            }
            holder.give_up();
        }
    }
}

/// What there is of the body of a request or of an answer, counted while this lives.
#[derive(Debug)]
pub struct HeldBody {
    memory: Arc<Memory>,
    address: IpAddr,
    bytes: usize,
}

impl HeldBody {
    /// The body is this long now, and not shorter than before. False if bodies already have their share of the memory, or
    /// those of its address theirs. A single body of an address needs no share of its own.
    #[must_use]
    pub fn set(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        self.bytes += more;
        let all = self.memory.bodies.fetch_add(more, Ordering::Relaxed).saturating_add(more);
        let mut addresses = self.memory.addresses.lock();
        let of_address = addresses.entry(self.address).or_default();
        of_address.bytes += more;
        let free = (self.memory.limit / BODIES).checked_sub(all);
        free.is_some_and(|free| of_address.number == 1 || of_address.bytes <= free)
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.memory.bodies.fetch_sub(self.bytes, Ordering::Relaxed);
        let mut addresses = self.memory.addresses.lock();
        if let Some(of_address) = addresses.get_mut(&self.address) {
            of_address.bytes = of_address.bytes.saturating_sub(self.bytes);
            of_address.number = of_address.number.saturating_sub(1);
            if of_address.number == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
