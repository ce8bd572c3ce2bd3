//! Which parties see the rows of a table, as far as that is decided here (spec `row_security` 2).
//!
//! There is a judge for each role whose parties row-level security decides for. It knows the role's policies once they
//! are compiled, and the parties' values. Until then the database is asked about every row for all of its parties.

mod concern;
mod judge;
mod sample;

use std::sync::Arc;

use judge::{Judge, State};
use realtime_pgoutput::{Oid, message::UnixMicros};
use rustc_hash::FxHashSet;

use super::party::PartyId;
use crate::{
    Cell, Change,
    policy::{Answer, CallKey, Compiled, Need, Seen, Sight, Values},
    truth::Truth,
};

pub use concern::Concern;
pub use judge::{Answered, Lack};

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

impl Judges {
    /// Counts one more subscription of a party; the place of its role's judge.
    pub(super) fn enter(&mut self, role: &str, party: PartyId) -> usize {
        let at = self.0.iter().position(|judge| *judge.role == *role).unwrap_or_else(|| {
            self.0.push(Judge::new(role));
            self.0.len() - 1
        });
        if let Some(judge) = self.0.get_mut(at) {
            judge.enter(party);
        }
        at
    }

    /// Counts one less.
    pub(super) fn leave(&mut self, at: usize, party: PartyId) {
        if let Some(judge) = self.0.get_mut(at) {
            judge.leave(party);
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
        if let Some(judge) = self.of_mut(role) {
            judge.put(policies, fleeting);
        }
    }

    /// The policies have to be compiled again. Until then the database decides.
    pub(super) fn forget(&mut self) {
        self.0.iter_mut().for_each(Judge::forget);
    }

    pub(super) fn policies(&self, role: &str) -> Option<&Arc<Compiled>> {
        Some(self.of(role)?.sight()?.policy())
    }

    /// The values of parties that came.
    pub(super) fn put_values(&mut self, role: &str, values: impl IntoIterator<Item = (PartyId, Values)>) {
        if let Some(judge) = self.of_mut(role) {
            judge.put_values(values);
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
        if let Some(judge) = self.of_mut(role) {
            judge.renew(terms, answers, transaction);
        }
    }

    /// Whether some answers are good for a batch of rows only.
    pub(super) fn are_fleeting(&self) -> bool {
        self.0.iter().any(|judge| !judge.fleeting.is_empty())
    }

    /// A batch of rows begins, of which some may concern these parties: what is fleeting has to be asked.
    pub(super) fn begin_batch(&mut self, parties: &FxHashSet<PartyId>) {
        self.0.iter_mut().for_each(|judge| judge.begin_batch(parties));
    }

    /// A batch of rows ends.
    pub(super) fn end_batch(&mut self) {
        self.0.iter_mut().for_each(Judge::end_batch);
    }

    /// A party has to be asked again.
    pub(super) fn ask_anew(&mut self, party: PartyId) {
        self.0.iter_mut().for_each(|judge| judge.ask_anew(party));
    }

    /// A party is asked beside the stream.
    pub(super) fn ask_beside(&mut self, role: &str, party: PartyId, question: u64) {
        if let Some(judge) = self.of_mut(role) {
            judge.ask_beside(party, question);
        }
    }

    /// A party has answered.
    pub(super) fn answered(&mut self, role: &str, party: PartyId, question: u64) -> Answered {
        self.of_mut(role).map_or(Answered::Forgotten, |judge| judge.answered(party, question))
    }

    /// Whether no more is to be asked of a party.
    pub(super) fn are_settled(&self, party: PartyId) -> bool {
        self.0.iter().all(|judge| judge.is_settled(party))
    }

    /// Whether rows are judged by answers that the rest of a transaction may make old.
    pub(super) fn may_grow_old(&self, transaction: u64) -> bool {
        self.0.iter().any(|judge| judge.may_grow_old(transaction))
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
            judge.grow_old(transaction);
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

    /// The same call for another row.
    pub(super) fn alike<'a>(
        &self,
        need: &CallNeed,
        row: &impl Fn(usize) -> Cell<'a>,
        is_wanted: impl FnOnce(&CallKey) -> bool,
    ) -> Option<CallNeed> {
        let alike = self.asker(need)?.alike(&need.need, row, is_wanted)?;
        Some(CallNeed { role: need.role.clone(), judge: need.judge, need: alike })
    }

    /// Those of a need's parties who have to be asked.
    pub(super) fn narrowed(
        &self,
        need: &CallNeed,
        rows: &[(usize, String)],
        is_fit: impl Fn(PartyId) -> bool,
    ) -> Option<(CallNeed, PartyId)> {
        let (narrowed, witness) = self.asker(need)?.narrowed(&need.need, rows, is_fit)?;
        Some((CallNeed { role: need.role.clone(), judge: need.judge, need: narrowed }, witness))
    }

    /// Who needs the answers to a call.
    fn asker(&self, need: &CallNeed) -> Option<&Sight<PartyId>> {
        self.0.get(need.judge).filter(|judge| judge.role == need.role)?.sight()
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
        self.0.iter().for_each(|judge| judge.candidates(row, found));
    }

    /// How many parties any row leads to at least.
    pub(super) fn always(&self) -> usize {
        self.0.iter().map(Judge::always).sum()
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
