//! The owner's side of a stream.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{self, Duration, Instant, MissedTickBehavior},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::messages::{self, HEADER, Header, Kind, ToOwner, Welcome, put_event};
use crate::{
    chance::{self, Map},
    link::{Link, MARGIN},
    peers::Peers,
};

/// Bytes that a follower may be behind the owner.
const WINDOW: u64 = 16_000_000;

/// How long the owner waits for a follower that is further behind.
const WAIT_FOR_FOLLOWER: Duration = Duration::from_secs(10);

/// Events that gather for one message, in bytes, while others are being sent.
const BATCH: usize = 256 * 1024;

/// The part that an event has in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It begins a group.
    Begin,
    /// It is within a group, or in none.
    Within,
    /// As `Within`. Later followers need it, or the last event of the same key.
    Needed(u64),
    /// It ends a group; everything before this position was in the stream.
    End(u64),
}

/// A stream that this node owns. Ends when dropped.
pub struct Owned {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    link: Arc<Link>,
    peers: Arc<Peers>,
    tenant: Arc<str>,
    stream: u64,
    about: Bytes,
    state: Mutex<State>,
    /// Told when there is something to send.
    filled: Notify,
    /// Told when a follower has taken something or was dropped.
    taken: Notify,
}

struct State {
    /// Whether a group has begun and not ended.
    within: bool,
    position: u64,
    /// Number of the next message.
    number: u64,
    /// Bytes of events since the beginning.
    carried: u64,
    /// Events that are not a message yet.
    buffer: BytesMut,
    /// Messages that wait to be sent.
    ready: VecDeque<Bytes>,
    /// Followers by the numbers that they drew.
    followers: Map<u64, Follower>,
    /// Nodes that wait for the end of a group.
    waiting: Vec<Waiting>,
    /// Events that later followers need.
    needed: BTreeMap<u64, Bytes>,
}

/// A node that wants to follow.
struct Waiting {
    follower: u64,
    node: u32,
    /// Where the answer goes.
    reply: String,
}

struct Follower {
    /// Its node, which may have several.
    node: u32,
    /// Bytes that had been carried when it came.
    base: u64,
    taken: u64,
    confirmed: u64,
    heard: Instant,
}

impl fmt::Debug for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owned").field("tenant", &self.shared.tenant).finish_non_exhaustive()
    }
}

/// Begins the stream of a tenant, at a position; followers are told `about`. The caller holds the lock that says that
/// nobody else does so.
pub(crate) fn own(
    link: &Arc<Link>,
    peers: &Arc<Peers>,
    tenant: &Arc<str>,
    position: u64,
    about: Bytes,
) -> Owned {
    let shared = Arc::new(Shared {
        link: Arc::clone(link),
        peers: Arc::clone(peers),
        tenant: Arc::clone(tenant),
        stream: chance::draw(),
        about,
        state: Mutex::new(State {
            within: false,
            position,
            number: 1,
            carried: 0,
            buffer: BytesMut::new(),
            ready: VecDeque::new(),
            followers: Map::default(),
            waiting: Vec::new(),
            needed: BTreeMap::new(),
        }),
        filled: Notify::new(),
        taken: Notify::new(),
    });
    let stop = CancellationToken::new();
    link.spawn(hear(Arc::clone(&shared), stop.clone()));
    link.spawn(send(Arc::clone(&shared), stop.clone()));
    Owned { shared, _stop: stop.drop_guard() }
}

impl Owned {
    /// Carries the next event to all followers.
    pub fn carry(&self, part: Part, event: &Bytes) {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if let Part::Needed(key) = part {
            state.needed.insert(key, event.clone());
        }
        if !state.followers.is_empty() {
            put_event(&mut state.buffer, event);
            state.carried += event.len() as u64;
            if state.buffer.len() >= BATCH {
                shared.seal(&mut state);
            }
            shared.filled.notify_one();
        }
        match part {
            Part::Begin => state.within = true,
            Part::End(position) => {
                state.within = false;
                state.position = state.position.max(position);
                for waiting in std::mem::take(&mut state.waiting) {
                    shared.welcome(&mut state, waiting);
                }
            }
            Part::Within | Part::Needed(_) => {}
        }
    }

    /// Returns when no follower is too far behind any more; those that still are after a while are dropped. Cancel safe.
    pub async fn room(&self) {
        let mut begun = None;
        loop {
            let taken = self.shared.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            let behind = self.shared.behind();
            if behind.is_empty() {
                return;
            }
            let limit = *begun.get_or_insert_with(|| Instant::now() + WAIT_FOR_FOLLOWER);
            if time::timeout_at(limit, taken).await.is_err() {
                for follower in behind {
                    tracing::warn!(
                        tenant = &*self.shared.tenant,
                        follower = format!("{follower:x}"),
                        reason =
                            "it takes rows more slowly than the database writes them, or cannot be reached",
                        "dropped a node that follows the reading of the database; its channels are told of the gap"
                    );
                    self.shared.state.lock().followers.remove(&follower);
                }
                return;
            }
        }
    }

    /// Whether anybody follows.
    #[must_use]
    pub fn has_followers(&self) -> bool {
        !self.shared.state.lock().followers.is_empty()
    }

    /// Whether all other nodes follow on which the tenant has users, as far as this one knows.
    #[must_use]
    pub fn has_all(&self) -> bool {
        let populated = self.shared.peers.populated(&self.shared.tenant);
        let state = self.shared.state.lock();
        populated.iter().all(|node| state.followers.values().any(|follower| follower.node == *node))
    }

    /// Whether all other nodes follow, as far as this one knows.
    #[must_use]
    pub fn has_everyone(&self) -> bool {
        let nodes = self.shared.peers.others();
        let state = self.shared.state.lock();
        nodes.iter().all(|node| state.followers.values().any(|follower| follower.node == *node))
    }

    /// The position up to which all have taken everything, if this node has come as far as `own`.
    #[must_use]
    pub fn confirmed(&self, own: u64) -> u64 {
        let state = self.shared.state.lock();
        state.followers.values().map(|follower| follower.confirmed).fold(own, u64::min)
    }
}

impl Shared {
    /// Followers that are too far behind.
    fn behind(&self) -> Vec<u64> {
        let state = self.state.lock();
        let too_far =
            |follower: &Follower| (state.carried - follower.base).saturating_sub(follower.taken) > WINDOW;
        state.followers.iter().filter(|(_, follower)| too_far(follower)).map(|(id, _)| *id).collect()
    }

    /// Makes messages of the events that have gathered.
    fn seal(&self, state: &mut State) {
        if state.buffer.is_empty() {
            return;
        }
        let body = state.buffer.split().freeze();
        let max = self.link.max_payload().saturating_sub(HEADER + MARGIN).max(1024);
        let mut pieces = body.chunks(max).peekable();
        while let Some(piece) = pieces.next() {
            let kind = if pieces.peek().is_some() { Kind::Piece } else { Kind::Events };
            let mut message = BytesMut::with_capacity(HEADER + piece.len());
            message.put_slice(&Header { kind, stream: self.stream, number: state.number }.encode());
            message.put_slice(piece);
            state.number += 1;
            state.ready.push_back(message.freeze());
        }
    }

    /// Takes what a follower says.
    fn hear(self: &Arc<Self>, said: ToOwner, reply: Option<String>) {
        let mut state = self.state.lock();
        match (said, reply) {
            (ToOwner::Follow { follower, node }, Some(reply)) => {
                let waiting = Waiting { follower, node, reply };
                if state.within {
                    // A node that asks again does not wait for the first answer any more.
                    state.waiting.retain(|waiting| waiting.node != node);
                    state.waiting.push(waiting);
                } else {
                    self.welcome(&mut state, waiting);
                }
            }
            (ToOwner::Taken { follower, stream, bytes, confirmed }, _) if stream == self.stream => {
                // A follower that was dropped learns so from the next signs of life.
                if let Some(follower) = state.followers.get_mut(&follower) {
                    follower.taken = bytes;
                    follower.confirmed = follower.confirmed.max(confirmed);
                    follower.heard = Instant::now();
                }
                self.taken.notify_waiters();
            }
            (ToOwner::Leave { follower, stream }, _) if stream == self.stream => {
                state.followers.remove(&follower);
                self.taken.notify_waiters();
            }
            _ => {}
        }
    }

    /// The next message to send.
    fn next_message(&self) -> Option<Bytes> {
        let mut state = self.state.lock();
        if state.ready.is_empty() {
            self.seal(&mut state);
        }
        state.ready.pop_front()
    }

    /// A sign of life, which names all followers; those who have been silent for too long are dropped first.
    fn sign_of_life(&self) -> Bytes {
        let mut state = self.state.lock();
        let now = Instant::now();
        let timeout = self.link.config.node_timeout;
        state.followers.retain(|_, follower| now.saturating_duration_since(follower.heard) < timeout);
        // Messages that have become ready meanwhile go out after it.
        let number = state.number - 1 - state.ready.len() as u64;
        let header = Header { kind: Kind::Alive, stream: self.stream, number };
        let followers = messages::followers(state.followers.keys().copied());
        [&header.encode()[..], &followers].concat().into()
    }

    /// Lets a node in, between two groups.
    fn welcome(self: &Arc<Self>, state: &mut State, waiting: Waiting) {
        self.seal(state);
        let mut events = BytesMut::new();
        for event in state.needed.values() {
            put_event(&mut events, event);
        }
        let (carried, position, number) = (state.carried, state.position, state.number);
        state.followers.insert(
            waiting.follower,
            Follower {
                node: waiting.node,
                base: carried,
                taken: 0,
                confirmed: position,
                heard: Instant::now(),
            },
        );
        // Events that do not fit into one message go through the stream; other followers can take them twice.
        if events.len() + self.about.len() + 256 > self.link.max_payload() {
            state.carried += state.needed.values().map(|event| event.len() as u64).sum::<u64>();
            state.buffer.put_slice(&events.split());
        }
        let welcome = Welcome {
            stream: self.stream,
            number,
            position,
            about: self.about.clone(),
            events: events.freeze(),
        };
        let shared = Arc::clone(self);
        self.link.spawn(async move {
            shared.link.publish(waiting.reply, welcome.encode()).await;
            shared.filled.notify_one();
        });
    }
}

/// Hears what followers say.
async fn hear(shared: Arc<Shared>, stop: CancellationToken) {
    let link = &shared.link;
    let subscribed = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        subscribed = link.subscribe(link.subjects.owner(&shared.tenant)) => subscribed,
    };
    let Some(mut messages) = subscribed else { return };
    loop {
        let message = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = link.stop.cancelled() => return,
            message = messages.next() => message,
        };
        let Some(message) = message else { return };
        match ToOwner::decode(message.payload) {
            Ok(said) => shared.hear(said, message.reply.map(|reply| reply.to_string())),
            Err(error) => link.malformed(error),
        }
    }
}

/// Sends the stream, and signs of life.
async fn send(shared: Arc<Shared>, stop: CancellationToken) {
    let link = &shared.link;
    let subject = link.subjects.changes(&shared.tenant);
    let mut ticks = time::interval(link.config.heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let alive = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = link.stop.cancelled() => break,
            // First: a stream that is always full must not hold back its signs of life.
            _ = ticks.tick() => true,
            () = shared.filled.notified() => false,
        };
        while let Some(message) = shared.next_message() {
            link.publish(subject.clone(), message).await;
        }
        if alive {
            let message = shared.sign_of_life();
            shared.taken.notify_waiters();
            link.publish(subject.clone(), message).await;
        }
    }
    let number = shared.state.lock().number - 1;
    let header = Header { kind: Kind::End, stream: shared.stream, number };
    link.publish(subject, Bytes::copy_from_slice(&header.encode())).await;
}
