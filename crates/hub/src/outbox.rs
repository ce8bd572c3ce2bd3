//! The queue of finished frames between those who publish and the one socket they go to.

use std::{
    borrow::Borrow,
    collections::VecDeque,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    memory::{Holder, LARGE, Memory},
    queue::{BULK, Closed, Flush, Queue},
    signal::Signal,
    sink::Sink,
    wake::Wake,
};

/// Default limit of an outbox, in bytes of queued frames.
///
/// Twice the largest message a client may send: one such message may wait behind another.
pub const DEFAULT_OUTBOX_BYTES: usize = 10_000_000;

/// Frames that wait to be written to one socket.
///
/// Any number of tasks push, without waiting. Frames are shared bytes: pushing one to a thousand outboxes
/// copies nothing. [`send`](Self::send) writes straight to the socket when nothing waits before it, unless it is more than
/// [`BULK`] bytes; what the socket does not take at once is queued, and its task woken. All writes happen under the queue's lock, so
/// frames never mix.
///
/// When the limit is hit the outbox closes itself, so a slow reader costs its own connection, never the
/// publisher's time and never memory without bound.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    wake: Wake,
    limit: usize,
    /// The client takes compressed messages: frames of so many bytes or more are compressed for it.
    packs_from: AtomicU32,
    /// The last change that was counted for it.
    counted: AtomicU32,
    /// What the node holds for all its clients, if it counts.
    memory: Option<Arc<Memory>>,
    /// Itself, for the node's list of sockets that hold much.
    me: Weak<Self>,
}

impl Outbox {
    /// An empty outbox that accepts up to `limit` bytes of queued frames, for a task that takes them.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self::with(Queue::default(), limit, None, Weak::new())
    }

    /// An empty outbox that is counted by the node; with a sink, or for a task that takes frames.
    #[must_use]
    pub fn counted(limit: usize, sink: Option<Arc<dyn Sink>>, memory: &Arc<Memory>) -> Arc<Self> {
        Arc::new_cyclic(|me| {
            let queue = Queue { sink, ..Queue::default() };
            let memory = Some(Arc::clone(memory));
            Self::with(queue, limit, memory, Weak::clone(me))
        })
    }

    fn with(queue: Queue, limit: usize, memory: Option<Arc<Memory>>, me: Weak<Self>) -> Self {
        let packs_from = AtomicU32::new(u32::MAX);
        let counted = AtomicU32::new(0);
        Self { queue: Mutex::new(queue), wake: Wake::default(), limit, packs_from, counted, memory, me }
    }

    /// The client takes compressed messages: frames of `bytes` or more, which it shares with others, come compressed if that
    /// makes them smaller. To be said before it joins anything.
    pub fn pack_from(&self, bytes: usize) {
        self.packs_from.store(u32::try_from(bytes).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// From how many bytes on frames are compressed for the client; [`usize::MAX`] if it takes no compressed ones.
    #[must_use]
    pub fn packs_from(&self) -> usize {
        match self.packs_from.load(Ordering::Relaxed) {
            u32::MAX => usize::MAX,
            bytes => bytes as usize,
        }
    }

    /// Whether it was not asked before with this number, which is not 0: something that comes on several channels counts
    /// once for each socket. Two who ask at once with different numbers may both be told yes again.
    #[must_use]
    pub fn is_first(&self, number: u32) -> bool {
        self.counted.load(Ordering::Relaxed) != number
            && self.counted.swap(number, Ordering::Relaxed) != number
    }

    /// Tells the node what has changed. Returns whether [`relieve`](Self::relieve) should be called, without the lock.
    fn count(&self, queue: &mut Queue) -> bool {
        let Some(memory) = &self.memory else { return false };
        let now = queue.to_count();
        let load = queue.load();
        let grown = now > queue.counted || load >= LARGE;
        if now != queue.counted {
            memory.change(queue.counted, now);
            queue.counted = now;
        }
        if load >= LARGE && !queue.large {
            queue.large = true;
            let me: Weak<dyn Holder> = Weak::<Self>::clone(&self.me);
            memory.enter(me);
        } else if load < LARGE / 2 && queue.large {
            queue.large = false;
            memory.leave(self.me.as_ptr().addr());
        }
        grown
    }

    /// Closes sockets if the node holds too much; perhaps this one.
    fn relieve(&self) {
        if let Some(memory) = &self.memory {
            memory.relieve();
        }
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

    /// The socket holds this many bytes less beside frames.
    pub fn release(&self, bytes: usize) {
        let mut queue = self.queue.lock();
        queue.beside = queue.beside.saturating_sub(bytes);
        self.count(&mut queue);
    }

    /// A frame of this many bytes waits elsewhere for this socket. Returns whether the outbox is more than half full now;
    /// `None` if there is no room: then the frame must not be kept.
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

    /// Frames of this many bytes no longer wait elsewhere.
    pub fn unkeep(&self, bytes: usize) {
        let mut queue = self.queue.lock();
        queue.kept = queue.kept.saturating_sub(bytes);
        self.count(&mut queue);
    }

    /// Closes the socket: it reads more slowly than frames come.
    pub fn close_slow(&self) {
        let mut queue = self.queue.lock();
        queue.too_slow();
        self.count(&mut queue);
        drop(queue);
        self.wake.call();
    }

    /// An empty outbox that writes to `sink`.
    #[must_use]
    pub fn with_sink(limit: usize, sink: Arc<dyn Sink>) -> Self {
        let outbox = Self::new(limit);
        outbox.queue.lock().sink = Some(sink);
        outbox
    }

    /// Begins to write to a sink: `first`, then what waits. Bytes of `first` that were taken before count as written no
    /// more.
    pub fn attach(&self, sink: Arc<dyn Sink>, first: impl DoubleEndedIterator<Item = Bytes>) {
        let mut queue = self.queue.lock();
        queue.sink = Some(sink);
        for frame in first.rev() {
            queue.bytes += frame.len();
            queue.written = queue.written.saturating_sub(frame.len() as u64);
            queue.frames.push_front(frame);
        }
        self.count(&mut queue);
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

    /// Appends a frame like [`push`](Self::push), and tells whether the outbox is more than half full now, for a publisher
    /// that can wait.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_gauged(&self, frame: Bytes) -> Result<bool, Closed> {
        let (was_empty, bytes) = self.append(frame)?;
        if was_empty {
            self.wake.call();
        }
        Ok(bytes > self.limit / 2)
    }

    /// Appends frames in their order, and wakes the socket's task once. Tells whether the outbox is more than half full now.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_all(&self, frames: &[Bytes]) -> Result<bool, Closed> {
        let mut queue = self.queue.lock();
        if let Some(closed) = queue.closed {
            return Err(closed);
        }
        let was_empty = queue.frames.is_empty();
        let accepted = frames.iter().all(|frame| queue.append(frame.clone(), self.limit));
        let bytes = queue.bytes + queue.kept;
        let grown = self.count(&mut queue);
        drop(queue);
        if !accepted || was_empty && !frames.is_empty() {
            self.wake.call();
        }
        if !accepted {
            return Err(Closed::SlowConsumer);
        }
        if grown {
            self.relieve();
        }
        Ok(bytes > self.limit / 2)
    }

    /// Bytes that it takes before it is full.
    #[must_use]
    pub fn free(&self) -> usize {
        let queue = self.queue.lock();
        self.limit.saturating_sub(queue.bytes + queue.kept)
    }

    /// Whether the outbox is at most a quarter full, or takes nothing any more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let queue = self.queue.lock();
        queue.closed.is_some() || queue.bytes + queue.kept <= self.limit / 4
    }

    /// Whether a large frame of this many bytes may be put in now: then at most three quarters are full. Also true if the
    /// outbox takes nothing any more.
    #[must_use]
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        let queue = self.queue.lock();
        let waiting = queue.bytes + queue.kept;
        queue.closed.is_some() || waiting <= self.limit / 4 || waiting + bytes <= self.limit / 2
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
            self.wake.call();
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
    pub fn send<B: Borrow<Bytes>>(&self, frames: &[B]) -> Result<(), Closed> {
        let mut queue = self.queue.lock();
        if let Some(closed) = queue.closed {
            return Err(closed);
        }
        let was_empty = queue.frames.is_empty();
        let (written, drained) = match queue.write_direct(frames) {
            Ok(direct) => direct,
            Err(closed) => {
                drop(queue);
                self.wake.call();
                return Err(closed);
            }
        };
        let accepted = queue.append_rest(frames, written, self.limit);
        // A queue that was not empty has woken the task already.
        let wake = !accepted || (was_empty && !(queue.frames.is_empty() && drained));
        let grown = !queue.frames.is_empty() && self.count(&mut queue);
        drop(queue);
        if wake {
            self.wake.call();
        }
        if grown {
            self.relieve();
        }
        if accepted { Ok(()) } else { Err(Closed::SlowConsumer) }
    }

    /// Writes what is queued, as much as the socket takes without waiting. For the socket's task.
    ///
    /// More than [`BULK`] bytes are written in turns: `turn` says whether it has one, which allows for one write.
    pub fn flush(&self, mut turn: bool) -> Flush {
        loop {
            // Locked anew for each write: publishers do not wait for all of a long queue.
            let mut queue = self.queue.lock();
            let queue = &mut *queue;
            if let Some(closed) = queue.closed {
                return Flush::Closed(closed);
            }
            if queue.frames.is_empty() {
                queue.shrink();
                return queue.drain();
            }
            if queue.bytes > BULK && !std::mem::take(&mut turn) {
                return Flush::Large;
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
        queue.finish(last, rest);
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
        if queue.sink.is_none() {
            return Ok(true);
        }
        queue.try_write()?;
        self.count(queue);
        Ok(queue.frames.is_empty() && queue.try_drain()?)
    }

    /// Moves every queued frame to the end of `into`; returns why the outbox is closed, if it is. For a
    /// transport without a sink.
    pub fn take(&self, into: &mut VecDeque<Bytes>) -> Option<Closed> {
        let mut queue = self.queue.lock();
        queue.take(into);
        self.count(&mut queue);
        queue.closed
    }

    /// Moves the first queued frames to the end of `into`, until that has `most` bytes, or one frame. For a transport
    /// without a sink.
    pub fn take_some(&self, into: &mut Vec<Bytes>, most: usize) {
        let mut queue = self.queue.lock();
        queue.take_some(into, most);
        self.count(&mut queue);
    }

    /// Whether what waits is more than [`BULK`] bytes.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.queue.lock().bytes > BULK
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
        self.wake.call();
    }

    /// What was signalled since it was last asked.
    pub fn take_signals(&self) -> Vec<Signal> {
        std::mem::take(&mut self.queue.lock().signals)
    }

    /// Returns when there is, or may be, something to write, to take, or to act on.
    ///
    /// Cancel safe. For one waiting task.
    pub async fn ready(&self) {
        self.wake.called().await;
    }
}

impl Holder for Outbox {
    fn load(&self) -> usize {
        self.queue.lock().load()
    }

    fn give_up(&self) {
        let mut queue = self.queue.lock();
        queue.give_up();
        self.count(&mut queue);
        drop(queue);
        self.wake.call();
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let queue = self.queue.get_mut();
        if let Some(memory) = &self.memory {
            memory.change(queue.counted, 0);
            if queue.large {
                memory.leave(self.me.as_ptr().addr());
            }
        }
    }
}

#[cfg(test)]
mod tests;
