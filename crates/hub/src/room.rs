//! Rooms: the channels of a node that share a topic.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use realtime_protocol::{Vsn, encode};

use crate::{
    Outbox,
    hub::Hub,
    presence::{Diff, MemberId, Presence},
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
}

#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(crate) members: HashMap<MemberId, Member>,
    presence: Presence,
}

impl Room {
    /// Gives every member but `except` one frame, encoded once per serializer that is in the room.
    ///
    /// A member whose outbox is closed is passed over: its socket is ending and will leave by itself.
    pub(crate) fn fan_out(&self, except: Option<MemberId>, mut encode: impl FnMut(Vsn) -> Option<Bytes>) {
        let mut frames = Frames::default();
        for (id, member) in &self.members {
            if Some(*id) == except {
                continue;
            }
            if let Some(frame) = frames.get(member.vsn, &mut encode) {
                let _ = member.outbox.push(frame);
            }
        }
    }

    fn announce(&self, topic: &str, diff: &Diff) {
        let json = diff.to_json();
        self.fan_out(None, |vsn| Some(encode::presence_diff(vsn, topic, &json)));
    }
}

/// One frame per serializer, made when first needed. The inner `None`: there is none for this serializer.
#[derive(Default)]
struct Frames {
    v1: Option<Option<Bytes>>,
    v2: Option<Option<Bytes>>,
}

impl Frames {
    fn get(&mut self, vsn: Vsn, encode: &mut impl FnMut(Vsn) -> Option<Bytes>) -> Option<Bytes> {
        let slot = match vsn {
            Vsn::V1 => &mut self.v1,
            Vsn::V2 => &mut self.v2,
        };
        slot.get_or_insert_with(|| encode(vsn)).clone()
    }
}

/// A channel's place in a room. Dropping it leaves: presence ends, and an empty room is forgotten.
#[derive(Debug)]
pub struct Membership {
    pub(crate) hub: Arc<Hub>,
    pub(crate) key: RoomKey,
    pub(crate) room: Arc<Mutex<Room>>,
    pub(crate) id: MemberId,
}

impl Membership {
    /// Gives every other member, and this one if `to_self`, one frame; `encode` is asked at most once per
    /// serializer and may say that this serializer gets none.
    pub fn publish(&self, to_self: bool, encode: impl FnMut(Vsn) -> Option<Bytes>) {
        self.room.lock().fan_out((!to_self).then_some(self.id), encode);
    }

    /// Makes this channel present, or changes what it announces; tells all members, this one included.
    /// `tracked` is the text of a JSON object. Does nothing if an equal object is tracked already.
    pub fn track(&self, key: &str, tracked: Bytes) {
        let phx_ref = self.hub.next_phx_ref();
        let mut room = self.room.lock();
        if let Some(diff) = room.presence.track(self.id, key, tracked, &phx_ref) {
            room.announce(&self.key.topic, &diff);
        }
    }

    /// Ends this channel's presence, if it had any, and tells all members.
    pub fn untrack(&self) {
        let mut room = self.room.lock();
        if let Some(diff) = room.presence.untrack(self.id) {
            room.announce(&self.key.topic, &diff);
        }
    }

    /// Queues a frame made of the room's presence state to this channel; no diff can come between the two.
    pub fn send_presence_state(&self, encode: impl FnOnce(&[u8]) -> Bytes) {
        let room = self.room.lock();
        if let Some(member) = room.members.get(&self.id) {
            let _ = member.outbox.push(encode(&room.presence.state_json()));
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let empty = {
            let mut room = self.room.lock();
            room.members.remove(&self.id);
            if let Some(diff) = room.presence.untrack(self.id) {
                room.announce(&self.key.topic, &diff);
            }
            room.members.is_empty()
        };
        if empty {
            self.hub.forget_if_empty(&self.key);
        }
    }
}
