//! Which parties see the rows of a table, as far as that is decided here (spec `row_security` 2).
//!
//! There is a judge for each role whose parties row-level security decides for. It knows the role's policies once they
//! are compiled, and the parties' values. Until then the database is asked about every row for all of its parties.

mod concern;
mod sample;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use realtime_pgoutput::{Oid, message::UnixMicros};
use rustc_hash::{FxHashMap, FxHashSet};

use super::party::PartyId;
use crate::{
    Cell, Change,
    policy::{Answer, CallId, Compiled, Need, Reads, Seen, Sight, Values},
    truth::Truth,
};

pub use concern::Concern;

/// What is known of a row for a party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sees {
    /// It sees it.
    Shown,
    /// The database has to be asked.
    Open,
    /// It is asked beside the stream for what decides.
    Late,
    /// It does not.
    Hidden,
}

impl Sees {
    /// The party, if the database has to be asked for it; `None` if it does not see the row.
    pub(super) fn guard(self, party: PartyId) -> Option<Option<PartyId>> {
        match self {
            Self::Shown => Some(None),
            Self::Open | Self::Late => Some(Some(party)),
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

/// A call that has to be answered before a row can be judged.
#[derive(Debug)]
pub struct CallNeed {
    /// The role whose policies call.
    pub role: Box<str>,
    /// The place of its judge.
    judge: usize,
    /// What is to be asked.
    pub need: Need<PartyId>,
}

impl CallNeed {
    /// The same for some of the parties.
    #[must_use]
    pub fn of(&self, is_wanted: impl Fn(&PartyId) -> bool) -> Self {
        Self { role: self.role.clone(), judge: self.judge, need: self.need.of(is_wanted) }
    }
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
    /// Those that are asked beside the stream, by which questions, and whether what these read has changed since.
    late: FxHashMap<PartyId, BTreeMap<u64, bool>>,
    /// Terms whose answers are out of date for all parties.
    stale: BTreeSet<usize>,
    /// Those whose answers are out of date for some parties.
    stale_of: FxHashMap<PartyId, BTreeSet<usize>>,
    /// Those whose answers are good for a batch of rows only: of what they read the log does not tell.
    fleeting: BTreeSet<usize>,
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
                late: FxHashMap::default(),
                stale: BTreeSet::new(),
                stale_of: FxHashMap::default(),
                fleeting: BTreeSet::new(),
                is_in_batch: false,
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
            judge.late.remove(&party);
            judge.stale_of.remove(&party);
            if let State::Compiled(sight) = &mut judge.state {
                sight.remove(party);
            }
        }
    }

    /// Whether nothing is lacking.
    pub(super) fn are_ready(&self) -> bool {
        self.0.iter().all(Judge::is_ready)
    }

    /// Whether the policies of all roles that have parties are known.
    pub(super) fn are_compiled(&self) -> bool {
        self.0.iter().all(|judge| judge.parties.is_empty() || !matches!(judge.state, State::Unknown))
    }

    /// What is lacking, by role.
    pub(super) fn lacks(&self) -> Vec<(Box<str>, Lack)> {
        self.0.iter().filter_map(|judge| Some((judge.role.clone(), judge.lack()?))).collect()
    }

    /// The policies of a role; `None`: the database decides. `fleeting`: the places of the terms whose answers cannot be
    /// kept.
    pub(super) fn put(
        &mut self,
        role: &str,
        policies: Option<Arc<Compiled>>,
        fleeting: impl IntoIterator<Item = usize>,
    ) {
        let Some(judge) = self.of_mut(role) else { return };
        judge.begin_anew();
        judge.fleeting.extend(fleeting);
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
            judge.begin_anew();
            judge.new = judge.parties.keys().copied().collect();
        }
    }

    pub(super) fn policies(&self, role: &str) -> Option<&Arc<Compiled>> {
        Some(self.of(role)?.sight()?.policy())
    }

    /// The values of parties that came.
    pub(super) fn put_values(&mut self, role: &str, values: impl IntoIterator<Item = (PartyId, Values)>) {
        let Some(judge) = self.of_mut(role) else { return };
        for (party, values) in values {
            if judge.new.remove(&party)
                && let State::Compiled(sight) = &mut judge.state
            {
                sight.insert(party, values);
            }
        }
    }

    /// Takes new answers to some of the terms, of the parties that [`lacks`](Self::lacks) named for them. `transaction`: the
    /// one that passes, if they were asked while it did.
    pub(super) fn renew(
        &mut self,
        role: &str,
        terms: &[usize],
        answers: &[(PartyId, Vec<(usize, Answer)>)],
        transaction: Option<u64>,
    ) {
        let Some(judge) = self.of_mut(role) else { return };
        let State::Compiled(sight) = &mut judge.state else { return };
        for (party, answers) in answers {
            if let Some(values) = sight.values(*party) {
                let values = sight.policy().renewed(values.clone(), answers);
                sight.update(*party, values);
            }
        }
        let mut fresh = transaction.map(|transaction| judge.fresh.of(transaction));
        if judge.stale.is_empty() || fresh.is_none() {
            for (party, _) in answers {
                if let Some(fresh) = &mut fresh {
                    fresh.terms_of.extend(terms.iter().map(|term| (*party, *term)));
                }
                if let Some(stale) = judge.stale_of.get_mut(party) {
                    stale.retain(|term| !terms.contains(term));
                }
            }
        } else {
            if let Some(fresh) = fresh {
                fresh.terms.extend(terms);
            }
            judge.stale.retain(|term| !terms.contains(term));
            judge.stale_of.values_mut().for_each(|stale| stale.retain(|term| !terms.contains(term)));
        }
        judge.stale_of.retain(|_, stale| !stale.is_empty());
    }

    /// Whether some answers are good for a batch of rows only.
    pub(super) fn are_fleeting(&self) -> bool {
        self.0.iter().any(|judge| !judge.fleeting.is_empty())
    }

    /// A batch of rows begins, of which some may concern these parties: what is fleeting has to be asked.
    pub(super) fn begin_batch(&mut self, parties: &FxHashSet<PartyId>) {
        for judge in self.0.iter_mut().filter(|judge| !judge.fleeting.is_empty()) {
            judge.is_in_batch = true;
            let is_asked =
                |party: &&PartyId| judge.parties.contains_key(*party) && !judge.late.contains_key(*party);
            for party in parties.iter().filter(is_asked) {
                judge.stale_of.entry(*party).or_default().extend(&judge.fleeting);
            }
        }
    }

    /// A batch of rows ends.
    pub(super) fn end_batch(&mut self) {
        for judge in self.0.iter_mut().filter(|judge| judge.is_in_batch) {
            judge.is_in_batch = false;
            let fleeting = &judge.fleeting;
            judge.stale_of.values_mut().for_each(|stale| stale.retain(|term| !fleeting.contains(term)));
            judge.stale_of.retain(|_, stale| !stale.is_empty());
        }
    }

    /// A party has to be asked again.
    pub(super) fn ask_anew(&mut self, party: PartyId) {
        for judge in self.0.iter_mut().filter(|judge| judge.parties.contains_key(&party)) {
            if !matches!(judge.state, State::Asked) && !judge.late.contains_key(&party) {
                judge.new.insert(party);
            }
        }
    }

    /// A party is asked beside the stream.
    pub(super) fn ask_beside(&mut self, role: &str, party: PartyId, question: u64) {
        let Some(judge) = self.of_mut(role) else { return };
        judge.new.remove(&party);
        judge.stale_of.remove(&party);
        judge.late.entry(party).or_default().insert(question, false);
    }

    /// A party has answered.
    pub(super) fn answered(&mut self, role: &str, party: PartyId, question: u64) -> Answered {
        let Some(judge) = self.of_mut(role) else { return Answered::Forgotten };
        let Some(questions) = judge.late.get_mut(&party) else { return Answered::Forgotten };
        let Some(is_out_of_date) = questions.remove(&question) else { return Answered::Forgotten };
        if questions.is_empty() {
            judge.late.remove(&party);
        }
        let is_known = judge.sight().is_some_and(|sight| sight.has(party));
        if is_out_of_date || !is_known {
            // Its values are taken as those of a party that came.
            judge.new.insert(party);
        }
        if is_out_of_date { Answered::OutOfDate } else { Answered::InTime }
    }

    /// Whether no more is to be asked of a party.
    pub(super) fn are_settled(&self, party: PartyId) -> bool {
        let of_party = self.0.iter().filter(|judge| judge.parties.contains_key(&party));
        of_party.into_iter().all(|judge| match &judge.state {
            State::Unknown => false,
            State::Asked => true,
            State::Compiled(_) => {
                judge.stale.is_empty()
                    && !judge.new.contains(&party)
                    && !judge.late.contains_key(&party)
                    && !judge.stale_of.contains_key(&party)
            }
        })
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

    /// All of a table has changed that policies may read.
    pub(super) fn changed(&mut self, table: Oid, transaction: u64) {
        for judge in &mut self.0 {
            judge.out_of_date(transaction, None, |reads| reads.tables.contains(&table));
        }
    }

    /// A row of a table has changed that policies may read.
    pub(super) fn changed_row(&mut self, change: &Change<'_>, transaction: u64) {
        for judge in &mut self.0 {
            let table = change.relation.oid;
            judge.out_of_date(transaction, Some(change), |reads| reads.tables.contains(&table));
        }
    }

    /// Any table may have changed that policies read.
    pub(super) fn grow_old(&mut self, transaction: u64) {
        for judge in &mut self.0 {
            judge.out_of_date(transaction, None, |reads| !reads.tables.is_empty());
            judge.fresh.of(transaction).is_whole = true;
        }
    }

    /// The answer to a call.
    pub(super) fn answer(&mut self, need: &CallNeed, answers: &[Option<Truth>]) {
        // Judges keep their places for as long as the table is known.
        let judge = self.0.get_mut(need.judge).filter(|judge| judge.role == need.role);
        if let Some(State::Compiled(sight)) = judge.map(|judge| &mut judge.state) {
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
                State::Compiled(sight) if judge.stale.is_empty() && !judge.is_between_batches() => {
                    found.extend(sight.candidates(row));
                    let begun = found.len();
                    found.extend(&judge.new);
                    found.extend(judge.late.keys());
                    found.extend(judge.stale_of.keys());
                    if found.len() > begun {
                        found.sort_unstable();
                        found.dedup();
                    }
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
        if judge.late.contains_key(&party) {
            return Sees::Late;
        }
        // Nothing is judged by what may be out of date.
        if judge.is_out_of_date(party) {
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
        let of = |((at, judge), seen): ((usize, &Judge), Seen<PartyId>)| {
            let role = judge.role.clone();
            seen.needs.into_iter().map(move |need| CallNeed { role: role.clone(), judge: at, need })
        };
        self.0.iter().enumerate().zip(judged.0).flat_map(of).collect()
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

    fn is_out_of_date(&self, party: PartyId) -> bool {
        !self.stale.is_empty()
            || self.is_between_batches()
            || self.new.contains(&party)
            || self.stale_of.contains_key(&party)
    }

    /// What reads something is out of date: for those whom the change of a row concerns, or for all.
    fn out_of_date(&mut self, transaction: u64, change: Option<&Change<'_>>, reads: impl Fn(&Reads) -> bool) {
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
    fn is_ready(&self) -> bool {
        match &self.state {
            State::Asked => true,
            State::Unknown => self.parties.is_empty(),
            State::Compiled(_) => self.new.is_empty() && self.stale.is_empty() && self.stale_of.is_empty(),
        }
    }

    fn lack(&self) -> Option<Lack> {
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
