//! The pass over the members of a room.
//!
//! One at a time per room. Messages published during a pass wait for the next and leave together, one write
//! per member: under load a room coalesces by itself, an idle one delivers at once.

use std::{borrow::Borrow, sync::Arc};

use bytes::Bytes;
use parking_lot::MutexGuard;
use realtime_protocol::Vsn;
use tokio::{
    runtime::Handle,
    task,
    time::{self, Instant},
};

use crate::{
    cell::RoomCell,
    diff_gate::DiffGate,
    form::{Form, PACKED},
    key::Kind,
    message::{ALL, Message, SERIALIZERS},
    packing::Packing,
    queue::BULK,
    room::Room,
    signal::Signal,
    slot::Slot,
};

/// Members served under one hold of the room's lock: about a third of a millisecond of system calls.
const SLICE: usize = 64;

/// The publisher serves rooms up to this size; larger ones are served by a task that yields after each slice.
const INLINE: usize = 256;

/// Passes in a row by one publisher: it does not have to deliver for ever what others go on publishing.
const INLINE_PASSES: usize = 4;

/// The duty to give the members of a room what was published. Runs when dropped, at the latest.
#[derive(Debug)]
#[must_use = "run it once everything that belongs together is published"]
pub struct FanOut(Option<Arc<RoomCell>>);

impl FanOut {
    /// Delivers. Never waits; a large room is served by a task of its own.
    pub fn run(self) {
        drop(self);
    }
}

impl Drop for FanOut {
    fn drop(&mut self) {
        let Some(cell) = self.0.take() else { return };
        let mut passes = 0;
        while let Some(mut batch) = Batch::take(&cell) {
            passes += 1;
            let is_much = batch.members > INLINE || batch.packing.is_much(&batch.messages);
            if (is_much || passes > INLINE_PASSES)
                && let Ok(runtime) = Handle::try_current()
            {
                runtime.spawn(serve(cell, batch));
                return;
            }
            batch.packing.pack(&mut batch.messages);
            let mut pass = Pass::begin(&cell, batch);
            while pass.slice(&cell) {}
        }
    }
}

impl RoomCell {
    /// Claims the next pass over the members. `None`: somebody else has claimed it.
    pub(crate) fn schedule(self: &Arc<Self>, room: &mut Room) -> Option<FanOut> {
        room.schedule().then(|| FanOut(Some(Arc::clone(self))))
    }
}

/// Serves a large room, or one with much to compress, until nothing waits any more.
async fn serve(cell: Arc<RoomCell>, mut batch: Batch) {
    loop {
        batch.packing.pack_in_turns(&mut batch.messages, &cell.context.packers).await;
        let mut pass = Pass::begin(&cell, batch);
        while pass.slice(&cell) {
            task::yield_now().await;
        }
        drop(pass);
        // Publishers that wait for a turn get it before we look at what has gathered.
        task::yield_now().await;
        match Batch::take(&cell) {
            Some(next) => batch = next,
            None => return,
        }
    }
}

/// Runs a fan-out when presence may next be announced.
fn announce_at(cell: &Arc<RoomCell>, at: Instant) {
    let Ok(runtime) = Handle::try_current() else { return };
    let cell = Arc::clone(cell);
    runtime.spawn(async move {
        time::sleep_until(at).await;
        let fan_out = {
            let mut room = cell.room.lock();
            room.resume();
            cell.schedule(&mut room)
        };
        drop(fan_out);
    });
}

/// What waited in a room, for one pass over its members.
struct Batch {
    messages: Vec<Message>,
    members: usize,
    /// Who takes compressed messages.
    packing: Packing,
}

impl Batch {
    /// Takes what waits. `None`: nothing does, and the next to publish has to fan out.
    fn take(cell: &Arc<RoomCell>) -> Option<Self> {
        let mut room = cell.room.lock();
        if room.has_news(Instant::now)
            && let Some(at) = room.announce(Instant::now(), cell.context.presence_interval, &cell.key.topic)
        {
            announce_at(cell, at);
        }
        let messages = room.take_batch()?;
        let (members, packing) = (room.len(), room.packing);
        drop(room);
        cell.taken.notify_waiters();
        Some(Self { messages, members, packing })
    }
}

/// One pass over the members.
struct Pass {
    batch: Vec<Message>,
    lists: Lists,
    /// The next slot to serve.
    at: usize,
    /// Whether channels that get a broadcast have to stop.
    stop: bool,
    sent: Sent,
}

/// Frames handed out, of each kind that is counted.
#[derive(Debug, Default, Clone, Copy)]
struct Sent {
    broadcasts: u64,
    diffs: u64,
}

impl Sent {
    fn add(&mut self, other: Self) {
        self.broadcasts += other.broadcasts;
        self.diffs += other.diffs;
    }
}

impl Pass {
    /// Begins with the first member.
    fn begin(cell: &RoomCell, batch: Batch) -> Self {
        let stop = cell.meter.is_exceeded();
        let lists = Lists::of(&batch);
        Self { batch: batch.messages, lists, at: 0, stop, sent: Sent::default() }
    }

    /// Serves the next members. False when all were served.
    fn slice(&mut self, cell: &RoomCell) -> bool {
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
            let sent = self.lists.send(&self.batch, slot);
            self.sent.add(sent);
            if self.stop && sent.broadcasts > 0 {
                slot.outbox.signal(Signal::TooManyEvents(slot.id));
            }
        }
        drop(room);
        self.count(cell);
        false
    }

    fn count(&self, cell: &RoomCell) {
        for (kind, count) in [(Kind::Broadcast, self.sent.broadcasts), (Kind::Presence, self.sent.diffs)] {
            if count > 0 {
                cell.meter.delivered(kind, count);
            }
        }
    }
}

/// The frames of a batch for each serializer, as most members get them. Made once per pass, so that serving a member
/// allocates nothing.
struct Lists {
    frames: [List<Bytes>; SERIALIZERS],
    /// Those for members that take compressed messages; empty where there are none.
    packed: [List<Bytes>; PACKED],
    /// Whether there are diffs of presence.
    diffs: bool,
    /// Bytes of the diffs, if they are large.
    large_diffs: usize,
}

/// Frames for one serializer.
struct List<F> {
    frames: Vec<F>,
    counts: Sent,
}

impl<F> Default for List<F> {
    fn default() -> Self {
        Self { frames: Vec::new(), counts: Sent::default() }
    }
}

impl<F: Borrow<Bytes>> List<F> {
    fn push(&mut self, kind: Kind, frame: F) {
        self.frames.push(frame);
        match kind {
            Kind::Broadcast => self.counts.broadcasts += 1,
            Kind::Presence => self.counts.diffs += 1,
            Kind::Notice => {}
        }
    }

    fn send(&self, slot: &Slot) -> Sent {
        if self.frames.is_empty() || slot.outbox.send(&self.frames).is_err() {
            return Sent::default();
        }
        self.counts
    }
}

impl Lists {
    fn of(batch: &Batch) -> Self {
        let diffs = batch.messages.iter().any(|message| message.kind.is_presence());
        let large_diffs = if diffs { large_diffs(&batch.messages) } else { 0 };
        let list = |vsn: Vsn, form: Option<Form>| {
            let mut list = List::default();
            for message in &batch.messages {
                if let Some(frame) = message.frame_as(vsn, form) {
                    list.push(message.kind, frame.clone());
                }
            }
            list
        };
        let packed = |form: Form| match batch.packing.uses(form) {
            true => list(form.vsn(), Some(form)),
            false => List::default(),
        };
        Self { frames: ALL.map(|vsn| list(vsn, None)), packed: Form::ALL.map(packed), diffs, large_diffs }
    }

    /// The list for members like this one.
    fn of_slot(&self, slot: &Slot) -> Option<&List<Bytes>> {
        match slot.form {
            Some(form) => self.packed.get(form.index()),
            None => self.frames.get(slot.vsn as usize),
        }
    }

    /// Sends a member what is meant for it.
    fn send(&self, batch: &[Message], slot: &mut Slot) -> Sent {
        if slot.hold(batch) {
            return Sent::default();
        }
        if self.large_diffs > 0 {
            slot.skip_diffs(self.large_diffs);
        }
        let shut = self.diffs && slot.diffs.as_deref().is_some_and(DiffGate::is_shut);
        let all = !shut
            && slot.is_plain()
            && batch.iter().all(|message| slot.is_recent(message) && !message.is_of(slot.id));
        if all {
            return self.of_slot(slot).map_or(Sent::default(), |list| list.send(slot));
        }
        send_chosen(batch, slot)
    }
}

/// Bytes of the diffs of presence in a batch. Zero if they are small.
fn large_diffs(batch: &[Message]) -> usize {
    let diffs = batch.iter().filter(|message| message.kind.is_presence());
    let sizes = diffs.filter_map(|diff| diff.frames.iter().flatten().map(Bytes::len).max());
    let bytes = sizes.sum();
    if bytes > BULK { bytes } else { 0 }
}

/// Sends a member a list of its own: a sender, a member that has just come, one that may not see everything, or whose
/// diffs wait.
fn send_chosen(batch: &[Message], slot: &Slot) -> Sent {
    let mut list = List::default();
    let mut kept = Sent::default();
    for message in batch.iter().filter(|message| slot.wants(message)) {
        let Some(frame) = slot.frame(message) else { continue };
        let gate = slot.diffs.as_deref().filter(|_| message.kind.is_presence());
        if gate.is_some_and(|gate| gate.keep(slot.id, frame, &slot.outbox)) {
            kept.diffs += 1;
        } else {
            list.push(message.kind, frame);
        }
    }
    let mut sent = list.send(slot);
    sent.add(kept);
    sent
}
