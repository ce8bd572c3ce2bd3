//! A channel's place in a room.

use std::sync::Arc;

use bytes::Bytes;
use realtime_protocol::Vsn;

use super::{Congestion, Kind, MessageId, Room, RoomCell, Sight, encode_for};
use crate::{
    bus::Said,
    fan_out::FanOut,
    presence::{MemberId, Origin},
};

/// A channel's place in a room. Dropping it leaves: presence ends, and an empty room is forgotten.
#[derive(Debug)]
pub struct Membership {
    pub(crate) cell: Arc<RoomCell>,
    pub(crate) id: MemberId,
    pub(crate) place: u32,
}

impl Membership {
    /// Identifies this channel in [`Signal`](crate::Signal)s.
    #[must_use]
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// Gives every other member, and this one if `to_self`, one frame; `encode` is asked at most once per
    /// serializer and may say that this serializer gets none.
    ///
    /// This channel's own copy is queued at once; the others get theirs when the [`FanOut`] runs, together
    /// with what else was published meanwhile. `None`: somebody else is at it. A channel that may not see
    /// broadcasts gets no copy.
    pub fn publish(&self, mut to_self: bool, mut encode: impl FnMut(Vsn) -> Option<Bytes>) -> Option<FanOut> {
        let (mut wanted, own) = {
            let room = self.cell.room.lock();
            let slot = room.slot(self.place);
            to_self &= slot.is_some_and(|slot| slot.sight.broadcasts);
            (room.members, slot.map(|slot| (slot.vsn, Arc::clone(&slot.outbox))))
        };
        if let Some((vsn, _)) = own
            && let Some(count) = wanted.get_mut(vsn as usize)
        {
            *count = count.saturating_sub(1) + u32::from(to_self);
        }
        let frames = encode_for(&wanted, &mut encode);
        if to_self
            && let Some((vsn, outbox)) = own
            && let Some(Some(frame)) = frames.get(vsn as usize)
            && outbox.queue(frame.clone()).is_ok()
        {
            self.cell.meter.delivered(Kind::Broadcast, 1);
        }
        if frames.iter().all(Option::is_none) {
            return None;
        }
        let mut room = self.cell.room.lock();
        if room.len() < 2 {
            return None;
        }
        room.enqueue(Kind::Broadcast, Some(self.id), None, frames);
        self.cell.schedule(&mut room)
    }

    /// The same for what members on other nodes are to hear too.
    pub fn say(&self, to_self: bool, said: &Said<'_>) -> Option<FanOut> {
        if let Some(bus) = self.cell.hub.bus() {
            bus.said(&self.cell.key, said);
        }
        self.publish(to_self, |vsn| said.encode(vsn, &self.cell.key.topic))
    }

    /// Begins to send to a channel that was held: `first`, then the broadcasts that were kept for it, but for those of
    /// `replayed`, which it never gets again; then whatever comes. With no gap in between, unless it returns false:
    /// more had come than is kept.
    pub fn open(&self, first: impl IntoIterator<Item = Bytes>, replayed: Box<[MessageId]>) -> bool {
        let mut room = self.cell.room.lock();
        let Some(Some(slot)) = room.slots.get_mut(self.place as usize) else { return true };
        for frame in first {
            let _ = slot.outbox.queue(frame);
        }
        let held = slot.held.take().unwrap_or_default();
        slot.outbox.unkeep(held.bytes);
        let mut delivered = 0;
        for (id, frame) in held.frames {
            let seen = id.is_some_and(|id| replayed.contains(&id));
            if !seen && slot.outbox.queue(frame).is_ok() {
                delivered += 1;
            }
        }
        slot.replayed = replayed;
        drop(room);
        self.cell.meter.delivered(Kind::Broadcast, delivered);
        !held.overflown
    }

    /// Changes what this channel may see, from the next frame on.
    pub fn set_sight(&self, sight: Sight) {
        let mut room = self.cell.room.lock();
        if let Some(Some(slot)) = room.slots.get_mut(self.place as usize) {
            slot.sight = sight;
        }
    }

    /// Whether more waits in the room than should; then this channel should not publish before it is over.
    #[must_use]
    pub fn congestion(&self) -> Option<Congestion> {
        self.cell.congestion()
    }

    /// The same of the bus to other nodes.
    #[must_use]
    pub fn bus_congestion(&self) -> Option<Congestion> {
        Congestion::of_bus(&self.cell.hub)
    }

    /// Makes this channel present, or changes what it announces; all members will be told, this one included.
    /// `tracked` is the text of a JSON object. `None` if an equal object is tracked already.
    pub fn track(&self, key: &str, tracked: Bytes) -> Option<Option<FanOut>> {
        let phx_ref = self.cell.hub.next_phx_ref();
        let origin = self.origin();
        // Kept as it came and as it is announced.
        let size = 2 * tracked.len() + key.len();
        let mut room = self.cell.room.lock();
        let presence = &mut room.presence.get_or_insert_default().presence;
        if !presence.track(origin, key, tracked, &phx_ref) {
            return None;
        }
        if let Some(bus) = self.cell.hub.bus() {
            bus.presence(&self.cell.key, self.id, presence.entry(origin));
        }
        self.count_presence(&mut room, size);
        Some(self.cell.schedule(&mut room))
    }

    /// Ends this channel's presence, if it had any; all members will be told.
    pub fn untrack(&self) -> Option<FanOut> {
        let origin = self.origin();
        let mut room = self.cell.room.lock();
        self.end_presence(&mut room, origin).then(|| self.cell.schedule(&mut room))?
    }

    /// Whether there was any.
    fn end_presence(&self, room: &mut Room, origin: Origin) -> bool {
        let ended = room.presence.as_deref_mut().is_some_and(|state| state.presence.untrack(origin));
        if ended {
            self.count_presence(room, 0);
        }
        if ended && let Some(bus) = self.cell.hub.bus() {
            bus.presence(&self.cell.key, self.id, None);
        }
        ended
    }

    /// What this channel's presence takes is of its socket.
    fn count_presence(&self, room: &mut Room, bytes: usize) {
        if let Some(Some(slot)) = room.slots.get_mut(self.place as usize) {
            slot.outbox.hold(bytes);
            slot.outbox.release(std::mem::replace(&mut slot.present, bytes));
        }
    }

    /// Queues a frame made of the room's presence state to this channel. Every later change reaches it as a
    /// diff.
    pub fn send_presence_state(&self, encode: impl FnOnce(&[u8]) -> Bytes) {
        let mut room = self.cell.room.lock();
        let state = room.presence.as_deref_mut().map(|state| state.presence.state_json());
        let next = room.next;
        let Some(Some(slot)) = room.slots.get_mut(self.place as usize) else { return };
        // Diffs that wait, in the room or in the gate, are in the state already. Broadcasts are not.
        slot.diffs_since = next;
        if let Some(gate) = &slot.diffs {
            gate.forget(self.id);
        }
        // Queued under the lock: a diff of a later change must not overtake the state.
        let _ = slot.outbox.queue(encode(state.as_deref().unwrap_or(b"{}")));
    }

    fn origin(&self) -> Origin {
        Origin { node: self.cell.hub.node(), member: self.id }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let origin = self.origin();
        let mut room = self.cell.room.lock();
        room.remove(self.place);
        let left = self.end_presence(&mut room, origin);
        let empty = room.is_forgettable();
        let fan_out = if left && !empty { self.cell.schedule(&mut room) } else { None };
        drop(room);
        if empty {
            self.cell.hub.forget_if_empty(&self.cell.key);
        }
        drop(fan_out);
    }
}
