//! Which nodes there are: those whose heartbeats are heard. Pure: time is an argument.
//!
//! A node is identified by a number that it draws when it starts, so a node that was started again is another one.
//! Heartbeats are JSON on a subject without a version: nodes of unequal versions must be able to read that much of each
//! other, to say why they do not talk.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

use crate::wire::WIRE_VERSION;

/// A heartbeat.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Beat {
    /// Version of the protocol between nodes.
    pub wire: u8,
    /// The node's number.
    pub id: u32,
    /// Drawn at start too: two nodes that drew the same number are told apart by it.
    pub token: u64,
    /// The node's name, for people.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// It goes away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bye: bool,
    /// Round trips to others in milliseconds, as last measured.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub latencies: HashMap<u32, f64>,
}

/// What a heartbeat or the lack of it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node has come.
    Came(u32),
    /// A node has gone.
    Went(u32),
    /// A node is of another version: nothing is exchanged with it. Told once.
    Refused(u32),
    /// Another node drew our number: nothing is exchanged with it. Told once.
    Namesake,
}

/// Another node.
#[derive(Debug, Clone)]
pub struct Member {
    /// What it said last of itself.
    pub beat: Beat,
    /// When.
    pub heard: Instant,
}

/// The other nodes.
#[derive(Debug)]
pub struct Members {
    own: u32,
    token: u64,
    timeout: Duration,
    nodes: HashMap<u32, Member>,
    /// Those that nothing is exchanged with.
    refused: HashMap<u64, Member>,
}

impl Members {
    /// Nobody else. Who is not heard for `timeout` has gone.
    #[must_use]
    pub fn new(own: u32, token: u64, timeout: Duration) -> Self {
        Self { own, token, timeout, nodes: HashMap::new(), refused: HashMap::new() }
    }

    /// A heartbeat has come.
    pub fn heard(&mut self, beat: Beat, now: Instant) -> Option<Change> {
        if beat.token == self.token {
            return None;
        }
        let id = beat.id;
        let member = Member { beat, heard: now };
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
        let mut member = member;
        // They are not in every one.
        if let Some(before) = before
            && member.beat.latencies.is_empty()
        {
            member.beat.latencies = before.beat.latencies;
        }
        self.nodes.insert(id, member);
        new.then_some(Change::Came(id))
    }

    /// Time has passed: those who have gone.
    pub fn expire(&mut self, now: Instant) -> Vec<u32> {
        let timeout = self.timeout;
        let gone = |member: &Member| now.saturating_duration_since(member.heard) > timeout;
        self.refused.retain(|_, member| !gone(member));
        let ids: Vec<u32> = self.nodes.iter().filter(|(_, member)| gone(member)).map(|(id, _)| *id).collect();
        for id in &ids {
            self.nodes.remove(id);
        }
        ids
    }

    /// This node was not running for so long: the others could not be heard.
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
    pub fn nodes(&self) -> &HashMap<u32, Member> {
        &self.nodes
    }

    /// The nodes that nothing is exchanged with.
    pub fn refused(&self) -> impl Iterator<Item = &Member> {
        self.refused.values()
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
            latencies: HashMap::new(),
        }
    }

    #[test]
    fn nodes_come_and_go() {
        let mut members = Members::new(0, 100, Duration::from_secs(5));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(members.heard(beat(0), at(0)), None, "our own");
        assert_eq!(members.heard(beat(1), at(0)), Some(Change::Came(1)));
        let measured = Beat { latencies: [(2, 0.5)].into(), ..beat(1) };
        assert_eq!(members.heard(measured, at(0)), None);
        assert_eq!(members.heard(beat(1), at(1)), None);
        assert_eq!(members.nodes()[&1].beat.latencies[&2], 0.5);
        assert_eq!(members.heard(beat(2), at(1)), Some(Change::Came(2)));
        assert!(members.expire(at(6)).is_empty());
        members.heard(beat(2), at(6));
        assert_eq!(members.expire(at(7)), [1]);
        assert_eq!(members.heard(beat(1), at(8)), Some(Change::Came(1)), "it was only not heard");
        assert_eq!(members.heard(Beat { bye: true, ..beat(2) }, at(8)), Some(Change::Went(2)));
        members.excuse(Duration::from_secs(100));
        assert!(members.expire(at(110)).is_empty());
        assert!(members.contains(1));
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
