//! All rooms of a node.

use std::{
    collections::{HashMap, hash_map::RandomState},
    fmt::Write as _,
    hash::BuildHasher,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use realtime_protocol::Vsn;
use tokio::sync::Notify;

use crate::{
    bus::{Bus, Said},
    fan_out::FanOut,
    presence::{Entry, Origin},
    room::{Congestion, Member, Membership, MessageId, Meter, RoomCell, RoomKey},
};

/// Independent parts of the table of rooms; a power of two well above the number of cores.
const SHARDS: usize = 64;

/// Shortest time between two presence diffs of a room, unless set otherwise: long enough to make one frame of
/// a rush, too short to notice.
pub const DEFAULT_PRESENCE_INTERVAL: Duration = Duration::from_millis(50);

type Shard = Mutex<HashMap<RoomKey, Arc<RoomCell>>>;

/// The rooms of a node, by tenant, audience and topic.
///
/// Locks are taken in one order, table before room, and never held across an await.
#[derive(Debug)]
pub struct Hub {
    shards: Box<[Shard]>,
    hasher: RandomState,
    next_member: AtomicU64,
    next_ref: AtomicU64,
    /// Makes the refs of this node differ from those of any other; the first half of each `phx_ref`.
    node: u32,
    presence_interval: Duration,
    /// To other nodes, if there can be any.
    bus: OnceLock<Arc<dyn Bus>>,
}

impl Hub {
    /// A hub without rooms. `node` should be random: it tells the presence refs of nodes apart. A change of
    /// presence is told at once, but for `presence_interval` after the last; then all that gathered is told.
    #[must_use]
    pub fn new(node: u32, presence_interval: Duration) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            next_member: AtomicU64::new(0),
            next_ref: AtomicU64::new(0),
            node,
            presence_interval,
            bus: OnceLock::new(),
        })
    }

    /// Connects it with other nodes, once.
    pub fn set_bus(&self, bus: Arc<dyn Bus>) {
        // A second one would split what is said between two.
        let _ = self.bus.set(bus);
    }

    pub(crate) fn bus(&self) -> Option<&Arc<dyn Bus>> {
        self.bus.get()
    }

    /// Puts a channel into a room, which comes to be if it was not there, with `meter` to count for it.
    ///
    /// `first` is queued to it before anything that the room sends, with no gap in between.
    #[must_use]
    pub fn join(
        self: &Arc<Self>,
        key: &RoomKey,
        member: Member,
        meter: &Arc<dyn Meter>,
        first: impl IntoIterator<Item = Bytes>,
    ) -> Membership {
        let id = self.next_member.fetch_add(1, Ordering::Relaxed);
        let mut rooms = self.shard(key).lock();
        let cell = self.cell(&mut rooms, key, meter);
        // Inserted while the table is locked: an empty room could otherwise be forgotten in between.
        let mut room = cell.room.lock();
        for frame in first {
            // A closed outbox belongs to a socket that is ending: it leaves again at once.
            let _ = member.outbox.queue(frame);
        }
        let place = room.insert(id, member);
        drop(room);
        drop(rooms);
        Membership { cell, id, place }
    }

    /// A room, which comes to be if it was not there.
    fn cell(
        self: &Arc<Self>,
        rooms: &mut HashMap<RoomKey, Arc<RoomCell>>,
        key: &RoomKey,
        meter: &Arc<dyn Meter>,
    ) -> Arc<RoomCell> {
        if let Some(cell) = rooms.get(key) {
            return Arc::clone(cell);
        }
        let cell = Arc::new(RoomCell {
            hub: Arc::clone(self),
            key: key.clone(),
            meter: Arc::clone(meter),
            room: Mutex::default(),
            taken: Notify::new(),
        });
        rooms.insert(key.clone(), Arc::clone(&cell));
        cell
    }

    /// Whether a message of the database is over the limit of a room's tenant; see [`Membership::sheds`].
    pub fn sheds(&self, key: &RoomKey) -> bool {
        self.room(key).is_some_and(|cell| cell.sheds(false))
    }

    /// Counts messages for a room that another node did not deliver: its members are told.
    pub fn missed(&self, key: &RoomKey, count: u64) {
        if let Some(cell) = self.room(key) {
            cell.missed(count, false);
        }
    }

    fn room(&self, key: &RoomKey) -> Option<Arc<RoomCell>> {
        self.shard(key).lock().get(key).map(Arc::clone)
    }

    /// Says something in a room, on this node and on others, unless it is over the limit.
    pub fn say(&self, key: &RoomKey, said: &Said<'_>) -> Option<FanOut> {
        if self.room(key).is_some_and(|cell| cell.sheds(true)) {
            return None;
        }
        if let Some(bus) = self.bus() {
            bus.said(key, said);
        }
        self.hear(key, said)
    }

    /// Says something in a room of this node: what came from another.
    pub fn hear(&self, key: &RoomKey, said: &Said<'_>) -> Option<FanOut> {
        self.publish(key, |vsn| said.encode(vsn, &key.topic))
    }

    /// Sets or ends an entry of presence that another node told; members are told when the [`FanOut`] runs. The room
    /// is there while somebody is present in it, on whatever node.
    pub fn set_presence(
        self: &Arc<Self>,
        key: &RoomKey,
        meter: &Arc<dyn Meter>,
        origin: Origin,
        entry: Option<Entry>,
    ) -> Option<FanOut> {
        let mut rooms = self.shard(key).lock();
        let cell = match &entry {
            Some(_) => self.cell(&mut rooms, key, meter),
            None => Arc::clone(rooms.get(key)?),
        };
        let mut room = cell.room.lock();
        let changed = room.set_remote(origin, entry);
        if room.is_forgettable() {
            rooms.remove(key);
            return None;
        }
        drop(rooms);
        if changed { cell.schedule(&mut room) } else { None }
    }

    /// Gives the members of all rooms that `of` picks a frame that the server itself has to say.
    pub fn tell(&self, of: impl Fn(&RoomKey) -> bool, encode: impl Fn(Vsn, &str) -> Option<Bytes>) {
        for shard in &self.shards {
            let cells: Vec<_> =
                shard.lock().iter().filter(|(key, _)| of(key)).map(|(_, cell)| Arc::clone(cell)).collect();
            for cell in cells {
                drop(cell.tell(|vsn| encode(vsn, &cell.key.topic)));
            }
        }
    }

    /// Gives every member of a room one frame; `encode` and what is returned as in [`Membership::publish`].
    pub fn publish(&self, key: &RoomKey, encode: impl FnMut(Vsn) -> Option<Bytes>) -> Option<FanOut> {
        let cell = self.shard(key).lock().get(key).map(Arc::clone)?;
        cell.publish(None, encode)
    }

    /// The same for a message that is stored in the database: those who have seen it already do not get it.
    pub fn publish_stored(
        &self,
        key: &RoomKey,
        id: MessageId,
        encode: impl FnMut(Vsn) -> Option<Bytes>,
    ) -> Option<FanOut> {
        let cell = self.shard(key).lock().get(key).map(Arc::clone)?;
        cell.publish(Some(id), encode)
    }

    /// Whether more waits in a room than should; see [`Membership::congestion`].
    #[must_use]
    pub fn congestion(&self, key: &RoomKey) -> Option<Congestion> {
        if let Some(jam) = Congestion::of_bus(self) {
            return Some(jam);
        }
        self.room_congestion(key)
    }

    /// The same, not counting what waits for other nodes.
    #[must_use]
    pub fn room_congestion(&self, key: &RoomKey) -> Option<Congestion> {
        let cell = self.shard(key).lock().get(key).map(Arc::clone)?;
        cell.congestion()
    }

    /// Number of rooms.
    #[must_use]
    pub fn rooms(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Number of rooms of a tenant. Looks at all rooms.
    #[must_use]
    pub fn rooms_of(&self, tenant: &str) -> usize {
        let of_shard = |shard: &Shard| shard.lock().keys().filter(|key| &*key.tenant == tenant).count();
        self.shards.iter().map(of_shard).sum()
    }

    /// What tells this node's refs and entries of presence from those of others.
    #[must_use]
    pub fn node(&self) -> u32 {
        self.node
    }

    pub(crate) fn presence_interval(&self) -> Duration {
        self.presence_interval
    }

    /// A presence ref that was never used before: 16 characters, as long as the reference's.
    pub(crate) fn next_phx_ref(&self) -> String {
        let mut text = String::with_capacity(16);
        let count = self.next_ref.fetch_add(1, Ordering::Relaxed);
        let _ = write!(text, "{:07x}{:09x}", self.node & 0xFFF_FFFF, count & 0xF_FFFF_FFFF);
        text
    }

    pub(crate) fn forget_if_empty(&self, key: &RoomKey) {
        let mut rooms = self.shard(key).lock();
        if rooms.get(key).is_some_and(|room| room.room.lock().is_forgettable()) {
            rooms.remove(key);
        }
    }

    fn shard(&self, key: &RoomKey) -> &Shard {
        let hash = self.hasher.hash_one(key) as usize;
        &self.shards[hash % self.shards.len()]
    }
}

#[cfg(test)]
mod tests;
