//! What a transaction's rows are to a result, where the log tells: which left it, which it has now, or that it has to be
//! read again (live 3).
//!
//! Of a table that stands alone the log has the key of every row that changes. So a row that the clients do not have and
//! that the filter or the policies leave out makes no difference, and one that is gone, or left out now, has left. A row that
//! both let in is in the result if there is no limit.

use std::{collections::BTreeMap, sync::Arc};

use realtime_changes::{Action, Predicate, RowView, Verdict};
use realtime_live::{Keeper, Secret, key};
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
    pub(super) predicate: Predicate,
    /// Whether other rows take the place of one that leaves, and one that comes pushes others out.
    pub(super) is_limited: bool,
    /// Whether row-level security decides.
    pub(super) is_guarded: bool,
}

/// One change of a row.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) action: Action,
    pub(super) relation: Arc<Relation>,
    pub(super) new: Option<Tuple>,
    pub(super) old: Option<OldTuple>,
}

/// What a transaction has left under a key.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) key: Vec<u8>,
    pub(super) hash: u64,
    /// The row, or that there is none.
    pub(super) row: Option<Tuple>,
    /// The change that has left it, by its place.
    pub(super) change: usize,
}

/// What a row is to a result, as far as its filter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// It is in it, unless policies hide it.
    In,
    /// It is not.
    Out,
    /// Only the database knows, unless policies hide it.
    Open,
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
        let old = change.old.iter().flat_map(|(OldTuple::Key(old) | OldTuple::Full(old))| old);
        self.bytes += change.new.iter().flatten().chain(old).map(bytes).sum::<usize>();
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

impl Change {
    pub(super) fn is(&self, at: UnixMicros) -> realtime_changes::Change<'_> {
        realtime_changes::Change {
            action: self.action,
            relation: &self.relation,
            new: self.new.as_ref(),
            old: self.old.as_ref(),
            commit_time: at,
        }
    }
}

impl Direct {
    /// `None`: the log does not tell enough.
    pub(super) fn of(source: &Source, collation_is_c: bool) -> Option<Self> {
        let tells = source.kind == Kind::Table
            && source.table.plain
            && source.has_own_key
            // Of another index the log has other columns, and nothing of the primary key.
            && matches!(source.table.replica_identity, ReplicaIdentity::Default | ReplicaIdentity::Full)
            && source.unlogged.is_empty();
        tells.then(|| Self {
            predicate: source.plan.compile(&source.literals, collation_is_c),
            is_limited: source.is_limited,
            is_guarded: claims_matter(source),
        })
    }

    /// What a row is to the result, as far as the filter says.
    pub(super) fn holds(&self, row: Option<&Tuple>) -> Holds {
        let Some(row) = row else { return Holds::Out };
        match RowView::holds(&self.predicate, row) {
            Some(true) => Holds::In,
            // What an update left alone and the log does not repeat may matter.
            Some(false) if !row.contains(&Value::Unchanged) => Holds::Out,
            Some(false) | None => Holds::Open,
        }
    }

    /// Whether the row is in the result. `None`: only the database knows.
    pub(super) fn is_in(&self, holds: Holds, verdict: Option<Verdict>) -> Option<bool> {
        let verdict = if self.is_guarded { verdict.unwrap_or(Verdict::Open) } else { Verdict::Shown };
        match (holds, verdict) {
            (Holds::Out, _) | (_, Verdict::Hidden) => Some(false),
            (Holds::In, Verdict::Shown) => Some(true),
            (Holds::Open, _) | (_, Verdict::Open) => None,
        }
    }

    /// Whether the result has to be read, given whether a row is in it now: others come or go with it.
    pub(super) fn moves_others(&self, keeper: &Keeper, key: &[u8], is_in: bool) -> bool {
        self.is_limited && (is_in || keeper.has(key))
    }
}

/// What changes have left, by key. `None`: the log does not tell.
pub(super) fn images(view: &RowView, secret: Secret, changes: &[Change]) -> Option<Vec<Image>> {
    let mut images: BTreeMap<Vec<u8>, (usize, Option<Tuple>)> = BTreeMap::new();
    let mut places: Option<(&Arc<Relation>, Vec<Option<usize>>)> = None;
    for (number, change) in changes.iter().enumerate() {
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
        let old = match &change.old {
            Some(OldTuple::Key(old) | OldTuple::Full(old)) => Some(mapped(old)?),
            None => None,
        };
        if let Some(old) = &old {
            images.insert(key_of(view, old)?, (number, None));
        }
        if let Some(new) = &change.new {
            let mut row = mapped(new)?;
            if let (Some(old), Some(OldTuple::Full(_))) = (old, &change.old) {
                fill(&mut row, old);
            }
            images.insert(key_of(view, &row)?, (number, Some(row)));
        } else if change.old.is_none() {
            return None;
        }
    }
    let image = |(key, (change, row)): (Vec<u8>, _)| {
        let hash = Keeper::hash_of(secret, &key);
        Image { key, hash, row, change }
    };
    Some(images.into_iter().map(image).collect())
}

/// Fills in what an update has left alone.
fn fill(row: &mut Tuple, old: Tuple) {
    for (value, old) in row.iter_mut().zip(old).filter(|(value, _)| **value == Value::Unchanged) {
        *value = old;
    }
}

/// The key of a row, if the log has all of it.
fn key_of(view: &RowView, row: &Tuple) -> Option<Vec<u8>> {
    view.key(row).all(|value| value.is_some()).then(|| key(view.key(row)))
}
