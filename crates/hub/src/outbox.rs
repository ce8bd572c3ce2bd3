//! The queue of finished frames between those who publish and the one socket they go to.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::Notify};

use crate::MemberId;

/// Default limit of an outbox, in bytes of queued frames.
///
/// Twice the largest message a client may send: one such message may wait behind another.
pub const DEFAULT_OUTBOX_BYTES: usize = 10_000_000;

/// A queue that grew beyond this many slots gives its memory back once it is empty.
const KEEP_SLOTS: usize = 16;

/// Frames in one vectored write.
const MAX_SLICES: usize = 64;

/// Why an outbox takes no more frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The socket reads slower than its rooms talk: the byte limit was hit.
    #[error("Outbox is full")]
    SlowConsumer,
    /// Writing failed, or the socket is ending.
    #[error("Connection is gone")]
    Gone,
}

/// Something that happened to a socket elsewhere and that its own task has to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// This member was handed a frame while its tenant had too many (protocol 5.3).
    TooManyEvents(MemberId),
    /// The tenant's sockets are to end (protocol 12).
    Disconnect,
    /// The tenant's database is reached through another handle: what channels watched in it has to be asked for again.
    /// `elsewhere`: it may be another database, so what its policies have said is void too.
    DatabaseReplaced {
        /// Whether it may be another database.
        elsewhere: bool,
    },
    /// The node is going down.
    ShutDown,
}

/// Where frames are written to.
pub trait Sink: Send + Sync + fmt::Debug {
    /// Writes some of the bytes without waiting; [`io::ErrorKind::WouldBlock`] when it would have to.
    ///
    /// # Errors
    /// What the operating system says.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Writes what the sink has taken and keeps, for one that cannot write all it takes: encrypted records, say. False
    /// if something has to wait until the socket takes more.
    ///
    /// # Errors
    /// What the operating system says.
    fn try_drain(&self) -> io::Result<bool> {
        Ok(true)
    }
}

impl Sink for TcpStream {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            // The plain call is a little cheaper in the kernel.
            [slice] => Self::try_write(self, slice),
            _ => self.try_write_vectored(slices),
        }
    }
}

/// What became of a [`flush`](Outbox::flush).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Nothing is left.
    Done,
    /// The rest has to wait until the socket takes more.
    Blocked,
    /// Nothing more is to be written but a close frame.
    Closed(Closed),
}

/// Frames that wait to be written to one socket.
///
/// Any number of tasks push, without waiting. Frames are shared bytes: pushing one to a thousand outboxes
/// copies nothing. [`send`](Self::send) writes straight to the socket when nothing waits before it; what the
/// socket does not take at once is queued, and its task woken. All writes happen under the queue's lock, so
/// frames never mix.
///
/// When the limit is hit the outbox closes itself, so a slow reader costs its own connection, never the
/// publisher's time and never memory without bound.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    wake: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// The first frame was written in part.
    partial: bool,
    closed: Option<Closed>,
    sink: Option<Arc<dyn Sink>>,
    signals: Vec<Signal>,
    /// Bytes that left, since the start.
    written: u64,
}

impl Queue {
    /// Appends frames. False if the limit was hit.
    fn append(&mut self, frame: Bytes, limit: usize) -> bool {
        if !self.frames.is_empty() && self.bytes + frame.len() > limit {
            self.closed = Some(Closed::SlowConsumer);
            return false;
        }
        self.bytes += frame.len();
        self.frames.push_back(frame);
        true
    }

    /// Drops what was written from the front.
    fn written(&mut self, mut count: usize) {
        self.bytes -= count;
        self.written += count as u64;
        while let Some(front) = self.frames.front_mut() {
            if count < front.len() {
                front.advance(count);
                self.partial |= count > 0;
                return;
            }
            count -= front.len();
            self.frames.pop_front();
            self.partial = false;
        }
    }

    fn shrink(&mut self) {
        if self.frames.is_empty() && self.frames.capacity() > KEEP_SLOTS {
            self.frames = VecDeque::new();
        }
    }
}

impl Outbox {
    /// An empty outbox that accepts up to `limit` bytes of queued frames, for a task that takes them.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { queue: Mutex::default(), wake: Notify::new(), limit }
    }

    /// An empty outbox that writes to `sink`.
    #[must_use]
    pub fn with_sink(limit: usize, sink: Arc<dyn Sink>) -> Self {
        let queue = Queue { sink: Some(sink), ..Queue::default() };
        Self { queue: Mutex::new(queue), ..Self::new(limit) }
    }

    /// Appends a frame and wakes the socket's task, which writes all that has gathered at once.
    ///
    /// A single frame larger than the limit is accepted when the queue is empty.
    ///
    /// # Errors
    /// [`Closed`] when the outbox takes no more; the frame is dropped.
    pub fn push(&self, frame: Bytes) -> Result<(), Closed> {
        self.push_gauged(frame).map(drop)
    }

    /// The same; tells whether the outbox is more than half full now, for a publisher that can wait.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_gauged(&self, frame: Bytes) -> Result<bool, Closed> {
        let (was_empty, bytes) = self.append(frame)?;
        if was_empty {
            self.wake.notify_one();
        }
        Ok(bytes > self.limit / 2)
    }

    /// Whether the outbox is at most a quarter full, or takes nothing any more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let queue = self.queue.lock();
        queue.closed.is_some() || queue.bytes <= self.limit / 4
    }

    /// Appends a frame without waking anybody: for the socket's own task, which flushes before it waits.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn queue(&self, frame: Bytes) -> Result<(), Closed> {
        self.append(frame).map(drop)
    }

    /// Appends; tells whether the queue was empty, and how many bytes it has now.
    fn append(&self, frame: Bytes) -> Result<(bool, usize), Closed> {
        let mut queue = self.queue.lock();
        if let Some(closed) = queue.closed {
            return Err(closed);
        }
        let was_empty = queue.frames.is_empty();
        if queue.append(frame, self.limit) {
            return Ok((was_empty, queue.bytes));
        }
        drop(queue);
        self.wake.notify_one();
        Err(Closed::SlowConsumer)
    }

    /// Gives the socket these frames, in one write: straight away if nothing waits before them, which copies
    /// and allocates nothing.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn send(&self, frames: &[&Bytes]) -> Result<(), Closed> {
        let mut queue = self.queue.lock();
        if let Some(closed) = queue.closed {
            return Err(closed);
        }
        let was_empty = queue.frames.is_empty();
        let (mut written, mut drained) = (0, true);
        if was_empty && let Some(sink) = &queue.sink {
            let direct = write(&**sink, frames.iter().copied());
            match direct.and_then(|count| Ok((count, sink.try_drain()?))) {
                Ok(taken) => {
                    (written, drained) = taken;
                    queue.written += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    queue.closed = Some(Closed::Gone);
                    drop(queue);
                    self.wake.notify_one();
                    return Err(Closed::Gone);
                }
            }
        }
        let mut accepted = true;
        for frame in frames {
            if written >= frame.len() {
                written -= frame.len();
                continue;
            }
            queue.partial |= written > 0;
            accepted &= queue.append(frame.slice(written..), self.limit);
            written = 0;
        }
        let wake = !accepted || (was_empty && !(queue.frames.is_empty() && drained));
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
        if accepted { Ok(()) } else { Err(Closed::SlowConsumer) }
    }

    /// Writes what is queued, as much as the socket takes without waiting. For the socket's task.
    pub fn flush(&self) -> Flush {
        let mut queue = self.queue.lock();
        let queue = &mut *queue;
        loop {
            if let Some(closed) = queue.closed {
                return Flush::Closed(closed);
            }
            if queue.frames.is_empty() {
                queue.shrink();
                return queue.drain();
            }
            if !queue.write_some() {
                return queue.closed.map_or(Flush::Blocked, Flush::Closed);
            }
        }
    }

    /// Takes nothing more but `last`; if `rest` is false what is queued is dropped, but for a frame that is
    /// partly written. [`write_last`](Self::write_last) then writes what remains. For the socket's task.
    pub fn finish(&self, last: Bytes, rest: bool) {
        let mut queue = self.queue.lock();
        queue.closed.get_or_insert(Closed::Gone);
        if !rest {
            let keep = usize::from(queue.partial);
            queue.frames.truncate(keep);
        }
        queue.frames.push_back(last);
        queue.bytes = queue.frames.iter().map(Bytes::len).sum();
    }

    /// Writes after [`finish`](Self::finish). True when all is written.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn write_last(&self) -> io::Result<bool> {
        let mut queue = self.queue.lock();
        let queue = &mut *queue;
        let Some(sink) = &queue.sink else { return Ok(true) };
        match write(&**sink, queue.frames.iter()) {
            Ok(count) => queue.written(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(queue.frames.is_empty() && queue.sink.as_ref().map_or(Ok(true), |sink| sink.try_drain())?)
    }

    /// Moves every queued frame to the end of `into`; returns why the outbox is closed, if it is. For a
    /// transport without a sink.
    pub fn take(&self, into: &mut VecDeque<Bytes>) -> Option<Closed> {
        let mut queue = self.queue.lock();
        into.append(&mut queue.frames);
        queue.written += queue.bytes as u64;
        queue.bytes = 0;
        queue.shrink();
        queue.closed
    }

    /// Bytes that were written, or taken, since the start.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.queue.lock().written
    }

    /// Tells the socket's task something and wakes it.
    pub fn signal(&self, signal: Signal) {
        let mut queue = self.queue.lock();
        if queue.signals.contains(&signal) {
            return;
        }
        queue.signals.push(signal);
        drop(queue);
        self.wake.notify_one();
    }

    /// What was signalled since it was last asked.
    pub fn take_signals(&self) -> Vec<Signal> {
        std::mem::take(&mut self.queue.lock().signals)
    }

    /// Returns when there is, or may be, something to write, to take, or to act on.
    ///
    /// Cancel safe. For one waiting task.
    pub async fn ready(&self) {
        self.wake.notified().await;
    }
}

impl Queue {
    /// Writes what the sink keeps.
    fn drain(&mut self) -> Flush {
        match self.sink.as_ref().map_or(Ok(true), |sink| sink.try_drain()) {
            Ok(true) => Flush::Done,
            Ok(false) => Flush::Blocked,
            Err(_) => {
                self.closed = Some(Closed::Gone);
                Flush::Closed(Closed::Gone)
            }
        }
    }

    /// One write of the first frames. False when the socket takes no more, or is gone.
    fn write_some(&mut self) -> bool {
        let Some(sink) = &self.sink else { return false };
        match write(&**sink, self.frames.iter()) {
            Ok(count) => {
                self.written(count);
                true
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.closed = Some(Closed::Gone);
                }
                false
            }
        }
    }
}

/// One write of the first [`MAX_SLICES`] frames.
fn write<'a>(sink: &dyn Sink, mut frames: impl ExactSizeIterator<Item = &'a Bytes>) -> io::Result<usize> {
    if frames.len() == 1 {
        let Some(frame) = frames.next() else { return Ok(0) };
        return sink.try_write(&[IoSlice::new(frame)]);
    }
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let mut count = 0;
    for (slice, frame) in slices.iter_mut().zip(frames) {
        *slice = IoSlice::new(frame);
        count += 1;
    }
    sink.try_write(slices.get(..count).unwrap_or(&slices))
}

#[cfg(test)]
mod tests;
