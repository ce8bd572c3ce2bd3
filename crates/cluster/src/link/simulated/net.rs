//! The servers, what is on its way between them and the nodes, and the clock that moves it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
};

use async_nats::Event;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{Notify, mpsc},
    time::{self, Duration, Instant},
};

use super::super::{Link, Received, connect};
use crate::chance::Map;

pub(super) type Subject = Arc<str>;

/// What a server carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Traffic {
    /// From nodes: messages and their bytes.
    pub(crate) taken: (u64, u64),
    /// To nodes.
    pub(crate) given: (u64, u64),
    /// Over routes.
    pub(crate) passed: (u64, u64),
}

/// A network of servers that pass messages on to each other, and nodes that are connected with one of them.
#[derive(Debug)]
pub(crate) struct Net {
    pub(super) state: Mutex<State>,
    /// Something is due earlier than what was waited for.
    sooner: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: StdRng,
    begun: Instant,
    /// What happens when, in microseconds; of two at one time in the order in which they were put.
    pub(super) due: BTreeMap<(u64, u64), Happens>,
    numbers: u64,
    /// Until when the clock sleeps.
    asleep_until: u64,
    pub(super) peers: Vec<Peer>,
    pub(super) servers: Vec<Server>,
    /// By the servers that they lead from and to.
    pub(super) routes: Vec<Vec<Route>>,
    /// By the kind of subject.
    pub(super) traffic: BTreeMap<&'static str, Traffic>,
    /// Faults of the servers made on purpose, which no NATS makes: the checks have to find them.
    pub(super) sabotage: Option<Sabotage>,
}

/// What a server may be made to do that it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// From some message of a room on, the marks behind it are lost as well.
    LoseMarks,
}

/// A node, as its server and its client see it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) link: Weak<Link>,
    pub(super) server: usize,
    /// The connection; what belongs to another one is lost.
    pub(super) connection: u64,
    /// Whether the server has it.
    pub(super) is_there: bool,
    /// How long a message takes, and how much longer at most.
    pub(super) delay: (u64, u64),
    /// When the last message arrives, of those to the server and of those from it.
    pub(super) last: (u64, u64),
    pub(super) subscriptions: BTreeMap<u64, Subscription>,
    /// Messages that a subscription takes before it loses some.
    pub(super) capacity: usize,
    /// It stands still: what comes is kept by the kernel and the server.
    pub(super) is_still: bool,
    pub(super) kept: VecDeque<Happens>,
    pub(super) kept_bytes: usize,
    /// For ever.
    pub(super) is_gone: bool,
}

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) subject: Subject,
    messages: mpsc::Sender<Received>,
}

/// A server: who listens there, and on which others.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) here: Map<Subject, Vec<(usize, u64)>>,
    /// A bit for each of the others.
    pub(super) there: Map<Subject, u64>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Route {
    pub(super) is_up: bool,
    /// What was sent by another connection is lost.
    pub(super) connection: u64,
    pub(super) last: u64,
}

/// A message.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) subject: Subject,
    pub(super) reply: Option<Subject>,
    pub(super) payload: Bytes,
}

/// What happens at a time.
#[derive(Debug)]
pub(super) enum Happens {
    /// A node's message arrives at its server.
    Published {
        peer: usize,
        connection: u64,
        /// When it was sent.
        at: u64,
        sent: Sent,
    },
    Subscribed {
        peer: usize,
        connection: u64,
        number: u64,
        subject: Subject,
    },
    Unsubscribed {
        peer: usize,
        connection: u64,
        number: u64,
        subject: Subject,
    },
    /// A message arrives at a node.
    Delivered {
        peer: usize,
        connection: u64,
        number: u64,
        payload: Bytes,
        reply: Option<Subject>,
        nobody: bool,
    },
    /// A message arrives at another server.
    Passed {
        from: usize,
        to: usize,
        connection: u64,
        sent: Sent,
    },
    /// A server hears that on another one somebody listens, or nobody any more.
    Interest {
        from: usize,
        to: usize,
        connection: u64,
        subject: Subject,
        is_there: bool,
    },
    /// Two servers have found each other again.
    RouteUp {
        from: usize,
        to: usize,
        connection: u64,
    },
    /// A node notices that its connection was lost.
    Lost {
        peer: usize,
        connection: u64,
    },
    /// A node has a connection again.
    Connected {
        peer: usize,
        server: usize,
    },
}

impl Net {
    pub(crate) fn new(seed: u64, servers: usize) -> Arc<Self> {
        let up = Route { is_up: true, ..Route::default() };
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            begun: Instant::now(),
            due: BTreeMap::new(),
            numbers: 0,
            asleep_until: 0,
            peers: Vec::new(),
            servers: (0..servers).map(|_| Server::default()).collect(),
            routes: vec![vec![up; servers]; servers],
            traffic: BTreeMap::new(),
            sabotage: None,
        };
        Arc::new(Self { state: Mutex::new(state), sooner: Notify::new() })
    }

    /// Moves what is on its way. Never returns.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let next = self.state.lock().step();
            tokio::select! {
                biased;
                () = self.sooner.notified() => {}
                () = time::sleep_until(next) => {}
            }
        }
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = act(&mut state);
        let first = state.due.keys().next().map_or(u64::MAX, |(at, _)| *at);
        if first < state.asleep_until {
            self.sooner.notify_one();
        }
        result
    }

    pub(super) fn add(&self, link: &Arc<Link>, server: usize) -> usize {
        self.with(|state| {
            state.peers.push(Peer {
                link: Arc::downgrade(link),
                server,
                connection: 0,
                is_there: false,
                delay: (300, 500),
                last: (0, 0),
                subscriptions: BTreeMap::new(),
                capacity: 4096,
                is_still: false,
                kept: VecDeque::new(),
                kept_bytes: 0,
                is_gone: false,
            });
            state.peers.len() - 1
        })
    }

    /// A node is given a connection, after a moment.
    pub(super) fn connect(&self, peer: usize, server: usize) {
        self.with(|state| state.put(2_000, Happens::Connected { peer, server }));
    }

    /// A number that was not used before.
    pub(super) fn number(&self) -> u64 {
        self.state.lock().number()
    }

    pub(super) fn publish(&self, peer: usize, subject: Subject, reply: Option<Subject>, payload: Bytes) {
        self.with(|state| {
            let connection = state.peers[peer].connection;
            let sent = Sent { subject, reply, payload };
            let at = state.now();
            state.up(peer, Happens::Published { peer, connection, at, sent });
        });
    }

    pub(super) fn subscribe(&self, peer: usize, subject: Subject) -> (u64, mpsc::Receiver<Received>) {
        self.with(|state| {
            let number = state.number();
            let at = &mut state.peers[peer];
            let (sender, receiver) = mpsc::channel(at.capacity);
            let connection = at.connection;
            at.subscriptions.insert(number, Subscription { subject: Arc::clone(&subject), messages: sender });
            state.up(peer, Happens::Subscribed { peer, connection, number, subject });
            (number, receiver)
        })
    }

    pub(super) fn unsubscribe(&self, peer: usize, number: u64) {
        self.with(|state| {
            let at = &mut state.peers[peer];
            let connection = at.connection;
            if let Some(subscription) = at.subscriptions.remove(&number) {
                let subject = subscription.subject;
                state.up(peer, Happens::Unsubscribed { peer, connection, number, subject });
            }
        });
    }
}

impl State {
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn put_at(&mut self, at: u64, happens: Happens) {
        let number = self.number();
        self.due.insert((at, number), happens);
    }

    pub(super) fn put(&mut self, after: u64, happens: Happens) {
        self.put_at(self.now() + after, happens);
    }

    /// Something is on its way from a node to its server.
    fn up(&mut self, peer: usize, happens: Happens) {
        let now = self.now();
        let Self { peers, rng, .. } = self;
        let at = &mut peers[peer];
        if at.is_there && !at.is_gone {
            at.last.0 = at.last.0.max(now + at.delay.0 + rng.random_range(0..=at.delay.1));
            let due = at.last.0;
            self.put_at(due, happens);
        }
    }

    /// Something is on its way from a server to a node.
    pub(super) fn down(&mut self, peer: usize, happens: Happens) {
        let now = self.now();
        let Self { peers, rng, .. } = self;
        let at = &mut peers[peer];
        at.last.1 = at.last.1.max(now + at.delay.0 + rng.random_range(0..=at.delay.1));
        let due = at.last.1;
        self.put_at(due, happens);
    }

    /// Lets happen what is due; returns when there is more.
    fn step(&mut self) -> Instant {
        let now = self.now();
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let happens = entry.remove();
            self.happen(happens);
        }
        let next = self.due.keys().next().map_or(now + 3_600_000_000, |(at, _)| *at);
        self.asleep_until = next;
        self.begun + Duration::from_micros(next)
    }

    /// A message has come to the client of a node, which gives it to the subscription's task.
    pub(super) fn give(&mut self, peer: usize, number: u64, message: Received) {
        let at = &mut self.peers[peer];
        let Some(subscription) = at.subscriptions.get(&number) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = subscription.messages.try_send(message)
            && let Some(link) = at.link.upgrade()
        {
            connect::happened(&link, &Event::SlowConsumer(number));
        }
    }
}
