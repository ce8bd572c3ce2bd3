//! The owner's side of a stream.

use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{self, Duration, Instant, MissedTickBehavior},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    messages::{self, HEADER, Header, Kind, ToOwner, Welcome, put_event},
    state::{Follower, Line, State, To, Waiting, message},
    wish::Wish,
};
use crate::{
    chance,
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
    /// As `Within`. It is about a thing that a follower may want or not.
    Of(u32),
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
        state: Mutex::new(State::new(position)),
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
        let key = match part {
            Part::Of(key) => Some(key),
            _ => None,
        };
        // Also if nobody follows: who was dropped and does not know it must see that something is missing.
        state.put(key, event);
        if !state.followers.is_empty() {
            if state.buffer.len() >= BATCH || state.batch.bytes() >= BATCH {
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
                for (follower, wish) in std::mem::take(&mut state.wishes) {
                    shared.grant(&mut state, follower, wish);
                }
            }
            Part::Within | Part::Of(_) | Part::Needed(_) => {}
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
                    self.shared.state.lock().forget(follower);
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
        if !state.buffer.is_empty() {
            let body = state.buffer.split().freeze();
            self.put_line(state, To::Whole, &body);
        }
        if !state.batch.is_empty() {
            let (line, strands) = state.batch.take(&state.ways);
            // First: who reads the line has them then.
            for (key, strand) in strands {
                let header = |kind| Header { kind, stream: self.stream, number: state.sorted.number };
                for (kind, piece) in self.pieces(&strand) {
                    state.ready.push_back((To::Strand(key), message(header(kind), piece)));
                }
            }
            self.put_line(state, To::Sorted, &line);
        }
    }

    fn put_line(&self, state: &mut State, to: To, body: &Bytes) {
        for (kind, piece) in self.pieces(body) {
            let line = state.line(to == To::Sorted);
            let header = Header { kind, stream: self.stream, number: line.number };
            (line.number, line.waiting) = (line.number + 1, line.waiting + 1);
            state.ready.push_back((to, message(header, piece)));
        }
    }

    /// A body in parts that NATS takes.
    fn pieces<'a>(&self, body: &'a Bytes) -> impl Iterator<Item = (Kind, &'a [u8])> + use<'a> {
        let max = self.link.max_payload().saturating_sub(HEADER + MARGIN).max(1024);
        let mut pieces = body.chunks(max).peekable();
        std::iter::from_fn(move || {
            let piece = pieces.next()?;
            Some((if pieces.peek().is_some() { Kind::Piece } else { Kind::Events }, piece))
        })
    }

    /// Takes what a follower says.
    fn hear(self: &Arc<Self>, said: ToOwner, reply: Option<String>) {
        let mut state = self.state.lock();
        match (said, reply) {
            (ToOwner::Follow { follower, node, sorted }, Some(reply)) => {
                let waiting = Waiting { follower, node, sorted, reply };
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
                state.forget(follower);
                self.taken.notify_waiters();
            }
            (ToOwner::Want { follower, stream, wish }, _) if stream == self.stream => {
                if state.within {
                    state.wishes.insert(follower, wish);
                } else {
                    self.grant(&mut state, follower, wish);
                }
            }
            _ => {}
        }
    }

    /// A follower gets what it wants from here on, between two groups.
    fn grant(&self, state: &mut State, follower: u64, wish: Wish) {
        let said = state.followers.get(&follower).filter(|follower| follower.sorted);
        // It is said again until it was heard.
        if said.is_none_or(|said| said.wish.as_ref().is_some_and(|known| known.version >= wish.version)) {
            return;
        }
        // What was carried before goes where it would have gone.
        self.seal(state);
        state.batch.tell(follower, wish.version);
        if let Some(follower) = state.followers.get_mut(&follower) {
            follower.wish = Some(wish);
        }
        state.sort();
        self.filled.notify_one();
    }

    /// The next message to send.
    fn next_message(&self) -> Option<(To, Bytes)> {
        let mut state = self.state.lock();
        if state.ready.is_empty() {
            self.seal(&mut state);
        }
        let (to, message) = state.ready.pop_front()?;
        if !matches!(to, To::Strand(_)) {
            state.line(to == To::Sorted).waiting -= 1;
        }
        Some((to, message))
    }

    fn subject(&self, to: To) -> String {
        let subjects = &self.link.subjects;
        match to {
            To::Whole => subjects.changes(&self.tenant),
            To::Sorted => subjects.line(&self.tenant),
            To::Strand(key) => subjects.strand(&self.tenant, key),
        }
    }

    /// Signs of life, which name all followers; those who have been silent for too long are dropped first.
    fn signs_of_life(&self) -> Vec<(To, Bytes)> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let timeout = self.link.config.node_timeout;
        let before = state.followers.len();
        state.followers.retain(|_, follower| now.saturating_duration_since(follower.heard) < timeout);
        if state.followers.len() < before {
            state.sort();
        }
        let followers = messages::followers(state.followers.keys().copied());
        // Messages that have become ready meanwhile go out after it.
        self.notes(&state, Kind::Alive, &followers, Line::sent)
    }

    /// Messages without events for all who follow.
    fn notes(&self, state: &State, kind: Kind, body: &[u8], number: fn(&Line) -> u64) -> Vec<(To, Bytes)> {
        let lines = [(To::Whole, &state.whole), (To::Sorted, &state.sorted)];
        let used = lines.into_iter().filter(|(_, line)| line.is_used);
        let note = |(to, line): (To, &Line)| {
            (to, message(Header { kind, stream: self.stream, number: number(line) }, body))
        };
        used.map(note).collect()
    }

    /// Lets a node in, between two groups.
    fn welcome(self: &Arc<Self>, state: &mut State, waiting: Waiting) {
        self.seal(state);
        let mut events = BytesMut::new();
        for event in state.needed.values() {
            put_event(&mut events, event);
        }
        let (carried, position, sorted) = (state.carried, state.position, waiting.sorted);
        let number = state.line(sorted).begin();
        state.followers.insert(
            waiting.follower,
            Follower {
                node: waiting.node,
                sorted,
                wish: None,
                base: carried,
                taken: 0,
                confirmed: position,
                heard: Instant::now(),
            },
        );
        state.sort();
        // Events that do not fit into one message go through the stream; other followers can take them twice.
        if events.len() + self.about.len() + 256 > self.link.max_payload() {
            events.clear();
            for event in state.needed.values().cloned().collect::<Vec<Bytes>>() {
                state.put(None, &event);
            }
        }
        let welcome = Welcome {
            sorted: sorted.then_some(self.link.id),
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
        while let Some((to, message)) = shared.next_message() {
            link.publish(shared.subject(to), message).await;
        }
        if alive {
            let signs = shared.signs_of_life();
            shared.taken.notify_waiters();
            for (to, message) in signs {
                link.publish(shared.subject(to), message).await;
            }
        }
    }
    let notes = {
        let state = shared.state.lock();
        shared.notes(&state, Kind::End, &[], |line| line.number - 1)
    };
    for (to, message) in notes {
        link.publish(shared.subject(to), message).await;
    }
}
