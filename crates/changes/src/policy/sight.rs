//! Who sees a row: an index of parties by what their terms have.
//!
//! A row costs what sees it, not what watches. For each party the tree says through which equalities it can reach rows
//! at all: a key of a column, the keys of a set, the answer to a call. A row looks its own keys up and judges the
//! parties that it finds there. A party that can reach rows in other ways too is judged for every row.

mod calls;
mod doubt;
mod narrowed;
mod reach;
mod whose;

use std::{collections::HashMap, sync::Arc};

use calls::CallIndex;
pub use calls::{CallKey, Need, PartyName};
use reach::{Path, Reach, Way};
use realtime_pgoutput::message::UnixMicros;
use rustc_hash::{FxHashMap, FxHashSet};
use whose::Whose;

use super::{
    atom::{Atom, Judged, RowKey, key_of},
    compiled::Compiled,
    names::CallId,
    operand::Got,
    values::{Values, elements},
};
use crate::{cell::Cell, change::Change, truth::Truth};

/// The parties that a path leads to.
#[derive(Debug)]
struct Index<P> {
    path: Path,
    /// Keyed by what clients chose: the hash must not be theirs to foresee.
    parties: HashMap<Box<[u8]>, Vec<P>>,
}

/// Where a party stands in the indexes.
#[derive(Debug)]
enum Place {
    Key(usize, Box<[u8]>),
    Call(CallId),
    Always,
}

/// A party that was entered.
#[derive(Debug)]
struct Held {
    values: Values,
    /// A number of its own; answers that were given before do not count.
    since: u64,
    places: Vec<Place>,
    /// About how many bytes all of it takes.
    bytes: usize,
}

impl Held {
    /// The calls that lead it to rows.
    fn calls(&self) -> Vec<CallId> {
        let call = |place: &Place| match place {
            Place::Call(call) => Some(*call),
            _ => None,
        };
        self.places.iter().filter_map(call).collect()
    }
}

/// The parties that watch a table under the same policies, and what each can see.
#[derive(Debug)]
pub struct Sight<P> {
    policy: Arc<Compiled>,
    parties: FxHashMap<P, Held>,
    indexes: Vec<Index<P>>,
    /// Judged for every row.
    always: FxHashSet<P>,
    calls: Vec<CallIndex<P>>,
    whose: Whose<P>,
    next: u64,
    /// About how many bytes the parties take.
    bytes: usize,
}

/// Who sees a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<P> {
    /// These do.
    pub shown: Vec<P>,
    /// These may: the database has to be asked about the row.
    pub open: Vec<P>,
    /// While there is something here, `open` has parties that calls decide: ask, give the answers to
    /// [`Sight::answer`], and look again.
    pub needs: Vec<Need<P>>,
}

impl<P> Default for Seen<P> {
    fn default() -> Self {
        Self { shown: Vec::new(), open: Vec::new(), needs: Vec::new() }
    }
}

impl<P: PartyName> Sight<P> {
    /// An index without parties.
    #[must_use]
    pub fn new(policy: Arc<Compiled>) -> Self {
        let indexes = reach::paths(&policy.tree)
            .into_iter()
            .map(|path| Index { path, parties: HashMap::new() })
            .collect();
        let calls = policy.calls.iter().map(|_| CallIndex::default()).collect();
        Self {
            whose: Whose::new(&policy),
            policy,
            parties: FxHashMap::default(),
            indexes,
            always: FxHashSet::default(),
            calls,
            next: 0,
            bytes: 0,
        }
    }

    /// The policies.
    #[must_use]
    pub const fn policy(&self) -> &Arc<Compiled> {
        &self.policy
    }

    /// How many parties there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parties.len()
    }

    /// Whether there are no parties.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parties.is_empty()
    }

    /// Whether a party was entered.
    #[must_use]
    pub fn has(&self, party: P) -> bool {
        self.parties.contains_key(&party)
    }

    /// About how many bytes it takes: values of parties, and answers to calls.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes + self.calls.iter().map(CallIndex::size).sum::<usize>()
    }

    /// Forgets the answers to all calls: they are asked again as they are needed.
    pub fn forget_calls(&mut self) {
        self.calls.iter_mut().for_each(CallIndex::forget);
    }

    /// The values of a party.
    #[must_use]
    pub fn values(&self, party: P) -> Option<&Values> {
        self.parties.get(&party).map(|held| &held.values)
    }

    /// Enters a party, or enters it anew: answers to calls that it was given do not count any more.
    pub fn insert(&mut self, party: P, values: Values) {
        self.remove(party);
        self.next += 1;
        self.enter(party, values, self.next);
    }

    /// The parties whose answer to a term, by its place, a change of a row that the term may read concerns. `None`: it
    /// may be anybody's.
    #[must_use]
    pub fn concerned_by_term(&self, term: usize, change: &Change<'_>) -> Option<FxHashSet<P>> {
        let owners = self.policy.terms.get(term)?.owners.get(&change.relation.oid)?;
        self.whose.concerned(owners, change)
    }

    /// The same for answers to a call.
    #[must_use]
    pub fn concerned_by_call(&self, call: CallId, change: &Change<'_>) -> Option<FxHashSet<P>> {
        let owners = self.policy.calls.get(call.index())?.owners.get(&change.relation.oid)?;
        self.whose.concerned(owners, change)
    }

    /// The answers to calls that a party was given do not count any more.
    pub fn forget_calls_of(&mut self, party: P) {
        if let Some(held) = self.parties.get(&party) {
            let values = held.values.clone();
            self.insert(party, values);
        }
    }

    /// Replaces the values of a party. Its answers to calls stay.
    pub fn update(&mut self, party: P, values: Values) {
        let Some(held) = self.parties.get(&party) else { return };
        if held.values == values {
            return;
        }
        let (since, called) = (held.since, held.calls());
        self.remove(party);
        self.enter(party, values, since);
        if self.parties.get(&party).is_some_and(|held| held.calls() != called) {
            // A call leads it to rows now that others were asked for when it was none of them.
            self.forget_calls_of(party);
        }
    }

    /// Forgets a party. Idempotent.
    pub fn remove(&mut self, party: P) {
        let Some(held) = self.parties.remove(&party) else { return };
        self.bytes -= held.bytes;
        self.whose.leave(party, &held.values);
        for place in held.places {
            match place {
                Place::Always => {
                    self.always.remove(&party);
                }
                Place::Call(call) => {
                    if let Some(index) = self.calls.get_mut(call.index()) {
                        index.leave(held.since);
                    }
                }
                Place::Key(at, key) => {
                    let Some(index) = self.indexes.get_mut(at) else { continue };
                    if let Some(parties) = index.parties.get_mut(&key) {
                        parties.retain(|known| *known != party);
                        if parties.is_empty() {
                            index.parties.remove(&key);
                        }
                    }
                }
            }
        }
    }

    fn enter(&mut self, party: P, values: Values, since: u64) {
        let mut places = Vec::new();
        match reach::of(&self.policy.tree, &values) {
            Reach::Never => {}
            Reach::Always => {
                self.always.insert(party);
                places.push(Place::Always);
            }
            Reach::By(ways) => {
                let mut called = FxHashSet::default();
                for way in ways {
                    match way {
                        Way::Call(call) => {
                            if called.insert(call)
                                && let Some(index) = self.calls.get_mut(call.index())
                            {
                                index.join(since, party);
                                places.push(Place::Call(call));
                            }
                        }
                        Way::Keys(path, keys) => {
                            let found = self.indexes.iter().position(|index| index.path == path);
                            let Some(at) = found else { continue };
                            let Some(index) = self.indexes.get_mut(at) else { continue };
                            for key in keys {
                                let parties = index.parties.entry(key.into()).or_default();
                                // Two ways may lead to the same place.
                                if parties.last() != Some(&party) {
                                    parties.push(party);
                                    places.push(Place::Key(at, key.into()));
                                }
                            }
                        }
                    }
                }
            }
        }
        let of_place = |place: &Place| match place {
            Place::Key(_, key) => size_of::<Place>() + 2 * key.len() + size_of::<P>(),
            Place::Call(_) | Place::Always => size_of::<Place>(),
        };
        let of_whose = self.whose.enter(party, &values);
        let of_places = places.iter().map(of_place).sum::<usize>();
        let bytes = size_of::<Held>() + values.size() + of_places + of_whose;
        self.bytes += bytes;
        self.parties.insert(party, Held { values, since, places, bytes });
    }

    /// The answers to a call are not good any more, for any party.
    pub fn forget_call(&mut self, call: CallId) {
        if let Some(index) = self.calls.get_mut(call.index()) {
            index.forget();
        }
    }

    /// Takes the answers to a call, in the order of the parties that were to be asked. `None`: the call failed. The
    /// database is asked about all rows of such a party from then on, until it is entered anew.
    pub fn answer(&mut self, need: &Need<P>, answers_given: &[Option<Truth>]) {
        let Some(index) = self.calls.get_mut(need.call.index()) else { return };
        let is_here = |party: &P, since: u64| self.parties.get(party).is_some_and(|held| held.since == since);
        let answers = need
            .parties
            .iter()
            .zip(&need.since)
            .zip(answers_given)
            // Who was entered anew meanwhile is somebody else.
            .filter(|((party, since), _)| is_here(party, **since))
            .map(|((party, since), answer)| (*party, *since, answer.unwrap_or(Truth::OPEN)));
        index.answer(need, answers);
        let failed: Vec<P> = need
            .parties
            .iter()
            .zip(answers_given)
            .filter(|(_, answer)| answer.is_none())
            .map(|(party, _)| *party)
            .collect();
        for party in failed {
            self.fail(party);
        }
    }

    /// Something failed for a party.
    fn fail(&mut self, party: P) {
        let Some(held) = self.parties.get(&party).filter(|held| !held.values.call_failed) else { return };
        let since = held.since;
        let mut values = held.values.clone();
        values.call_failed = true;
        self.remove(party);
        self.enter(party, values, since);
    }

    /// How many parties are judged whatever the row is.
    pub fn always(&self) -> usize {
        self.always.len()
    }

    /// The parties that may see a row, each once: those that its keys lead to, and those that are always judged.
    pub fn candidates<'a>(&self, row: &impl Fn(usize) -> Cell<'a>) -> Vec<P> {
        let mut found: Vec<P> = self.always.iter().copied().collect();
        let (mut sources, mut has_twice) = (usize::from(!found.is_empty()), false);
        for index in &self.indexes {
            let before = found.len();
            has_twice |= !index.find(row, &mut found);
            sources += usize::from(found.len() > before);
        }
        for (at, index) in self.calls.iter().enumerate() {
            let before = found.len();
            match self.call_key(at, row) {
                Some(key) => index.find(&key, &mut found),
                None => found.extend(index.members()),
            }
            has_twice |= found.len() > before;
        }
        // A key of columns leads to a party once.
        if sources > 1 || has_twice {
            found.sort_unstable();
            found.dedup();
        }
        found
    }

    /// The values of the columns of a call. `None` if the change does not carry one of them.
    fn call_key<'a>(&self, call: usize, row: &impl Fn(usize) -> Cell<'a>) -> Option<CallKey> {
        CallKey::of(self.policy.calls.get(call)?.columns().iter().map(|column| row(*column)))
    }

    /// Who sees a row.
    pub fn look<'a>(&self, row: impl Fn(usize) -> Cell<'a>, now: UnixMicros) -> Seen<P> {
        let mut seen = Seen::default();
        for party in self.candidates(&row) {
            self.judge(party, &row, now, &mut seen);
        }
        seen
    }

    /// Judges a row for one party, and puts it where it belongs.
    pub fn judge<'a>(&self, party: P, row: &impl Fn(usize) -> Cell<'a>, now: UnixMicros, seen: &mut Seen<P>) {
        let Some(held) = self.parties.get(&party) else { return };
        let with = Judged { values: &held.values, now };
        let mut missing: Vec<(CallId, CallKey)> = Vec::new();
        let mut call = |id: CallId| {
            let Some(key) = self.call_key(id.index(), row) else { return Truth::OPEN };
            let index = self.calls.get(id.index());
            match index.and_then(|index| index.known(&key, party, held.since)) {
                Some(answer) => answer,
                None => {
                    missing.push((id, key));
                    Truth::OPEN
                }
            }
        };
        let truth = self.policy.tree.judge(&mut |atom: &Atom| atom.judge(row, &with, &mut call));
        let truth = held.values.settle(truth);
        if truth.holds() {
            seen.shown.push(party);
        } else if truth.may_hold() {
            seen.open.push(party);
            for (call, key) in missing {
                self.need(seen, call, key, party);
            }
        }
    }

    /// Notes that a call has to be answered for a party. All others that the call leads to are asked with it.
    fn need(&self, seen: &mut Seen<P>, call: CallId, key: CallKey, party: P) {
        let (Some(index), Some(held)) = (self.calls.get(call.index()), self.parties.get(&party)) else {
            return;
        };
        let known = seen.needs.iter().position(|need| need.call == call && need.key == key);
        let at = known.unwrap_or_else(|| {
            let (since, parties) = index.unasked(&key).unzip();
            let generation = index.generation();
            seen.needs.push(Need { call, key, parties, since, upto: self.next, generation });
            seen.needs.len() - 1
        });
        let Some(need) = seen.needs.get_mut(at) else { return };
        // Those that the call leads to came in the order of their numbers, the others behind them.
        if index.leads(held.since, party) || need.parties.contains(&party) {
            return;
        }
        need.parties.push(party);
        need.since.push(held.since);
    }
}

impl<P: PartyName> Index<P> {
    /// The parties that may see a row. Whether each is found once.
    fn find<'a>(&self, row: &impl Fn(usize) -> Cell<'a>, found: &mut Vec<P>) -> bool {
        if self.parties.is_empty() {
            return true;
        }
        let mut all = || {
            found.extend(self.parties.values().flatten());
            false
        };
        match &self.path {
            Path::Key(operands) => match key_of(operands, row) {
                RowKey::Null => true,
                RowKey::Open => all(),
                RowKey::Key(key) => {
                    found.extend(self.parties.get(&*key).into_iter().flatten());
                    true
                }
            },
            Path::Elements(operand, family) => match operand.take(row(operand.column)) {
                Got::Null => true,
                Got::Open => all(),
                Got::Text(text) => match elements(*family, &text) {
                    None => all(),
                    Some((keys, _)) => {
                        for key in keys {
                            found.extend(self.parties.get(&key).into_iter().flatten());
                        }
                        false
                    }
                },
            },
        }
    }
}
