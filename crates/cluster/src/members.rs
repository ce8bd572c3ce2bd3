//! The nodes whose heartbeats are heard. Pure: time is an argument.
//!
//! A node is identified by a number that it draws when it starts, so a node that was restarted is another one. Heartbeats
//! are JSON on a subject without a version: nodes of different versions must be able to read that much of each other, to
//! say why they do not exchange messages.

use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

use crate::{chance::Map, wire::WIRE_VERSION};

/// How long a node that vanished is remembered, for operators.
pub const REMEMBERED: Duration = Duration::from_secs(300);

/// A heartbeat.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Beat {
    /// Version of the protocol between nodes.
    pub wire: u8,
    /// The node's number.
    pub id: u32,
    /// Drawn at the start too: it tells two nodes apart that drew the same number.
    pub token: u64,
    /// The node's name, for people.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// The region that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The node is leaving.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bye: bool,
    /// Round trips to others in milliseconds, as last measured. Not in every heartbeat.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub latencies: Map<u32, f64>,
    /// Nodes that do not answer it. Comes with the latencies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<u32>,
    /// Seconds since its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<u64>,
    /// Users of all tenants on it.
    #[serde(default)]
    pub users: u64,
    /// How many databases that it keeps connections to answer, and how many do not.
    #[serde(default)]
    pub databases: (usize, usize),
}

impl Beat {
    /// Whether it contains measurements.
    fn measures(&self) -> bool {
        !self.latencies.is_empty() || !self.unanswered.is_empty()
    }
}

/// What a heartbeat, or the lack of one, means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node has come.
    Came(u32),
    /// A node has gone.
    Went(u32),
    /// A node speaks another version: nothing is exchanged with it. Told once.
    Refused(u32),
    /// Another node drew our number: nothing is exchanged with it. Told once.
    Namesake,
}

/// Another node.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its last heartbeat.
    pub beat: Beat,
    /// When that came.
    pub heard: Instant,
    /// When it last told measurements; when it came, if it has told none.
    pub measured: Instant,
}

/// The other nodes.
#[derive(Debug)]
pub struct Members {
    own: u32,
    token: u64,
    timeout: Duration,
    nodes: Map<u32, Member>,
    /// Nodes that nothing is exchanged with.
    refused: Map<u64, Member>,
    /// Nodes that vanished.
    lost: Map<u32, Member>,
}

impl Members {
    /// No other nodes. A node that is not heard for `timeout` has gone.
    #[must_use]
    pub fn new(own: u32, token: u64, timeout: Duration) -> Self {
        Self { own, token, timeout, nodes: Map::default(), refused: Map::default(), lost: Map::default() }
    }

    /// A heartbeat has come.
    pub fn heard(&mut self, beat: Beat, now: Instant) -> Option<Change> {
        if beat.token == self.token {
            return None;
        }
        let id = beat.id;
        let member = Member { beat, heard: now, measured: now };
        if member.beat.wire != WIRE_VERSION || id == self.own {
            let new = if member.beat.bye {
                self.refused.remove(&member.beat.token);
                false
            } else {
                self.refused.insert(member.beat.token, member).is_none()
            };
            return new.then_some(if id == self.own { Change::Namesake } else { Change::Refused(id) });
        }
        if member.beat.bye {
            return self.nodes.remove(&id).map(|_| Change::Went(id));
        }
        let before = self.nodes.remove(&id);
        let new = before.is_none();
        let is_back = self.lost.remove(&id).is_some();
        if new && !is_back {
            self.replace_lost(&member.beat.name);
        }
        let mut member = member;
        if let Some(before) = before
            && !member.beat.measures()
        {
            member.measured = before.measured;
            member.beat.latencies = before.beat.latencies;
            member.beat.unanswered = before.beat.unanswered;
        }
        self.nodes.insert(id, member);
        new.then_some(Change::Came(id))
    }

    /// A node has come: it replaces one that was lost, if that had the same name. Names need not be unique.
    fn replace_lost(&mut self, name: &str) {
        let namesakes = self.lost.iter().filter(|(_, lost)| lost.beat.name == name);
        let longest = namesakes.min_by_key(|(_, lost)| lost.heard).map(|(id, _)| *id);
        if let Some(id) = longest {
            self.lost.remove(&id);
        }
    }

    /// Time has passed; returns the nodes that have gone.
    pub fn expire(&mut self, now: Instant) -> Vec<u32> {
        let timeout = self.timeout;
        let gone = |member: &Member| now.saturating_duration_since(member.heard) > timeout;
        self.refused.retain(|_, member| !gone(member));
        self.lost.retain(|_, member| now.saturating_duration_since(member.heard) <= timeout + REMEMBERED);
        let ids: Vec<u32> = self.nodes.iter().filter(|(_, member)| gone(member)).map(|(id, _)| *id).collect();
        for id in &ids {
            if let Some(member) = self.nodes.remove(id) {
                self.lost.insert(*id, member);
            }
        }
        ids
    }

    /// The name of a node that vanished a while ago.
    #[must_use]
    pub fn name_of_lost(&self, id: u32) -> Option<&str> {
        self.lost.get(&id).map(|member| &*member.beat.name)
    }

    /// This node stood still for this long: it could not hear the others.
    pub fn excuse(&mut self, pause: Duration) {
        for member in self.nodes.values_mut() {
            member.heard += pause;
        }
    }

    /// Whether a node is there.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.nodes.contains_key(&id)
    }

    /// The nodes that are there, without this one.
    #[must_use]
    pub fn nodes(&self) -> &Map<u32, Member> {
        &self.nodes
    }

    /// The nodes that nothing is exchanged with.
    pub fn refused(&self) -> impl Iterator<Item = &Member> {
        self.refused.values()
    }

    /// The nodes that vanished, for a while.
    pub fn lost(&self) -> impl Iterator<Item = &Member> {
        self.lost.values()
    }

    /// Users of all tenants on the other nodes, as the nodes said last.
    #[must_use]
    pub fn users(&self) -> u64 {
        self.nodes.values().map(|member| member.beat.users).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(id: u32) -> Beat {
        Beat {
            wire: WIRE_VERSION,
            id,
            token: u64::from(id) + 100,
            name: format!("n{id}"),
            version: "1".into(),
            region: None,
            bye: false,
            latencies: Map::default(),
            unanswered: Vec::new(),
            up: None,
            users: 3,
            databases: (0, 0),
        }
    }

    #[test]
    fn nodes_come_and_go() {
        let mut members = Members::new(0, 100, Duration::from_secs(5));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(members.heard(beat(0), at(0)), None, "our own");
        assert_eq!(members.heard(beat(1), at(0)), Some(Change::Came(1)));
        let measured = Beat { latencies: [(2, 0.5)].into_iter().collect(), ..beat(1) };
        assert_eq!(members.heard(measured, at(0)), None);
        assert_eq!(members.heard(beat(1), at(1)), None);
        assert_eq!(members.nodes()[&1].beat.latencies[&2], 0.5);
        assert_eq!((members.nodes()[&1].heard, members.nodes()[&1].measured), (at(1), at(0)));
        let failed = Beat { unanswered: vec![2], ..beat(1) };
        assert_eq!(members.heard(failed, at(1)), None);
        assert!(members.nodes()[&1].beat.latencies.is_empty(), "what it says last counts");
        assert_eq!(members.heard(beat(2), at(1)), Some(Change::Came(2)));
        assert!(members.expire(at(6)).is_empty());
        members.heard(beat(2), at(6));
        assert_eq!(members.users(), 6);
        assert_eq!(members.expire(at(7)), [1]);
        assert_eq!((members.lost().count(), members.users()), (1, 3));
        assert_eq!(members.heard(beat(1), at(8)), Some(Change::Came(1)), "it was only not heard");
        assert_eq!(members.lost().count(), 0);
        assert_eq!(members.heard(Beat { bye: true, ..beat(2) }, at(8)), Some(Change::Went(2)));
        assert_eq!(members.lost().count(), 0, "it said so");
        members.excuse(Duration::from_secs(100));
        assert!(members.expire(at(110)).is_empty());
        assert!(members.contains(1));
    }

    #[test]
    fn who_went_without_a_word_is_remembered_for_a_while() {
        let start = Instant::now();
        let lose = || {
            let mut members = Members::new(0, 100, Duration::from_secs(5));
            members.heard(beat(1), start);
            assert_eq!(members.expire(start + Duration::from_secs(6)), [1]);
            members
        };
        let mut members = lose();
        members.expire(start + Duration::from_secs(5) + REMEMBERED);
        assert_eq!(members.lost().count(), 1);
        members.expire(start + Duration::from_secs(6) + REMEMBERED);
        assert_eq!(members.lost().count(), 0);
        let mut members = lose();
        let named = |id: u32, name: &str| Beat { name: name.into(), ..beat(id) };
        members.heard(named(7, "n1"), start + Duration::from_secs(7));
        assert_eq!(members.lost().count(), 0, "started again");
        // All of one name: who is there does not take anybody's place, who comes that of one.
        let mut members = Members::new(0, 100, Duration::from_secs(5));
        for id in 1..=3 {
            members.heard(named(id, "n"), start);
        }
        let later = start + Duration::from_secs(6);
        members.heard(named(3, "n"), later);
        assert_eq!(members.expire(later).len(), 2);
        members.heard(named(3, "n"), later);
        assert_eq!(members.lost().count(), 2);
        members.heard(named(1, "n"), later);
        assert_eq!(members.lost().count(), 1, "one was only not heard");
        members.heard(named(4, "n"), later);
        assert_eq!(members.lost().count(), 0);
    }

    #[test]
    fn other_versions_and_namesakes_are_refused_once() {
        let mut members = Members::new(0, 100, Duration::from_secs(5));
        let now = Instant::now();
        let other = Beat { wire: WIRE_VERSION + 1, ..beat(3) };
        assert_eq!(members.heard(other.clone(), now), Some(Change::Refused(3)));
        assert_eq!(members.heard(other.clone(), now), None);
        let namesake = Beat { token: 1, ..beat(0) };
        assert_eq!(members.heard(namesake, now), Some(Change::Namesake));
        assert!(members.nodes().is_empty());
        assert_eq!(members.refused().count(), 2);
        members.heard(Beat { bye: true, ..other }, now);
        members.expire(now + Duration::from_secs(6));
        assert_eq!(members.refused().count(), 0);
    }

    /// What a later version adds does not hinder an earlier one from reading who it is.
    #[test]
    fn beats_of_the_future_can_be_read() {
        let text = r#"{"wire":9,"id":1,"token":2,"name":"n","version":"9.0.0","shape":"square"}"#;
        let beat: Beat = serde_json::from_str(text).unwrap();
        assert_eq!((beat.wire, beat.id, beat.bye), (9, 1, false));
    }
}
