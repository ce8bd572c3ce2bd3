//! The state of an outbox: queued frames, why it is closed, and what its socket holds.

use std::{borrow::Borrow, collections::VecDeque, io, sync::Arc};

use bytes::{Buf, Bytes};

use crate::{
    signal::Signal,
    sink::{self, Sink},
};

/// Frames that an outbox takes, however small they are: each costs a slot in the queue.
const MAX_FRAMES: usize = 65_536;

/// What a frame's slot in a queue may cost, in bytes: queues grow by doubling.
const SLOT_BYTES: usize = 64;

/// A queue that grew beyond this many slots gives its memory back once it is empty.
const KEEP_SLOTS: usize = 16;

/// What is larger, in bytes, is read and written in turns: to copy it, and to look at all of it, takes a thread so long
/// that others would have to wait for it.
pub const BULK: usize = 64 * 1024;

/// Why an outbox takes no more frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The socket reads slower than its rooms talk: too many bytes or frames wait for it.
    #[error("Outbox is full")]
    SlowConsumer,
    /// The node held too much for all clients, and this socket most of it ([`Memory`](crate::Memory)).
    #[error("The node has no memory for it")]
    NoMemory,
    /// Writing failed, or the socket is ending.
    #[error("Connection is gone")]
    Gone,
}

impl Closed {
    /// For a line of the log: which limit was reached.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::SlowConsumer => {
                "it reads more slowly than its channels send: 10 MB or 65536 frames wait for it"
            }
            Self::NoMemory => "MAX_CLIENT_MEMORY_MB is reached, and it held most",
            Self::Gone => "the connection is gone",
        }
    }
}

/// What became of a [`flush`](crate::Outbox::flush).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Nothing is left.
    Done,
    /// The rest has to wait until the socket takes more.
    Blocked,
    /// What waits is large: it has to be written in turns.
    Large,
    /// Nothing more is to be written but a close frame.
    Closed(Closed),
}

/// The state of an outbox.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) frames: VecDeque<Bytes>,
    pub(crate) bytes: usize,
    /// Bytes of frames for this socket that wait elsewhere.
    pub(crate) kept: usize,
    /// Bytes that the socket holds beside frames.
    pub(crate) beside: usize,
    /// How many of all these bytes the node has counted.
    pub(crate) counted: usize,
    /// Whether it is one of those that may be closed for what they hold.
    pub(crate) large: bool,
    /// The socket was told to go: nothing that it holds counts any more.
    pub(crate) given_up: bool,
    /// What remains is not to be written.
    pub(crate) cut: bool,
    /// The first frame was written in part.
    pub(crate) partial: bool,
    pub(crate) closed: Option<Closed>,
    pub(crate) sink: Option<Arc<dyn Sink>>,
    pub(crate) signals: Vec<Signal>,
    /// Bytes that left, since the start.
    pub(crate) written: u64,
}

impl Queue {
    /// Appends a frame. False if the limit was hit.
    pub(crate) fn append(&mut self, frame: Bytes, limit: usize) -> bool {
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

    /// Appends what a direct write left of frames: all but the first `written` bytes. False if the limit was hit.
    pub(crate) fn append_rest<B: Borrow<Bytes>>(
        &mut self,
        frames: &[B],
        mut written: usize,
        limit: usize,
    ) -> bool {
        let mut accepted = true;
        for frame in frames {
            let frame = frame.borrow();
            if written >= frame.len() {
                written -= frame.len();
                continue;
            }
            self.partial |= written > 0;
            accepted &= self.append(frame.slice(written..), limit);
            written = 0;
        }
        accepted
    }

    /// Drops the first `count` bytes, which were written.
    fn advance(&mut self, mut count: usize) {
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

    /// Takes nothing more. Frames that were not begun are dropped at once: the socket's task may be long in coming.
    pub(crate) fn too_slow(&mut self) {
        self.close(Closed::SlowConsumer);
    }

    /// Takes nothing more, for a reason. Frames that were not begun are dropped.
    fn close(&mut self, why: Closed) {
        self.closed.get_or_insert(why);
        self.drop_rest();
        self.frames.shrink_to_fit();
    }

    /// Drops the frames that were not begun.
    fn drop_rest(&mut self) {
        self.frames.truncate(usize::from(self.partial));
        self.bytes = self.frames.iter().map(Bytes::len).sum();
    }

    /// Takes nothing more but `last`. If `rest` is false, frames that were not begun are dropped.
    pub(crate) fn finish(&mut self, last: Bytes, rest: bool) {
        self.closed.get_or_insert(Closed::Gone);
        if !rest {
            self.drop_rest();
        }
        self.bytes += last.len();
        self.frames.push_back(last);
    }

    /// The node holds too much: nothing of this socket counts any more. At the second time even a frame that is partly
    /// written is dropped.
    pub(crate) fn give_up(&mut self) {
        if self.closed.is_some() {
            self.cut = true;
            self.frames = VecDeque::new();
            self.bytes = 0;
        } else {
            self.close(Closed::NoMemory);
        }
        self.given_up = true;
    }

    /// Moves all frames to the end of `into`.
    pub(crate) fn take(&mut self, into: &mut VecDeque<Bytes>) {
        into.append(&mut self.frames);
        self.written += self.bytes as u64;
        self.bytes = 0;
        self.shrink();
    }

    /// Moves the first frames to the end of `into`, until that has `most` bytes or one frame.
    pub(crate) fn take_some(&mut self, into: &mut Vec<Bytes>, most: usize) {
        let mut all: usize = into.iter().map(Bytes::len).sum();
        while let Some(frame) = self.frames.front()
            && (into.is_empty() || all.saturating_add(frame.len()) <= most)
            && let Some(frame) = self.frames.pop_front()
        {
            all += frame.len();
            self.written += frame.len() as u64;
            self.bytes -= frame.len();
            into.push(frame);
        }
        self.shrink();
    }

    /// Bytes that its socket holds.
    pub(crate) fn load(&self) -> usize {
        // What a socket holds beside frames ends with its task.
        self.bytes + if self.given_up { 0 } else { self.kept + self.beside }
    }

    /// What the node has to count of it. Frames count themselves, wherever they are.
    pub(crate) fn to_count(&self) -> usize {
        if self.given_up { 0 } else { self.frames.len() * SLOT_BYTES + self.beside }
    }

    /// Gives memory back after a burst.
    pub(crate) fn shrink(&mut self) {
        if self.frames.is_empty() && self.frames.capacity() > KEEP_SLOTS {
            self.frames = VecDeque::new();
        }
    }

    /// Writes frames straight to the socket if nothing waits before them; returns how many bytes were written, and
    /// whether the sink has passed them all on.
    pub(crate) fn write_direct<B: Borrow<Bytes>>(&mut self, frames: &[B]) -> Result<(usize, bool), Closed> {
        let Some(sink) = self.sink.as_deref().filter(|_| self.frames.is_empty()) else {
            return Ok((0, true));
        };
        if frames.iter().map(|frame| frame.borrow().len()).sum::<usize>() > BULK {
            // Not by a publisher, who may have many to write to.
            return Ok((0, true));
        }
        let direct = sink::write(sink, frames.iter().map(Borrow::borrow));
        match direct.and_then(|count| Ok((count, sink.try_drain()?))) {
            Ok((count, drained)) => {
                self.written += count as u64;
                Ok((count, drained))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((0, true)),
            Err(_) => {
                self.closed = Some(Closed::Gone);
                Err(Closed::Gone)
            }
        }
    }

    /// Writes the first frames, once. False when the socket takes no more, or is gone.
    pub(crate) fn write_some(&mut self) -> bool {
        match self.try_write() {
            Ok(written) => written,
            Err(_) => {
                self.closed = Some(Closed::Gone);
                false
            }
        }
    }

    /// Writes the first frames, once. False when the socket takes no more, or there is none.
    pub(crate) fn try_write(&mut self) -> io::Result<bool> {
        let Some(sink) = &self.sink else { return Ok(false) };
        match sink::write(&**sink, self.frames.iter()) {
            Ok(count) => {
                self.advance(count);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes what the sink still holds.
    pub(crate) fn drain(&mut self) -> Flush {
        match self.try_drain() {
            Ok(true) => Flush::Done,
            Ok(false) => Flush::Blocked,
            Err(_) => {
                self.closed = Some(Closed::Gone);
                Flush::Closed(Closed::Gone)
            }
        }
    }

    /// Writes what the sink still holds. False if it has to wait.
    pub(crate) fn try_drain(&self) -> io::Result<bool> {
        self.sink.as_ref().map_or(Ok(true), |sink| sink.try_drain())
    }
}
