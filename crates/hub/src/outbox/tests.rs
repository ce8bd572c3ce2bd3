use std::io::IoSlice;

use proptest::prelude::*;

use super::*;
use crate::sink::MAX_WRITE;

fn drain(outbox: &Outbox) -> (Vec<Bytes>, Option<Closed>) {
    let mut frames = VecDeque::new();
    let closed = outbox.take(&mut frames);
    (frames.into(), closed)
}

/// A socket that takes as many bytes as it is allowed to.
#[derive(Debug, Default)]
struct Pipe(Mutex<(usize, Vec<u8>, usize)>);

impl Pipe {
    fn allow(&self, bytes: usize) {
        self.0.lock().0 += bytes;
    }

    fn received(&self) -> Vec<u8> {
        self.0.lock().1.clone()
    }

    fn writes(&self) -> usize {
        self.0.lock().2
    }
}

impl Sink for Pipe {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let (allowed, received, writes) = &mut *self.0.lock();
        if *allowed == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        *writes += 1;
        let mut count = 0;
        for slice in slices {
            let part = slice.len().min(*allowed);
            received.extend_from_slice(&slice[..part]);
            *allowed -= part;
            count += part;
        }
        Ok(count)
    }
}

fn piped(limit: usize) -> (Outbox, Arc<Pipe>) {
    let pipe = Arc::new(Pipe::default());
    let sink: Arc<dyn Sink> = Arc::<Pipe>::clone(&pipe);
    (Outbox::with_sink(limit, sink), pipe)
}

const A: Bytes = Bytes::from_static(b"aaaa");
const B: Bytes = Bytes::from_static(b"bb");

#[test]
fn several_frames_wake_once_and_share_the_bound() {
    let outbox = Outbox::new(10);
    assert_eq!(outbox.push_all(&[A, B]), Ok(true), "more than half");
    assert_eq!(drain(&outbox), (vec![A, B], None));
    assert_eq!(outbox.push_all(&[]), Ok(false));
    assert_eq!(outbox.push_all(&[A, A, A]), Err(Closed::SlowConsumer));
    assert_eq!(outbox.push_all(&[A]), Err(Closed::SlowConsumer));
    assert_eq!(drain(&outbox).1, Some(Closed::SlowConsumer));
}

#[test]
fn keeps_the_order_of_pushes() {
    let outbox = Outbox::new(100);
    outbox.push(A).unwrap();
    outbox.send(&[&B]).unwrap();
    assert_eq!(drain(&outbox), (vec![A, B], None));
    assert_eq!(drain(&outbox), (vec![], None));
}

#[test]
fn a_part_can_be_taken() {
    let outbox = Outbox::new(100);
    outbox.push_all(&[A, B, B, A]).unwrap();
    let take = |most| {
        let mut frames = Vec::new();
        outbox.take_some(&mut frames, most);
        frames
    };
    assert_eq!(take(7), [A, B]);
    assert_eq!(outbox.free(), 94);
    assert_eq!(take(1), [B], "one in any case");
    assert_eq!((take(100), take(100)), (vec![A], vec![]));
}

#[test]
fn frames_go_straight_to_an_idle_socket_in_one_write() {
    let (outbox, pipe) = piped(100);
    pipe.allow(100);
    outbox.send(&[&A, &B]).unwrap();
    assert_eq!((pipe.received(), pipe.writes()), (b"aaaabb".to_vec(), 1));
    assert_eq!(outbox.flush(false), Flush::Done);
}

#[test]
fn what_waits_goes_first_and_together() {
    let (outbox, pipe) = piped(100);
    outbox.queue(A).unwrap();
    pipe.allow(100);
    outbox.send(&[&B]).unwrap();
    assert_eq!(pipe.writes(), 0, "a frame waits before it");
    assert_eq!(outbox.flush(false), Flush::Done);
    assert_eq!((pipe.received(), pipe.writes()), (b"aaaabb".to_vec(), 1));
}

#[test]
fn a_slow_consumer_is_closed_and_only_a_frame_begun_is_ended() {
    let (outbox, pipe) = piped(6);
    pipe.allow(1);
    outbox.send(&[&A]).unwrap();
    outbox.send(&[&B]).unwrap();
    assert_eq!(outbox.send(&[&B]), Err(Closed::SlowConsumer));
    assert_eq!(outbox.push(B), Err(Closed::SlowConsumer));
    assert_eq!(outbox.flush(false), Flush::Closed(Closed::SlowConsumer));
    outbox.finish(Bytes::from_static(b"close"), false);
    pipe.allow(100);
    while !outbox.write_last().unwrap() {}
    assert_eq!(pipe.received(), b"aaaaclose");
}

#[test]
fn what_was_accepted_before_a_close_is_written() {
    let (outbox, pipe) = piped(100);
    outbox.push(A).unwrap();
    outbox.finish(Bytes::from_static(b"close"), true);
    assert_eq!(outbox.push(B), Err(Closed::Gone));
    assert!(!outbox.write_last().unwrap());
    pipe.allow(100);
    assert!(outbox.write_last().unwrap());
    assert_eq!(pipe.received(), b"aaaaclose");
}

#[test]
fn one_large_frame_fits_an_empty_outbox() {
    let outbox = Outbox::new(2);
    outbox.push(A).unwrap();
    assert_eq!(drain(&outbox).1, None);
}

#[tokio::test]
async fn a_signal_wakes_the_waiting_task() {
    let outbox = Arc::new(Outbox::new(100));
    let waiter = tokio::spawn({
        let outbox = Arc::clone(&outbox);
        async move {
            outbox.ready().await;
            outbox.take_signals()
        }
    });
    tokio::task::yield_now().await;
    outbox.signal(Signal::Disconnect);
    outbox.signal(Signal::Disconnect);
    assert_eq!(waiter.await.unwrap(), [Signal::Disconnect]);
}

proptest! {
    /// Whatever mixture of writes, blocks and flushes: every byte accepted comes out once, in order.
    #[test]
    fn no_byte_is_lost_or_doubled(steps in prop::collection::vec((0..3u8, 1..20usize), 1..200)) {
        let (outbox, pipe) = piped(10_000);
        let mut expected = Vec::new();
        for (n, (step, size)) in steps.into_iter().enumerate() {
            let frame = Bytes::from(vec![n as u8; size]);
            match step {
                0 => pipe.allow(size),
                1 => {
                    outbox.send(&[&frame, &frame]).unwrap();
                    expected.extend([&frame[..], &frame[..]].concat());
                }
                _ => {
                    outbox.queue(frame.clone()).unwrap();
                    expected.extend(&frame[..]);
                    outbox.flush(false);
                }
            }
        }
        pipe.allow(1_000_000);
        prop_assert_eq!(outbox.flush(false), Flush::Done);
        prop_assert_eq!(pipe.received(), expected);
    }
}

/// A sink that takes everything and keeps it until it may write.
#[derive(Debug, Default)]
struct Keeper {
    kept: Mutex<usize>,
    open: Mutex<bool>,
}

impl Sink for Keeper {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = slices.iter().map(|slice| slice.len()).sum();
        *self.kept.lock() += count;
        Ok(count)
    }

    fn try_drain(&self) -> io::Result<bool> {
        if *self.open.lock() {
            *self.kept.lock() = 0;
        }
        Ok(*self.kept.lock() == 0)
    }
}

/// What a sink took and could not write wakes the socket's task, which waits until it is written.
#[tokio::test]
async fn what_a_sink_keeps_is_waited_for() {
    let keeper = Arc::new(Keeper::default());
    let sink: Arc<dyn Sink> = Arc::<Keeper>::clone(&keeper);
    let outbox = Outbox::with_sink(100, sink);
    outbox.send(&[&A]).unwrap();
    outbox.ready().await;
    assert_eq!(outbox.flush(false), Flush::Blocked);
    *keeper.open.lock() = true;
    assert_eq!(outbox.flush(false), Flush::Done);
    *keeper.open.lock() = false;
    outbox.finish(B, true);
    assert!(!outbox.write_last().unwrap());
    *keeper.open.lock() = true;
    assert!(outbox.write_last().unwrap());
}

/// What is large is not written by publishers, and by the socket's task with one write in each turn.
#[test]
fn what_is_large_is_written_in_turns() {
    let (outbox, pipe) = piped(10_000_000);
    pipe.allow(10_000_000);
    outbox.send(&[&Bytes::from(vec![b'x'; 2 * MAX_WRITE]), &A]).unwrap();
    outbox.send(&[&B]).unwrap();
    assert_eq!(outbox.flush(false), Flush::Large);
    assert_eq!(pipe.writes(), 0);
    assert_eq!(outbox.flush(true), Flush::Large);
    assert_eq!((pipe.writes(), pipe.received().len()), (1, MAX_WRITE));
    assert_eq!(outbox.flush(true), Flush::Done);
    assert_eq!((pipe.writes(), pipe.received().len()), (3, 2 * MAX_WRITE + 6));
    assert!(pipe.received().ends_with(b"aaaabb"));
}
