//! Rooms: the channels of a node that share a topic.

mod membership;
mod shed;

use std::{fmt, sync::Arc};

use bytes::Bytes;
pub use membership::Membership;
use parking_lot::Mutex;
use realtime_protocol::{Vsn, encode};
use tokio::{sync::Notify, time::Instant};

use crate::{
    DiffGate, Outbox,
    bus::Backlog,
    fan_out::FanOut,
    hub::Hub,
    presence::{Entry, MemberId, Origin, Presence},
};

/// Who may meet in a room (protocol 4.1): public and private channels of one name never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Audience {
    /// Anybody with a valid token.
    Public,
    /// Those whom the database's policies let in.
    Private,
}

/// Identifies a room.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoomKey {
    /// The tenant's `external_id`.
    pub tenant: Arc<str>,
    /// Public or private.
    pub audience: Audience,
    /// The topic as clients send it, `realtime:` included.
    pub topic: Arc<str>,
}

/// A channel that is in a room.
#[derive(Debug, Clone)]
pub struct Member {
    /// Where its frames go.
    pub outbox: Arc<Outbox>,
    /// How they are written.
    pub vsn: Vsn,
    /// Which frames it may see.
    pub sight: Sight,
    /// Broadcasts are kept for it, nothing is sent before [`Membership::open`]: for a channel that is still told what
    /// was said before it came.
    pub hold: bool,
    /// Keeps diffs of presence back while joins of its socket are not answered; of serializer 1.0.0 only.
    pub diffs: Option<Arc<DiffGate>>,
}

impl Member {
    /// One that may see everything, from now on.
    #[must_use]
    pub fn new(outbox: Arc<Outbox>, vsn: Vsn) -> Self {
        Self { outbox, vsn, sight: Sight::ALL, hold: false, diffs: None }
    }
}

/// Identifies a message that is stored in the database: its row's UUID.
pub type MessageId = u128;

/// What a member of a room may see (protocol 6, delivery filters).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Frames of [`Kind::Broadcast`].
    pub broadcasts: bool,
    /// Frames of [`Kind::Presence`].
    pub presence: bool,
}

impl Sight {
    /// Everything, as in public rooms.
    pub const ALL: Self = Self { broadcasts: true, presence: true };

    /// Whether frames of a kind may be seen.
    pub(crate) const fn sees(self, kind: Kind) -> bool {
        match kind {
            Kind::Broadcast | Kind::Notice => self.broadcasts,
            Kind::Presence => self.presence,
        }
    }
}

/// What kind of frame is delivered; they are counted apart (protocol 9.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `broadcast`: too many stop the channels that receive them.
    Broadcast,
    /// `presence_diff`.
    Presence,
    /// What the server itself has to say to those who may see broadcasts. It counts against no limit.
    Notice,
}

/// Counts what a tenant's rooms deliver.
pub trait Meter: Send + Sync + fmt::Debug {
    /// `count` frames of a kind were handed to channels.
    fn delivered(&self, kind: Kind, count: u64);
    /// Whether there are too many broadcasts, and channels that are handed one then get [`Signal`] to stop.
    ///
    /// [`Signal`]: crate::Signal::TooManyEvents
    fn is_exceeded(&self) -> bool;
    /// Whether a broadcast more would be over the limit, and is not to be delivered.
    fn is_over(&self) -> bool;
    /// The limit of broadcasts per second.
    fn limit(&self) -> u32;
}

/// A room with what never changes of it.
#[derive(Debug)]
pub(crate) struct RoomCell {
    pub(crate) hub: Arc<Hub>,
    pub(crate) key: RoomKey,
    pub(crate) meter: Arc<dyn Meter>,
    pub(crate) room: Mutex<Room>,
    /// Told when a batch is taken.
    pub(crate) taken: Notify,
}

/// Bytes of messages that may wait for the next pass over a room's members. Whoever publishes more has to wait.
const MAX_BATCH_BYTES: usize = 4_000_000;

/// Messages that may wait, of whatever size.
const MAX_BATCH: usize = 4_096;

/// More was published than could be handed on: publishers have to wait.
#[derive(Debug)]
pub struct Congestion(Jam);

#[derive(Debug)]
enum Jam {
    /// The members of a room do not get it fast enough.
    Room(Arc<RoomCell>),
    /// Other nodes do not.
    Bus(Arc<Backlog>),
}

impl Congestion {
    /// Of the bus, if there is one.
    pub(crate) fn of_bus(hub: &Hub) -> Option<Self> {
        let backlog = hub.bus()?.backlog();
        backlog.is_large().then(|| Self(Jam::Bus(Arc::clone(backlog))))
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match &self.0 {
            Jam::Room(cell) => !cell.room.lock().is_congested(),
            Jam::Bus(backlog) => !backlog.is_large(),
        }
    }

    /// Returns when it is over. Cancel safe.
    pub async fn over(&self) {
        let notify = match &self.0 {
            Jam::Room(cell) => &cell.taken,
            Jam::Bus(backlog) => backlog.taken(),
        };
        loop {
            let taken = notify.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            if self.is_over() {
                return;
            }
            taken.await;
        }
    }
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: MemberId,
    /// The first message that is meant for it: what was published before it came is not.
    since: u64,
    /// The first diff of presence that is meant for it: the state that it was sent tells what those before it do.
    diffs_since: u64,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) vsn: Vsn,
    pub(crate) sight: Sight,
    pub(crate) diffs: Option<Arc<DiffGate>>,
    /// Messages that it has seen already: they are not delivered to it.
    replayed: Box<[MessageId]>,
    held: Option<Box<Held>>,
    /// Bytes that its presence takes.
    pub(crate) present: usize,
}

/// Bytes of broadcasts that are kept for a channel, and their number.
const MAX_HELD: (usize, usize) = (4_000_000, 4_096);

/// Broadcasts that are kept for a channel.
#[derive(Debug, Default)]
struct Held {
    frames: Vec<(Option<MessageId>, Bytes)>,
    bytes: usize,
    /// There were too many.
    overflown: bool,
}

impl Slot {
    /// Whether every message of now and later is meant for it, whoever sends it.
    pub(crate) fn is_plain(&self) -> bool {
        self.sight == Sight::ALL && self.replayed.is_empty() && self.held.is_none()
    }

    /// Keeps what is meant for it, if it is not to be sent yet. Presence is not kept: its state follows.
    pub(crate) fn hold(&mut self, batch: &[Message]) -> bool {
        let Some(mut held) = self.held.take() else { return false };
        for message in batch.iter().filter(|message| !message.kind.is_presence() && self.wants(message)) {
            let Some(frame) = message.frame(self.vsn) else { continue };
            let full = held.bytes + frame.len() > MAX_HELD.0 || held.frames.len() >= MAX_HELD.1;
            held.overflown |= full || self.outbox.keep(frame.len()).is_none();
            if !held.overflown {
                held.bytes += frame.len();
                held.frames.push((message.id, frame.clone()));
            }
        }
        self.held = Some(held);
        true
    }

    /// Whether a message is meant for it.
    pub(crate) fn wants(&self, message: &Message) -> bool {
        self.is_recent(message)
            && message.except != Some(self.id)
            && self.sight.sees(message.kind)
            && message.id.is_none_or(|id| !self.replayed.contains(&id))
    }

    /// Whether a message is younger than what the channel knows from its beginning.
    pub(crate) fn is_recent(&self, message: &Message) -> bool {
        message.number >= if message.kind.is_presence() { self.diffs_since } else { self.since }
    }
}

/// A message that waits to be fanned out: its frame for each serializer that has members.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) except: Option<MemberId>,
    id: Option<MessageId>,
    frames: [Option<Bytes>; SERIALIZERS],
}

impl Message {
    pub(crate) fn frame(&self, vsn: Vsn) -> Option<&Bytes> {
        self.frames.get(vsn as usize)?.as_ref()
    }
}

/// Number of variants of [`Vsn`].
pub(crate) const SERIALIZERS: usize = ALL.len();
pub(crate) const ALL: [Vsn; 3] = [Vsn::V1, Vsn::V2, Vsn::V2Text];

/// The state of a room, under its lock.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Members. Free places are used again.
    pub(crate) slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// How many members each serializer has.
    members: [u32; SERIALIZERS],
    /// Messages for the next pass over the members.
    pub(crate) batch: Vec<Message>,
    pub(crate) batch_bytes: usize,
    /// Number of the next message.
    next: u64,
    /// Whether somebody holds a [`FanOut`] for the batch, or is at it.
    pub(crate) scheduled: bool,
    pub(crate) presence: Option<Box<RoomPresence>>,
    shed: shed::Shed,
}

#[derive(Debug, Default)]
pub(crate) struct RoomPresence {
    presence: Presence,
    /// When the next diff may be sent.
    not_before: Option<Instant>,
    /// Whether a task waits for that moment.
    pub(crate) waiting: bool,
}

impl Room {
    pub(crate) fn insert(&mut self, id: MemberId, member: Member) -> u32 {
        if let Some(count) = self.members.get_mut(member.vsn as usize) {
            *count += 1;
        }
        let slot = Some(Slot {
            id,
            since: self.next,
            diffs_since: self.next,
            outbox: member.outbox,
            vsn: member.vsn,
            sight: member.sight,
            diffs: member.diffs,
            replayed: Box::default(),
            held: member.hold.then(Box::default),
            present: 0,
        });
        match self.free.pop() {
            Some(place) => {
                if let Some(free) = self.slots.get_mut(place as usize) {
                    *free = slot;
                }
                place
            }
            None => {
                // Most rooms are small: no spare places for the first few.
                if self.slots.len() < 4 {
                    self.slots.reserve_exact(1);
                }
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    fn remove(&mut self, place: u32) {
        if let Some(slot) = self.slots.get_mut(place as usize).and_then(Option::take) {
            if let Some(count) = self.members.get_mut(slot.vsn as usize) {
                *count -= 1;
            }
            if let Some(gate) = &slot.diffs {
                gate.forget(slot.id);
            }
            slot.outbox.unkeep(slot.held.map_or(0, |held| held.bytes));
            slot.outbox.release(slot.present);
            self.free.push(place);
        }
    }

    fn slot(&self, place: u32) -> Option<&Slot> {
        self.slots.get(place as usize)?.as_ref()
    }

    /// Number of members.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is nothing to keep it for: neither members, nor anybody present on other nodes.
    pub(crate) fn is_forgettable(&self) -> bool {
        self.len() == 0 && self.presence.as_deref().is_none_or(|state| !state.presence.is_anybody())
    }

    /// Sets or ends an entry of presence that another node told. Whether anything changed.
    pub(crate) fn set_remote(&mut self, origin: Origin, entry: Option<Entry>) -> bool {
        if entry.is_none() && self.presence.is_none() {
            return false;
        }
        self.presence.get_or_insert_default().presence.set_remote(origin, entry)
    }

    fn enqueue(
        &mut self,
        kind: Kind,
        except: Option<MemberId>,
        id: Option<MessageId>,
        frames: [Option<Bytes>; SERIALIZERS],
    ) {
        let number = self.next;
        self.next += 1;
        self.batch_bytes += frames.iter().flatten().map(Bytes::len).sum::<usize>();
        self.batch.push(Message { number, kind, except, id, frames });
    }

    fn is_congested(&self) -> bool {
        self.batch_bytes > MAX_BATCH_BYTES || self.batch.len() > MAX_BATCH
    }

    /// Turns the changes of presence into a message, if it is time. Else tells when it will be.
    pub(crate) fn announce(&mut self, cell: &RoomCell) -> Option<Instant> {
        let state = self.presence.as_deref_mut()?;
        if !state.presence.has_changes() {
            if state.presence.is_empty() && !state.waiting {
                self.presence = None;
            }
            return None;
        }
        if self.slots.len() == self.free.len() {
            // Nobody is told, so nobody is told too often: who comes next finds all in the state.
            state.presence.take_diff();
            return None;
        }
        let now = Instant::now();
        if let Some(at) = state.not_before.filter(|at| *at > now) {
            return Some(at);
        }
        state.not_before = Some(now + cell.hub.presence_interval());
        let diff = state.presence.take_diff()?.to_json();
        let frames =
            encode_for(&self.members, |vsn| Some(encode::presence_diff(vsn, &cell.key.topic, &diff)));
        self.enqueue(Kind::Presence, None, None, frames);
        None
    }
}

/// A frame for each serializer that somebody uses.
fn encode_for(
    wanted: &[u32; SERIALIZERS],
    mut encode: impl FnMut(Vsn) -> Option<Bytes>,
) -> [Option<Bytes>; SERIALIZERS] {
    let mut frames = [const { None }; SERIALIZERS];
    for ((frame, count), vsn) in frames.iter_mut().zip(wanted).zip(ALL) {
        if *count > 0 {
            *frame = encode(vsn);
        }
    }
    frames
}

impl RoomCell {
    /// Queues a message for all members, unless it is over the limit.
    pub(crate) fn publish(
        self: &Arc<Self>,
        id: Option<MessageId>,
        encode: impl FnMut(Vsn) -> Option<Bytes>,
    ) -> Option<FanOut> {
        if self.sheds(false) {
            return None;
        }
        let wanted = self.room.lock().members;
        let frames = encode_for(&wanted, encode);
        let mut room = self.room.lock();
        room.enqueue(Kind::Broadcast, None, id, frames);
        self.schedule(&mut room)
    }

    pub(crate) fn congestion(self: &Arc<Self>) -> Option<Congestion> {
        self.room.lock().is_congested().then(|| Congestion(Jam::Room(Arc::clone(self))))
    }

    /// Queues a frame that the server itself has to say, for all who may see broadcasts.
    pub(crate) fn tell(self: &Arc<Self>, encode: impl FnMut(Vsn) -> Option<Bytes>) -> Option<FanOut> {
        let mut room = self.room.lock();
        if room.len() == 0 {
            return None;
        }
        let frames = encode_for(&room.members, encode);
        room.enqueue(Kind::Notice, None, None, frames);
        self.schedule(&mut room)
    }

    pub(crate) fn schedule(self: &Arc<Self>, room: &mut Room) -> Option<FanOut> {
        if room.scheduled {
            return None;
        }
        room.scheduled = true;
        Some(FanOut::new(Arc::clone(self)))
    }
}
