//! All rooms of a node.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use realtime_protocol::{UserBroadcast, Vsn};

use crate::{
    bus::{Bus, Said},
    cell::RoomCell,
    context::Context,
    delivery::Delivery,
    fan_out::FanOut,
    history::{self, Words},
    key::{Kind, MemberId, MessageId, RoomKey},
    message::{Encoded, Frames},
    meter::Meter,
    presence::{Entry, Origin},
    room::Room,
    slot::Member,
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
    context: Arc<Context>,
}

impl Hub {
    /// A hub without rooms. `node` should be random: it tells the presence refs of nodes apart. A change of presence is
    /// told at once, but not within `presence_interval` after the last one; then all that gathered is told.
    #[must_use]
    pub fn new(node: u32, presence_interval: Duration) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            next_member: AtomicU64::new(0),
            context: Context::new(node, presence_interval),
        })
    }

    /// Connects the hub with other nodes, once.
    pub fn set_bus(&self, bus: Arc<dyn Bus>) {
        self.context.set_bus(bus);
    }

    /// Puts a member into a room; returns its id and the number of its slot.
    pub(crate) fn enter(
        &self,
        key: &RoomKey,
        member: Member,
        meter: &Arc<dyn Meter>,
        first: impl IntoIterator<Item = Bytes>,
    ) -> (Arc<RoomCell>, MemberId, u32) {
        let id = self.next_member.fetch_add(1, Ordering::Relaxed);
        let mut rooms = self.shard(key).lock();
        let cell = self.cell(&mut rooms, key, meter);
        // Inserted while the table is locked: an empty room could otherwise be forgotten in between.
        let mut room = cell.room.lock();
        for frame in first {
            // A closed outbox belongs to a socket that is ending: it leaves again at once.
            let _ = member.outbox.queue(frame);
        }
        let histories = &self.context.histories;
        let place = room.insert(id, member, histories.mark());
        if self.context.bus().is_some()
            && let Some(history) = histories.of(&key.tenant)
        {
            history.with(|shelf, now| shelf.entered(&history::place(key), now));
        }
        drop(room);
        drop(rooms);
        (cell, id, place)
    }

    /// A room, which is made if it is not there.
    fn cell(
        &self,
        rooms: &mut HashMap<RoomKey, Arc<RoomCell>>,
        key: &RoomKey,
        meter: &Arc<dyn Meter>,
    ) -> Arc<RoomCell> {
        if let Some(cell) = rooms.get(key) {
            return Arc::clone(cell);
        }
        let cell = RoomCell::new(&self.context, key, meter);
        rooms.insert(key.clone(), Arc::clone(&cell));
        cell
    }

    fn room(&self, key: &RoomKey) -> Option<Arc<RoomCell>> {
        self.shard(key).lock().get(key).map(Arc::clone)
    }

    /// Whether a message of the database is over the limit of a room's tenant. Then it must not be published; the members
    /// will be told of one more that was not delivered.
    #[must_use]
    pub fn sheds(&self, key: &RoomKey) -> bool {
        self.room(key).is_some_and(|cell| cell.sheds(false))
    }

    /// Counts messages for a room that another node did not deliver: its members are told.
    pub fn missed(&self, key: &RoomKey, count: u64) {
        if let Some(cell) = self.room(key) {
            cell.missed(count, false);
        }
    }

    /// Says something in a room, on this node and on others, unless it is over the limit. `id`: what it is kept under, if
    /// its sender has chosen that.
    pub fn say(&self, key: &RoomKey, said: &Said<'_>, id: Option<MessageId>) -> Delivery {
        if self.room(key).is_some_and(|cell| cell.sheds(true)) {
            return Delivery::default();
        }
        let words = Words::of(&self.context.histories, &key.tenant, said, id);
        if let Some(bus) = self.context.bus() {
            bus.said(key, said, words.id());
        }
        self.publish(key, &words, false, |vsn| words.encode(vsn, &key.topic)).and_bus(&self.context)
    }

    /// Says in a room of this node what came from another, unless it is over the limit.
    pub fn hear(&self, key: &RoomKey, said: &Said<'_>, id: Option<MessageId>) -> Delivery {
        if self.room(key).is_some_and(|cell| cell.sheds(false)) {
            return Delivery::default();
        }
        let words = Words::of(&self.context.histories, &key.tenant, said, id);
        self.publish(key, &words, true, |vsn| words.encode(vsn, &key.topic))
    }

    /// Queues a message for the members of a room, and keeps it if that is wanted. If the room has no members it is kept
    /// all the same; `if_known`: only if it had members a while ago.
    fn publish(
        &self,
        key: &RoomKey,
        words: &Words<'_>,
        if_known: bool,
        mut encode: impl FnMut(Vsn) -> Option<Bytes>,
    ) -> Delivery {
        loop {
            if let Some(cell) = self.room(key) {
                match cell.publish(words, &mut encode) {
                    Some(delivery) => return delivery,
                    // Its last member has left meanwhile; there may be another room of the name.
                    None => continue,
                }
            }
            if !words.is_kept() {
                return Delivery::default();
            }
            let message = words.message(&Frames::default());
            let rooms = self.shard(key).lock();
            // Who enters now does so under this lock: what is kept here is missed by it, and nothing else is.
            if !rooms.contains_key(key) {
                words.keep(&self.context.histories, key, message, if_known);
                return Delivery::default();
            }
        }
    }

    /// Says in a room of this node a message that is stored in the database, unless it is over the limit. Members that
    /// have been sent it already do not get it. `encode` is called at most once per serializer. `user`: what it says, to
    /// be kept.
    pub fn say_stored(
        &self,
        key: &RoomKey,
        id: MessageId,
        user: Option<&UserBroadcast>,
        encode: impl FnMut(Vsn) -> Option<Bytes>,
    ) -> Delivery {
        if self.room(key).is_some_and(|cell| cell.sheds(false)) {
            return Delivery::default();
        }
        let words = Words::row(&self.context.histories, &key.tenant, id, user);
        // Every node reads the log, so among several nodes those keep it that have members.
        let if_known = self.context.bus().is_some();
        self.publish(key, &words, if_known, encode).and_bus(&self.context)
    }

    /// Sets or ends an entry of presence that another node told; members are told when the [`FanOut`] runs. A room is
    /// kept while anybody is present in it, on any node.
    pub fn set_presence(
        &self,
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
            self.forget(key, &mut room);
            rooms.remove(key);
            return None;
        }
        drop(rooms);
        if changed { cell.schedule(&mut room) } else { None }
    }

    /// Sends the members of all rooms that `of` picks a message of the server itself.
    pub fn tell(&self, of: impl Fn(&RoomKey) -> bool, encode: impl Fn(Vsn, &str) -> Option<Bytes>) {
        for shard in &self.shards {
            let cells: Vec<_> =
                shard.lock().iter().filter(|(key, _)| of(key)).map(|(_, cell)| Arc::clone(cell)).collect();
            for cell in cells {
                drop(cell.tell(|vsn| encode(vsn, &cell.key.topic)));
            }
        }
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

    /// The rooms of a tenant, in portions. Looks at all rooms.
    pub(crate) fn cells_of<'a>(&'a self, tenant: &'a str) -> impl Iterator<Item = Vec<Arc<RoomCell>>> + 'a {
        self.shards.iter().map(move |shard| {
            let rooms = shard.lock();
            rooms.iter().filter(|(key, _)| &*key.tenant == tenant).map(|(_, cell)| Arc::clone(cell)).collect()
        })
    }

    /// The number that tells this node's refs and entries of presence from those of others.
    #[must_use]
    pub fn node(&self) -> u32 {
        self.context.node
    }

    pub(crate) fn forget_if_empty(&self, key: &RoomKey) {
        let mut rooms = self.shard(key).lock();
        let Some(cell) = rooms.get(key).map(Arc::clone) else { return };
        let mut room = cell.room.lock();
        if room.is_forgettable() {
            self.forget(key, &mut room);
            rooms.remove(key);
        }
    }

    /// Marks a room that is removed from the table, which the caller has locked.
    fn forget(&self, key: &RoomKey, room: &mut Room) {
        room.is_gone = true;
        if let Some(history) = self.context.histories.of(&key.tenant) {
            history.with(|shelf, now| shelf.left(&history::place(key), now));
        }
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn shard(&self, key: &RoomKey) -> &Shard {
        let hash = self.hasher.hash_one(key) as usize;
        &self.shards[hash % self.shards.len()]
    }
}

impl RoomCell {
    /// Queues a message for all members, and keeps it. `None`: the room is gone.
    fn publish(
        self: &Arc<Self>,
        words: &Words<'_>,
        mut encode: impl FnMut(Vsn) -> Option<Bytes>,
    ) -> Option<Delivery> {
        let mut encoded = Encoded::default();
        let mut users = self.room.lock().users;
        loop {
            // Encoded without the lock: a message may be large.
            encoded.add(&users, &mut encode);
            let message = words.message(&encoded.frames);
            let mut room = self.room.lock();
            if room.is_gone {
                return None;
            }
            if !encoded.covers(&room.users) {
                users = room.users;
                continue;
            }
            words.keep(&self.context.histories, &self.key, message, false);
            room.enqueue(Kind::Broadcast, None, words.id(), encoded.frames);
            return Some(self.delivery(&mut room));
        }
    }
}

#[cfg(test)]
mod tests;
