//! Keeps diffs of presence back from a socket whose joins are not answered yet.
//!
//! Clients in C# take any diff on the socket as the answer to every push that they wait for (clients 6): for them a join
//! never ends if its answer comes after a diff.

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{key::MemberId, outbox::Outbox};

/// Bytes of diffs that are kept; beyond that they are sent nevertheless. A second's worth in all but the busiest rooms.
const MAX_KEPT: usize = 1_000_000;

/// Keeps the diffs of one socket's channels while it is shut. Open at first.
#[derive(Debug, Default)]
pub struct DiffGate(Mutex<Option<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// With the channel that each is for.
    frames: Vec<(MemberId, Bytes)>,
    bytes: usize,
}

impl DiffGate {
    /// Keeps diffs from now on.
    pub fn shut(&self) {
        self.0.lock().get_or_insert_default();
    }

    /// Queues what was kept. From now on nothing is kept.
    pub fn open(&self, outbox: &Outbox) {
        let mut kept = self.0.lock();
        // Queued under the lock: a later diff of the same room must not overtake.
        for (_, frame) in kept.take().unwrap_or_default().frames {
            let _ = outbox.queue(frame);
        }
    }

    /// Keeps a diff if the gate is shut. False: the diff has to be sent.
    pub(crate) fn keep(&self, member: MemberId, frame: &Bytes, outbox: &Outbox) -> bool {
        let mut gate = self.0.lock();
        let Some(kept) = &mut *gate else { return false };
        kept.bytes += frame.len();
        kept.frames.push((member, frame.clone()));
        if kept.bytes > MAX_KEPT {
            for (_, frame) in std::mem::take(&mut kept.frames) {
                let _ = outbox.push(frame);
            }
            *gate = None;
        }
        true
    }

    /// Drops what it keeps for a channel: the channel left, or is sent the whole state, which has these diffs in it.
    pub(crate) fn forget(&self, member: MemberId) {
        let mut gate = self.0.lock();
        let Some(kept) = &mut *gate else { return };
        kept.frames.retain(|(of, _)| *of != member);
        kept.bytes = kept.frames.iter().map(|(_, frame)| frame.len()).sum();
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.0.lock().is_some()
    }
}
