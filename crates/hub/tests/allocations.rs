//! What it costs to hand a message to a member: no allocation.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use realtime_hub::{
    Audience, Flush, Hub, Member, Membership, Memory, Meter, Outbox, RoomKey, Said, Sink, Unlimited,
};
use realtime_protocol::Vsn;

/// A socket that takes everything.
#[derive(Debug, Default)]
struct Open(AtomicUsize);

impl Sink for Open {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Ok(bytes)
    }
}

struct Room {
    hub: Arc<Hub>,
    key: RoomKey,
    members: Vec<Membership>,
    socket: Arc<Open>,
}

/// A room with so many members, of two serializers.
fn room(members: usize) -> Room {
    let hub = Hub::new(1, Duration::ZERO);
    let key = RoomKey { tenant: "t".into(), audience: Audience::Public, topic: "realtime:a".into() };
    let (socket, memory) = (Arc::new(Open::default()), Memory::new(100_000_000));
    let meter: Arc<dyn Meter> = Arc::new(Unlimited);
    let join = |n: usize| {
        let sink: Arc<dyn Sink> = Arc::<Open>::clone(&socket);
        let outbox = Outbox::counted(1_000_000, Some(sink), &memory);
        let vsn = if n.is_multiple_of(2) { Vsn::V1 } else { Vsn::V2 };
        hub.join(&key, Member::new(outbox, vsn), &meter, [])
    };
    let members = (0..members).map(join).collect();
    Room { hub, key, members, socket }
}

/// Allocations of a message that is said `messages` times before it is delivered, once the room has warmed up.
fn allocations(members: usize, messages: usize) -> u64 {
    let room = room(members);
    let say = || {
        let said = Said::Json(br#"{"type":"broadcast","event":"e","payload":{}}"#);
        let deliveries: [_; 4] =
            std::array::from_fn(|n| (n < messages).then(|| room.hub.say(&room.key, &said, None)));
        drop(deliveries);
    };
    say();
    let before = room.socket.0.load(Ordering::Relaxed);
    let allocations = allocation_counter::measure(say).count_total;
    let written = room.socket.0.load(Ordering::Relaxed) - before;
    assert!(written > room.members.len() * messages * 50, "all members have got all messages");
    allocations
}

/// Whatever is allocated for a message is so for the message: not for each member, nor for each slice of them.
#[test]
fn delivering_a_message_to_one_more_member_allocates_nothing() {
    for messages in [1, 4] {
        let few = allocations(2, messages);
        assert_eq!(allocations(50, messages), few);
        assert_eq!(allocations(250, messages), few);
        // The message, and a frame, a place in the batch and one in a list for each of two serializers.
        assert!(few <= 10 * messages as u64, "{few} for {messages}");
    }
}

/// A client that broadcasts to the others and to itself.
#[test]
fn a_speaker_allocates_no_more_in_a_large_room() {
    let allocations = |members| {
        let room = room(members);
        let speaker = room.members.first().unwrap();
        let say = || drop(speaker.say(true, &Said::Json(b"{}")));
        say();
        allocation_counter::measure(say).count_total
    };
    assert_eq!(allocations(250), allocations(4));
}

/// Frames that wait for the socket's task, as those of row changes.
#[test]
fn queueing_a_frame_allocates_nothing() {
    let sink: Arc<dyn Sink> = Arc::new(Open::default());
    let outbox = Outbox::counted(1_000_000, Some(sink), &Memory::new(100_000_000));
    let frame = Bytes::from_static(b"frame");
    let queue = || {
        for _ in 0..4 {
            outbox.push(frame.clone()).unwrap();
        }
        assert_eq!(outbox.flush(false), Flush::Done);
    };
    queue();
    assert_eq!(allocation_counter::measure(queue).count_total, 0);
}
