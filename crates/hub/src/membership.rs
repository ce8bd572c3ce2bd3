//! A channel's place in a room.

use std::sync::Arc;

use bytes::Bytes;
use realtime_protocol::Vsn;

use crate::{
    bus::Said,
    cell::RoomCell,
    delivery::Delivery,
    fan_out::FanOut,
    form::Form,
    history::Words,
    hub::Hub,
    key::{Kind, MemberId, MessageId, RoomKey, Sight},
    message::{Encoded, Frames, Sender, Users},
    meter::Meter,
    outbox::Outbox,
    presence::{Origin, Wish},
    room::Room,
    slot::Member,
};

impl Hub {
    /// Puts a channel into a room. A new room is made with `meter` to count for it.
    ///
    /// `first` is queued to the channel before anything that the room sends, with no gap in between.
    #[must_use]
    pub fn join(
        self: &Arc<Self>,
        key: &RoomKey,
        member: Member,
        meter: &Arc<dyn Meter>,
        first: impl IntoIterator<Item = Bytes>,
    ) -> Membership {
        let (cell, id, place) = self.enter(key, member, meter, first);
        Membership { hub: Arc::clone(self), cell, id, place }
    }
}

/// A channel's place in a room. Dropping it leaves the room: presence ends, and an empty room is forgotten.
#[derive(Debug)]
pub struct Membership {
    /// Forgets the room once nobody is left.
    hub: Arc<Hub>,
    pub(crate) cell: Arc<RoomCell>,
    id: MemberId,
    /// The number of its slot.
    pub(crate) place: u32,
}

impl Membership {
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Identifies this channel in [`Signal`](crate::Signal)s.
    #[must_use]
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// Whether a message that this channel sends now is over its tenant's limit. Then it must not be said, here or on
    /// other nodes; the members will be told of one more that was not delivered.
    #[must_use]
    pub fn sheds(&self) -> bool {
        self.cell.sheds(true)
    }

    /// Says something in the room, on this node and on others: to every other member, and to this one if `to_self`.
    ///
    /// This channel's own copy is queued at once; the others get theirs when the [`Delivery`] runs, together with what
    /// else was said meanwhile. A channel that may not see broadcasts gets no copy.
    pub fn say(&self, to_self: bool, said: &Said<'_>) -> Delivery {
        let (context, key) = (&self.cell.context, &self.cell.key);
        let words = Words::of(&context.histories, &key.tenant, said, None);
        if let Some(bus) = context.bus() {
            bus.said(key, said, words.id());
        }
        self.deliver(to_self, &words, |vsn| words.encode(vsn, &key.topic)).and_bus(context)
    }

    /// Gives the members of this node one frame, and keeps the words; `encode` is called at most once per serializer, and
    /// may return nothing for a serializer that gets none.
    pub(crate) fn deliver(
        &self,
        to_self: bool,
        words: &Words<'_>,
        mut encode: impl FnMut(Vsn) -> Option<Bytes>,
    ) -> Delivery {
        let (users, own) = {
            let room = self.cell.room.lock();
            let own = room.slot(self.place).map(|slot| Own {
                vsn: slot.vsn,
                outbox: Arc::clone(&slot.outbox),
                copy: to_self && slot.sight.broadcasts,
            });
            (room.users, own)
        };
        // Its own copy does not go through the room.
        let without_own = |mut users: Users, copies: u32| {
            let own = own.as_ref().and_then(|own| users.get_mut(own.vsn as usize));
            if let Some(count) = own {
                *count = count.saturating_sub(1) + copies;
            }
            users
        };
        let copies = own.as_ref().is_some_and(|own| own.copy);
        let mut encoded = Encoded::default();
        encoded.add(&without_own(users, u32::from(copies)), &mut encode);
        if own.as_ref().is_some_and(|own| own.send(&encoded.frames)) {
            self.cell.meter.delivered(Kind::Broadcast, 1);
        }
        loop {
            let message = words.message(&encoded.frames);
            if message.is_none() && encoded.frames.iter().all(Option::is_none) {
                return Delivery::default();
            }
            let mut room = self.cell.room.lock();
            let users = without_own(room.users, 0);
            if !encoded.covers(&users) {
                drop(room);
                encoded.add(&users, &mut encode);
                continue;
            }
            words.keep(&self.cell.context.histories, &self.cell.key, message, false);
            if room.len() < 2 {
                return Delivery::default();
            }
            let form = own.as_ref().and_then(|own| Form::of(own.vsn, &own.outbox));
            let sender = Sender { id: self.id, form };
            room.enqueue(Kind::Broadcast, Some(sender), words.id(), encoded.frames);
            return self.cell.delivery(&mut room);
        }
    }

    /// Gives the members of this node one frame that is not kept.
    #[cfg(test)]
    pub(crate) fn publish(&self, to_self: bool, encode: impl FnMut(Vsn) -> Option<Bytes>) -> Delivery {
        self.deliver(to_self, &Words::default(), encode)
    }

    /// Begins to send to a channel that was held: `first`, then the broadcasts that were held for it except those of
    /// `replayed`, which it never gets again; then whatever comes. There is no gap in between, unless this returns false:
    /// then more had come than is held.
    pub fn open(&self, first: impl IntoIterator<Item = Bytes>, replayed: Box<[MessageId]>) -> bool {
        let mut room = self.cell.room.lock();
        let Some(slot) = room.slot_mut(self.place) else { return true };
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
        if let Some(slot) = room.slot_mut(self.place) {
            slot.sight = sight;
        }
    }

    /// Makes this channel present, or changes what it announces; all members will be told, this one included.
    /// `tracked` is the text of a JSON object.
    pub fn track(&self, key: &str, tracked: Bytes) -> Tracked {
        let context = &self.cell.context;
        let origin = self.origin();
        // Only this channel changes its entry, so the lock may be given back: the object may be large.
        let current = self.cell.room.lock().entry(origin).map(Arc::clone);
        if current.is_some_and(|entry| entry.says(&tracked)) {
            return Tracked::Same;
        }
        // Kept as it came, as it is announced, and in the state that those are sent who come.
        let size = 3 * tracked.len() + key.len();
        let wish = Wish::new(key, tracked, &context.next_phx_ref());
        let mut room = self.cell.room.lock();
        if !room.track(origin, wish) {
            return Tracked::NoRoom;
        }
        if let Some(bus) = context.bus() {
            bus.presence(&self.cell.key, self.id, room.entry(origin));
        }
        self.count_presence(&mut room, size);
        Tracked::Changed(self.cell.schedule(&mut room))
    }

    /// Ends this channel's presence, if it had any; all members will be told.
    pub fn untrack(&self) -> Option<FanOut> {
        let origin = self.origin();
        let mut room = self.cell.room.lock();
        self.end_presence(&mut room, origin).then(|| self.cell.schedule(&mut room))?
    }

    /// Ends this channel's presence. False if it had none.
    fn end_presence(&self, room: &mut Room, origin: Origin) -> bool {
        let ended = room.untrack(origin);
        if ended {
            self.count_presence(room, 0);
        }
        if ended && let Some(bus) = self.cell.context.bus() {
            bus.presence(&self.cell.key, self.id, None);
        }
        ended
    }

    /// Counts what this channel's presence takes as held by its socket.
    fn count_presence(&self, room: &mut Room, bytes: usize) {
        if let Some(slot) = room.slot_mut(self.place) {
            slot.outbox.hold(bytes);
            slot.outbox.release(std::mem::replace(&mut slot.present, bytes));
        }
    }

    /// Queues a frame made of the room's presence state to this channel. Every later change reaches it as a diff. False if
    /// too much waits in its outbox: then nothing of presence is sent until it is asked for again.
    pub fn send_presence_state(&self, encode: impl FnOnce(&[u8]) -> Bytes) -> bool {
        let mut room = self.cell.room.lock();
        let Some(state) = room.state_for(self.place) else { return false };
        let Some(slot) = room.slot(self.place) else { return true };
        // Under the lock: the diff of a later change must not overtake the state.
        let _ = slot.outbox.queue(encode(&state));
        true
    }

    fn origin(&self) -> Origin {
        self.cell.context.origin(self.id)
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
            self.hub.forget_if_empty(&self.cell.key);
        }
        drop(fan_out);
    }
}

/// What has become of an object that a channel wants to track.
#[derive(Debug)]
pub enum Tracked {
    /// Members are told when the [`FanOut`] runs.
    Changed(Option<FanOut>),
    /// It tracks an equal object already.
    Same,
    /// The presence of the room takes as much as may be shown, and this object is larger than an equal share. What the channel
    /// tracked before stays.
    NoRoom,
}

/// The sender of a message, as a receiver.
struct Own {
    vsn: Vsn,
    outbox: Arc<Outbox>,
    /// Whether it gets a copy.
    copy: bool,
}

impl Own {
    /// Queues the sender's copy, which is not compressed: it does not wait for the room. False if it gets none.
    fn send(&self, frames: &Frames) -> bool {
        let frame = frames.get(self.vsn as usize).and_then(Option::as_ref).filter(|_| self.copy);
        frame.is_some_and(|frame| self.outbox.queue(frame.clone()).is_ok())
    }
}
