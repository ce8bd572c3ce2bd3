//! What this node has to say to others: a stream of numbered envelopes per tenant.
//!
//! A publisher appends a record to the tenant's buffer and is done. One task (see `node`) takes buffers in the order in
//! which they became non-empty: what gathers while it is busy leaves as one envelope. So a busy node coalesces, and an idle
//! one does not wait.
//!
//! Bounds: above [`LARGE`] bytes publishers are asked to wait. Above [`FULL`] bytes records are lost: first those of the
//! tenants that filled the buffers. A loss, here or because there is no connection, uses up a number, so that the others
//! notice it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{BufMut as _, Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use realtime_hub::{Audience, Backlog, Entry, MemberId};
use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use crate::wire::{self, HEADER, Header, Kind};

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

/// A stream is forgotten after it has been silent for this long, if its tenant has no state on this node.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// What is said about one tenant.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) tenant: Arc<str>,
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
    present: HashMap<(Audience, Arc<str>, MemberId), Arc<Entry>>,
    /// Users on this node, as the others were told.
    users: u32,
    /// The last envelope that a mark was sent for, and when something was last said.
    marked: u64,
    active: Option<Instant>,
}

/// What has to be said about all tenants.
#[derive(Debug)]
pub(crate) struct Outgoing {
    node: u32,
    streams: RwLock<HashMap<Arc<str>, Arc<Stream>>>,
    /// The largest number of all streams that were forgotten. New streams go on from there: receivers would take a number
    /// that was used before for a message that they already have, and drop it in silence. A number that is too high is at
    /// worst taken for a gap.
    floor: AtomicU64,
    /// Streams with something to say, in order.
    queue: Mutex<VecDeque<Arc<Stream>>>,
    filled: Notify,
    pub(crate) backlog: Arc<Backlog>,
}

/// This node's state of a tenant.
pub(crate) struct Snapshot {
    /// Number of the last envelope.
    pub(crate) as_of: u64,
    /// Records.
    pub(crate) records: Bytes,
}

impl Stream {
    /// What was taken has been handed to NATS: what is published from now on comes after it.
    pub(crate) fn published(&self) {
        self.state.lock().publishing = false;
    }
}

impl Outgoing {
    pub(crate) fn new(node: u32) -> Self {
        Self {
            node,
            streams: RwLock::default(),
            floor: AtomicU64::new(0),
            queue: Mutex::default(),
            filled: Notify::new(),
            backlog: Arc::new(Backlog::new(LARGE)),
        }
    }

    /// The stream of a tenant. Its numbers go on as long as somebody may remember them.
    pub(crate) fn stream(&self, tenant: &Arc<str>) -> Arc<Stream> {
        if let Some(stream) = self.streams.read().get(tenant) {
            return Arc::clone(stream);
        }
        let mut streams = self.streams.write();
        let stream = streams.entry(Arc::clone(tenant)).or_insert_with(|| {
            let number = self.floor.load(Ordering::Relaxed);
            let state = State { number, marked: number, ..State::default() };
            Arc::new(Stream { tenant: Arc::clone(tenant), state: Mutex::new(state) })
        });
        Arc::clone(stream)
    }

    /// Forgets the streams that nobody needs any more.
    pub(crate) fn forget_idle(&self, now: Instant) {
        self.streams.write().retain(|_, stream| {
            // Nobody can get another handle while the table is locked.
            if Arc::strong_count(stream) > 1 {
                return true;
            }
            let state = stream.state.lock();
            let busy = state.queued || state.publishing || state.lost || state.marked != state.number;
            let recent = state.active.is_some_and(|active| now.saturating_duration_since(active) < FORGOTTEN);
            let needed = busy || recent || state.users > 0 || !state.present.is_empty();
            if !needed {
                self.floor.fetch_max(state.number, Ordering::Relaxed);
            }
            needed
        });
    }

    /// The stream of a tenant, if anything was ever said about it.
    pub(crate) fn existing(&self, tenant: &str) -> Option<Arc<Stream>> {
        self.streams.read().get(tenant).map(Arc::clone)
    }

    /// Appends a record of about this size.
    pub(crate) fn say(&self, tenant: &Arc<str>, size: usize, write: impl FnOnce(&mut BytesMut)) {
        self.append(&self.stream(tenant), size, |_| true, write);
    }

    /// The presence of a member of this node has changed.
    pub(crate) fn present(
        &self,
        tenant: &Arc<str>,
        audience: Audience,
        topic: &Arc<str>,
        member: MemberId,
        entry: Option<&Arc<Entry>>,
    ) {
        let stream = self.stream(tenant);
        let key = (audience, Arc::clone(topic), member);
        let size = topic.len() + entry.map_or(0, |entry| entry.meta().len() + entry.key().len()) + 64;
        let change = |state: &mut State| match entry {
            Some(entry) => {
                state.present.insert(key, Arc::clone(entry));
                true
            }
            None => state.present.remove(&key).is_some(),
        };
        self.append(&stream, size, change, |out| match entry {
            Some(entry) => wire::put_present(out, audience, topic, member, entry),
            None => wire::put_absent(out, audience, topic, member),
        });
    }

    /// Sets how many users the tenant has on this node, and says so if the number has changed.
    pub(crate) fn users(&self, tenant: &Arc<str>, users: u32) {
        let change = |state: &mut State| std::mem::replace(&mut state.users, users) != users;
        let stream = self.existing(tenant);
        if users == 0 && stream.is_none() {
            return;
        }
        let stream = stream.unwrap_or_else(|| self.stream(tenant));
        self.append(&stream, 8, change, |out| wire::put_users(out, users));
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
    /// that said something after that moment.
    pub(crate) fn marks(&self, again: Option<Instant>) -> Vec<(Arc<Stream>, Bytes)> {
        let streams: Vec<_> = self.streams.read().values().map(Arc::clone).collect();
        let mut marks = Vec::new();
        for stream in streams {
            let mut state = stream.state.lock();
            let recent = again.is_some_and(|since| state.active.is_some_and(|active| active >= since));
            if state.queued || state.publishing || (state.marked == state.number && !recent) {
                continue;
            }
            state.marked = state.number;
            let header = Header { kind: Kind::Mark, node: self.node, number: state.number };
            drop(state);
            marks.push((stream, Bytes::copy_from_slice(&header.encode())));
        }
        marks
    }

    /// This node's state of a tenant.
    pub(crate) fn snapshot(&self, tenant: &str) -> Snapshot {
        let Some(stream) = self.existing(tenant) else {
            return Snapshot { as_of: self.floor.load(Ordering::Relaxed), records: Bytes::new() };
        };
        let state = stream.state.lock();
        let (as_of, users) = (state.number, state.users);
        let present: Vec<_> =
            state.present.iter().map(|(key, entry)| (key.clone(), Arc::clone(entry))).collect();
        drop(state);
        let mut records = BytesMut::new();
        wire::put_users(&mut records, users);
        for ((audience, topic, member), entry) in present {
            wire::put_present(&mut records, audience, &topic, member, &entry);
        }
        Snapshot { as_of, records: records.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::*;
    use crate::wire::{Record, records};

    fn outgoing() -> (Outgoing, Arc<str>) {
        (Outgoing::new(7), "t".into())
    }

    fn say(outgoing: &Outgoing, tenant: &Arc<str>, payload: &str) {
        outgoing.say(tenant, payload.len(), |out| {
            wire::put_json(out, Audience::Public, "realtime:a", payload.as_bytes());
        });
    }

    async fn taken(outgoing: &Outgoing, max: usize, deliverable: bool) -> Vec<(Header, Bytes)> {
        let stream = outgoing.next().await;
        let messages = outgoing.take(&stream, max, deliverable, Instant::now());
        let marks = outgoing.marks(Some(Instant::now() - Duration::from_secs(1)));
        assert!(marks.iter().all(|(marked, _)| !Arc::ptr_eq(marked, &stream)), "a mark overtakes it");
        stream.published();
        let split = |mut message: Bytes| (Header::decode(&mut message).unwrap(), message);
        messages.into_iter().map(split).collect()
    }

    fn payloads(body: Bytes) -> Vec<Bytes> {
        let payload = |record| match record {
            Record::Json(_, payload) => payload,
            other => panic!("{other:?}"),
        };
        records(body).unwrap().into_iter().map(payload).collect()
    }

    #[tokio::test]
    async fn idle_streams_are_forgotten_and_their_numbers_are_not() {
        let (outgoing, tenant) = outgoing();
        let other: Arc<str> = "other".into();
        let later = || Instant::now() + FORGOTTEN;
        for _ in 0..3 {
            say(&outgoing, &tenant, "{}");
            taken(&outgoing, 1_000_000, true).await;
        }
        outgoing.users(&other, 1);
        outgoing.forget_idle(later());
        assert_eq!(outgoing.streams.read().len(), 2, "what waits, or was not marked");
        taken(&outgoing, 1_000_000, true).await;
        outgoing.marks(None);
        outgoing.forget_idle(Instant::now());
        assert_eq!(outgoing.streams.read().len(), 2, "something was said a moment ago");
        outgoing.forget_idle(later());
        assert!(outgoing.existing(&tenant).is_none() && outgoing.existing(&other).is_some(), "it has a user");
        // Who has heard the old numbers, and who asks now, both see what is said next.
        assert_eq!(outgoing.snapshot(&tenant).as_of, 3);
        say(&outgoing, &tenant, "{}");
        let [(header, _)] = &taken(&outgoing, 1_000_000, true).await[..] else { panic!("one expected") };
        assert_eq!(header.number, 4);
    }

    #[tokio::test]
    async fn what_gathers_leaves_as_one() {
        let (outgoing, tenant) = outgoing();
        say(&outgoing, &tenant, "{}");
        say(&outgoing, &tenant, "[1]");
        assert!(outgoing.backlog.bytes() > 0);
        let [(header, body)] = &taken(&outgoing, 1_000_000, true).await[..] else { panic!("one expected") };
        assert_eq!(*header, Header { kind: Kind::Records, node: 7, number: 1 });
        assert_eq!(payloads(body.clone()), ["{}", "[1]"]);
        assert_eq!(outgoing.backlog.bytes(), 0);
        say(&outgoing, &tenant, "{}");
        assert_eq!(taken(&outgoing, 1_000_000, true).await[0].0.number, 2);
    }

    #[tokio::test]
    async fn what_is_too_large_goes_in_pieces() {
        let (outgoing, tenant) = outgoing();
        let large = format!("\"{}\"", "x".repeat(1000));
        say(&outgoing, &tenant, &large);
        let messages = taken(&outgoing, 300, true).await;
        let numbers: Vec<u64> = messages.iter().map(|(header, _)| header.number).collect();
        assert_eq!(numbers, (1..=messages.len() as u64).collect::<Vec<_>>());
        let (last, rest) = messages.split_last().unwrap();
        assert_eq!(last.0.kind, Kind::LastFragment);
        assert!(rest.iter().all(|(_, body)| body.len() + HEADER == 300));
        let (first, middle) = rest.split_first().unwrap();
        assert_eq!(first.0.kind, Kind::FirstFragment);
        assert!(!middle.is_empty() && middle.iter().all(|(header, _)| header.kind == Kind::Fragment));
        let body: Vec<u8> = messages.iter().flat_map(|(_, body)| body.to_vec()).collect();
        assert_eq!(payloads(body.into()), [large]);
    }

    /// One tenant fills the queue: what it says is lost, not what others say.
    #[tokio::test]
    async fn who_fills_the_queue_loses() {
        let (outgoing, loud) = outgoing();
        let quiet: Arc<str> = "quiet".into();
        let large = "x".repeat(3_000_000);
        for _ in 0..30 {
            say(&outgoing, &loud, &large);
        }
        let waiting = outgoing.backlog.bytes();
        assert!((FULL..FULL + 4_000_000).contains(&waiting), "{waiting}");
        say(&outgoing, &quiet, "{}");
        assert!(outgoing.backlog.bytes() > waiting);
        let (header, _) = taken(&outgoing, 100_000_000, true).await.remove(0);
        assert_eq!(header.number, 2, "some of it was lost");
        let (header, body) = taken(&outgoing, 100_000_000, true).await.remove(0);
        assert_eq!((header.number, payloads(body)), (1, vec![Bytes::from_static(b"{}")]));
    }

    #[tokio::test]
    async fn what_is_lost_costs_a_number_and_marks_tell() {
        let (outgoing, tenant) = outgoing();
        assert!(outgoing.marks(None).is_empty());
        let start = Instant::now();
        say(&outgoing, &tenant, "{}");
        assert!(outgoing.marks(None).is_empty(), "it has something to say");
        assert_eq!(taken(&outgoing, 1000, false).await, []);
        assert_eq!(outgoing.backlog.bytes(), 0);
        let number = |marks: Vec<(Arc<Stream>, Bytes)>| {
            marks
                .into_iter()
                .map(|(_, mut mark)| Header::decode(&mut mark).unwrap().number)
                .collect::<Vec<_>>()
        };
        assert_eq!(number(outgoing.marks(None)), [1]);
        assert!(outgoing.marks(None).is_empty());
        assert_eq!(number(outgoing.marks(Some(start))), [1]);
        say(&outgoing, &tenant, "{}");
        assert_eq!(taken(&outgoing, 1000, true).await[0].0.number, 2);
    }

    #[tokio::test]
    async fn snapshots_have_what_is_so() {
        let (outgoing, tenant) = outgoing();
        let entry = |key: &str| Arc::new(Entry::remote(key, key, "{}".into()));
        let topic: Arc<str> = "realtime:a".into();
        for member in 0..10 {
            outgoing.present(&tenant, Audience::Private, &topic, member, Some(&entry("k")));
        }
        outgoing.present(&tenant, Audience::Private, &topic, 3, None);
        outgoing.present(&tenant, Audience::Private, &topic, 3, None);
        outgoing.users(&tenant, 5);
        outgoing.users(&tenant, 5);
        let body = taken(&outgoing, 10_000, true).await.remove(0).1;
        assert_eq!(records(body).unwrap().len(), 12, "what changes nothing is not said");
        let snapshot = outgoing.snapshot(&tenant);
        assert_eq!(snapshot.as_of, 1);
        let all = records(snapshot.records).unwrap();
        assert_eq!(all.len(), 10);
        assert_eq!(all[0], Record::Users(5));
        let empty = outgoing.snapshot("nobody");
        assert_eq!((empty.as_of, empty.records.len()), (0, 0));
    }
}
