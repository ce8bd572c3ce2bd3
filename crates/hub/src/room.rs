//! The state of a room: its members, the messages that wait for them, and who is present.
//!
//! A state machine: it is told the time, and knows no lock and no task. Those are the [`cell`](crate::cell)'s and
//! [`fan_out`](crate::fan_out)'s.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use realtime_protocol::{Vsn, encode};
use tokio::time::Instant;

use crate::{
    key::{Kind, MemberId, MessageId},
    message::{Frames, Message, Sender, Users, encode_for},
    packing::Packing,
    presence::{Entry, Origin, Presence, Wish},
    queue::BULK,
    signal::Signal,
    slot::{Member, Slot},
};

/// Bytes of messages that may wait for the next pass over a room's members. Publishers of more have to wait.
const MAX_BATCH_BYTES: usize = 4_000_000;

/// Messages that may wait, of whatever size.
const MAX_BATCH: usize = 4_096;

/// Bytes of a diff of presence. What more there is to tell comes with the next one; an entry that is larger is told alone.
const MAX_DIFF_BYTES: usize = 1_000_000;

/// The rate at which large diffs are sent: after one the next waits, so that members can read it.
const DIFF_BYTES_PER_MICROSECOND: usize = 2;

/// The state of a room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Members. Free slots are used again.
    pub(crate) slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// How many members use each serializer.
    pub(crate) users: Users,
    /// Who of them takes compressed messages.
    pub(crate) packing: Packing,
    /// Messages for the next pass over the members.
    batch: Vec<Message>,
    batch_bytes: usize,
    /// Number of the next message.
    next: u64,
    /// Whether somebody is going to serve the members, or is serving them.
    scheduled: bool,
    presence: Option<Box<RoomPresence>>,
    /// What the members did not get and have not been told of yet.
    pub(crate) shed: Shed,
    /// It was removed from the table of rooms: nobody can enter it any more.
    pub(crate) is_gone: bool,
}

#[derive(Debug, Default)]
struct RoomPresence {
    presence: Presence,
    /// When the next diff may be sent.
    not_before: Option<Instant>,
    /// Whether a task waits for that moment.
    waiting: bool,
}

/// Messages that were not delivered.
#[derive(Debug, Default)]
pub(crate) struct Shed {
    /// Four bytes, because each room has them; a second has no more messages.
    pub(crate) all: u32,
    /// Those among them that were said on this node: members on others do not get them either.
    pub(crate) said_here: u32,
}

impl Room {
    /// Gives a member a slot; returns its number. `mark`: the first kept message that is new to it.
    pub(crate) fn insert(&mut self, id: MemberId, member: Member, mark: u64) -> u32 {
        if let Some(count) = self.users.get_mut(member.vsn as usize) {
            *count += 1;
        }
        let slot = Slot::new(id, member, self.next, mark);
        self.packing.enter(&slot);
        let slot = Some(slot);
        match self.free.pop() {
            Some(number) => {
                if let Some(free) = self.slots.get_mut(number as usize) {
                    *free = slot;
                }
                number
            }
            None => {
                // Most rooms are small: the first few members get no spare slots.
                if self.slots.len() < 4 {
                    self.slots.reserve_exact(1);
                }
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    /// Frees a member's slot.
    pub(crate) fn remove(&mut self, number: u32) {
        if let Some(slot) = self.slots.get_mut(number as usize).and_then(Option::take) {
            if let Some(count) = self.users.get_mut(slot.vsn as usize) {
                *count -= 1;
            }
            self.packing.leave(&slot);
            slot.release();
            self.free.push(number);
        }
    }

    pub(crate) fn slot(&self, number: u32) -> Option<&Slot> {
        self.slots.get(number as usize)?.as_ref()
    }

    pub(crate) fn slot_mut(&mut self, number: u32) -> Option<&mut Slot> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    /// Number of members.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How many messages were said in it since it was made.
    pub(crate) const fn said(&self) -> u64 {
        self.next
    }

    /// How many members of all nodes are present.
    pub(crate) fn present(&self) -> usize {
        self.presence.as_deref().map_or(0, |state| state.presence.len())
    }

    /// Whether there is no reason to keep the room: it has no members, and nobody is present on other nodes.
    pub(crate) fn is_forgettable(&self) -> bool {
        self.len() == 0 && self.presence.as_deref().is_none_or(|state| !state.presence.is_anybody())
    }

    /// Adds a message to the batch.
    pub(crate) fn enqueue(
        &mut self,
        kind: Kind,
        except: Option<Sender>,
        id: Option<MessageId>,
        frames: Frames,
    ) {
        let number = self.next;
        self.next += 1;
        self.batch_bytes += frames.iter().flatten().map(Bytes::len).sum::<usize>();
        self.batch.push(Message { number, kind, except, id, frames, packed: Default::default() });
    }

    /// Whether more waits than should.
    pub(crate) fn is_congested(&self) -> bool {
        self.batch_bytes > MAX_BATCH_BYTES || self.batch.len() > MAX_BATCH
    }

    /// Claims the next pass over the members. False if somebody else is going to do it, or is doing it.
    pub(crate) fn schedule(&mut self) -> bool {
        !std::mem::replace(&mut self.scheduled, true)
    }

    /// Takes what waits. `None`: nothing does, and the next publisher has to claim the next pass.
    pub(crate) fn take_batch(&mut self) -> Option<Vec<Message>> {
        if self.batch.is_empty() {
            self.scheduled = false;
            return None;
        }
        self.batch_bytes = 0;
        Some(std::mem::take(&mut self.batch))
    }
}

/// How long members get to read a diff.
fn reading(bytes: usize) -> Duration {
    let large = bytes.saturating_sub(BULK) / DIFF_BYTES_PER_MICROSECOND;
    Duration::from_micros(u64::try_from(large).unwrap_or(u64::MAX))
}

/// Presence.
impl Room {
    /// Makes a member present, or changes what it announces. False if there is no room for it.
    pub(crate) fn track(&mut self, origin: Origin, wish: Wish) -> bool {
        self.presence.get_or_insert_default().presence.track(origin, wish)
    }

    /// Ends a member's presence. False if it had none.
    pub(crate) fn untrack(&mut self, origin: Origin) -> bool {
        self.presence.as_deref_mut().is_some_and(|state| state.presence.untrack(origin))
    }

    /// Sets or ends an entry that another node told. False if nothing changed.
    pub(crate) fn set_remote(&mut self, origin: Origin, entry: Option<Entry>) -> bool {
        if entry.is_none() && self.presence.is_none() {
            return false;
        }
        self.presence.get_or_insert_default().presence.set_remote(origin, entry)
    }

    /// The entry of a member.
    pub(crate) fn entry(&self, origin: Origin) -> Option<&Arc<Entry>> {
        self.presence.as_deref()?.presence.entry(origin)
    }

    /// The payload of `presence_state` for a member, which gets every later change as a diff. `None` if its outbox has no
    /// room for it, or the member may not see presence now: then it gets no diffs until it is sent the state.
    pub(crate) fn state_for(&mut self, number: u32) -> Option<Bytes> {
        let bytes = self.presence.as_deref().map_or(0, |state| state.presence.state_bytes());
        let next = self.next;
        let slot = self.slot_mut(number)?;
        let fits = slot.sight.presence && slot.outbox.has_room_for(bytes);
        // Diffs that wait, in the room or in the gate, are in the state already. Broadcasts are not.
        slot.diffs_since = if fits { next } else { u64::MAX };
        slot.takes_state = true;
        if let Some(gate) = &slot.diffs {
            gate.forget(slot.id);
        }
        if !fits {
            return None;
        }
        let state = self.presence.as_deref_mut().map(|state| state.presence.state_json());
        Some(state.unwrap_or(Bytes::from_static(b"{}")))
    }

    /// Whether presence has changed since it was last announced. Presence that nobody uses any more is forgotten.
    pub(crate) fn has_news(&mut self, now: impl FnOnce() -> Instant) -> bool {
        let Some(state) = self.presence.as_deref() else { return false };
        if state.presence.has_changes() {
            return true;
        }
        // What comes next waits for its time all the same.
        if state.presence.is_empty() && !state.waiting && state.not_before.is_none_or(|at| at <= now()) {
            self.presence = None;
        }
        false
    }

    /// Turns the changes of presence into a message, unless the last one is less than `interval` ago. If anything is left to
    /// tell it returns when somebody should come again; once, until [`resume`](Self::resume).
    pub(crate) fn announce(&mut self, now: Instant, interval: Duration, topic: &str) -> Option<Instant> {
        let nobody = self.len() == 0;
        let state = self.presence.as_deref_mut()?;
        if nobody {
            // Nobody is told, so nobody is told too often: the next member finds all in the state.
            state.presence.take_diff(usize::MAX);
            return None;
        }
        if let Some(at) = state.not_before.filter(|at| *at > now) {
            return (!std::mem::replace(&mut state.waiting, true)).then_some(at);
        }
        state.not_before = Some(now + interval);
        let diff = state.presence.take_diff(MAX_DIFF_BYTES);
        let hidden = diff.hidden.clone();
        if diff.is_empty() {
            self.tell_hidden(&hidden);
            return None;
        }
        let payload = diff.to_json();
        let at = now + interval.max(reading(payload.len()));
        state.not_before = Some(at);
        let again = state.presence.has_changes() && !std::mem::replace(&mut state.waiting, true);
        // Streams of events do not tell who is present.
        let encode = |vsn| (vsn != Vsn::Events).then(|| encode::presence_diff(vsn, topic, &payload));
        let frames = encode_for(&self.users, encode);
        self.enqueue(Kind::Presence, None, None, frames);
        self.tell_hidden(&hidden);
        again.then_some(at)
    }

    /// Tells the sockets of members that what they track is hidden.
    fn tell_hidden(&self, members: &[MemberId]) {
        let of = |slot: &&Slot| !members.is_empty() && members.contains(&slot.id);
        for slot in self.slots.iter().flatten().filter(of) {
            slot.outbox.signal(Signal::PresenceHidden(slot.id));
        }
    }

    /// The moment that [`announce`](Self::announce) named has come.
    pub(crate) fn resume(&mut self) {
        if let Some(state) = &mut self.presence {
            state.waiting = false;
        }
    }
}
