use std::{collections::VecDeque, io, io::IoSlice};

use bytes::Bytes;
use realtime_protocol::frame;

use super::*;
use crate::{Closed, Flush, Outbox, Sink};

const MB: usize = 1_000_000;

/// Tests of this crate run side by side, and frames are counted for the whole process. Whoever makes large ones, or counts
/// them, holds it.
pub(crate) static ALONE: Mutex<()> = Mutex::new(());

fn address(last: u8) -> IpAddr {
    [127, 0, 0, last].into()
}

fn frame_of(bytes: usize) -> Bytes {
    frame::text(&vec![b'x'; bytes])
}

fn taken(outbox: &Outbox) -> (usize, Option<Closed>) {
    let mut frames = VecDeque::new();
    let closed = outbox.take(&mut frames);
    (frames.len(), closed)
}

#[test]
fn the_socket_that_holds_most_goes_first() {
    let _alone = ALONE.lock();
    let memory = Memory::new(frame::alive() + 30 * MB);
    let outbox = || Outbox::counted(100 * MB, None, &memory);
    let (small, large, middle) = (outbox(), outbox(), outbox());
    small.push(frame_of(2 * MB)).unwrap();
    large.push(frame_of(13 * MB)).unwrap();
    middle.push(frame_of(11 * MB)).unwrap();
    small.push(frame_of(7 * MB)).unwrap();
    assert_eq!(large.push(Bytes::new()), Err(Closed::NoMemory));
    assert_eq!((taken(&small), taken(&middle)), ((2, None), (1, None)));
    assert!(memory.used() < memory.limit() - 10 * MB, "what is closed is given back at once");
}

#[test]
fn what_many_share_counts_once() {
    let _alone = ALONE.lock();
    let memory = Memory::new(frame::alive() + 30 * MB);
    let outboxes: Vec<_> = (0..100).map(|_| Outbox::counted(100 * MB, None, &memory)).collect();
    let shared = frame_of(20 * MB);
    for outbox in &outboxes {
        outbox.push(shared.clone()).unwrap();
    }
    assert!(outboxes.iter().all(|outbox| taken(outbox) == (1, None)));
}

#[test]
fn what_clients_send_counts_too() {
    let _alone = ALONE.lock();
    let memory = Memory::new(frame::alive() + 30 * MB);
    let outbox = || Outbox::counted(100 * MB, None, &memory);
    let (quiet, sender, other) = (outbox(), outbox(), outbox());
    quiet.push(frame_of(20_000)).unwrap();
    sender.hold(20 * MB);
    other.hold(9 * MB);
    other.release(8 * MB);
    other.hold(10 * MB);
    assert_eq!(sender.push(Bytes::new()), Err(Closed::NoMemory));
    other.hold(10 * MB);
    assert_eq!((taken(&quiet), taken(&other)), ((1, None), (0, None)), "what is given up counts no more");
    drop((sender, other));
    assert!(memory.used() < memory.limit() - 25 * MB);
}

#[test]
fn bodies_have_a_share_of_their_own() {
    let memory = Memory::new(40 * MB);
    let (mut first, mut second) = (memory.body(address(1)), memory.body(address(2)));
    assert!(first.set(4 * MB) && first.set(8 * MB));
    assert!(!second.set(3 * MB));
    drop((first, second));
    assert!(memory.body(address(2)).set(8 * MB));
    assert!(memory.addresses.lock().is_empty());
}

/// However many bodies an address has, it leaves as much as it takes.
#[test]
fn an_address_leaves_room_for_bodies_of_others() {
    let memory = Memory::new(40 * MB);
    let take = |from, bytes| {
        let mut body = memory.body(address(from));
        body.set(bytes).then_some(body)
    };
    let first: Vec<_> = std::iter::from_fn(|| take(1, MB)).take(100).collect();
    assert_eq!(first.len(), 5);
    let second: Vec<_> = std::iter::from_fn(|| take(2, MB)).take(100).collect();
    assert_eq!(second.len(), 2);
    assert!(take(3, 3 * MB).is_some(), "one body");
    assert!(take(1, 1).is_none());
    drop(first);
    assert!(take(2, MB).is_some());
}

/// A socket that takes one byte and no more.
#[derive(Debug, Default)]
struct Stuck(Mutex<bool>);

impl Sink for Stuck {
    fn try_write(&self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        if std::mem::replace(&mut *self.0.lock(), true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(1)
    }
}

/// A frame that is partly written is written to its end, so that a close frame can follow; but not at any price.
#[test]
fn frames_that_were_begun_go_last() {
    let _alone = ALONE.lock();
    let memory = Memory::new(frame::alive() + 30 * MB);
    let stuck = || Outbox::counted(100 * MB, Some(Arc::new(Stuck::default())), &memory);
    let (first, second) = (stuck(), stuck());
    first.send(&[&frame_of(12 * MB), &frame_of(2 * MB)]).unwrap();
    second.send(&[&frame_of(10 * MB)]).unwrap();
    // What is large is begun by the socket's task.
    assert_eq!((first.flush(true), second.flush(true)), (Flush::Large, Flush::Large));
    let quiet = Outbox::counted(100 * MB, None, &memory);
    quiet.push(frame_of(7 * MB)).unwrap();
    assert_eq!(first.flush(false), Flush::Closed(Closed::NoMemory));
    assert!(!first.write_last().unwrap(), "it may still be written");
    assert_eq!(second.flush(true), Flush::Blocked);
    quiet.push(frame_of(3 * MB)).unwrap();
    assert!(first.write_last().is_err(), "it had its chance");
    assert_eq!((second.flush(true), taken(&quiet)), (Flush::Blocked, (2, None)));
}

#[test]
fn small_frames_have_a_number() {
    let outbox = Outbox::new(100 * MB);
    let pushed = (0..1_000_000).take_while(|_| outbox.push(Bytes::from_static(b"x")).is_ok()).count();
    assert!(pushed < 100_000);
    assert_eq!(taken(&outbox), (0, Some(Closed::SlowConsumer)));
}
