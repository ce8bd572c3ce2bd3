//! Whom a change of a table concerns that policies read, whatever is out of date already.

use super::{
    super::party::PartyId,
    Judges,
    judge::{Judge, State},
};
use crate::{Change, policy::Sight};

/// Whom a change of a row concerns, of the parties of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// Nobody: the policies, which are compiled, do not read the table.
    Unread,
    /// These.
    Some(Vec<PartyId>),
    /// Any of them.
    All,
}

impl Judges {
    /// The place of a role's judge.
    pub(in crate::engine) fn place(&self, role: &str) -> Option<usize> {
        self.0.iter().position(|judge| *judge.role == *role)
    }

    /// Whether the log tells all that changes what the parties of a role see.
    pub(in crate::engine) fn keep_up(&self, role: &str) -> bool {
        let Some(judge) = self.of(role) else { return false };
        judge.fleeting.is_empty() && judge.sight().is_some_and(|sight| !sight.policy().reads_clock())
    }

    /// Whom a change concerns.
    pub(in crate::engine) fn concern(&self, role: &str, change: &Change<'_>) -> Concern {
        let Some(judge) = self.of(role) else { return Concern::All };
        match &judge.state {
            State::Compiled(sight) => judge.concern(sight, change),
            State::Unknown | State::Asked => Concern::All,
        }
    }
}

impl Judge {
    fn concern(&self, sight: &Sight<PartyId>, change: &Change<'_>) -> Concern {
        let (table, policies) = (change.relation.oid, sight.policy());
        let (mut is_read, mut found) = (false, Vec::new());
        let terms = policies.terms().iter().enumerate();
        let terms = terms.filter(|(_, term)| term.reads().tables.contains(&table));
        let calls = policies.named_calls().filter(|(_, call)| call.reads().tables.contains(&table));
        let by_terms = terms.map(|(at, _)| sight.concerned_by_term(at, change));
        for parties in by_terms.chain(calls.map(|(call, _)| sight.concerned_by_call(call, change))) {
            is_read = true;
            match parties {
                None => return Concern::All,
                Some(parties) => found.extend(parties),
            }
        }
        if !is_read {
            return Concern::Unread;
        }
        // Of these it is not known whose they are.
        found.extend(self.new.iter().chain(self.late.keys()));
        found.sort_unstable();
        found.dedup();
        Concern::Some(found)
    }
}
