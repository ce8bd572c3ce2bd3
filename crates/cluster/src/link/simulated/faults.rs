//! What goes wrong in the network.

use std::{collections::BTreeMap, sync::Arc};

use rand::Rng as _;

use super::net::{Happens, Net, Sabotage, State, Traffic};

impl Net {
    /// The route between two servers breaks, for so many milliseconds. What is under way is lost.
    pub(crate) fn break_route(&self, one: usize, other: usize, ms: u64) {
        self.with(|state| {
            for (from, to) in [(one, other), (other, one)] {
                let route = &mut state.routes[from][to];
                route.is_up = false;
                route.connection += 1;
                let connection = route.connection;
                state.servers[to].there.values_mut().for_each(|bits| *bits &= !(1 << from));
                state.put(ms * 1000, Happens::RouteUp { from, to, connection });
            }
        });
    }

    /// A node's connection is lost. It notices after some milliseconds, and has another one after some more.
    pub(crate) fn cut(&self, peer: usize, notices_ms: u64, back_ms: u64) {
        self.with(|state| {
            state.end(peer, notices_ms * 1000);
            let servers = state.servers.len();
            let server = state.rng.random_range(0..servers);
            state.put((notices_ms + back_ms) * 1000, Happens::Connected { peer, server });
        });
    }

    /// A node is gone for ever.
    pub(crate) fn remove(&self, peer: usize) {
        self.with(|state| {
            state.peers[peer].is_gone = true;
            state.end(peer, 0);
        });
    }

    /// When the first of those messages of a node was sent that its server has not read.
    pub(crate) fn unread_since(&self, of: usize) -> Option<u64> {
        let state = self.state.lock();
        let current = state.peers[of].connection;
        let sent = state.due.values().filter_map(|happens| match happens {
            Happens::Published { peer, connection, at, .. } if (*peer, *connection) == (of, current) => {
                Some(*at)
            }
            _ => None,
        });
        sent.min()
    }

    /// A node stands still, or goes on: what has come meanwhile is there at once.
    pub(crate) fn stand_still(&self, peer: usize, is_still: bool) {
        self.with(|state| {
            let at = &mut state.peers[peer];
            (at.is_still, at.kept_bytes) = (is_still, 0);
            if !is_still {
                for happens in std::mem::take(&mut at.kept) {
                    state.at_node(peer, happens);
                }
            }
        });
    }

    /// How long messages to and from a node are under way, in microseconds, and how much longer at most.
    pub(crate) fn slow(&self, peer: usize, delay: (u64, u64)) {
        self.with(|state| state.peers[peer].delay = delay);
    }

    /// How many messages a subscription of a node takes, of those that begin from now on.
    pub(crate) fn set_capacity(&self, peer: usize, capacity: usize) {
        self.with(|state| state.peers[peer].capacity = capacity);
    }

    pub(crate) fn sabotage(&self, sabotage: Sabotage) {
        self.with(|state| state.sabotage = Some(sabotage));
    }

    /// What the servers have carried, by the kind of subject.
    pub(crate) fn traffic(&self) -> BTreeMap<&'static str, Traffic> {
        self.state.lock().traffic.clone()
    }
}

impl State {
    /// A connection ends. Its node notices after a while.
    pub(super) fn end(&mut self, peer: usize, notices: u64) {
        let at = &mut self.peers[peer];
        let subjects: Vec<_> =
            at.subscriptions.iter().map(|(number, one)| (*number, Arc::clone(&one.subject))).collect();
        if at.is_there {
            for (number, subject) in subjects {
                self.unlisten(peer, number, &subject);
            }
        }
        let at = &mut self.peers[peer];
        at.is_there = false;
        at.connection += 1;
        let connection = at.connection;
        if !at.is_gone {
            self.put(notices, Happens::Lost { peer, connection });
        }
    }

    pub(super) fn route_up(&mut self, from: usize, to: usize, connection: u64) {
        if self.routes[from][to].connection != connection {
            return;
        }
        self.routes[from][to].is_up = true;
        let mut subjects: Vec<_> = self.servers[from].here.keys().map(Arc::clone).collect();
        subjects.sort();
        for subject in subjects {
            self.tell_interest_to(from, to, &subject, true);
        }
    }
}
