//! Saying a broadcast: the one place where it is counted, measured and handed to the hub.

use bytes::Bytes;
use realtime_hub::{Delivery, Hub, Membership, MessageId, RoomKey, Said};
use realtime_protocol::Vsn;

use crate::{counters::MessageType, limits::Meters};

/// Counts an accepted broadcast whose payload has so many bytes.
fn count(meters: &Meters, size: usize) {
    meters.events().add(1);
    meters.counters().payload(MessageType::Broadcast, size);
}

/// Says what a member of a room says, on this node and on others.
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

/// Says what comes from outside of a room, on this node and on others.
pub fn from_outside(meters: &Meters, hub: &Hub, key: &RoomKey, said: &Said<'_>, size: usize) -> Delivery {
    count(meters, size);
    hub.say(key, said)
}

/// Says a message that is stored in the database: members that were sent it already do not get it.
pub fn stored(
    meters: &Meters,
    hub: &Hub,
    key: &RoomKey,
    id: MessageId,
    size: usize,
    encode: impl FnMut(Vsn) -> Option<Bytes>,
) -> Delivery {
    count(meters, size);
    hub.say_stored(key, id, encode)
}
