//! What the servers do with messages.

use std::sync::Arc;

use async_nats::Event;
use rand::Rng as _;

use super::{
    super::{Received, connect},
    net::{Happens, Sabotage, Sent, State, Subject},
};

/// Bytes that a server keeps for a node that takes nothing.
const MAX_PENDING: usize = 4_000_000;

/// How long a message is on its way between two servers, and how much longer at most.
const ROUTE: (u64, u64) = (1_000, 2_000);

impl State {
    pub(super) fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::Published { peer, connection, sent, .. } => {
                if self.is_of(peer, connection) {
                    self.published(peer, &sent);
                }
            }
            Happens::Subscribed { peer, connection, number, subject } => {
                if self.is_of(peer, connection) {
                    self.listen(peer, number, &subject);
                }
            }
            Happens::Unsubscribed { peer, connection, number, subject } => {
                if self.is_of(peer, connection) {
                    self.unlisten(peer, number, &subject);
                }
            }
            Happens::Passed { from, to, connection, sent } => {
                if self.routes[from][to].connection == connection {
                    self.deliver(to, usize::MAX, &sent);
                }
            }
            Happens::Interest { from, to, connection, subject, is_there } => {
                if self.routes[from][to].connection == connection {
                    let bits = self.servers[to].there.entry(subject).or_default();
                    if is_there { *bits |= 1 << from } else { *bits &= !(1 << from) }
                }
            }
            Happens::RouteUp { from, to, connection } => self.route_up(from, to, connection),
            Happens::Delivered { peer, .. }
            | Happens::Lost { peer, .. }
            | Happens::Connected { peer, .. } => {
                self.at_node(peer, happens);
            }
        }
    }

    /// Whether the server has this connection of a node.
    fn is_of(&self, peer: usize, connection: u64) -> bool {
        self.peers[peer].is_there && self.peers[peer].connection == connection
    }

    /// Something happens to the client of a node; if the node stands still, later.
    pub(super) fn at_node(&mut self, peer: usize, happens: Happens) {
        let at = &mut self.peers[peer];
        if at.is_gone {
            return;
        }
        if at.is_still {
            if let Happens::Delivered { connection, payload, .. } = &happens {
                if *connection != at.connection || !at.is_there {
                    return;
                }
                at.kept_bytes += payload.len() + 64;
                if at.kept_bytes > MAX_PENDING {
                    self.peers[peer].kept_bytes = 0;
                    self.end(peer, 1_000);
                    let server = self.peers[peer].server;
                    self.put(500_000, Happens::Connected { peer, server });
                    return;
                }
            }
            self.peers[peer].kept.push_back(happens);
            return;
        }
        match happens {
            Happens::Delivered { connection, number, payload, reply, nobody, .. }
                if at.connection == connection =>
            {
                let reply = reply.map(|reply| (*reply).into());
                self.give(peer, number, Received { payload, reply, is_nobody: nobody });
            }
            Happens::Lost { connection, .. } => {
                if at.connection == connection
                    && let Some(link) = at.link.upgrade()
                {
                    connect::happened(&link, &Event::Disconnected);
                }
            }
            Happens::Connected { server, .. } => self.connected(peer, server),
            _ => {}
        }
    }

    /// A node has a connection: all that it listens to is said anew.
    fn connected(&mut self, peer: usize, server: usize) {
        let at = &mut self.peers[peer];
        if at.is_there {
            return;
        }
        at.connection += 1;
        (at.server, at.is_there) = (server, true);
        let subjects: Vec<_> =
            at.subscriptions.iter().map(|(number, one)| (*number, Arc::clone(&one.subject))).collect();
        let link = at.link.upgrade();
        for (number, subject) in subjects {
            // Read before anything that the node says from now on.
            self.listen(peer, number, &subject);
        }
        if let Some(link) = link {
            connect::happened(&link, &Event::Connected);
        }
    }

    fn listen(&mut self, peer: usize, number: u64, subject: &Subject) {
        let server = self.peers[peer].server;
        let here = self.servers[server].here.entry(Arc::clone(subject)).or_default();
        here.push((peer, number));
        if here.len() == 1 {
            self.tell_interest(server, subject, true);
        }
    }

    pub(super) fn unlisten(&mut self, peer: usize, number: u64, subject: &Subject) {
        let server = self.peers[peer].server;
        let Some(here) = self.servers[server].here.get_mut(subject) else { return };
        here.retain(|one| *one != (peer, number));
        if here.is_empty() {
            self.servers[server].here.remove(subject);
            self.tell_interest(server, subject, false);
        }
    }

    fn tell_interest(&mut self, from: usize, subject: &Subject, is_there: bool) {
        for to in 0..self.servers.len() {
            self.tell_interest_to(from, to, subject, is_there);
        }
    }

    pub(super) fn tell_interest_to(&mut self, from: usize, to: usize, subject: &Subject, is_there: bool) {
        let subject = Arc::clone(subject);
        self.pass(from, to, |connection| Happens::Interest { from, to, connection, subject, is_there });
    }

    /// Sends something to another server, in order.
    fn pass(&mut self, from: usize, to: usize, what: impl FnOnce(u64) -> Happens) {
        let now = self.now();
        let Self { routes, rng, .. } = self;
        let route = &mut routes[from][to];
        if from != to && route.is_up {
            route.last = route.last.max(now + ROUTE.0 + rng.random_range(0..=ROUTE.1));
            let (due, connection) = (route.last, route.connection);
            self.put_at(due, what(connection));
        }
    }

    /// A server has read a message of a node.
    fn published(&mut self, peer: usize, sent: &Sent) {
        let server = self.peers[peer].server;
        let size = sent.payload.len() as u64;
        let traffic = self.traffic.entry(kind(&sent.subject)).or_default();
        traffic.taken = (traffic.taken.0 + 1, traffic.taken.1 + size);
        let mut given = self.deliver(server, peer, sent);
        let there = self.servers[server].there.get(&sent.subject).copied().unwrap_or(0);
        for to in (0..self.servers.len()).filter(|to| there >> to & 1 == 1) {
            given += 1;
            let traffic = self.traffic.entry(kind(&sent.subject)).or_default();
            traffic.passed = (traffic.passed.0 + 1, traffic.passed.1 + size);
            let sent = sent.clone();
            self.pass(server, to, |connection| Happens::Passed { from: server, to, connection, sent });
        }
        if given == 0
            && let Some(reply) = &sent.reply
        {
            self.tell_nobody(peer, reply);
        }
    }

    /// Nobody listens where a node has asked something.
    fn tell_nobody(&mut self, peer: usize, reply: &Subject) {
        let at = &self.peers[peer];
        let connection = at.connection;
        let inbox = at.subscriptions.iter().find(|(_, one)| one.subject == *reply).map(|(number, _)| *number);
        if let Some(number) = inbox {
            let payload = bytes::Bytes::new();
            let nobody = Happens::Delivered { peer, connection, number, payload, reply: None, nobody: true };
            self.down(peer, nobody);
        }
    }

    /// Gives a message to those who listen on a server, except to the node that sent it.
    fn deliver(&mut self, server: usize, except: usize, sent: &Sent) -> usize {
        let Some(here) = self.servers[server].here.get(&sent.subject) else { return 0 };
        let here: Vec<_> = here.iter().copied().filter(|(peer, _)| *peer != except).collect();
        let size = sent.payload.len() as u64;
        for (peer, number) in &here {
            let (peer, number) = (*peer, *number);
            if self.sabotage == Some(Sabotage::LoseMarks) && self.is_lost_on_purpose(sent) {
                continue;
            }
            let traffic = self.traffic.entry(kind(&sent.subject)).or_default();
            traffic.given = (traffic.given.0 + 1, traffic.given.1 + size);
            let connection = self.peers[peer].connection;
            let (payload, reply) = (sent.payload.clone(), sent.reply.clone());
            self.down(peer, Happens::Delivered { peer, connection, number, payload, reply, nobody: false });
        }
        here.len()
    }

    /// All marks, and one envelope in twenty.
    fn is_lost_on_purpose(&mut self, sent: &Sent) -> bool {
        const MARK: u8 = crate::wire::Kind::Mark as u8;
        kind(&sent.subject) == "rooms"
            && (sent.payload.get(1) == Some(&MARK) || self.rng.random_range(0..20) == 0)
    }
}

/// What a subject is for.
fn kind(subject: &str) -> &'static str {
    let mut parts = subject.split('.').skip(1);
    match (parts.next(), parts.next()) {
        (Some("nodes"), _) => "heartbeats",
        (_, Some("t")) => "tenants",
        (_, Some("r")) => "rooms",
        (_, Some("n")) => "between two",
        (_, Some("q")) => "questions",
        (_, Some("c" | "o")) => "databases",
        _ => "answers",
    }
}
