//! Whether a change is the last one of its transaction to a row.
//!
//! What the log leaves out of a change can be read from the table if the version that stands there is the one of the change.
//! A later change of the same transaction may have written another. While a change waits that lacks something, the keys
//! of the changes that follow it in its transaction are kept.

use bytes::Bytes;
use realtime_changes::Table;
use realtime_pgoutput::{
    Oid,
    message::{OldTuple, Tuple, Value},
};
use rustc_hash::FxHashMap;

use super::{
    transaction::{Position, Transaction},
    waiting::Waiting,
};

/// Keys kept at most. Beyond it no change counts as the last one.
const MAX_KEYS: usize = 10_000;

/// The values of a row's key.
type Key = Vec<Bytes>;

/// The keys that follow changes which lack something.
#[derive(Debug, Default)]
pub(super) struct Latest {
    /// The transaction that has such a change.
    xid: Option<u32>,
    /// The last change of a transaction to a key.
    changes: FxHashMap<(u32, Oid, Key), Position>,
    /// Whether changes were not noted.
    is_blind: bool,
}

impl Latest {
    /// Takes note of a change that waits.
    pub(super) fn waits(&mut self, waiting: &Waiting, table: &Table) {
        if lacks(waiting, table) {
            self.xid = Some(waiting.xid);
        }
    }

    /// Takes note of a change, whether it waits or nobody wants it.
    pub(super) fn comes(
        &mut self,
        transaction: Transaction,
        relation: Oid,
        new: Option<&Tuple>,
        key_places: impl FnOnce() -> Option<Vec<usize>>,
    ) {
        // A deleted row leaves nothing to read.
        let Some(new) = new.filter(|_| self.xid == Some(transaction.xid)) else { return };
        match key_places().and_then(|places| key(&places, new)) {
            Some(key) if self.changes.len() < MAX_KEYS => {
                self.changes.insert((transaction.xid, relation, key), transaction.position);
            }
            _ => self.is_blind = true,
        }
    }

    /// Whether no change follows to the row, in a transaction that has ended.
    pub(super) fn is_last(&self, waiting: &Waiting, key_places: &[usize]) -> bool {
        // Nearly always nothing is lacking: skip the lookup.
        let lacking = waiting.new.as_ref().filter(|_| self.xid.is_some() && !waiting.is_late);
        let Some(key) = lacking.and_then(|new| key(key_places, new)) else { return false };
        let last = self.changes.get(&(waiting.xid, waiting.relation.oid, key));
        !self.is_blind && last.is_none_or(|last| *last <= waiting.position)
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        if self.xid.is_some() {
            *self = Self::default();
        }
    }
}

/// Whether the log does not carry all of a change's new row.
fn lacks(waiting: &Waiting, table: &Table) -> bool {
    let Some(new) = &waiting.new else { return false };
    let is_full = matches!(waiting.old, Some(OldTuple::Full(_)));
    table.columns.iter().any(|column| !column.in_log)
        || !is_full && new.iter().any(|value| matches!(value, Value::Unchanged))
}

/// The values of a row's primary key. `None` if the log does not carry them.
fn key(places: &[usize], row: &Tuple) -> Option<Key> {
    let value = |at: &usize| match row.get(*at)? {
        Value::Text(text) | Value::Binary(text) => Some(text.clone()),
        Value::Null | Value::Unchanged => None,
    };
    places.iter().map(value).collect()
}
