//! What is known of tables and of the channels that watch them.

use std::{collections::HashMap, sync::Arc};

use realtime_changes::{RoleAccess, SubscriptionKey, Table};
use realtime_pgoutput::{Oid, message::Relation};

use crate::{Notice, RelationCounters, SubscribeRequest};

/// A channel and where it is attached.
pub(super) struct Watcher {
    pub(super) request: Arc<SubscribeRequest>,
    pub(super) attached: Vec<(Oid, SubscriptionKey)>,
    /// The published tables that it knows itself to watch.
    pub(super) tables: Vec<Oid>,
    /// What it was told of subscriptions that a table does not allow, by table and id.
    pub(super) refused: HashMap<(Oid, u32), Notice>,
    /// What it was told of subscriptions whose filters could not be evaluated.
    pub(super) ended: HashMap<(Oid, u32), Notice>,
}

/// A table that the walsender has described.
pub(super) struct Known {
    pub(super) relation: Arc<Relation>,
    /// `None`: the table is gone from the catalog.
    pub(super) table: Option<Arc<Table>>,
    /// The numbers of the columns that the relation describes.
    pub(super) logged: Box<[i16]>,
    /// The numbers of the columns of the table's primary key.
    pub(super) key: Box<[i16]>,
    pub(super) access: HashMap<Arc<str>, Arc<RoleAccess>>,
    /// Of what was read: see [`catalog::fingerprints`](crate::catalog::fingerprints).
    pub(super) fingerprint: Option<i64>,
    /// What is decided about its rows.
    pub(super) counters: Arc<RelationCounters>,
    /// Whether everybody who watches it is attached.
    pub(super) is_attached: bool,
}

impl Known {
    /// The name of the table, for lines of the log.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.relation.schema, self.relation.name)
    }

    /// Where the log has the primary key. `None` if there is none, or if it does not have all of it.
    pub(super) fn key_places(&self) -> Option<Vec<usize>> {
        let places = self.key.iter().map(|attnum| self.logged.binary_search(attnum).ok());
        places.collect::<Option<Vec<_>>>().filter(|places| !places.is_empty())
    }
}
