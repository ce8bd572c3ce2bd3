//! The queue of finished frames between those who publish and the one socket they go to.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    sync::{Arc, Weak},
};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::Notify};

use crate::{MemberId, Memory, memory::LARGE};

/// Default limit of an outbox, in bytes of queued frames.
///
/// Twice the largest message a client may send: one such message may wait behind another.
pub const DEFAULT_OUTBOX_BYTES: usize = 10_000_000;

/// Frames that an outbox takes, however small they are: each costs a place in the queue.
const MAX_FRAMES: usize = 65_536;

/// What a frame's place in a queue may cost, in bytes: queues grow by doubling.
const PLACE: usize = 64;

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
    /// What the node holds for all its clients, if it counts.
    memory: Option<Arc<Memory>>,
    /// Itself.
    me: Weak<Self>,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Bytes of frames for this socket that wait elsewhere.
    kept: usize,
    /// Bytes that the socket holds beside frames.
    beside: usize,
    /// What of it all the node has counted.
    counted: usize,
    /// Whether it is one of those that may be closed for what they hold.
    large: bool,
    /// Nothing that it holds counts any more: the socket was told to go.
    given_up: bool,
    /// What remains is not to be written.
    cut: bool,
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
        if self.closed.is_some() {
            return false;
        }
        let full = self.bytes + self.kept + frame.len() > limit || self.frames.len() >= MAX_FRAMES;
        if !self.frames.is_empty() && full {
            self.too_slow();
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

    /// Takes nothing more. What was not begun is dropped at once, not when the socket's task comes to it.
    fn too_slow(&mut self) {
        self.closed.get_or_insert(Closed::SlowConsumer);
        self.frames.truncate(usize::from(self.partial));
        self.bytes = self.frames.iter().map(Bytes::len).sum();
        self.frames.shrink_to_fit();
    }

    /// Bytes that its socket holds.
    fn load(&self) -> usize {
        // What a socket holds beside frames ends with its task.
        self.bytes + if self.given_up { 0 } else { self.kept + self.beside }
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
        Self { queue: Mutex::default(), wake: Notify::new(), limit, memory: None, me: Weak::new() }
    }

    /// An empty outbox that is counted by the node; with a sink, or for a task that takes frames.
    #[must_use]
    pub fn counted(limit: usize, sink: Option<Arc<dyn Sink>>, memory: &Arc<Memory>) -> Arc<Self> {
        Arc::new_cyclic(|me| {
            let queue = Queue { sink, ..Queue::default() };
            let memory = Some(Arc::clone(memory));
            Self { queue: Mutex::new(queue), wake: Notify::new(), limit, memory, me: Weak::clone(me) }
        })
    }

    /// Tells the node what has changed. Whether [`relieve`](Self::relieve) should be called, without the lock.
    fn count(&self, queue: &mut Queue) -> bool {
        let Some(memory) = &self.memory else { return false };
        let now = if queue.given_up { 0 } else { queue.frames.len() * PLACE + queue.beside };
        let load = queue.load();
        let grown = now > queue.counted || load >= LARGE;
        if now != queue.counted {
            memory.change(queue.counted, now);
            queue.counted = now;
        }
        if load >= LARGE && !queue.large {
            queue.large = true;
            memory.enter(&self.me);
        } else if load < LARGE / 2 && queue.large {
            queue.large = false;
            memory.leave(&self.me);
        }
        grown
    }

    /// Closes sockets if the node holds too much; perhaps this one.
    fn relieve(&self) {
        if let Some(memory) = &self.memory {
            memory.relieve();
        }
    }

    /// Bytes that its socket holds.
    pub(crate) fn load(&self) -> usize {
        self.queue.lock().load()
    }

    /// The node holds too much: the socket is closed, and what it holds no longer counts. At the second time not even a
    /// frame that is partly written is written to its end.
    pub(crate) fn give_up(&self) {
        let mut queue = self.queue.lock();
        if queue.closed.is_some() {
            queue.cut = true;
            queue.frames = VecDeque::new();
            queue.bytes = 0;
        } else {
            queue.too_slow();
        }
        queue.given_up = true;
        self.count(&mut queue);
        drop(queue);
        self.wake.notify_one();
    }

    /// The socket holds this many bytes more beside frames: of what its client sent.
    pub fn hold(&self, bytes: usize) {
        let mut queue = self.queue.lock();
        queue.beside += bytes;
        let grown = self.count(&mut queue);
        drop(queue);
        if grown {
            self.relieve();
        }
    }

    /// The socket holds them no longer.
    pub fn release(&self, bytes: usize) {
        let mut queue = self.queue.lock();
        queue.beside = queue.beside.saturating_sub(bytes);
        self.count(&mut queue);
    }

    /// A frame of this many bytes waits elsewhere for this socket. Tells whether the outbox is more than half full now;
    /// `None` if there is no room: then it must not be kept.
    #[must_use]
    pub fn keep(&self, bytes: usize) -> Option<bool> {
        let mut queue = self.queue.lock();
        if queue.closed.is_some() || queue.bytes + queue.kept + bytes > self.limit {
            return None;
        }
        queue.kept += bytes;
        let grown = self.count(&mut queue);
        let behind = queue.bytes + queue.kept > self.limit / 2;
        drop(queue);
        if grown {
            self.relieve();
        }
        Some(behind)
    }

    /// Frames of so many bytes wait there no longer.
    pub fn unkeep(&self, bytes: usize) {
        let mut queue = self.queue.lock();
        queue.kept = queue.kept.saturating_sub(bytes);
        self.count(&mut queue);
    }

    /// Closes the socket: it reads slower than it is told things.
    pub fn close_slow(&self) {
        let mut queue = self.queue.lock();
        queue.too_slow();
        self.count(&mut queue);
        drop(queue);
        self.wake.notify_one();
    }

    /// An empty outbox that writes to `sink`.
    #[must_use]
    pub fn with_sink(limit: usize, sink: Arc<dyn Sink>) -> Self {
        let outbox = Self::new(limit);
        outbox.queue.lock().sink = Some(sink);
        outbox
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
        queue.closed.is_some() || queue.bytes + queue.kept <= self.limit / 4
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
        let accepted = queue.append(frame, self.limit);
        let bytes = queue.bytes + queue.kept;
        let grown = self.count(&mut queue);
        drop(queue);
        if !accepted {
            self.wake.notify_one();
            return Err(Closed::SlowConsumer);
        }
        if grown {
            self.relieve();
        }
        Ok((was_empty, bytes))
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
        let grown = !queue.frames.is_empty() && self.count(&mut queue);
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
        if grown {
            self.relieve();
        }
        if accepted { Ok(()) } else { Err(Closed::SlowConsumer) }
    }

    /// Writes what is queued, as much as the socket takes without waiting. For the socket's task.
    pub fn flush(&self) -> Flush {
        loop {
            // Taken anew for each write: who publishes does not wait for all of a long queue.
            let mut queue = self.queue.lock();
            let queue = &mut *queue;
            if let Some(closed) = queue.closed {
                return Flush::Closed(closed);
            }
            if queue.frames.is_empty() {
                queue.shrink();
                return queue.drain();
            }
            let written = queue.write_some();
            self.count(queue);
            if !written {
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
        self.count(&mut queue);
    }

    /// Writes after [`finish`](Self::finish). True when all is written.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn write_last(&self) -> io::Result<bool> {
        let mut queue = self.queue.lock();
        let queue = &mut *queue;
        if queue.cut {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let Some(sink) = &queue.sink else { return Ok(true) };
        match write(&**sink, queue.frames.iter()) {
            Ok(count) => {
                queue.written(count);
                self.count(queue);
            }
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
        self.count(&mut queue);
        queue.closed
    }

    /// Whether it takes nothing more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.queue.lock().closed.is_some()
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

/// Bytes that a socket holds beside frames, while this lives.
#[derive(Debug)]
pub struct Holding {
    outbox: Arc<Outbox>,
    bytes: usize,
}

impl Holding {
    /// Nothing yet.
    #[must_use]
    pub fn new(outbox: &Arc<Outbox>) -> Self {
        Self { outbox: Arc::clone(outbox), bytes: 0 }
    }

    /// The socket's outbox.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// It holds this many bytes now.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.outbox.hold(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.outbox.release(self.bytes - bytes);
        }
        self.bytes = bytes;
    }

    /// It holds this many bytes more.
    pub fn add(&mut self, bytes: usize) {
        self.set(self.bytes + bytes);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let queue = self.queue.get_mut();
        if let Some(memory) = &self.memory {
            memory.change(queue.counted, 0);
            if queue.large {
                memory.leave(&self.me);
            }
        }
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
