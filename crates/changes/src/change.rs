//! A row change, as it came out of the log.

use realtime_pgoutput::message::{OldTuple, Relation, Tuple, UnixMicros};

use crate::{cell::Cell, params::EventFilter};

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Action {
    Insert,
    Update,
    Delete,
}

impl Action {
    /// As clients see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }

    pub(crate) const fn wanted_by(self, event: EventFilter) -> bool {
        matches!(
            (self, event),
            (_, EventFilter::All)
                | (Self::Insert, EventFilter::Insert)
                | (Self::Update, EventFilter::Update)
                | (Self::Delete, EventFilter::Delete)
        )
    }
}

/// A row change.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What happened.
    pub action: Action,
    /// The table as the walsender described it when it happened.
    pub relation: &'a Relation,
    /// The new row, but for deletes.
    pub new: Option<&'a Tuple>,
    /// The old row, where the log has it.
    pub old: Option<&'a OldTuple>,
    /// When its transaction committed.
    pub commit_time: UnixMicros,
}

impl<'a> Change<'a> {
    /// What a filter sees in a column of the tuples (1.6, 2.5, 3.4).
    pub(crate) fn cell(&self, at: usize) -> Cell<'a> {
        let value = match (self.new, self.old) {
            (Some(new), _) => new.get(at),
            (None, Some(OldTuple::Full(old))) => old.get(at),
            (None, Some(OldTuple::Key(old))) => {
                old.get(at).filter(|_| self.relation.columns.get(at).is_some_and(|column| column.identity))
            }
            (None, None) => None,
        };
        Cell::of(value)
    }
}
