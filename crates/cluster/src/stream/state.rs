//! What the owner of a stream has to send, and to whom.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::time::Instant;

use super::{
    messages::{HEADER, Header, put_event},
    sorted::{Batch, Way, ways},
    wish::Wish,
};
use crate::chance::Map;

pub(super) struct State {
    /// Whether a group has begun and not ended.
    pub(super) within: bool,
    pub(super) position: u64,
    /// Bytes of events since the beginning.
    pub(super) carried: u64,
    /// For followers that take everything.
    pub(super) whole: Line,
    /// For those that know of sorted streams.
    pub(super) sorted: Line,
    /// Events that are not a message of the first yet.
    pub(super) buffer: BytesMut,
    /// The same of the second.
    pub(super) batch: Batch,
    /// Where in the second the events about a thing go.
    pub(super) ways: Map<u32, Way>,
    /// Messages that wait to be sent.
    pub(super) ready: VecDeque<(To, Bytes)>,
    /// Followers by the numbers that they drew.
    pub(super) followers: Map<u64, Follower>,
    /// Nodes that wait for the end of a group.
    pub(super) waiting: Vec<Waiting>,
    /// What followers want from the end of the group on.
    pub(super) wishes: Map<u64, Wish>,
    /// Events that later followers need.
    pub(super) needed: BTreeMap<u64, Bytes>,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Whole,
    Sorted,
    Strand(u32),
}

/// Messages that are numbered without gaps.
pub(super) struct Line {
    /// Number of the next message.
    pub(super) number: u64,
    /// How many of them wait to be sent.
    pub(super) waiting: u64,
    /// Whether somebody follows, or did.
    pub(super) is_used: bool,
    /// Whether something was not put on it, because nobody followed any more.
    has_hole: bool,
}

impl Line {
    pub(super) const fn new() -> Self {
        Self { number: 1, waiting: 0, is_used: false, has_hole: false }
    }

    /// Somebody follows from now on: the number of the next message. One that was dropped may still listen and not know it, so a
    /// hole takes a number.
    pub(super) const fn begin(&mut self) -> u64 {
        if self.has_hole {
            self.number += 1;
        }
        (self.is_used, self.has_hole) = (true, false);
        self.number
    }

    /// The number of the last message that was sent.
    pub(super) const fn sent(&self) -> u64 {
        self.number - 1 - self.waiting
    }
}

/// A node that wants to follow.
pub(super) struct Waiting {
    pub(super) follower: u64,
    pub(super) node: u32,
    pub(super) sorted: bool,
    /// Where the answer goes.
    pub(super) reply: String,
}

pub(super) struct Follower {
    /// Its node, which may have several.
    pub(super) node: u32,
    pub(super) sorted: bool,
    /// What it wants, if it has said so.
    pub(super) wish: Option<Wish>,
    /// Bytes that had been carried when it came.
    pub(super) base: u64,
    pub(super) taken: u64,
    pub(super) confirmed: u64,
    pub(super) heard: Instant,
}

impl State {
    /// Nothing has been carried yet.
    pub(super) fn new(position: u64) -> Self {
        Self {
            within: false,
            position,
            carried: 0,
            whole: Line::new(),
            sorted: Line::new(),
            buffer: BytesMut::new(),
            batch: Batch::default(),
            ways: Map::default(),
            ready: VecDeque::new(),
            followers: Map::default(),
            waiting: Vec::new(),
            wishes: Map::default(),
            needed: BTreeMap::new(),
        }
    }

    pub(super) fn put(&mut self, key: Option<u32>, event: &Bytes) {
        let (mut to_whole, mut to_sorted) = (false, false);
        for follower in self.followers.values() {
            *(if follower.sorted { &mut to_sorted } else { &mut to_whole }) = true;
        }
        if to_whole {
            put_event(&mut self.buffer, event);
        }
        if to_sorted {
            self.batch.push(key, event);
        }
        self.whole.has_hole |= self.whole.is_used && !to_whole;
        self.sorted.has_hole |= self.sorted.is_used && !to_sorted;
        self.carried += event.len() as u64;
    }

    pub(super) fn forget(&mut self, follower: u64) {
        if self.followers.remove(&follower).is_some() {
            self.sort();
        }
    }

    /// Followers have come or gone, or want something else.
    pub(super) fn sort(&mut self) {
        let sorted = self.followers.values().filter(|follower| follower.sorted);
        self.ways = ways(sorted.map(|follower| follower.wish.as_ref()));
    }

    pub(super) const fn line(&mut self, sorted: bool) -> &mut Line {
        if sorted { &mut self.sorted } else { &mut self.whole }
    }
}

/// A message of a line or strand.
pub(super) fn message(header: Header, body: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(HEADER + body.len());
    message.put_slice(&header.encode());
    message.put_slice(body);
    message.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A follower that was dropped, and has not heard of it, sees a number missing when another one comes.
    #[test]
    fn what_nobody_followed_takes_a_number() {
        let mut state = State::new(1);
        let follower =
            |heard| Follower { node: 1, sorted: true, wish: None, base: 0, taken: 0, confirmed: 1, heard };
        state.put(None, &"before".into());
        assert_eq!(state.line(true).begin(), 1, "nobody has ever listened");
        state.followers.insert(1, follower(Instant::now()));
        state.put(None, &"event".into());
        assert_eq!(state.line(true).begin(), 1, "another one comes");
        state.forget(1);
        assert_eq!(state.line(true).begin(), 1, "nothing was left out");
        state.put(None, &"unheard".into());
        assert_eq!((state.line(true).begin(), state.line(true).begin()), (2, 2));
        assert_eq!(state.line(false).begin(), 1, "the other line was not used");
    }
}
