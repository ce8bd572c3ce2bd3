//! Saying a broadcast: the one place where it is counted, measured and handed to the hub.

use bytes::Bytes;
use realtime_hub::{Congestion, FanOut, Hub, Membership, MessageId, RoomKey, Said};
use realtime_protocol::Vsn;

use crate::{counters::MessageType, limits::Meters};

/// What a publisher has to do once it has said something. Nothing by default.
#[derive(Debug, Default)]
#[must_use = "run it once everything that belongs together is said, and wait while there is congestion"]
pub struct Delivery {
    /// Gives the members what was said. `None`: nobody is to get it, or somebody else is serving the room.
    pub run: Option<FanOut>,
    /// More waits than should: the publisher should say nothing more before that is over.
    pub congestion: Option<Congestion>,
}

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
    let run = membership.say(to_self, said);
    // A room that this publisher serves itself cannot be slower than the publisher.
    let of_room = || if run.is_none() { membership.congestion() } else { None };
    let congestion = membership.bus_congestion().or_else(of_room);
    Delivery { run, congestion }
}

/// Says what comes from outside of a room, on this node and on others.
pub fn from_outside(meters: &Meters, hub: &Hub, key: &RoomKey, said: &Said<'_>, size: usize) -> Delivery {
    count(meters, size);
    let run = hub.say(key, said);
    Delivery { run, congestion: hub.congestion(key) }
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
    let run = hub.publish_stored(key, id, encode);
    Delivery { run, congestion: hub.congestion(key) }
}
