//! A verdict about a change, taken at random.

use std::sync::Arc;

use realtime_pgoutput::message::{OldTuple, UnixMicros};

use super::Watched;
use crate::{
    change::{Action, Change},
    engine::Party,
};

/// What compiled policies said of a change for one party, to be compared with what the database says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Whether it is about the old row of an update.
    pub is_old: bool,
    /// The role and claims.
    pub party: Arc<Party>,
    /// Whether it sees the row.
    pub shown: bool,
    /// The policies, by their places, of which one is wrong if that is wrong. None: it is not known which.
    pub suspects: Vec<usize>,
}

impl Watched {
    /// `dice` is a random number.
    pub(in crate::engine) fn sample(
        &self,
        change: &Change<'_>,
        now: UnixMicros,
        dice: u64,
    ) -> Option<Sample> {
        let now = UnixMicros(now.0.max(change.commit_time.0));
        let old = match change.old {
            Some(OldTuple::Full(old)) => Some(old),
            _ => None,
        };
        let is_old = change.action == Action::Update && old.is_some() && dice & 1 == 0;
        let dice = dice.rotate_right(1);
        let drawn = match (change.action, old) {
            (Action::Delete, None) => None,
            (Action::Delete, Some(old)) => self.judges.draw(&|at| self.judged_cell(old, at), now, dice),
            (_, Some(old)) if is_old => self.judges.draw(&|at| self.judged_cell(old, at), now, dice),
            _ => self.judges.draw(&|at| self.new_cell(change, at), now, dice),
        }?;
        let party = Arc::clone(self.parties.get(drawn.party)?);
        Some(Sample { is_old, party, shown: drawn.shown, suspects: drawn.suspects })
    }
}
