//! What a transaction's rows are to a result, where the log tells: which left it, which it has now, or that it has to be
//! read again (live 3).
//!
//! Of a table that stands alone the log has the key of every row that changes. So a row that the keeper does not have and
//! that the filter leaves out makes no difference, and one that is gone, or that the filter leaves out now, has left. A row
//! that the filter lets in is in the result if nothing else decides: neither policies nor a limit.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use realtime_changes::{Action, Predicate, RowView};
use realtime_live::{Digester, Keeper, Secret, Seen, key, values};
use realtime_pgoutput::message::{OldTuple, Relation, ReplicaIdentity, Tuple, UnixMicros, Value};

use super::binding::claims_matter;
use crate::live::{Kind, Source};

/// Rows of a transaction that are looked at one by one, at most. Beyond it results are read again.
const MAX_ROWS: usize = 2_000;

/// Bytes of these rows.
const MAX_BYTES: usize = 4_000_000;

/// How the log tells of a result's rows.
#[derive(Debug)]
pub(super) struct Direct {
    predicate: Predicate,
    /// Whether a row that is gone, or that the filter leaves out, needs no reading: no other row takes its place.
    lets_go: bool,
    /// Whether a row that the filter lets in needs none.
    lets_in: bool,
}

/// One change of a row.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) relation: Arc<Relation>,
    pub(super) new: Option<Tuple>,
    pub(super) old: Option<OldTuple>,
}

/// What a transaction has done to a table.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Its changes one by one. `None`: too many, or not known.
    pub(super) rows: Option<Vec<Change>>,
    bytes: usize,
}

impl Touched {
    pub(super) const fn nothing() -> Self {
        Self { rows: Some(Vec::new()), bytes: 0 }
    }

    pub(super) fn push(&mut self, change: Change) {
        let Some(rows) = &mut self.rows else { return };
        self.bytes += change.new.iter().flatten().map(bytes).sum::<usize>();
        rows.push(change);
        if rows.len() > MAX_ROWS || self.bytes > MAX_BYTES {
            self.rows = None;
        }
    }
}

fn bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) | Value::Binary(text) => text.len(),
        Value::Null | Value::Unchanged => 0,
    }
}

impl Direct {
    /// `None`: the log does not tell enough.
    pub(super) fn of(source: &Source, collation_is_c: bool) -> Option<Self> {
        let tells = source.kind == Kind::Table
            && source.table.plain
            && source.has_own_key
            && source.unlogged.is_empty();
        let is_limited = source.is_limited;
        tells.then(|| Self {
            predicate: source.plan.compile(&source.literals, collation_is_c),
            lets_go: !is_limited,
            lets_in: !is_limited && !claims_matter(source),
        })
    }

    /// What changes are to a result, by key: the row that is under it now, or none. `None`: it has to be read.
    fn images(
        &self,
        view: &RowView,
        keeper: &Keeper,
        changes: &[Change],
    ) -> Option<BTreeMap<Vec<u8>, Option<Tuple>>> {
        let mut images: BTreeMap<Vec<u8>, Option<Tuple>> = BTreeMap::new();
        let mut places: Option<(&Arc<Relation>, Vec<Option<usize>>)> = None;
        for change in changes {
            // With another identity the log does not tell when a key changes.
            if !matches!(change.relation.replica_identity, ReplicaIdentity::Default | ReplicaIdentity::Full) {
                return None;
            }
            if places.as_ref().is_none_or(|(known, _)| !Arc::ptr_eq(known, &change.relation)) {
                places = Some((&change.relation, view.places_in(&change.relation)));
            }
            let Some((_, places)) = &places else { return None };
            let mapped = |row: &Tuple| -> Option<Tuple> {
                places.iter().map(|at| at.and_then(|at| row.get(at)).cloned()).collect()
            };
            if let Some(old) = &change.old {
                let (OldTuple::Key(old) | OldTuple::Full(old)) = old;
                images.insert(key_of(view, &mapped(old)?)?, None);
            }
            if let Some(new) = &change.new {
                let row = mapped(new)?;
                images.insert(key_of(view, &row)?, Some(row));
            } else if change.old.is_none() {
                return None;
            }
        }
        for (key, image) in &mut images {
            let Some(row) = image else {
                if keeper.has(key) && !self.lets_go {
                    return None;
                }
                continue;
            };
            // What an update left alone and the log does not repeat may matter.
            if row.contains(&Value::Unchanged) {
                return None;
            }
            match RowView::holds(&self.predicate, row)? {
                true if self.lets_in => {}
                true => return None,
                false if keeper.has(key) && !self.lets_go => return None,
                false => *image = None,
            }
        }
        Some(images)
    }

    /// Applies changes to a keeper. `None`: the result has to be read; nothing has happened.
    pub(super) fn apply(
        &self,
        (source, view, secret): (&Source, &RowView, Secret),
        keeper: &mut Keeper,
        changes: &[Change],
        at: UnixMicros,
    ) -> Option<Vec<(Action, Bytes)>> {
        let (mut left, mut came) = (Vec::new(), Vec::new());
        for (key, image) in self.images(view, keeper, changes)? {
            let Some(row) = image else {
                if keeper.remove(&key) {
                    left.push((Action::Delete, view.left(&values(&key), at, &source.types)));
                }
                continue;
            };
            let mut digester = Digester::new(secret);
            view.told(&row).for_each(|value| digester.value(value));
            let action = match keeper.put(&key, digester.finish()) {
                Seen::New => Action::Insert,
                Seen::Changed => Action::Update,
                Seen::Same | Seen::Twice => continue,
            };
            came.push((action, view.data(action, &row, at, &source.types)));
        }
        left.append(&mut came);
        Some(left)
    }
}

/// The key of a row, if the log has all of it.
fn key_of(view: &RowView, row: &Tuple) -> Option<Vec<u8>> {
    view.key(row).all(|value| value.is_some()).then(|| key(view.key(row)))
}
