//! Histories: the last messages of topics, kept in memory for those who come late or come back (resume 4).
//!
//! From below: [`kept`] is a message; [`shelf`] holds those of a tenant, in bounds, and is pure; a [`History`] is a shelf
//! under a lock; [`Histories`] are those of all tenants of a node, and [`Words`] what is said, with its id.
//!
//! A message is put on the shelf under the lock under which it is queued for the members of its room, and numbered there. A
//! member that enters notes the next number under that lock: what is below it is missed, all else it hears.

mod kept;
mod shelf;
mod words;

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

pub use kept::{Content, Kept, Shown, id_text};
use parking_lot::{Mutex, RwLock};
use shelf::Shelf;
pub use shelf::{Bounds, HistoryFigures, Past, Recalled, Since, Told};
pub(crate) use words::Words;

use crate::key::{MessageId, RoomKey};

/// The history of a tenant.
#[derive(Debug)]
pub(crate) struct History {
    shelf: Mutex<Shelf>,
}

impl History {
    /// Reads the shelf, or changes it.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Shelf, u64) -> T) -> T {
        let now = now();
        act(&mut self.shelf.lock(), now)
    }
}

/// The histories of a node.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    /// Whether there is one: most nodes keep none, and look no further.
    any: AtomicBool,
    by_tenant: RwLock<HashMap<Arc<str>, Arc<History>>>,
    /// Number of the next message, of whatever tenant. Zero is no message.
    numbers: AtomicU64,
    /// Makes ids.
    ids: AtomicU64,
    hasher: RandomState,
    /// Whether another thread is making room.
    sparing: AtomicUsize,
}

impl Histories {
    /// The history of a tenant, if one is kept.
    pub(crate) fn of(&self, tenant: &str) -> Option<Arc<History>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        self.by_tenant.read().get(tenant).map(Arc::clone)
    }

    /// Keeps a tenant's messages within these bounds. Without bounds nothing is kept, and what was kept is freed.
    pub(crate) fn set(&self, tenant: &Arc<str>, bounds: Option<Bounds>) {
        let mut all = self.by_tenant.write();
        let freed = match bounds {
            Some(bounds) => {
                match all.get(tenant) {
                    Some(history) => history.with(|shelf, now| shelf.set_bounds(bounds, now)),
                    None => {
                        let shelf = Mutex::new(Shelf::new(bounds, now()));
                        all.insert(Arc::clone(tenant), Arc::new(History { shelf }));
                    }
                }
                None
            }
            None => all.remove(tenant),
        };
        self.any.store(!all.is_empty(), Ordering::Relaxed);
        drop(all);
        drop(freed);
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(Arc<str>, Arc<History>)> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.by_tenant.read().iter().map(|(name, history)| (Arc::clone(name), Arc::clone(history))).collect()
    }

    /// Draws the number of a message that is put on a shelf now.
    pub(crate) fn draw(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number from which on messages are new to a member that enters now. Asked under the lock of its room.
    pub(crate) fn mark(&self) -> u64 {
        self.numbers.load(Ordering::Relaxed) + 1
    }

    /// A random id, of the form of a version 4 UUID. Without a system call: a keyed hash of a counter.
    pub(crate) fn new_id(&self) -> MessageId {
        let count = self.ids.fetch_add(1, Ordering::Relaxed);
        let half = |part: u8| u128::from(self.hasher.hash_one((count, part)));
        let random = half(0) << 64 | half(1);
        (random & !(0xF << 76) & !(0b11 << 62)) | 0x4 << 76 | 0b10 << 62
    }

    /// Drops what is too old, everywhere.
    pub(crate) fn sweep(&self) {
        for (_, history) in self.all() {
            history.with(Shelf::sweep);
        }
    }

    /// Drops about this many bytes of the largest histories: sockets of clients are worth more.
    pub(crate) fn spare(&self, bytes: usize) {
        if self.sparing.swap(1, Ordering::Acquire) == 1 {
            return;
        }
        let mut all: Vec<_> = self
            .all()
            .into_iter()
            .map(|(_, history)| (history.with(|shelf, _| shelf.figures().bytes), history))
            .collect();
        all.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        let mut left = bytes;
        for (size, history) in all {
            if left == 0 {
                break;
            }
            history.with(|shelf, _| shelf.shed(left));
            left = left.saturating_sub(size);
        }
        self.sparing.store(0, Ordering::Release);
    }
}

/// The wall clock in milliseconds, which `since` of clients is about.
pub(crate) fn now() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// The place of a room among a tenant's.
pub(crate) fn place(key: &RoomKey) -> shelf::Place {
    (key.audience, Arc::clone(&key.topic))
}

#[cfg(test)]
mod tests;
