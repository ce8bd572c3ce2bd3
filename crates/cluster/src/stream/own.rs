//! The owner's side of a stream.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::Arc,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    PATIENCE, WINDOW,
    messages::{self, HEADER, Header, Kind, ToOwner, Welcome, put_event},
};
use crate::{
    Cluster,
    node::{Inner, MARGIN},
};

/// Events that gather for one message, in bytes, while others are being sent.
const BATCH: usize = 256 * 1024;

/// What an event is to the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It begins a group.
    Begin,
    /// It is of a group, or of none.
    Within,
    /// As `Within`; whoever comes later needs it, or the last one of the same key.
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
    node: Arc<Inner>,
    tenant: Arc<str>,
    stream: u64,
    about: Bytes,
    state: Mutex<State>,
    /// Told when there is something to send.
    filled: Notify,
    /// Told when a follower has taken something or is not waited for any more.
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
    /// By the numbers that they drew.
    followers: HashMap<u64, Follower>,
    /// Those who wait for the end of a group.
    waiting: Vec<Waiting>,
    /// What whoever comes later needs.
    needed: BTreeMap<u64, Bytes>,
}

/// Somebody who wants to follow.
struct Waiting {
    follower: u64,
    node: u32,
    /// Where the answer goes.
    reply: String,
}

struct Follower {
    /// Where it is; a node may have several.
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

impl Cluster {
    /// Begins the stream of a tenant, at a position; whoever follows is told `about`. The caller holds the lock that says
    /// that nobody else does so.
    #[must_use]
    pub fn own(&self, tenant: &Arc<str>, position: u64, about: Bytes) -> Owned {
        let shared = Arc::new(Shared {
            node: Arc::clone(&self.0),
            tenant: Arc::clone(tenant),
            stream: rand::random(),
            about,
            state: Mutex::new(State {
                within: false,
                position,
                number: 1,
                carried: 0,
                buffer: BytesMut::new(),
                ready: VecDeque::new(),
                followers: HashMap::new(),
                waiting: Vec::new(),
                needed: BTreeMap::new(),
            }),
            filled: Notify::new(),
            taken: Notify::new(),
        });
        let stop = CancellationToken::new();
        self.0.tasks.spawn(hear(Arc::clone(&shared), stop.clone()));
        self.0.tasks.spawn(send(Arc::clone(&shared), stop.clone()));
        Owned { shared, _stop: stop.drop_guard() }
    }
}

impl Owned {
    /// The next event, for all who follow.
    pub fn carry(&self, place: Place, event: &Bytes) {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if let Place::Needed(key) = place {
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
        match place {
            Place::Begin => state.within = true,
            Place::End(position) => {
                state.within = false;
                state.position = state.position.max(position);
                for waiting in std::mem::take(&mut state.waiting) {
                    shared.welcome(&mut state, waiting);
                }
            }
            Place::Within | Place::Needed(_) => {}
        }
    }

    /// Returns when no follower is too far behind, or it has been waited for. Cancel safe.
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
            let limit = *begun.get_or_insert_with(|| Instant::now() + PATIENCE);
            if time::timeout_at(limit, taken).await.is_err() {
                for follower in behind {
                    tracing::warn!(
                        tenant = &*self.shared.tenant,
                        "a node is too far behind the database: it is not waited for"
                    );
                    self.shared.state.lock().followers.remove(&follower);
                }
                return;
            }
        }
    }

    /// Whether somebody follows.
    #[must_use]
    pub fn has_followers(&self) -> bool {
        !self.shared.state.lock().followers.is_empty()
    }

    /// Whether every other node follows on which the tenant has users, as far as this one knows.
    #[must_use]
    pub fn has_all(&self) -> bool {
        let populated = self.shared.node.populated(&self.shared.tenant);
        let state = self.shared.state.lock();
        populated.iter().all(|node| state.followers.values().any(|follower| follower.node == *node))
    }

    /// Whether every other node follows, as far as this one knows.
    #[must_use]
    pub fn has_everyone(&self) -> bool {
        let nodes = self.shared.node.others();
        let state = self.shared.state.lock();
        nodes.iter().all(|node| state.followers.values().any(|follower| follower.node == *node))
    }

    /// Up to which position all have taken everything, this node having come as far as `own`.
    #[must_use]
    pub fn confirmed(&self, own: u64) -> u64 {
        let state = self.shared.state.lock();
        state.followers.values().map(|follower| follower.confirmed).fold(own, u64::min)
    }
}

impl Shared {
    /// Those who are too far behind.
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
        let max = self.node.max_payload().saturating_sub(HEADER + MARGIN).max(1024);
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
        // What does not fit into one message goes through the stream, where it does no harm to others.
        if events.len() + self.about.len() + 256 > self.node.max_payload() {
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
        self.node.tasks.spawn(async move {
            shared.node.publish(waiting.reply, welcome.encode()).await;
            shared.filled.notify_one();
        });
    }
}

/// What followers say.
async fn hear(shared: Arc<Shared>, stop: CancellationToken) {
    let node = &shared.node;
    let Some(client) = node.client.get() else { return };
    let subscribed = tokio::select! {
        () = stop.cancelled() => return,
        () = node.stop.cancelled() => return,
        subscribed = client.subscribe(node.subjects.owner(&shared.tenant)) => subscribed,
    };
    let Ok(mut messages) = subscribed else { return };
    loop {
        let message = tokio::select! {
            () = stop.cancelled() => return,
            () = node.stop.cancelled() => return,
            message = messages.next() => message,
        };
        let Some(message) = message else { return };
        match (ToOwner::decode(message.payload), message.reply) {
            (Ok(ToOwner::Follow { follower, node }), Some(reply)) => {
                let waiting = Waiting { follower, node, reply: reply.to_string() };
                let mut state = shared.state.lock();
                if state.within {
                    // It asks again: it does not wait for the first answer any more.
                    state.waiting.retain(|waiting| waiting.node != node);
                    state.waiting.push(waiting);
                } else {
                    shared.welcome(&mut state, waiting);
                }
            }
            (Ok(ToOwner::Taken { follower, stream, bytes, confirmed }), _) if stream == shared.stream => {
                // One that is not there any more learns so from the next signs of life.
                if let Some(follower) = shared.state.lock().followers.get_mut(&follower) {
                    follower.taken = bytes;
                    follower.confirmed = follower.confirmed.max(confirmed);
                    follower.heard = Instant::now();
                }
                shared.taken.notify_waiters();
            }
            (Ok(ToOwner::Leave { follower, stream }), _) if stream == shared.stream => {
                shared.state.lock().followers.remove(&follower);
                shared.taken.notify_waiters();
            }
            (Ok(_), _) => {}
            (Err(error), _) => node.malformed(error),
        }
    }
}

/// Sends the stream, and signs of life.
async fn send(shared: Arc<Shared>, stop: CancellationToken) {
    let node = &shared.node;
    let subject = node.subjects.changes(&shared.tenant);
    let mut ticks = time::interval(node.config.heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let alive = tokio::select! {
            () = stop.cancelled() => break,
            () = node.stop.cancelled() => break,
            () = shared.filled.notified() => false,
            _ = ticks.tick() => true,
        };
        loop {
            let message = {
                let mut state = shared.state.lock();
                if state.ready.is_empty() {
                    shared.seal(&mut state);
                }
                state.ready.pop_front()
            };
            let Some(message) = message else { break };
            node.publish(subject.clone(), message).await;
        }
        if alive {
            let message = {
                let mut state = shared.state.lock();
                let now = Instant::now();
                let timeout = node.config.node_timeout;
                state.followers.retain(|_, follower| now.saturating_duration_since(follower.heard) < timeout);
                // What has become ready meanwhile goes out after it.
                let number = state.number - 1 - state.ready.len() as u64;
                let header = Header { kind: Kind::Alive, stream: shared.stream, number };
                let followers = messages::followers(state.followers.keys().copied());
                [&header.encode()[..], &followers].concat()
            };
            shared.taken.notify_waiters();
            node.publish(subject.clone(), message.into()).await;
        }
    }
    let number = shared.state.lock().number - 1;
    let header = Header { kind: Kind::End, stream: shared.stream, number };
    node.publish(subject, Bytes::copy_from_slice(&header.encode())).await;
}
