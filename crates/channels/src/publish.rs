//! Publishing a broadcast. This is the one place where it is counted, measured and handed to the hub.

use bytes::Bytes;
use realtime_hub::{Delivery, Hub, Membership, MessageId, RoomKey, Said};
use realtime_protocol::{UserBroadcast, Vsn};

use crate::{counters::MessageType, limits::Meters};

/// Counts an accepted broadcast with the size of its payload.
fn count(meters: &Meters, size: usize) {
    meters.events().add(1);
    meters.counters().payload(MessageType::Broadcast, size);
}

/// Publishes a message of a member of the room, on this node and on others.
pub fn by_member(
    meters: &Meters,
    membership: &Membership,
    to_self: bool,
    said: &Said<'_>,
    size: usize,
) -> Delivery {
    count(meters, size);
    membership.say(to_self, said)
}

/// Publishes a message from outside of the room, on this node and on others. `id`: what its sender wants it to be kept under.
pub fn from_outside(
    meters: &Meters,
    hub: &Hub,
    key: &RoomKey,
    said: &Said<'_>,
    size: usize,
    id: Option<MessageId>,
) -> Delivery {
    count(meters, size);
    hub.say(key, said, id)
}

/// Publishes a message that is stored in the database. Members that already got it by replay do not get it again. `user`: what
/// the frames carry.
pub fn stored(
    meters: &Meters,
    hub: &Hub,
    key: &RoomKey,
    id: MessageId,
    size: usize,
    user: &UserBroadcast,
    encode: impl FnMut(Vsn) -> Option<Bytes>,
) -> Delivery {
    count(meters, size);
    hub.say_stored(key, id, Some(user), encode)
}
