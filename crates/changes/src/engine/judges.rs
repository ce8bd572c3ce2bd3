//! Which parties see the rows of a table, as far as that is decided here (spec `row_security` 2).
//!
//! There is a judge for each role whose parties row-level security decides for. It knows the role's policies once they
//! are compiled, and the parties' values. Until then the database is asked about every row for all of its parties.

mod sample;

use std::{collections::BTreeSet, sync::Arc};

use realtime_pgoutput::{Oid, message::UnixMicros};
use rustc_hash::FxHashMap;

use super::party::PartyId;
use crate::{
    Cell,
    policy::{Answer, CallId, Compiled, Need, Reads, Seen, Sight, Values},
    truth::Truth,
};

/// What is known of a row for a party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sees {
    /// It sees it.
    Shown,
    /// The database has to be asked.
    Open,
    /// It does not.
    Hidden,
}

impl Sees {
    /// The party, if the database has to be asked for it; `None` if it does not see the row.
    pub(super) fn guard(self, party: PartyId) -> Option<Option<PartyId>> {
        match self {
            Self::Shown => Some(None),
            Self::Open => Some(Some(party)),
            Self::Hidden => None,
        }
    }
}

/// What a role's policies need before they can judge rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// They are not compiled.
    Policies,
    /// Parties that came have no values.
    Values(Vec<PartyId>),
    /// These terms, by their places, read a table that has changed: all parties have to be asked anew.
    Renewal(Vec<usize>, Vec<PartyId>),
}

/// A call that has to be answered before a row can be judged.
#[derive(Debug)]
pub struct CallNeed {
    /// The role whose policies call.
    pub role: Box<str>,
    /// What is to be asked.
    pub need: Need<PartyId>,
}

/// What was found out while a row is judged, by the place of the role.
#[derive(Debug, Default)]
pub(super) struct Judged(Vec<Seen<PartyId>>);

/// The judges of a table, by role.
#[derive(Debug, Default)]
pub(super) struct Judges(Vec<Judge>);

#[derive(Debug)]
struct Judge {
    role: Box<str>,
    state: State,
    /// The parties of the role, and how many subscriptions each has.
    parties: FxHashMap<PartyId, usize>,
    /// Those that have no values.
    new: BTreeSet<PartyId>,
    /// Terms whose answers are out of date.
    stale: BTreeSet<usize>,
    fresh: Fresh,
}

/// What was asked, or forgotten, while the transaction passed that passes: it has seen all of the transaction, so nothing
/// of it makes that old.
#[derive(Debug, Default)]
struct Fresh {
    transaction: u64,
    terms: BTreeSet<usize>,
    calls: BTreeSet<CallId>,
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

#[derive(Debug)]
enum State {
    Unknown,
    /// The database decides.
    Asked,
    Compiled(Sight<PartyId>),
}

impl Judges {
    /// Counts one more subscription of a party; the place of its role's judge.
    pub(super) fn enter(&mut self, role: &str, party: PartyId) -> usize {
        let at = self.0.iter().position(|judge| *judge.role == *role).unwrap_or_else(|| {
            self.0.push(Judge {
                role: role.into(),
                state: State::Unknown,
                parties: FxHashMap::default(),
                new: BTreeSet::new(),
                stale: BTreeSet::new(),
                fresh: Fresh::default(),
            });
            self.0.len() - 1
        });
        if let Some(judge) = self.0.get_mut(at) {
            let count = judge.parties.entry(party).or_default();
            *count += 1;
            if *count == 1 && !matches!(judge.state, State::Asked) {
                judge.new.insert(party);
            }
        }
        at
    }

    /// Counts one less.
    pub(super) fn leave(&mut self, at: usize, party: PartyId) {
        let Some(judge) = self.0.get_mut(at) else { return };
        let Some(count) = judge.parties.get_mut(&party) else { return };
        *count -= 1;
        if *count == 0 {
            judge.parties.remove(&party);
            judge.new.remove(&party);
            if let State::Compiled(sight) = &mut judge.state {
                sight.remove(party);
            }
        }
    }

    /// Whether nothing is lacking.
    pub(super) fn are_ready(&self) -> bool {
        self.0.iter().all(|judge| judge.lack_is_none())
    }

    /// What is lacking, by role.
    pub(super) fn lacks(&self) -> Vec<(Box<str>, Lack)> {
        self.0.iter().filter_map(|judge| Some((judge.role.clone(), judge.lack()?))).collect()
    }

    /// The policies of a role; `None`: the database decides.
    pub(super) fn put(&mut self, role: &str, policies: Option<Arc<Compiled>>) {
        let Some(judge) = self.of_mut(role) else { return };
        judge.stale.clear();
        judge.fresh = Fresh::default();
        judge.new = BTreeSet::new();
        judge.state = match policies {
            None => State::Asked,
            Some(policies) => {
                judge.new.extend(judge.parties.keys());
                State::Compiled(Sight::new(policies))
            }
        };
    }

    /// The policies have to be compiled again. Until then the database decides.
    pub(super) fn forget(&mut self) {
        for judge in &mut self.0 {
            judge.state = State::Unknown;
            judge.stale.clear();
            judge.fresh = Fresh::default();
            judge.new = judge.parties.keys().copied().collect();
        }
    }

    pub(super) fn policies(&self, role: &str) -> Option<&Arc<Compiled>> {
        Some(self.of(role)?.sight()?.policy())
    }

    /// The values of a party that came.
    pub(super) fn put_values(&mut self, role: &str, party: PartyId, values: Values) {
        let Some(judge) = self.of_mut(role) else { return };
        if judge.new.remove(&party)
            && let State::Compiled(sight) = &mut judge.state
        {
            sight.insert(party, values);
        }
    }

    /// New answers for a party to some of the terms.
    pub(super) fn renew(&mut self, role: &str, party: PartyId, answers: &[(usize, Answer)]) {
        let Some(State::Compiled(sight)) = self.of_mut(role).map(|judge| &mut judge.state) else { return };
        let Some(values) = sight.values(party).cloned() else { return };
        let values = sight.policy().renewed(values, answers);
        sight.update(party, values);
    }

    /// All parties have new answers to these terms.
    pub(super) fn renewed(&mut self, role: &str, terms: &[usize], transaction: u64) {
        let Some(judge) = self.of_mut(role) else { return };
        judge.stale.retain(|term| !terms.contains(term));
        judge.fresh.of(transaction).terms.extend(terms);
    }

    /// A party has to be asked again.
    pub(super) fn ask_anew(&mut self, party: PartyId) {
        for judge in self.0.iter_mut().filter(|judge| judge.parties.contains_key(&party)) {
            if !matches!(judge.state, State::Asked) {
                judge.new.insert(party);
            }
        }
    }

    /// Whether rows are judged by answers that the rest of a transaction may make old.
    pub(super) fn may_grow_old(&self, transaction: u64) -> bool {
        let may = |judge: &Judge| match &judge.state {
            State::Compiled(sight) if !judge.fresh.is_whole || judge.fresh.transaction != transaction => {
                sight.policy().reads().next().is_some()
            }
            _ => false,
        };
        self.0.iter().any(may)
    }

    /// A table has changed that policies may read.
    pub(super) fn changed(&mut self, table: Oid, transaction: u64) {
        self.out_of_date(transaction, |reads| reads.tables.contains(&table));
    }

    /// Any table may have changed that policies read.
    pub(super) fn grow_old(&mut self, transaction: u64) {
        self.out_of_date(transaction, |reads| !reads.tables.is_empty());
        for judge in &mut self.0 {
            judge.fresh.of(transaction).is_whole = true;
        }
    }

    fn out_of_date(&mut self, transaction: u64, reads: impl Fn(&Reads) -> bool) {
        for judge in &mut self.0 {
            let fresh = judge.fresh.of(transaction);
            let State::Compiled(sight) = &mut judge.state else { continue };
            let policies = Arc::clone(sight.policy());
            let terms = policies.terms().iter().enumerate().filter(|(_, term)| reads(term.reads()));
            judge.stale.extend(terms.map(|(at, _)| at).filter(|at| !fresh.terms.contains(at)));
            for (call, _) in policies.named_calls().filter(|(_, call)| reads(call.reads())) {
                if fresh.calls.insert(call) {
                    sight.forget_call(call);
                }
            }
        }
    }

    /// The answer to a call.
    pub(super) fn answer(&mut self, need: &CallNeed, answers: &[Option<Truth>]) {
        if let Some(State::Compiled(sight)) = self.of_mut(&need.role).map(|judge| &mut judge.state) {
            sight.answer(&need.need, answers);
        }
    }

    /// About how many bytes policies take.
    pub(super) fn size(&self) -> usize {
        self.0.iter().filter_map(Judge::sight).map(Sight::size).sum()
    }

    /// Forgets the answers to calls.
    pub(super) fn forget_calls(&mut self) {
        for judge in &mut self.0 {
            if let State::Compiled(sight) = &mut judge.state {
                sight.forget_calls();
            }
        }
    }

    /// The parties that may see a row. Everybody is one where it is not compiled.
    pub(super) fn candidates<'a>(&self, row: &impl Fn(usize) -> Cell<'a>, found: &mut Vec<PartyId>) {
        for judge in &self.0 {
            match &judge.state {
                State::Compiled(sight) if judge.stale.is_empty() => {
                    found.extend(&judge.new);
                    found.extend(sight.candidates(row));
                }
                _ => found.extend(judge.parties.keys()),
            }
        }
    }

    /// What a party sees of a row. Calls that have to be answered for it are noted.
    pub(super) fn judge<'a>(
        &self,
        at: usize,
        party: PartyId,
        row: &impl Fn(usize) -> Cell<'a>,
        now: UnixMicros,
        judged: &mut Judged,
    ) -> Sees {
        let Some(judge) = self.0.get(at) else { return Sees::Open };
        let State::Compiled(sight) = &judge.state else { return Sees::Open };
        // Nothing is judged by what may be out of date.
        if judge.new.contains(&party) || !judge.stale.is_empty() {
            return Sees::Open;
        }
        if judged.0.len() <= at {
            judged.0.resize_with(at + 1, Seen::default);
        }
        let Some(seen) = judged.0.get_mut(at) else { return Sees::Open };
        let before = (seen.shown.len(), seen.open.len());
        sight.judge(party, row, now, seen);
        match (seen.shown.len() > before.0, seen.open.len() > before.1) {
            (true, _) => Sees::Shown,
            (false, true) => Sees::Open,
            (false, false) => Sees::Hidden,
        }
    }

    /// The calls that have to be answered, by role.
    pub(super) fn needs(&self, judged: Judged) -> Vec<CallNeed> {
        let of = |(judge, seen): (&Judge, Seen<PartyId>)| {
            let role = judge.role.clone();
            seen.needs.into_iter().map(move |need| CallNeed { role: role.clone(), need })
        };
        self.0.iter().zip(judged.0).flat_map(of).collect()
    }

    fn of(&self, role: &str) -> Option<&Judge> {
        self.0.iter().find(|judge| *judge.role == *role)
    }

    fn of_mut(&mut self, role: &str) -> Option<&mut Judge> {
        self.0.iter_mut().find(|judge| *judge.role == *role)
    }
}

impl Judge {
    fn sight(&self) -> Option<&Sight<PartyId>> {
        match &self.state {
            State::Compiled(sight) => Some(sight),
            State::Unknown | State::Asked => None,
        }
    }

    fn lack_is_none(&self) -> bool {
        match &self.state {
            State::Asked => true,
            State::Unknown => self.parties.is_empty(),
            State::Compiled(_) => self.new.is_empty() && self.stale.is_empty(),
        }
    }

    fn lack(&self) -> Option<Lack> {
        match &self.state {
            State::Asked => None,
            State::Unknown if self.parties.is_empty() => None,
            State::Unknown => Some(Lack::Policies),
            State::Compiled(_) if !self.new.is_empty() => {
                Some(Lack::Values(self.new.iter().copied().collect()))
            }
            State::Compiled(sight) if !self.stale.is_empty() => {
                let parties = self.parties.keys().copied().filter(|party| sight.has(*party));
                Some(Lack::Renewal(self.stale.iter().copied().collect(), parties.collect()))
            }
            State::Compiled(_) => None,
        }
    }
}
