//! What the judge of one role knows: its policies, the values of its parties, and what of that is out of date.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::party::PartyId;
use crate::{
    Cell, Change,
    policy::{Answer, CallId, Compiled, Reads, Sight, Values},
};

/// What a role's policies need before they can judge rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// They are not compiled.
    Policies,
    /// Parties that came have no values.
    Values(Vec<PartyId>),
    /// These terms, by their places, read a table that has changed: these parties have to be asked anew.
    Renewal(Vec<usize>, Vec<PartyId>),
}

/// What became of the answer to a question that was put beside the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// It counts.
    InTime,
    /// What it read has changed meanwhile: the party is asked again.
    OutOfDate,
    /// Nobody waits for it any more.
    Forgotten,
}

/// The judge of a role.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) role: Box<str>,
    pub(super) state: State,
    /// The parties of the role, and how many subscriptions each has.
    pub(super) parties: FxHashMap<PartyId, usize>,
    /// Those that have no values.
    pub(super) new: BTreeSet<PartyId>,
    /// Those that are asked beside the stream, by which questions, and whether what these read has changed since.
    pub(super) late: FxHashMap<PartyId, BTreeMap<u64, bool>>,
    /// Terms whose answers are out of date for all parties.
    stale: BTreeSet<usize>,
    /// Those whose answers are out of date for some parties.
    stale_of: FxHashMap<PartyId, BTreeSet<usize>>,
    /// Those whose answers are good for a batch of rows only: of what they read the log does not tell.
    pub(super) fleeting: BTreeSet<usize>,
    /// Whether a batch is judged, for whose parties these were asked.
    is_in_batch: bool,
    fresh: Fresh,
}

/// What was asked, or forgotten, while the transaction passed that passes: it has seen all of the transaction, so nothing
/// of it makes that old.
#[derive(Debug, Default)]
struct Fresh {
    transaction: u64,
    terms: BTreeSet<usize>,
    terms_of: FxHashSet<(PartyId, usize)>,
    calls: BTreeSet<CallId>,
    calls_of: FxHashSet<PartyId>,
    /// All of them.
    is_whole: bool,
}

impl Fresh {
    /// That of a transaction.
    fn of(&mut self, transaction: u64) -> &mut Self {
        if self.transaction != transaction {
            *self = Self { transaction, ..Self::default() };
        }
        self
    }
}

/// How far a judge is.
#[derive(Debug)]
pub(super) enum State {
    Unknown,
    /// The database decides.
    Asked,
    Compiled(Sight<PartyId>),
}

impl Judge {
    pub(super) fn new(role: &str) -> Self {
        Self {
            role: role.into(),
            state: State::Unknown,
            parties: FxHashMap::default(),
            new: BTreeSet::new(),
            late: FxHashMap::default(),
            stale: BTreeSet::new(),
            stale_of: FxHashMap::default(),
            fleeting: BTreeSet::new(),
            is_in_batch: false,
            fresh: Fresh::default(),
        }
    }

    pub(super) fn enter(&mut self, party: PartyId) {
        let count = self.parties.entry(party).or_default();
        *count += 1;
        if *count == 1 && !matches!(self.state, State::Asked) {
            self.new.insert(party);
        }
    }

    pub(super) fn leave(&mut self, party: PartyId) {
        let Some(count) = self.parties.get_mut(&party) else { return };
        *count -= 1;
        if *count == 0 {
            self.parties.remove(&party);
            self.new.remove(&party);
            self.late.remove(&party);
            self.stale_of.remove(&party);
            if let State::Compiled(sight) = &mut self.state {
                sight.remove(party);
            }
        }
    }

    pub(super) fn put(&mut self, policies: Option<Arc<Compiled>>, fleeting: impl IntoIterator<Item = usize>) {
        self.begin_anew();
        self.fleeting.extend(fleeting);
        self.new = BTreeSet::new();
        self.state = match policies {
            None => State::Asked,
            Some(policies) => {
                self.new.extend(self.parties.keys());
                State::Compiled(Sight::new(policies))
            }
        };
    }

    pub(super) fn forget(&mut self) {
        self.state = State::Unknown;
        self.begin_anew();
        self.new = self.parties.keys().copied().collect();
    }

    pub(super) fn put_values(&mut self, values: impl IntoIterator<Item = (PartyId, Values)>) {
        for (party, values) in values {
            if self.new.remove(&party)
                && let State::Compiled(sight) = &mut self.state
            {
                sight.insert(party, values);
            }
        }
    }

    pub(super) fn renew(
        &mut self,
        terms: &[usize],
        answers: &[(PartyId, Vec<(usize, Answer)>)],
        transaction: Option<u64>,
    ) {
        let State::Compiled(sight) = &mut self.state else { return };
        for (party, answers) in answers {
            if let Some(values) = sight.values(*party) {
                let values = sight.policy().renewed(values.clone(), answers);
                sight.update(*party, values);
            }
        }
        let mut fresh = transaction.map(|transaction| self.fresh.of(transaction));
        if self.stale.is_empty() || fresh.is_none() {
            for (party, _) in answers {
                if let Some(fresh) = &mut fresh {
                    fresh.terms_of.extend(terms.iter().map(|term| (*party, *term)));
                }
                if let Some(stale) = self.stale_of.get_mut(party) {
                    stale.retain(|term| !terms.contains(term));
                }
            }
        } else {
            if let Some(fresh) = fresh {
                fresh.terms.extend(terms);
            }
            self.stale.retain(|term| !terms.contains(term));
            self.stale_of.values_mut().for_each(|stale| stale.retain(|term| !terms.contains(term)));
        }
        self.stale_of.retain(|_, stale| !stale.is_empty());
    }

    pub(super) fn begin_batch(&mut self, parties: &FxHashSet<PartyId>) {
        if self.fleeting.is_empty() {
            return;
        }
        self.is_in_batch = true;
        let is_asked =
            |party: &&PartyId| self.parties.contains_key(*party) && !self.late.contains_key(*party);
        for party in parties.iter().filter(is_asked) {
            self.stale_of.entry(*party).or_default().extend(&self.fleeting);
        }
    }

    pub(super) fn end_batch(&mut self) {
        if !self.is_in_batch {
            return;
        }
        self.is_in_batch = false;
        let fleeting = &self.fleeting;
        self.stale_of.values_mut().for_each(|stale| stale.retain(|term| !fleeting.contains(term)));
        self.stale_of.retain(|_, stale| !stale.is_empty());
    }

    pub(super) fn ask_anew(&mut self, party: PartyId) {
        let is_here = self.parties.contains_key(&party) && !self.late.contains_key(&party);
        if is_here && !matches!(self.state, State::Asked) {
            self.new.insert(party);
        }
    }

    pub(super) fn ask_beside(&mut self, party: PartyId, question: u64) {
        self.new.remove(&party);
        self.stale_of.remove(&party);
        self.late.entry(party).or_default().insert(question, false);
    }

    pub(super) fn answered(&mut self, party: PartyId, question: u64) -> Answered {
        let Some(questions) = self.late.get_mut(&party) else { return Answered::Forgotten };
        let Some(is_out_of_date) = questions.remove(&question) else { return Answered::Forgotten };
        if questions.is_empty() {
            self.late.remove(&party);
        }
        let is_known = self.sight().is_some_and(|sight| sight.has(party));
        if is_out_of_date || !is_known {
            // Its values are taken as those of a party that came.
            self.new.insert(party);
        }
        if is_out_of_date { Answered::OutOfDate } else { Answered::InTime }
    }

    /// Whether no more is to be asked of a party, if it is one of the role.
    pub(super) fn is_settled(&self, party: PartyId) -> bool {
        if !self.parties.contains_key(&party) {
            return true;
        }
        match &self.state {
            State::Unknown => false,
            State::Asked => true,
            State::Compiled(_) => {
                self.stale.is_empty()
                    && !self.new.contains(&party)
                    && !self.late.contains_key(&party)
                    && !self.stale_of.contains_key(&party)
            }
        }
    }

    pub(super) fn may_grow_old(&self, transaction: u64) -> bool {
        match &self.state {
            State::Compiled(sight) if !self.fresh.is_whole || self.fresh.transaction != transaction => {
                sight.policy().reads().next().is_some()
            }
            _ => false,
        }
    }

    /// What reads anything is out of date.
    pub(super) fn grow_old(&mut self, transaction: u64) {
        self.out_of_date(transaction, None, |reads| !reads.tables.is_empty());
        self.fresh.of(transaction).is_whole = true;
    }

    /// The parties that may see a row. Everybody is one where it is not compiled.
    pub(super) fn candidates<'a>(&self, row: &impl Fn(usize) -> Cell<'a>, found: &mut Vec<PartyId>) {
        match &self.state {
            State::Compiled(sight) if self.stale.is_empty() && !self.is_between_batches() => {
                found.extend(sight.candidates(row));
                let begun = found.len();
                found.extend(&self.new);
                found.extend(self.late.keys());
                found.extend(self.stale_of.keys());
                if found.len() > begun {
                    found.sort_unstable();
                    found.dedup();
                }
            }
            _ => found.extend(self.parties.keys()),
        }
    }

    /// How many parties any row leads to at least.
    pub(super) fn always(&self) -> usize {
        match &self.state {
            State::Compiled(sight) if self.stale.is_empty() && !self.is_between_batches() => sight.always(),
            _ => self.parties.len(),
        }
    }

    pub(super) fn sight(&self) -> Option<&Sight<PartyId>> {
        match &self.state {
            State::Compiled(sight) => Some(sight),
            State::Unknown | State::Asked => None,
        }
    }

    fn begin_anew(&mut self) {
        self.stale.clear();
        self.stale_of.clear();
        self.late.clear();
        self.fleeting.clear();
        self.is_in_batch = false;
        self.fresh = Fresh::default();
    }

    /// Whether answers are there that were good for a batch that is over.
    fn is_between_batches(&self) -> bool {
        !self.is_in_batch && !self.fleeting.is_empty()
    }

    pub(super) fn is_out_of_date(&self, party: PartyId) -> bool {
        !self.stale.is_empty()
            || self.is_between_batches()
            || self.new.contains(&party)
            || self.stale_of.contains_key(&party)
    }

    /// What reads something is out of date: for those whom the change of a row concerns, or for all.
    pub(super) fn out_of_date(
        &mut self,
        transaction: u64,
        change: Option<&Change<'_>>,
        reads: impl Fn(&Reads) -> bool,
    ) {
        let fresh = self.fresh.of(transaction);
        let State::Compiled(sight) = &mut self.state else { return };
        let policies = Arc::clone(sight.policy());
        if policies.terms().iter().any(|term| reads(term.reads())) {
            self.late
                .values_mut()
                .flat_map(BTreeMap::values_mut)
                .for_each(|is_out_of_date| *is_out_of_date = true);
        }
        for (at, _) in policies.terms().iter().enumerate().filter(|(_, term)| reads(term.reads())) {
            if fresh.terms.contains(&at) || self.stale.contains(&at) || self.fleeting.contains(&at) {
                continue;
            }
            match change.and_then(|change| sight.concerned_by_term(at, change)) {
                None => {
                    self.stale.insert(at);
                }
                Some(parties) => {
                    let is_asked = |party: &PartyId| {
                        fresh.terms_of.contains(&(*party, at)) || self.late.contains_key(party)
                    };
                    let concerned: Vec<PartyId> =
                        parties.into_iter().filter(|party| !is_asked(party)).collect();
                    for party in concerned {
                        self.stale_of.entry(party).or_default().insert(at);
                    }
                }
            }
        }
        for (call, _) in policies.named_calls().filter(|(_, call)| reads(call.reads())) {
            if fresh.calls.contains(&call) {
                continue;
            }
            match change.and_then(|change| sight.concerned_by_call(call, change)) {
                None => {
                    fresh.calls.insert(call);
                    sight.forget_call(call);
                }
                Some(parties) => {
                    for party in parties {
                        if fresh.calls_of.insert(party) {
                            sight.forget_calls_of(party);
                        }
                    }
                }
            }
        }
    }

    /// Whether nothing is lacking.
    pub(super) fn is_ready(&self) -> bool {
        match &self.state {
            State::Asked => true,
            State::Unknown => self.parties.is_empty(),
            State::Compiled(_) => self.new.is_empty() && self.stale.is_empty() && self.stale_of.is_empty(),
        }
    }

    pub(super) fn lack(&self) -> Option<Lack> {
        if self.is_ready() {
            return None;
        }
        let State::Compiled(sight) = &self.state else { return Some(Lack::Policies) };
        if !self.new.is_empty() {
            return Some(Lack::Values(self.new.iter().copied().collect()));
        }
        let mut terms = self.stale.clone();
        terms.extend(self.stale_of.values().flatten());
        let parties = match self.stale.is_empty() {
            true => self.stale_of.keys().copied().collect(),
            false => {
                let is_here = |party: &PartyId| sight.has(*party) && !self.late.contains_key(party);
                self.parties.keys().copied().filter(is_here).collect()
            }
        };
        Some(Lack::Renewal(terms.into_iter().collect(), parties))
    }
}
