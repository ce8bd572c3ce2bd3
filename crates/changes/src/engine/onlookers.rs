//! Parties that are judged for what is kept elsewhere: live results. They have no subscription here.

use realtime_pgoutput::{Oid, message::UnixMicros};

use super::{
    Engine,
    judges::{CallNeed, Judged, Sees},
    party::{Party, PartyId},
    watched::Watched,
};
use crate::change::Change;

pub use super::judges::Concern;

/// What a party sees of a row, as far as is decided here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It sees it.
    Shown,
    /// It does not.
    Hidden,
    /// Only the database knows.
    Open,
}

impl Engine {
    /// A number that is another one when a table was made known anew: then its onlookers have to enter again. `None`: the
    /// table is not known.
    #[must_use]
    pub fn version(&self, oid: Oid) -> Option<u64> {
        self.tables.get(&oid).map(Watched::version)
    }

    /// Enters a party for whom row-level security decides. `None`: the table is not known.
    pub fn enter(&mut self, oid: Oid, party: Party) -> Option<PartyId> {
        Some(self.tables.get_mut(&oid)?.enter(party))
    }

    /// Takes a party out that was entered as often.
    pub fn leave(&mut self, oid: Oid, party: PartyId) {
        if let Some(watched) = self.tables.get_mut(&oid) {
            self.sizes.touch(oid);
            watched.leave(party);
        }
    }

    /// The tables whose policies read a table.
    pub fn readers(&self, table: Oid) -> impl Iterator<Item = Oid> {
        self.readers.get(&table).into_iter().flatten().copied()
    }

    /// Whether it is known what decides for those who watch a table, and so what their policies read.
    #[must_use]
    pub fn knows_policies(&self, oid: Oid) -> bool {
        self.tables.get(&oid).is_some_and(|watched| watched.judges().are_compiled())
    }

    /// Whether the log tells all that changes what the parties of a role see of a table: policies are compiled, do not read
    /// the clock, and what they read elsewhere is in the log.
    #[must_use]
    pub fn keeps_up(&self, oid: Oid, role: &str) -> bool {
        self.tables.get(&oid).is_some_and(|watched| watched.judges().keep_up(role))
    }

    /// The parties that may see the new row of a change.
    #[must_use]
    pub fn reach(&self, change: &Change<'_>) -> Vec<PartyId> {
        self.tables.get(&change.relation.oid).map(|watched| watched.reach(change)).unwrap_or_default()
    }

    /// What parties see of the new row of a change, in their order, and the calls that have to be answered for some of
    /// them. `now`: the clock that policies read.
    #[must_use]
    pub fn verdicts(
        &self,
        change: &Change<'_>,
        parties: &[PartyId],
        now: UnixMicros,
    ) -> (Vec<Verdict>, Vec<CallNeed>) {
        match self.tables.get(&change.relation.oid) {
            Some(watched) => watched.verdicts(change, parties, now),
            None => (vec![Verdict::Open; parties.len()], Vec::new()),
        }
    }

    /// For which parties of a role a change of a row makes out of date what the policies of `oid` read in its table.
    #[must_use]
    pub fn concern(&self, oid: Oid, role: &str, change: &Change<'_>) -> Concern {
        self.tables.get(&oid).map_or(Concern::All, |watched| watched.judges().concern(role, change))
    }
}

impl Watched {
    fn enter(&mut self, party: Party) -> PartyId {
        let role = party.role.clone();
        let id = self.parties.enter(party);
        self.judges.enter(&role, id);
        id
    }

    fn leave(&mut self, id: PartyId) {
        let Some(party) = self.parties.get(id) else { return };
        if let Some(judge) = self.judges.place(&party.role) {
            self.judges.leave(judge, id);
        }
        self.parties.leave(id);
    }

    fn reach(&self, change: &Change<'_>) -> Vec<PartyId> {
        let mut found = Vec::new();
        self.judges.candidates(&|column| self.new_cell(change, column), &mut found);
        found
    }

    fn verdicts(
        &self,
        change: &Change<'_>,
        parties: &[PartyId],
        now: UnixMicros,
    ) -> (Vec<Verdict>, Vec<CallNeed>) {
        // The row is not judged by a clock that is behind the one of its commit.
        let now = UnixMicros(now.0.max(change.commit_time.0));
        let mut judged = Judged::default();
        let row = |column| self.new_cell(change, column);
        let verdicts = parties.iter().map(|id| {
            let judge = self.parties.get(*id).and_then(|party| self.judges.place(&party.role));
            let sees = judge.map(|judge| self.judges.judge(judge, *id, &row, now, &mut judged));
            match sees {
                Some(Sees::Shown) => Verdict::Shown,
                Some(Sees::Hidden) => Verdict::Hidden,
                Some(Sees::Open | Sees::Late) | None => Verdict::Open,
            }
        });
        let verdicts = verdicts.collect();
        (verdicts, self.judges.needs(judged))
    }
}
