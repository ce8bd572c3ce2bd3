//! The pass over the members of a room.
//!
//! One at a time per room. Messages published during a pass wait for the next and leave together, one write
//! per member: under load a room coalesces by itself, an idle one delivers at once.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::MutexGuard;
use tokio::{runtime::Handle, task, time};

use crate::{
    Signal,
    room::{Kind, Message, Room, RoomCell, SERIALIZERS, Slot},
};

/// Members served under one hold of the room's lock: about a third of a millisecond of system calls.
const SLICE: usize = 64;

/// Rooms up to this size are served by whoever publishes; larger ones by a task that yields after each slice.
const INLINE: usize = 256;

/// Passes in a row by whoever publishes: what others go on publishing is not its work for ever.
const INLINE_PASSES: usize = 4;

/// Somebody has to give the members of a room what was published. Runs when dropped, at the latest.
#[derive(Debug)]
#[must_use = "run it once everything that belongs together is published"]
pub struct FanOut(Option<Arc<RoomCell>>);

impl FanOut {
    pub(crate) fn new(cell: Arc<RoomCell>) -> Self {
        Self(Some(cell))
    }

    /// Delivers. Never waits; a large room is served by a task of its own.
    pub fn run(self) {
        drop(self);
    }
}

impl Drop for FanOut {
    fn drop(&mut self) {
        let Some(cell) = self.0.take() else { return };
        let mut passes = 0;
        while let Some(mut pass) = Pass::begin(&cell) {
            passes += 1;
            if (pass.members > INLINE || passes > INLINE_PASSES)
                && let Ok(runtime) = Handle::try_current()
            {
                runtime.spawn(serve(cell, pass));
                return;
            }
            while pass.slice(&cell) {}
        }
    }
}

/// Serves a large room until nothing waits any more.
async fn serve(cell: Arc<RoomCell>, mut pass: Pass) {
    loop {
        while pass.slice(&cell) {
            task::yield_now().await;
        }
        drop(pass);
        // Publishers that wait for a turn get it before we look at what has gathered.
        task::yield_now().await;
        match Pass::begin(&cell) {
            Some(next) => pass = next,
            None => return,
        }
    }
}

/// Runs a fan-out when presence may next be announced.
fn announce_at(cell: &Arc<RoomCell>, at: time::Instant) {
    let Ok(runtime) = Handle::try_current() else { return };
    let cell = Arc::clone(cell);
    runtime.spawn(async move {
        time::sleep_until(at).await;
        let fan_out = {
            let mut room = cell.room.lock();
            if let Some(presence) = &mut room.presence {
                presence.waiting = false;
            }
            cell.schedule(&mut room)
        };
        drop(fan_out);
    });
}

struct Pass {
    batch: Vec<Message>,
    /// The next place to serve.
    at: usize,
    members: usize,
    /// Whether those who get a broadcast have to stop.
    stop: bool,
    /// Frames handed out, of each kind.
    broadcasts: u64,
    diffs: u64,
}

impl Pass {
    /// Takes what waits. `None`: nothing does, and the next to publish has to fan out.
    fn begin(cell: &Arc<RoomCell>) -> Option<Self> {
        let mut room = cell.room.lock();
        if let Some(at) = room.announce(cell)
            && let Some(presence) = &mut room.presence
            && !presence.waiting
        {
            presence.waiting = true;
            announce_at(cell, at);
        }
        if room.batch.is_empty() {
            room.scheduled = false;
            return None;
        }
        let batch = std::mem::take(&mut room.batch);
        room.batch_bytes = 0;
        let members = room.len();
        drop(room);
        cell.taken.notify_waiters();
        let stop = cell.meter.is_exceeded();
        Some(Self { batch, at: 0, members, stop, broadcasts: 0, diffs: 0 })
    }

    /// Serves the next members. False when all were served.
    fn slice(&mut self, cell: &RoomCell) -> bool {
        let lists = Lists::new(&self.batch);
        let mut room = cell.room.lock();
        let mut served = 0;
        while let Some(slot) = room.slots.get_mut(self.at) {
            if served == SLICE {
                MutexGuard::unlock_fair(room);
                return true;
            }
            self.at += 1;
            let Some(slot) = slot else { continue };
            served += 1;
            let (broadcasts, diffs) = lists.send(slot);
            self.broadcasts += broadcasts;
            self.diffs += diffs;
            if self.stop && broadcasts > 0 {
                slot.outbox.signal(Signal::TooManyEvents(slot.id));
            }
        }
        self.count(cell, room);
        false
    }

    fn count(&self, cell: &RoomCell, room: MutexGuard<'_, Room>) {
        drop(room);
        for (kind, count) in [(Kind::Broadcast, self.broadcasts), (Kind::Presence, self.diffs)] {
            if count > 0 {
                cell.meter.delivered(kind, count);
            }
        }
    }
}

/// The frames of a batch for each serializer, as most members get them.
struct Lists<'a> {
    batch: &'a [Message],
    frames: [List<'a>; SERIALIZERS],
    /// Whether there are diffs of presence.
    diffs: bool,
}

#[derive(Default)]
struct List<'a> {
    frames: Vec<&'a Bytes>,
    broadcasts: u64,
    diffs: u64,
}

impl<'a> List<'a> {
    fn push(&mut self, message: &'a Message, vsn: realtime_protocol::Vsn) {
        let Some(frame) = message.frame(vsn) else { return };
        self.frames.push(frame);
        match message.kind {
            Kind::Broadcast => self.broadcasts += 1,
            Kind::Presence => self.diffs += 1,
            Kind::Notice => {}
        }
    }

    fn send(&self, slot: &Slot) -> (u64, u64) {
        if self.frames.is_empty() || slot.outbox.send(&self.frames).is_err() {
            return (0, 0);
        }
        (self.broadcasts, self.diffs)
    }
}

impl<'a> Lists<'a> {
    fn new(batch: &'a [Message]) -> Self {
        let diffs = batch.iter().any(|message| message.kind == Kind::Presence);
        let mut lists = Self { batch, frames: Default::default(), diffs };
        for (list, vsn) in lists.frames.iter_mut().zip(crate::room::ALL) {
            for message in batch {
                list.push(message, vsn);
            }
        }
        lists
    }

    /// Sends a member what is meant for it; how many broadcasts and diffs that were.
    fn send(&self, slot: &mut Slot) -> (u64, u64) {
        if slot.hold(self.batch) {
            return (0, 0);
        }
        let gate = slot.diffs.as_deref().filter(|gate| self.diffs && gate.is_shut());
        let all = gate.is_none()
            && slot.is_plain()
            && self.batch.iter().all(|message| slot.is_recent(message) && message.except != Some(slot.id));
        if all {
            return self.frames.get(slot.vsn as usize).map_or((0, 0), |list| list.send(slot));
        }
        // A sender, a member that has just come, one that may not see everything, or whose diffs wait.
        let mut list = List::default();
        let mut kept = 0;
        for message in self.batch.iter().filter(|message| slot.wants(message)) {
            let diff = gate.filter(|_| message.kind == Kind::Presence).zip(message.frame(slot.vsn));
            if diff.is_some_and(|(gate, frame)| gate.keep(slot.id, frame, &slot.outbox)) {
                kept += 1;
            } else {
                list.push(message, slot.vsn);
            }
        }
        let (broadcasts, diffs) = list.send(slot);
        (broadcasts, diffs + kept)
    }
}
