//! What one node has heard from another about one tenant: what is missing, and the state there.
//!
//! Invariants
//! 1. Only a node itself changes its state (who is present, how many users), and it numbers all that it says. So its state
//!    after envelope `n` is the same for everybody.
//! 2. A copy is either *in step*, as of a number, or *asking*. In step, envelope `n + 1` leads to state `n + 1`.
//! 3. A number that is skipped is a loss: the copy is asking from then on. While asking, what comes is kept. The answer to
//!    this very question replaces the copy, and what was kept and is newer is applied to it.
//! 4. Records set and end entries, they do not add up: applying one that the answer already contains changes nothing in
//!    the end.
//!
//! It follows from 2 to 4: whatever was lost, a copy equals the state of its node as of some number as soon as one question
//! has been answered since. Entries that ended need not be remembered.

use std::collections::VecDeque;

use crate::wire::Record;

/// Records that are kept while an answer is awaited. If more come, the answer is stale and the question is put again.
const MAX_KEPT: usize = 50_000;

/// See the module.
#[derive(Debug)]
pub struct Track {
    /// Number of the last envelope that came.
    seen: Option<u64>,
    /// The number that was missing at worst when the first envelope came of which it was not known what had to come before.
    unknown: Option<u64>,
    state: State,
}

#[derive(Debug)]
enum State {
    Asking {
        /// Number of the question.
        ask: u64,
        /// Records of state that came since, each with the number of its envelope.
        kept: VecDeque<(u64, Record)>,
        /// There were too many.
        overflown: bool,
    },
    /// The copy is as of this number or later.
    InStep(u64),
}

/// What an envelope's number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is the next envelope.
    Next,
    /// Something before it is missing.
    AfterGap,
    /// It has come before.
    Again,
}

impl Track {
    /// Nothing has been heard; the question of this number is under way.
    #[must_use]
    pub fn asking(ask: u64) -> Self {
        Self { seen: None, unknown: None, state: State::asking(ask) }
    }

    /// An envelope has come. After a gap the copy asks: the caller must put the question `ask`.
    pub fn arrive(&mut self, number: u64, mark: bool, ask: u64) -> Arrival {
        let last = match (self.seen, &self.state) {
            (Some(seen), _) => Some(seen),
            // All that followed the answer must have come.
            (None, State::InStep(as_of)) => Some(*as_of),
            (None, State::Asking { .. }) => None,
        };
        // A mark has the number of the envelope before it.
        let expected = last.map(|last| if mark { last } else { last + 1 });
        let arrival = match expected {
            Some(expected) if number > expected => Arrival::AfterGap,
            // The first envelopes may be older than the answer.
            Some(expected) if number < expected && self.seen.is_some() => Arrival::Again,
            _ => Arrival::Next,
        };
        if expected.is_none() {
            // A mark says that its envelope was sent, and that may be lost too.
            self.unknown = Some(if mark { number } else { number.saturating_sub(1) });
        }
        if arrival != Arrival::Again {
            self.seen = Some(self.seen.map_or(number, |seen| seen.max(number)));
        }
        if arrival == Arrival::AfterGap {
            self.state = State::asking(ask);
        }
        arrival
    }

    /// A record of state has come in an envelope. Returns what has to be applied to the copy now.
    pub fn record(&mut self, number: u64, record: Record) -> Option<Record> {
        match &mut self.state {
            State::InStep(as_of) => (number > *as_of).then_some(record),
            State::Asking { kept, overflown, .. } => {
                *overflown |= kept.len() >= MAX_KEPT;
                if *overflown {
                    kept.clear();
                } else {
                    kept.push_back((number, record));
                }
                None
            }
        }
    }

    /// An answer has come. Returns what replaces the copy, and what has to be applied after that; `None` if the answer is to
    /// another question, or too much has come since.
    pub fn told(&mut self, ask: u64, as_of: u64, answer: Vec<Record>) -> Option<(Vec<Record>, Vec<Record>)> {
        let State::Asking { ask: asked, kept, overflown } = &mut self.state else { return None };
        if *asked != ask || *overflown {
            return None;
        }
        let newer = kept.drain(..).filter(|(number, _)| *number > as_of).map(|(_, record)| record).collect();
        self.state = State::InStep(as_of);
        Some((answer, newer))
    }

    /// Nobody was listening before the answer as of this envelope: what came before it does not count. It may have holes,
    /// where the other node was not known to be listened to and sent nothing.
    pub fn begin(&mut self, as_of: u64) {
        self.seen = Some(self.seen.map_or(as_of, |seen| seen.max(as_of)));
    }

    /// Goes on where a former copy of the same node has ended: what was missed meanwhile is a gap.
    pub fn go_on_from(&mut self, seen: Option<u64>) {
        self.seen = self.seen.max(seen);
    }

    /// All that the node ever said was said to members here: it has come, is under way, or was lost. True if something is lost
    /// for certain, since what followed it has come.
    pub fn expect_all(&mut self) -> bool {
        self.go_on_from(Some(0));
        self.unknown.is_some_and(|number| number > 0)
    }

    /// Number of the last envelope that came, or that was said before an answer came.
    #[must_use]
    pub fn seen(&self) -> Option<u64> {
        match self.state {
            State::InStep(as_of) => Some(self.seen.unwrap_or(as_of)),
            State::Asking { .. } => self.seen,
        }
    }

    /// Whether the node has answered that it had said more than what has come: that is still under way, or lost.
    #[must_use]
    pub fn is_behind(&self) -> Option<u64> {
        match self.state {
            State::InStep(as_of) => self.seen.is_some_and(|seen| seen < as_of).then_some(as_of),
            State::Asking { .. } => None,
        }
    }

    /// Asks again: the state may have changed unheard.
    pub fn ask(&mut self, ask: u64) {
        self.seen = self.seen();
        self.state = State::asking(ask);
    }

    /// The question that is under way.
    #[must_use]
    pub fn asked(&self) -> Option<u64> {
        match &self.state {
            State::Asking { ask, .. } => Some(*ask),
            State::InStep(_) => None,
        }
    }
}

impl State {
    fn asking(ask: u64) -> Self {
        Self::Asking { ask, kept: VecDeque::new(), overflown: false }
    }
}

#[cfg(test)]
mod tests;
