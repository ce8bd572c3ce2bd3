//! Changes that wait to be checked.

use std::sync::Arc;

use realtime_changes::{Action, Change, Match};
use realtime_pgoutput::{
    Oid,
    message::{OldTuple, Relation, Tuple, UnixMicros, Value},
};

use super::transaction::{Position, Transaction};

/// A change that nobody has looked at: it waits for the end of its transaction.
#[derive(Debug)]
pub(super) struct Unjudged {
    pub(super) action: Action,
    pub(super) oid: Oid,
    pub(super) new: Option<Tuple>,
    pub(super) old: Option<OldTuple>,
    /// With the position of this change.
    pub(super) transaction: Transaction,
}

/// A change that waits to be checked.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) action: Action,
    pub(super) relation: Arc<Relation>,
    pub(super) new: Option<Tuple>,
    pub(super) old: Option<OldTuple>,
    pub(super) commit_time: UnixMicros,
    pub(super) xid: u32,
    pub(super) position: Position,
    /// Where a client that has got it may go on: none, if what stands before it may come later.
    pub(super) place: Option<realtime_pgoutput::Position>,
    pub(super) matched: Match,
    /// Whether it waited in a lane: changes that came after it have passed.
    pub(super) is_late: bool,
    /// Whether it comes out of the journal with the slice that is under way.
    pub(super) is_missed: bool,
}

impl Waiting {
    pub(super) fn change(&self) -> Change<'_> {
        Change {
            action: self.action,
            relation: &self.relation,
            new: self.new.as_ref(),
            old: self.old.as_ref(),
            commit_time: self.commit_time,
        }
    }

    /// The row that is judged: the new one, or the one that was deleted.
    pub(super) fn image(&self) -> Change<'_> {
        match (self.action, self.old_image()) {
            (Action::Delete, Some(old)) => old,
            _ => self.change(),
        }
    }

    /// The old row as if it were a new one, where the log has all of it.
    pub(super) fn old_image(&self) -> Option<Change<'_>> {
        let Some(OldTuple::Full(old)) = &self.old else { return None };
        Some(Change { new: Some(old), old: None, ..self.change() })
    }

    /// A copy of the change without its matches, for a lane. It shares the memory of the row.
    pub(super) fn again(&self) -> Self {
        Self {
            action: self.action,
            relation: Arc::clone(&self.relation),
            new: self.new.clone(),
            old: self.old.clone(),
            commit_time: self.commit_time,
            xid: self.xid,
            position: self.position,
            place: self.place,
            matched: Match::default(),
            is_late: true,
            is_missed: false,
        }
    }

    /// About how many bytes it holds.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + bytes(self.new.as_ref(), self.old.as_ref()) + self.matched.size()
    }
}

impl Unjudged {
    /// The change, of a table as it was described.
    pub(super) fn change<'a>(&'a self, relation: &'a Relation) -> Change<'a> {
        Change {
            action: self.action,
            relation,
            new: self.new.as_ref(),
            old: self.old.as_ref(),
            commit_time: self.transaction.commit_time,
        }
    }

    /// About how many bytes it holds.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + bytes(self.new.as_ref(), self.old.as_ref())
    }
}

/// The bytes of the values of a change.
fn bytes(new: Option<&Tuple>, old: Option<&OldTuple>) -> usize {
    let tuple = |tuple: &Tuple| -> usize {
        tuple.iter().map(|value| if let Value::Text(text) = value { text.len() } else { 0 }).sum()
    };
    let old = old.map_or(0, |(OldTuple::Key(old) | OldTuple::Full(old))| tuple(old));
    new.map_or(0, tuple) + old
}
