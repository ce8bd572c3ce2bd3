//! What all rooms of a node share.

use std::{
    fmt::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::{bus::Bus, history::Histories, key::MemberId, packing, presence::Origin};

/// What all rooms of a node share. The hub owns it; each room has a handle.
#[derive(Debug)]
pub(crate) struct Context {
    /// Makes the refs of this node differ from those of any other; the first half of each `phx_ref`.
    pub(crate) node: u32,
    /// Shortest time between two presence diffs of a room.
    pub(crate) presence_interval: Duration,
    next_ref: AtomicU64,
    /// To other nodes, if there can be any.
    bus: OnceLock<Arc<dyn Bus>>,
    /// What was said in the rooms of tenants that want it kept.
    pub(crate) histories: Arc<Histories>,
    /// Turns to compress large messages.
    pub(crate) packers: Semaphore,
}

impl Context {
    /// A node on its own.
    pub(crate) fn new(node: u32, presence_interval: Duration) -> Arc<Self> {
        Arc::new(Self {
            node,
            presence_interval,
            next_ref: AtomicU64::new(0),
            bus: OnceLock::new(),
            histories: Arc::default(),
            packers: packing::turns(),
        })
    }

    pub(crate) fn bus(&self) -> Option<&Arc<dyn Bus>> {
        self.bus.get()
    }

    /// Connects the node with others, once: a second bus would split what is said between two.
    pub(crate) fn set_bus(&self, bus: Arc<dyn Bus>) {
        let _ = self.bus.set(bus);
    }

    /// The origin of a member's presence.
    pub(crate) fn origin(&self, member: MemberId) -> Origin {
        Origin { node: self.node, member }
    }

    /// A presence ref that was never used before: 16 characters, as long as the reference's.
    pub(crate) fn next_phx_ref(&self) -> String {
        let mut text = String::with_capacity(16);
        let count = self.next_ref.fetch_add(1, Ordering::Relaxed);
        let _ = write!(text, "{:07x}{:09x}", self.node & 0xFFF_FFFF, count & 0xF_FFFF_FFFF);
        text
    }
}
