//! What this node has to say to others: a stream of numbered envelopes for each part of a tenant.
//!
//! A publisher appends a record to the stream's buffer and is done. One task (see `node`) takes buffers in the order in
//! which they became non-empty: what gathers while it is busy leaves as one envelope. So a busy node coalesces, and an idle
//! one does not wait.
//!
//! Bounds: above [`LARGE`] bytes publishers are asked to wait. Above [`FULL`] bytes records are lost: first those of the
//! tenants that filled the buffers. A loss, here or because there is no connection, uses up a number, so that the others
//! notice it.
//!
//! What nobody listens to elsewhere is not sent. It uses up a number as well: a node that should have been listened to, and
//! was forgotten for a while, notices that too.

use std::{
    cell::Cell,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{BufMut as _, Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use realtime_hub::{Audience, Backlog, Entry, MemberId, RoomKey};
use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use crate::{
    chance::Map,
    common::Common,
    rates::{self, METERS, Rates},
    scope::{Listens, Part, Scope},
    wire::{self, HEADER, Header, Kind, Unheard},
};

/// Above this many bytes publishers wait.
const LARGE: usize = 4_000_000;

/// Above this many bytes records are lost, except those of tenants that have no more than their share waiting: many sockets
/// of one tenant may each have said something large before they were asked to wait.
const FULL: usize = 64_000_000;

/// Bytes that a tenant may have waiting while others fill the queue.
const SHARE: usize = 1_000_000;

/// Above this many bytes everything is lost.
const OVERFULL: usize = 2 * FULL;

/// A larger buffer is given back once it was sent.
const KEPT_BUFFER: usize = 64 * 1024;

/// A stream is forgotten after it has been silent for this long, if it has no state on this node.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// A stream that nobody was sent anything of is forgotten sooner: nobody remembers its numbers.
const FORGOTTEN_UNHEARD: Duration = Duration::from_secs(600);

/// Marks may be lost as well, so they are said again after one heartbeat, two, four, and so on, up to a pause of so many times
/// the time after which a silent node is forgotten. A node that does not hear us for longer forgets us, and asks.
const MARKED_FOR: u32 = 4;

/// A mark of no envelope: the stream is due for another mark.
const UNMARKED: u64 = u64::MAX;

/// What is said about one part of a tenant.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) scope: Scope,
    /// Where the tenant's rooms are listened to.
    common: Arc<Common>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the last envelope.
    number: u64,
    /// Space for a header, then the records that wait. Empty if there are none.
    buffer: BytesMut,
    /// Something was lost since the last envelope.
    lost: bool,
    /// Whether it is in the queue.
    queued: bool,
    /// Whether what was taken is still being published. A mark must not overtake it: receivers would take it for lost.
    publishing: bool,
    /// All entries of presence of this node, by room and member.
    present: Map<(Audience, Arc<str>, MemberId), Arc<Entry>>,
    /// Users on this node, as the others were told.
    users: u32,
    /// How often what is limited happens on this node, as the others were told.
    rates: Rates,
    /// The buckets that this node listens to.
    listens: Listens,
    /// When something was last said that was not sent to all others.
    unheard_at: Option<Instant>,
    /// The last envelope that a mark was sent for, and when something was last said.
    marked: u64,
    active: Option<Instant>,
    /// When the mark is said again, and the pause after that.
    again: Option<(Instant, Duration)>,
}

/// What has to be said about all tenants.
#[derive(Debug)]
pub(crate) struct Outgoing {
    node: u32,
    heartbeat: Duration,
    /// The longest pause between two marks of the same envelope.
    longest_pause: Duration,
    streams: RwLock<Map<Scope, Arc<Stream>>>,
    commons: Mutex<Map<Arc<str>, Arc<Common>>>,
    /// Counts the changes of what this node listens to.
    versions: AtomicU64,
    /// When something was last said, in a stream that was forgotten, that was not sent to all others.
    forgotten_unheard: Mutex<Option<Instant>>,
    /// The largest number of all streams that were forgotten. New streams go on from there: receivers would take a number
    /// that was used before for a message that they already have, and drop it in silence. A number that is too high is at
    /// worst taken for a gap.
    floor: AtomicU64,
    /// Streams with something to say, in order.
    queue: Mutex<VecDeque<Arc<Stream>>>,
    filled: Notify,
    pub(crate) backlog: Arc<Backlog>,
}

/// This node's state of a part of a tenant.
pub(crate) struct Snapshot {
    /// Number of the last envelope.
    pub(crate) as_of: u64,
    /// When something was last said that was not sent to all others.
    pub(crate) unheard: Unheard,
    /// Records; `None` if nothing was ever said, or it was forgotten.
    pub(crate) records: Option<Bytes>,
}

impl State {
    /// Something is said that nobody else gets to hear.
    fn say_unheard(&mut self, now: Instant) {
        // Without a mark: whoever should have heard it is told when it is known again.
        if self.marked == self.number {
            self.marked += 1;
        }
        self.number += 1;
        self.unheard_at = Some(now);
    }

    /// Whether others remember what was said, or need what is so now.
    fn is_needed(&self, now: Instant) -> bool {
        let busy = self.queued || self.publishing || self.lost || self.marked != self.number;
        let within =
            |at: Option<Instant>, limit| at.is_some_and(|at| now.saturating_duration_since(at) < limit);
        let recent = within(self.active, FORGOTTEN) || within(self.unheard_at, FORGOTTEN_UNHEARD);
        busy || recent || self.users > 0 || !self.present.is_empty() || self.listens.buckets != 0
    }
}

impl Stream {
    /// What was taken has been handed to NATS: what is published from now on comes after it.
    pub(crate) fn published(&self) {
        self.state.lock().publishing = false;
    }
}

impl Outgoing {
    pub(crate) fn new(node: u32, heartbeat: Duration, node_timeout: Duration) -> Self {
        Self {
            node,
            heartbeat,
            longest_pause: node_timeout * MARKED_FOR,
            streams: RwLock::default(),
            commons: Mutex::default(),
            versions: AtomicU64::new(0),
            forgotten_unheard: Mutex::default(),
            floor: AtomicU64::new(0),
            queue: Mutex::default(),
            filled: Notify::new(),
            backlog: Arc::new(Backlog::new(LARGE)),
        }
    }

    /// The stream of a part of a tenant. Its numbers go on as long as somebody may remember them.
    pub(crate) fn stream(&self, scope: &Scope) -> Arc<Stream> {
        if let Some(stream) = self.streams.read().get(scope) {
            return Arc::clone(stream);
        }
        let common = self.common(&scope.tenant);
        let mut streams = self.streams.write();
        let stream = streams.entry(scope.clone()).or_insert_with(|| {
            let number = self.floor.load(Ordering::Relaxed);
            let state = State { number, marked: number, ..State::default() };
            Arc::new(Stream { scope: scope.clone(), common, state: Mutex::new(state) })
        });
        Arc::clone(stream)
    }

    /// What the parts of a tenant have in common.
    pub(crate) fn common(&self, tenant: &Arc<str>) -> Arc<Common> {
        Arc::clone(self.commons.lock().entry(Arc::clone(tenant)).or_default())
    }

    /// Forgets the streams that nobody needs any more.
    pub(crate) fn forget_idle(&self, now: Instant) {
        self.streams.write().retain(|_, stream| {
            // Nobody can get another handle while the table is locked.
            if Arc::strong_count(stream) > 1 {
                return true;
            }
            let state = stream.state.lock();
            let needed = state.is_needed(now);
            if !needed {
                self.floor.fetch_max(state.number, Ordering::Relaxed);
                let mut unheard = self.forgotten_unheard.lock();
                *unheard = (*unheard).max(state.unheard_at);
            }
            needed
        });
        self.commons.lock().retain(|_, common| Arc::strong_count(common) > 1);
    }

    /// Forgets everything: the simulation is over.
    #[cfg(test)]
    pub(crate) fn forget_all(&self) {
        self.streams.write().clear();
        self.commons.lock().clear();
    }

    /// The stream of a part of a tenant, if anything was ever said about it.
    pub(crate) fn existing(&self, scope: &Scope) -> Option<Arc<Stream>> {
        self.streams.read().get(scope).map(Arc::clone)
    }

    /// Appends a record of about this size.
    pub(crate) fn say(&self, scope: &Scope, size: usize, write: impl FnOnce(&mut BytesMut)) {
        self.append(&self.stream(scope), size, |_| true, write);
    }

    /// The presence of a member of this node has changed.
    pub(crate) fn present(&self, room: &RoomKey, member: MemberId, entry: Option<&Arc<Entry>>) {
        let RoomKey { tenant, audience, topic } = room;
        let stream = self.stream(&Scope::of_room(tenant, topic));
        let key = (*audience, Arc::clone(topic), member);
        let size = topic.len() + entry.map_or(0, |entry| entry.meta().len() + entry.key().len()) + 64;
        let change = |state: &mut State| match entry {
            Some(entry) => {
                state.present.insert(key, Arc::clone(entry));
                true
            }
            None => state.present.remove(&key).is_some(),
        };
        self.append(&stream, size, change, |out| match entry {
            Some(entry) => wire::put_present(out, *audience, topic, member, entry),
            None => wire::put_absent(out, *audience, topic, member),
        });
    }

    /// Sets how many users the tenant has on this node, and says so if the number has changed.
    pub(crate) fn users(&self, tenant: &Arc<str>, users: u32) {
        let change = |state: &mut State| std::mem::replace(&mut state.users, users) != users;
        let scope = Scope::whole(tenant);
        let stream = self.existing(&scope);
        if users == 0 && stream.is_none() {
            return;
        }
        let stream = stream.unwrap_or_else(|| self.stream(&scope));
        self.append(&stream, 8, change, |out| wire::put_users(out, users));
    }

    /// Says how often what is limited happens on this node, if `nodes` nodes with users would be mistaken too much.
    pub(crate) fn rates(&self, tenant: &Arc<str>, rates: Rates, limits: &[u32; METERS], nodes: usize) {
        let Some(stream) = self.existing(&Scope::whole(tenant)) else { return };
        let change = |state: &mut State| {
            let changed = rates::has_changed(&state.rates, &rates, limits, nodes);
            if changed {
                state.rates = rates;
            }
            changed
        };
        self.append(&stream, 32, change, |out| wire::put_rates(out, &rates));
    }

    /// Nothing that is limited happens on this node any more: the tenant has no sockets here, and nobody looks.
    pub(crate) fn still(&self, tenant: &Arc<str>) {
        let Some(stream) = self.existing(&Scope::whole(tenant)) else { return };
        let change = |state: &mut State| std::mem::take(&mut state.rates) != Rates::default();
        self.append(&stream, 32, change, |out| wire::put_rates(out, &Rates::default()));
    }

    /// This node begins to listen to a bucket of a tenant, or listens no longer.
    pub(crate) fn listen(&self, scope: &Scope, listens: bool) {
        let bit = scope.part.bit();
        let said = Cell::new(Listens::default());
        let change = |state: &mut State| {
            let buckets = if listens { state.listens.buckets | bit } else { state.listens.buckets & !bit };
            // Drawn under the lock, so that a higher version is a later one.
            let version = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
            state.listens = Listens { version, buckets };
            said.set(state.listens);
            true
        };
        let stream = self.stream(&Scope::whole(&scope.tenant));
        self.append(&stream, 20, change, |out| wire::put_listens(out, said.get()));
    }

    /// The buckets of a tenant that this node listens to.
    pub(crate) fn listens(&self, tenant: &Arc<str>) -> Listens {
        self.existing(&Scope::whole(tenant)).map(|stream| stream.state.lock().listens).unwrap_or_default()
    }

    /// Changes the state and says so in one step, so that snapshots and numbers fit.
    fn append(
        &self,
        stream: &Arc<Stream>,
        size: usize,
        change: impl FnOnce(&mut State) -> bool,
        write: impl FnOnce(&mut BytesMut),
    ) {
        let mut state = stream.state.lock();
        if !change(&mut state) {
            return;
        }
        if state.buffer.is_empty() && !stream.common.is_heard(stream.scope.part) {
            return state.say_unheard(Instant::now());
        }
        let waiting = self.backlog.bytes();
        if waiting > OVERFULL || (waiting > FULL && state.buffer.len() > SHARE) {
            state.lost = true;
        } else {
            if state.buffer.is_empty() {
                state.buffer.reserve(HEADER + size);
                state.buffer.put_bytes(0, HEADER);
            }
            let before = state.buffer.len();
            write(&mut state.buffer);
            self.backlog.add(state.buffer.len() - before);
        }
        if !std::mem::replace(&mut state.queued, true) {
            drop(state);
            self.queue.lock().push_back(Arc::clone(stream));
            self.filled.notify_one();
        }
    }

    /// The next stream with something to say. Cancel safe.
    pub(crate) async fn next(&self) -> Arc<Stream> {
        loop {
            if let Some(stream) = self.queue.lock().pop_front() {
                return stream;
            }
            self.filled.notified().await;
        }
    }

    /// Takes what a stream has to say, as messages of at most `max` bytes. While `deliverable` is false everything is
    /// lost, which uses up a number. Call [`published`](Stream::published) once they were handed to NATS.
    pub(crate) fn take(&self, stream: &Stream, max: usize, deliverable: bool, now: Instant) -> Vec<Bytes> {
        let mut state = stream.state.lock();
        (state.queued, state.publishing) = (false, true);
        state.active = Some(now);
        let mut buffer = state.buffer.split();
        if state.buffer.capacity() > KEPT_BUFFER {
            state.buffer = BytesMut::new();
        }
        self.backlog.take(buffer.len().saturating_sub(HEADER));
        if std::mem::take(&mut state.lost) || !deliverable {
            // No receiver will ever see this number.
            state.number += 1;
            state.unheard_at = Some(now);
        }
        if buffer.is_empty() || !deliverable {
            return Vec::new();
        }
        let max = max.max(HEADER + 1);
        if buffer.len() <= max {
            let header = self.number(&mut state, Kind::Records);
            buffer[..HEADER].copy_from_slice(&header);
            return vec![buffer.freeze()];
        }
        let records = buffer.split_off(HEADER).freeze();
        let mut pieces = records.chunks(max - HEADER).peekable();
        let mut messages = Vec::new();
        while let Some(piece) = pieces.next() {
            let kind = match (messages.is_empty(), pieces.peek()) {
                (true, _) => Kind::FirstFragment,
                (false, Some(_)) => Kind::Fragment,
                (false, None) => Kind::LastFragment,
            };
            let mut message = BytesMut::with_capacity(HEADER + piece.len());
            message.put_slice(&self.number(&mut state, kind));
            message.put_slice(piece);
            messages.push(message.freeze());
        }
        messages
    }

    fn number(&self, state: &mut State, kind: Kind) -> [u8; HEADER] {
        state.number += 1;
        Header { kind, node: self.node, number: state.number }.encode()
    }

    /// Marks for the streams that have been silent since their last envelope: they reveal its loss. `again`: also for streams
    /// that said something after that moment, whether somebody is known to listen or not.
    pub(crate) fn marks(&self, again: Option<Instant>, now: Instant) -> Vec<(Arc<Stream>, Bytes)> {
        let streams: Vec<_> = self.streams.read().values().map(Arc::clone).collect();
        let mut marks = Vec::new();
        for stream in streams {
            let mut state = stream.state.lock();
            let said = state.active.max(state.unheard_at);
            let recent = again.is_some_and(|since| said.is_some_and(|said| said >= since));
            let is_first = state.marked != state.number || recent;
            let is_due = is_first || state.again.is_some_and(|(at, _)| at <= now);
            if state.queued || state.publishing || !is_due {
                continue;
            }
            let pause = if is_first { Some(self.heartbeat) } else { state.again.map(|(_, pause)| pause) };
            let pause = pause.filter(|pause| *pause <= self.longest_pause);
            state.again = pause.map(|pause| (now + pause, pause * 2));
            state.marked = state.number;
            if !recent && !stream.common.is_heard(stream.scope.part) {
                continue;
            }
            let header = Header { kind: Kind::Mark, node: self.node, number: state.number };
            drop(state);
            marks.push((stream, Bytes::copy_from_slice(&header.encode())));
        }
        marks
    }

    /// Makes the streams of these buckets due for another mark, as far as something was said that not all may have heard.
    pub(crate) fn mark_again(&self, tenant: &Arc<str>, parts: impl Iterator<Item = Part>) {
        for part in parts {
            let Some(stream) = self.existing(&Scope { tenant: Arc::clone(tenant), part }) else { continue };
            let mut state = stream.state.lock();
            if state.unheard_at.is_some() || state.active.is_some() {
                state.marked = UNMARKED;
            }
        }
    }

    /// This node's state of a part of a tenant.
    pub(crate) fn snapshot(&self, scope: &Scope) -> Snapshot {
        let ago = |at: Option<Instant>| {
            at.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX - 1))
        };
        // Whether there is a stream and where a new one would begin have to fit.
        let streams = self.streams.read();
        let Some(stream) = streams.get(scope).map(Arc::clone) else {
            let (as_of, unheard) = (self.floor.load(Ordering::Relaxed), *self.forgotten_unheard.lock());
            return Snapshot { as_of, unheard: ago(unheard), records: None };
        };
        drop(streams);
        let state = stream.state.lock();
        let (as_of, users, listens, rates) = (state.number, state.users, state.listens, state.rates);
        let unheard = state.unheard_at.max(*self.forgotten_unheard.lock());
        let present: Vec<_> =
            state.present.iter().map(|(key, entry)| (key.clone(), Arc::clone(entry))).collect();
        drop(state);
        let mut records = BytesMut::new();
        if scope.part == Part::Whole {
            wire::put_users(&mut records, users);
            wire::put_listens(&mut records, listens);
            wire::put_rates(&mut records, &rates);
        }
        for ((audience, topic, member), entry) in present {
            wire::put_present(&mut records, audience, &topic, member, &entry);
        }
        Snapshot { as_of, unheard: ago(unheard), records: Some(records.freeze()) }
    }
}

#[cfg(test)]
mod tests;
