//! Tables that are read along for policies, and of which clients see nothing: those of the publication of policies.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use realtime_pgoutput::{Lsn, Oid};
use realtime_retry::Backoff;
use tokio::time::Instant;

use crate::{DatabaseConfig, Sharing, policy_publication};

/// Pauses before tables are tried again that were busy, from the first, doubling, to the second: those who write to them
/// wait behind us.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The tables that are read along.
#[derive(Debug)]
pub(super) struct Along {
    /// Whether the publication is used at all.
    pub(super) is_on: bool,
    /// The permanent slot that is read, if one is.
    pub(super) slot: Option<String>,
    /// The other nodes: their policies may read tables that ours do not.
    pub(super) sharing: Option<Arc<dyn Sharing>>,
    /// The publications that the session reads.
    pub(super) reading: Vec<String>,
    /// Those of the publication, and since when nobody's policies have read them.
    pub(super) tables: HashMap<Oid, Option<Instant>>,
    /// Whether some are in the main publication too.
    pub(super) is_between: bool,
    /// Those that policies read and that are not published.
    pub(super) lacking: BTreeSet<Oid>,
    /// Those that have left it, and up to where the log may have their rows without the conditions of the main
    /// publication.
    pub(super) left: HashMap<Oid, Lsn>,
    pub(super) backoff: Backoff,
    pub(super) retry_at: Option<Instant>,
}

impl Along {
    pub(super) fn new(config: &DatabaseConfig) -> Self {
        Self {
            is_on: config.policy_publication && config.publication != policy_publication::NAME,
            slot: config.durable_slot.then(|| config.slot_name.clone()),
            sharing: config.sharing.clone(),
            reading: Vec::new(),
            tables: HashMap::new(),
            is_between: false,
            lacking: BTreeSet::new(),
            left: HashMap::new(),
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
            retry_at: None,
        }
    }

    /// The publications that the session reads.
    pub(super) fn reading(&self) -> &[String] {
        &self.reading
    }

    /// Whether the session reads the publication of policies.
    pub(super) fn is_read(&self) -> bool {
        self.reading.iter().any(|name| name == policy_publication::NAME)
    }

    /// Whether rows of a table, in a transaction that committed at a position, are not for clients, although the main
    /// publication has the table by now.
    pub(super) fn hides(&self, oid: Oid, commit: Lsn) -> bool {
        !self.left.is_empty() && self.left.get(&oid).is_some_and(|left| commit < *left)
    }

    /// A transaction begins that committed at a position.
    pub(super) fn begins(&mut self, commit: Lsn) {
        if !self.left.is_empty() {
            self.left.retain(|_, left| commit < *left);
        }
    }

    /// A session has ended. The next one may read once more what tables had that have left.
    pub(super) fn clear(&mut self) {
        self.reading.clear();
        self.tables.clear();
        self.lacking.clear();
    }

    /// Policies read tables that are not published.
    pub(super) fn lacks(&mut self, tables: impl IntoIterator<Item = Oid>) {
        self.lacking.extend(tables);
    }

    /// Policies are compiled again: what they lack is found again.
    pub(super) fn forget(&mut self) {
        self.lacking.clear();
    }

    /// Whether a table is one of the publication's.
    pub(super) fn has(&self, oid: Oid) -> bool {
        self.tables.contains_key(&oid)
    }
}
