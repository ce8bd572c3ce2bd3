//! What leaves this node: a trait, so that rooms do not know how it is carried.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use realtime_protocol::{UserBroadcast, Vsn, encode};
use tokio::sync::Notify;

use crate::{
    key::{MemberId, MessageId, RoomKey},
    presence::Entry,
};

/// Something said in a room, before it is a frame: every node writes the frames that its own members need.
#[derive(Debug, Clone, Copy)]
pub enum Said<'a> {
    /// The payload of a `broadcast` event: JSON text.
    Json(&'a [u8]),
    /// A message with a name and a body of its own encoding.
    User(&'a UserBroadcast),
}

impl Said<'_> {
    /// The frame for a serializer, if that can carry it.
    #[must_use]
    pub fn encode(&self, vsn: Vsn, topic: &str) -> Option<Bytes> {
        match self {
            Self::Json(payload) => Some(encode::broadcast(vsn, topic, payload)),
            Self::User(user) => encode::user_broadcast(vsn, topic, user, None),
        }
    }
}

/// Carries to other nodes what happens in the rooms of this one. A single node has none.
///
/// Nothing here waits. What is still to be carried counts in the [`Backlog`]; publishers that can wait look at it.
pub trait Bus: Send + Sync + fmt::Debug {
    /// Something was said. What one caller says in turn is carried in that order. It has an id if it is kept.
    fn said(&self, room: &RoomKey, said: &Said<'_>, id: Option<MessageId>);

    /// Whether all other nodes are heard now, as far as is known.
    fn hears(&self) -> bool {
        true
    }

    /// `count` messages that were said here were not delivered, because there were too many.
    fn dropped(&self, room: &RoomKey, count: u64);

    /// An entry of presence came, changed, or ended. Called under the room's lock, so in order.
    fn presence(&self, room: &RoomKey, member: MemberId, entry: Option<&Arc<Entry>>);

    /// What waits to be carried.
    fn backlog(&self) -> &Arc<Backlog>;
}

/// Bytes that wait to leave the node.
#[derive(Debug)]
pub struct Backlog {
    bytes: AtomicUsize,
    /// With more bytes publishers wait.
    large: usize,
    taken: Notify,
}

impl Backlog {
    /// An empty backlog. Publishers are asked to wait while there are more than `large` bytes.
    #[must_use]
    pub fn new(large: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), large, taken: Notify::new() }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether publishers have to wait.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.bytes() > self.large
    }

    /// Counts bytes that came.
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that left, and wakes publishers that wait.
    pub fn take(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if before > self.large {
            self.taken.notify_waiters();
        }
    }

    pub(crate) fn taken(&self) -> &Notify {
        &self.taken
    }
}
