//! Where the row changes of one channel go, and what holds them back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use parking_lot::Mutex;
use realtime_changes::Delivery;
use realtime_hub::{Closed, Outbox};
use realtime_pgoutput::Position;
use realtime_protocol::{Ref, Vsn};

use crate::patience::Patience;

/// Where the row changes of one joined channel go, and what their frames look like.
#[derive(Debug)]
pub struct Route {
    /// The socket's outbox.
    pub outbox: Arc<Outbox>,
    /// The socket's serializer.
    pub vsn: Vsn,
    /// The topic as the client joined it.
    pub topic: Arc<str>,
    /// The channel's join_ref; `system` frames carry it.
    pub join_ref: Ref,
    /// Joined without `config`: changes come as events INSERT, UPDATE, DELETE (protocol 11.2).
    pub legacy: bool,
    /// A channel of the first generation, which knows no `system` frames.
    pub quiet: bool,
    /// Whether the client may need the event `*` (legacy 2.5).
    pub star: AtomicBool,
    /// How long the tenant's changes still wait for the sockets of this address.
    pub patience: Arc<Patience>,
    /// Holds back frames until the join is answered.
    pub gate: Gate,
    /// The last change that the client of a stream has got, until it was told of a gap.
    pub after: Option<Position>,
    /// Whether the client was told of a gap.
    pub gap: AtomicBool,
}

impl Route {
    /// Queues a frame. Returns whether the receiver has fallen behind, or an error if its socket is ending.
    pub(super) fn push(&self, frame: Bytes) -> Result<bool, Closed> {
        match self.gate.keep(frame, &self.outbox) {
            Ok(behind) => behind.ok_or(Closed::SlowConsumer),
            Err(frame) => self.outbox.push_gauged(frame),
        }
    }

    /// The same for several frames.
    pub(super) fn push_all(&self, frames: &[Bytes]) -> Result<bool, Closed> {
        match self.gate.keep_all(frames, &self.outbox) {
            Some(behind) => behind.ok_or(Closed::SlowConsumer),
            None => self.outbox.push_all(frames),
        }
    }

    /// Whether its client keeps where it is.
    pub(super) fn is_stream(&self) -> bool {
        self.vsn == Vsn::Events
    }

    /// Whether its client has a change already: with a permanent slot it may come again.
    pub(super) fn has(&self, position: Option<Position>) -> bool {
        position.zip(self.after).is_some_and(|(position, after)| position <= after)
            && !self.gap.load(Ordering::Relaxed)
    }

    /// The frames of those changes that its client has not got.
    pub(super) fn lacking(&self, deliveries: &[Delivery], frames: &[Bytes]) -> Vec<Bytes> {
        let all = deliveries.iter().zip(frames);
        all.filter(|(delivery, _)| !self.has(delivery.position)).map(|(_, frame)| frame.clone()).collect()
    }

    /// Tells its client where it is, unless that is known.
    pub(super) fn tell(&self, position: Position, frame: &Bytes) {
        if !self.has(Some(position)) {
            // A closed outbox belongs to a socket that is ending. It unsubscribes by itself.
            let _ = self.push(frame.clone());
        }
    }

    /// Sends the held frames and everything that follows, because the join was answered.
    pub fn open(&self) {
        let mut kept = self.gate.0.lock();
        for frame in kept.take().unwrap_or_default() {
            self.outbox.unkeep(frame.len());
            // A closed outbox belongs to a socket that is ending.
            let _ = self.outbox.push(frame);
        }
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let kept = self.gate.0.get_mut().take().unwrap_or_default();
        self.outbox.unkeep(kept.iter().map(Bytes::len).sum());
    }
}

/// Frames of a channel whose join is not answered yet, in order. They count as part of the outbox.
#[derive(Debug)]
pub struct Gate(Mutex<Option<Vec<Bytes>>>);

impl Gate {
    /// A gate that holds everything until it is opened.
    #[must_use]
    pub fn shut() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }

    /// A gate that holds nothing.
    #[must_use]
    pub fn open() -> Self {
        Self(Mutex::new(None))
    }

    /// Holds a frame if the gate is shut. Returns whether the receiver is behind, or `None` if its socket was closed
    /// for that. If the gate is open, the frame is given back.
    fn keep(&self, frame: Bytes, outbox: &Outbox) -> Result<Option<bool>, Bytes> {
        match &mut *self.0.lock() {
            Some(kept) => Ok(Self::hold(kept, frame, outbox)),
            None => Err(frame),
        }
    }

    /// The same for several frames; `None` if the gate is open.
    fn keep_all(&self, frames: &[Bytes], outbox: &Outbox) -> Option<Option<bool>> {
        let mut gate = self.0.lock();
        let kept = gate.as_mut()?;
        Some(frames.iter().try_fold(false, |_, frame| Self::hold(kept, frame.clone(), outbox)))
    }

    fn hold(kept: &mut Vec<Bytes>, frame: Bytes, outbox: &Outbox) -> Option<bool> {
        let behind = outbox.keep(frame.len());
        match behind {
            Some(_) => kept.push(frame),
            None => outbox.close_slow(),
        }
        behind
    }
}
