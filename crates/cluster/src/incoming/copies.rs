//! Copies of other nodes' state of a part of a tenant, and what has come of messages that are not whole yet.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use realtime_hub::{Congestion, MemberId};
use tokio::time::{Duration, Instant};

use crate::{
    chance::{Map, Set},
    rates::Rates,
    scope::Listens,
    track::{Arrival, Track},
    wire::{Header, Kind, Malformed, Room, Told, Unheard},
};

/// Largest message that is put together from pieces: more than any client may send.
const MAX_FRAGMENTED: usize = 80_000_000;

/// Members of a tenant are told that something was missed at most once in this time: where much is lost, each loss is
/// noticed.
pub(super) const TELL_AGAIN: Duration = Duration::from_secs(1);

/// How long it is remembered what was heard last of a node that has gone: it may only not have been heard.
const REMEMBERED: Duration = Duration::from_secs(300);

/// Numbers of questions.
#[derive(Debug, Default)]
pub(crate) struct Asks(AtomicU64);

impl Asks {
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// What has to be done after a message.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Put the question of this number to the node that sent it.
    pub(crate) ask: Option<u64>,
    /// Something before it was missed.
    pub(crate) gap: bool,
    /// Rooms that could not keep up.
    pub(crate) congested: Vec<Congestion>,
}

#[derive(Debug, Default)]
pub(super) struct Copies {
    pub(super) nodes: Map<u32, NodeCopy>,
    /// What was heard last of nodes that have gone, and when they went.
    gone: Map<u32, (u64, Instant)>,
    /// Something was missed, and members have not been told.
    pub(super) owed: bool,
    /// When they were told last.
    pub(super) told_at: Option<Instant>,
    /// Since when members are let in.
    serving_since: Option<Instant>,
}

impl Copies {
    /// The copy of a node; a new one asks the question of this number.
    pub(super) fn copy(&mut self, node: u32, ask: impl FnOnce() -> u64) -> &mut NodeCopy {
        let Self { nodes, gone, serving_since, .. } = self;
        nodes.entry(node).or_insert_with(|| {
            let mut copy = NodeCopy::asking(ask(), *serving_since);
            let seen = gone.remove(&node).map(|(seen, _)| seen);
            copy.track.go_on_from(seen);
            copy.is_late = seen.is_none() && serving_since.is_some();
            copy
        })
    }

    /// A node has gone, or is not heard any more. If it comes back, what members have missed meanwhile is a gap.
    pub(super) fn remove(&mut self, node: u32, now: Instant) -> Option<NodeCopy> {
        let copy = self.nodes.remove(&node)?;
        // One that has not answered may have said something before what was heard of it.
        if let Some(seen) = copy.track.seen().filter(|_| self.is_serving() && !copy.is_late) {
            self.gone.insert(node, (seen, now));
        }
        Some(copy)
    }

    /// Nodes that have not answered for longer than `limit`. What others have answered that they had said should have come by
    /// then; otherwise it was lost.
    pub(super) fn unanswered(&mut self, limit: Duration, now: Instant) -> Vec<u32> {
        let is_late = |since: Instant| now.saturating_duration_since(since) >= limit;
        self.gone.retain(|_, (_, since)| now.saturating_duration_since(*since) < REMEMBERED);
        let mut unanswered = Vec::new();
        let mut lost = false;
        for (node, copy) in &mut self.nodes {
            if copy.track.asked().is_some() {
                unanswered.extend(is_late(copy.asked_at).then_some(*node));
            }
            let Some(as_of) = copy.track.is_behind() else {
                copy.behind_since = None;
                continue;
            };
            if is_late(*copy.behind_since.get_or_insert(now)) {
                copy.track.begin(as_of);
                lost = true;
            }
        }
        self.owed |= lost && self.is_serving();
        unanswered
    }

    /// Nodes whose heartbeats are not heard although they have said something, longer than `limit` ago.
    pub(super) fn strangers(&self, known: &Set<u32>, limit: Duration, now: Instant) -> Vec<u32> {
        // Nearly always: all nodes that are known are asked about everything.
        if self.nodes.len() <= known.len() {
            return Vec::new();
        }
        let late = |copy: &NodeCopy| now.saturating_duration_since(copy.asked_at) > limit;
        let strange = self.nodes.iter().filter(|(node, copy)| !known.contains(node) && late(copy));
        strange.map(|(node, _)| *node).collect()
    }

    /// Members are let in. Nodes that have not answered may not know of them.
    pub(super) fn serve(&mut self, now: Instant) {
        if self.serving_since.is_none() {
            self.serving_since = Some(now);
            let asking = self.nodes.values_mut().filter(|copy| copy.track.asked().is_some());
            asking.for_each(|copy| (copy.unsure_since, copy.is_late) = (Some(now), true));
        }
    }

    /// Since when members are let in.
    pub(super) fn serving_since(&self) -> Option<Instant> {
        self.serving_since
    }

    /// Whether members are let in.
    pub(super) fn is_serving(&self) -> bool {
        self.serving_since.is_some()
    }

    /// Other nodes may have forgotten this one. What was missed so far is told.
    pub(super) fn doubt_all(&mut self, now: Instant) {
        if self.serving_since.is_some() {
            self.serving_since = Some(now);
            self.nodes.values_mut().for_each(|copy| copy.unsure_since = Some(now));
        }
    }

    /// Whether all nodes that were asked have answered.
    pub(super) fn is_complete(&self) -> bool {
        self.nodes.values().all(|copy| copy.track.asked().is_none())
    }

    /// Takes the number of an envelope. False if there is nothing more to do with it: it has come before.
    pub(super) fn arrive(&mut self, header: &Header, asks: &Asks, outcome: &mut Outcome) -> bool {
        let serving_since = self.serving_since;
        let copy = self.copy(header.node, || *outcome.ask.insert(asks.next()));
        // Drawn in advance: a number that is not used does no harm.
        let ask = asks.next();
        match copy.track.arrive(header.number, header.kind == Kind::Mark, ask) {
            Arrival::Next => {}
            Arrival::Again => return false,
            Arrival::AfterGap => {
                // Before members are let in nobody misses anything, and there may be holes where nothing was sent.
                outcome.gap = serving_since.is_some();
                outcome.ask = Some(ask);
                copy.asked_at = Instant::now();
                copy.pieces = None;
                self.owed |= outcome.gap;
            }
        }
        true
    }

    /// Whether members have to be told now that something was missed. True once each time.
    pub(super) fn take_owed(&mut self) -> bool {
        let now = Instant::now();
        let due = self.owed && self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_AGAIN);
        if due {
            (self.owed, self.told_at) = (false, Some(now));
        }
        due
    }
}

/// What is known about one node.
#[derive(Debug)]
pub(super) struct NodeCopy {
    pub(super) track: Track,
    pub(super) asked_at: Instant,
    /// Pieces of a large message, from the first on.
    pieces: Option<BytesMut>,
    /// The number of the question, and the part of the answer that has come.
    answer: (u64, BytesMut),
    /// The members that are present there, as this node's rooms know them.
    pub(super) present: Set<(Room, MemberId)>,
    pub(super) users: u32,
    /// How often what is limited happens on it, if it has told. Apart, because most copies are of buckets.
    pub(super) rates: Option<Box<Rates>>,
    /// The buckets that it listens to.
    pub(super) listens: Listens,
    /// Since when it may not know that members here listen to it.
    unsure_since: Option<Instant>,
    /// It came, or will answer, after members were let in, and nothing is remembered of it.
    is_late: bool,
    /// Since when less has come than it has said, by its answer.
    behind_since: Option<Instant>,
}

impl NodeCopy {
    fn asking(ask: u64, unsure_since: Option<Instant>) -> Self {
        Self {
            track: Track::asking(ask),
            asked_at: Instant::now(),
            pieces: None,
            answer: (0, BytesMut::new()),
            present: Set::default(),
            users: 0,
            rates: None,
            listens: Listens::default(),
            unsure_since,
            is_late: false,
            behind_since: None,
        }
    }

    /// The node has answered that it has said something. If it was there before members were let in here, it may have said it to
    /// them, and was not heard. If it came after them, all that it has said has to come. `began`: when it was started at the
    /// earliest; `None` if that is not known.
    pub(super) fn may_have_been_unheard(
        &mut self,
        began: Option<Instant>,
        serving_since: Option<Instant>,
    ) -> bool {
        let is_late = std::mem::take(&mut self.is_late);
        let Some(since) = serving_since.filter(|_| is_late) else { return false };
        began.is_none_or(|began| began < since) || self.track.expect_all()
    }

    /// The node has answered, so it knows from now on that members here listen to it. Whether it may have said something
    /// before, while it did not know.
    pub(super) fn may_have_missed(&mut self, unheard: Unheard) -> bool {
        self.is_late = false;
        let Some(since) = self.unsure_since.take() else { return false };
        // The answer has travelled since: this errs on the side of telling.
        unheard.is_some_and(|ago| u128::from(ago) <= since.elapsed().as_millis())
    }

    /// Puts a large message together; returns the body of the envelope once it is whole.
    pub(super) fn assemble(&mut self, kind: Kind, message: Bytes) -> Result<Option<Bytes>, Malformed> {
        match kind {
            Kind::Records => return Ok(Some(message)),
            Kind::Mark => return Ok(None),
            Kind::FirstFragment => {
                self.pieces = Some(BytesMut::from(message));
                return Ok(None);
            }
            Kind::Fragment | Kind::LastFragment => {}
        }
        // Without the beginning, which came too early or was in a gap, the rest makes no sense.
        let Some(mut pieces) = self.pieces.take() else { return Ok(None) };
        pieces.extend_from_slice(&message);
        if pieces.len() > MAX_FRAGMENTED {
            return Err(Malformed);
        }
        if kind == Kind::Fragment {
            self.pieces = Some(pieces);
            return Ok(None);
        }
        Ok(Some(pieces.freeze()))
    }

    /// Takes a part of an answer; returns the records of the answer once it is whole.
    pub(super) fn part(&mut self, told: &Told) -> Option<Bytes> {
        self.asked_at = Instant::now();
        let (ask, parts) = &mut self.answer;
        if *ask != told.ask || told.offset == 0 {
            (*ask, *parts) = (told.ask, BytesMut::new());
        }
        if parts.len() as u64 != told.offset {
            // A part was lost: there will be another question.
            return None;
        }
        parts.extend_from_slice(&told.records);
        told.last.then(|| std::mem::take(parts).freeze())
    }
}
