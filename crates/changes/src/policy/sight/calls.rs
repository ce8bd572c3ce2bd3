//! Answers to calls: which parties see the rows that have some values.

use std::collections::{BTreeMap, HashMap};

use crate::{cell::Cell, policy::names::CallId, truth::Truth};

/// What names a party.
pub trait PartyName: Copy + Eq + Ord + std::hash::Hash + std::fmt::Debug {}

impl<P: Copy + Eq + Ord + std::hash::Hash + std::fmt::Debug> PartyName for P {}

/// Most answers that a call keeps. Beyond it all are forgotten and asked again, as they are needed.
const MAX_KEPT: usize = 1_000_000;

/// About how many bytes an answer takes, or the values that it is given for beside their texts.
const ANSWER_BYTES: usize = 96;

/// The values of a call's columns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallKey(Box<[Option<Box<[u8]>>]>);

impl CallKey {
    /// Values, in the order of the call's columns; `None` is NULL.
    pub fn new(values: impl IntoIterator<Item = Option<Box<[u8]>>>) -> Self {
        Self(values.into_iter().collect())
    }

    /// The values of some columns. `None` if one is missing.
    pub(super) fn of<'a>(cells: impl Iterator<Item = Cell<'a>>) -> Option<Self> {
        let value = |cell| match cell {
            Cell::Null => Some(None),
            Cell::Text(text) => Some(Some(Box::from(&text[..]))),
            Cell::Missing => None,
        };
        cells.map(value).collect::<Option<Vec<_>>>().map(Self::new)
    }

    /// The values, in the order of the call's columns; `None` is NULL.
    pub fn values(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.0.iter().map(Option::as_deref)
    }
}

/// A call that has to be answered for some parties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need<P> {
    /// Which call.
    pub call: CallId,
    /// The values that it is asked for.
    pub key: CallKey,
    /// Whom it is asked for.
    pub parties: Vec<P>,
    /// The numbers of the parties.
    pub(super) since: Vec<u64>,
    /// All parties up to this one that the call leads to are among them, or have been asked.
    pub(super) upto: u64,
    /// Answers that come after the call was forgotten do not count.
    pub(super) generation: u64,
}

impl<P: Copy> Need<P> {
    /// The same for some of the parties.
    #[must_use]
    pub fn of(&self, is_wanted: impl Fn(&P) -> bool) -> Self {
        let all = self.parties.iter().zip(&self.since).filter(|(party, _)| is_wanted(party));
        let (parties, since) = all.map(|(party, since)| (*party, *since)).unzip();
        Self {
            call: self.call,
            key: self.key.clone(),
            parties,
            since,
            upto: self.upto,
            generation: self.generation,
        }
    }
}

/// The answers to a call, and the parties that it leads to rows.
#[derive(Debug)]
pub(super) struct CallIndex<P> {
    /// By their numbers: those that came last were not asked.
    members: BTreeMap<u64, P>,
    answers: HashMap<CallKey, Known<P>>,
    kept: usize,
    /// Bytes of the values.
    bytes: usize,
    /// How often all was forgotten.
    generation: u64,
}

/// What is known for some values.
#[derive(Debug)]
struct Known<P> {
    /// Answers, and the number of the party that got it. Members that are not here see nothing, up to `upto`.
    given: HashMap<P, (u64, Truth)>,
    upto: u64,
}

impl<P> Default for CallIndex<P> {
    fn default() -> Self {
        Self { members: BTreeMap::new(), answers: HashMap::new(), kept: 0, bytes: 0, generation: 0 }
    }
}

impl<P: PartyName> CallIndex<P> {
    pub(super) fn join(&mut self, since: u64, party: P) {
        self.members.insert(since, party);
    }

    pub(super) fn leave(&mut self, since: u64) {
        self.members.remove(&since);
    }

    pub(super) fn members(&self) -> impl Iterator<Item = P> {
        self.members.values().copied()
    }

    pub(super) fn forget(&mut self) {
        self.clear();
        self.generation += 1;
    }

    fn clear(&mut self) {
        self.answers.clear();
        (self.kept, self.bytes) = (0, 0);
    }

    /// About how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        self.kept * ANSWER_BYTES + self.bytes
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the call leads a party to rows.
    pub(super) fn leads(&self, since: u64, party: P) -> bool {
        self.members.get(&since) == Some(&party)
    }

    /// The members that may see rows with these values: who does, and who was not asked.
    pub(super) fn find(&self, key: &CallKey, found: &mut Vec<P>) {
        if self.members.is_empty() {
            return;
        }
        if let Some(known) = self.answers.get(key) {
            let counts =
                |(party, (since, _)): (&P, &(u64, Truth))| self.leads(*since, *party).then_some(*party);
            found.extend(known.given.iter().filter_map(counts));
        }
        found.extend(self.unasked(key).map(|(_, party)| party));
    }

    /// The members that were not asked for these values, with their numbers.
    pub(super) fn unasked(&self, key: &CallKey) -> impl Iterator<Item = (u64, P)> {
        let upto = self.answers.get(key).map_or(0, |known| known.upto);
        self.members.range(upto + 1..).map(|(since, party)| (*since, *party))
    }

    /// The answer for a party; `None` if it was not asked.
    pub(super) fn known(&self, key: &CallKey, party: P, since: u64) -> Option<Truth> {
        let known = self.answers.get(key)?;
        match known.given.get(&party) {
            Some((given, answer)) if *given == since => Some(*answer),
            _ => (since <= known.upto && self.leads(since, party)).then_some(Truth::FALSE),
        }
    }

    pub(super) fn answer(&mut self, need: &Need<P>, answers: impl Iterator<Item = (P, u64, Truth)>) {
        if need.generation != self.generation {
            return;
        }
        if self.kept > MAX_KEPT {
            self.clear();
        }
        let (kept, bytes) = (&mut self.kept, &mut self.bytes);
        let known = self.answers.entry(need.key.clone()).or_insert_with(|| {
            *kept += 1;
            *bytes += need.key.0.iter().flatten().map(|value| value.len()).sum::<usize>();
            Known { given: HashMap::new(), upto: 0 }
        });
        known.upto = known.upto.max(need.upto);
        for (party, since, answer) in answers {
            let is_implied =
                answer == Truth::FALSE && self.members.get(&since) == Some(&party) && since <= known.upto;
            if !is_implied && known.given.insert(party, (since, answer)).is_none() {
                self.kept += 1;
            } else if is_implied && known.given.remove(&party).is_some() {
                self.kept -= 1;
            }
        }
    }
}
