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

    /// The values that a column has had and has, in a change of one row. `None` if not all of them are told.
    pub(crate) fn told(&self, column: &str) -> Option<Vec<Cell<'a>>> {
        let at = self.relation.columns.iter().position(|known| *known.name == *column)?;
        let is_key = self.relation.columns.get(at)?.identity;
        let cell = |tuple: &'a Tuple| Cell::of(tuple.get(at));
        let new = self.new.map(cell);
        let old = match self.old {
            Some(OldTuple::Full(old)) => Some(cell(old)),
            Some(OldTuple::Key(old)) if is_key => Some(cell(old)),
            // The key of an update that does not carry it has not changed.
            None if self.action == Action::Update && is_key => new,
            None if self.action == Action::Insert => None,
            _ => return None,
        };
        let new = match (new, old) {
            // The update left it alone.
            (Some(Cell::Missing), old @ Some(_)) => old,
            (new, _) => new,
        };
        let all: Vec<Cell<'a>> = old.into_iter().chain(new).collect();
        (!all.is_empty() && !all.contains(&Cell::Missing)).then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use realtime_pgoutput::message::{RelationColumn, ReplicaIdentity, Value};

    use super::*;

    #[test]
    fn what_a_change_tells_of_a_column() {
        let column = |name: &str, identity| RelationColumn {
            identity,
            name: name.into(),
            type_oid: 25,
            type_modifier: -1,
        };
        let relation = Relation {
            oid: 1,
            schema: "s".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: vec![column("key", true), column("other", false)],
        };
        let text = |text: &'static str| Value::Text(Bytes::from_static(text.as_bytes()));
        let told = |action, new: Option<&Tuple>, old: Option<&OldTuple>, column: &str| {
            let change = Change { action, relation: &relation, new, old, commit_time: UnixMicros(0) };
            let word = |cell: &Cell<'_>| match cell {
                Cell::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
                Cell::Null => "null".to_owned(),
                Cell::Missing => "missing".to_owned(),
            };
            change.told(column).map(|all| all.iter().map(word).collect::<Vec<_>>().join(","))
        };
        let (row, key) = (vec![text("a"), text("b")], OldTuple::Key(vec![text("c"), Value::Null]));
        let full = OldTuple::Full(vec![text("c"), text("d")]);
        let toasted = vec![text("a"), Value::Unchanged];
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(told(Action::Insert, Some(&row), None, "other"), some("b"));
        assert_eq!(told(Action::Insert, Some(&row), None, "unpublished"), None);
        assert_eq!(told(Action::Update, Some(&row), None, "key"), some("a,a"));
        assert_eq!(told(Action::Update, Some(&row), None, "other"), None, "the old one may be any");
        assert_eq!(told(Action::Update, Some(&row), Some(&key), "key"), some("c,a"));
        assert_eq!(told(Action::Update, Some(&row), Some(&key), "other"), None);
        assert_eq!(told(Action::Update, Some(&row), Some(&full), "other"), some("d,b"));
        assert_eq!(told(Action::Update, Some(&toasted), Some(&full), "other"), some("d,d"));
        assert_eq!(told(Action::Update, Some(&toasted), Some(&key), "other"), None);
        assert_eq!(told(Action::Delete, None, Some(&key), "key"), some("c"));
        assert_eq!(told(Action::Delete, None, Some(&key), "other"), None, "not in the key");
        assert_eq!(told(Action::Delete, None, Some(&full), "other"), some("d"));
        assert_eq!(told(Action::Delete, None, None, "key"), None);
    }
}
