//! Tables that were dropped: how they are noticed, and when they are forgotten.
//!
//! The catalog runs ahead of the log: rows of a table that is gone may still come, and are delivered. So a table is
//! forgotten when a transaction comes that was committed after it was found to be gone.

use std::collections::HashMap;

use deadpool_postgres::ClientWrapper as Client;
use realtime_pgoutput::{Lsn, Oid};

use super::State;
use crate::catalog;

/// Tables that are gone from the catalog.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// With a position in the log behind their end.
    tables: HashMap<Oid, Lsn>,
    /// Where the transaction was committed that came last.
    pub(super) passed: Lsn,
}

impl Gone {
    pub(super) fn contains(&self, oid: Oid) -> bool {
        self.tables.contains_key(&oid)
    }
}

impl State {
    /// Looks which of the known tables are gone, and forgets those of which no row can come any more. To be called while
    /// nothing waits to be checked.
    pub(super) async fn find_dropped(&mut self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let passed = self.gone.passed;
        let over: Vec<Oid> =
            self.gone.tables.extract_if(|_, end| *end <= passed).map(|(oid, _)| oid).collect();
        for oid in over {
            self.known.remove(&oid);
            self.engine.forget_table(oid);
            for watcher in self.watchers.values_mut() {
                watcher.attached.retain(|(attached, _)| *attached != oid);
            }
        }
        let unpublished =
            self.known.keys().filter(|oid| !self.publishes(**oid) && !self.gone.contains(**oid));
        let unpublished: Vec<Oid> = unpublished.copied().collect();
        if !unpublished.is_empty() {
            let (gone, position) = catalog::gone(client, &unpublished).await?;
            self.gone.tables.extend(gone.into_iter().map(|oid| (oid, position)));
        }
        Ok(())
    }
}
