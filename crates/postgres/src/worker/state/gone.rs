//! Tables that were dropped: how they are noticed, and when they are forgotten.
//!
//! The catalog runs ahead of the log: rows of a table that is gone may still come, and are delivered. So a table is
//! forgotten when a transaction comes that was committed after it was found to be gone.

use std::collections::HashMap;

use realtime_pgoutput::{Lsn, Oid};

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

    /// Notes tables that were found to be gone, with a position behind their end.
    pub(super) fn note(&mut self, tables: Vec<Oid>, end: Lsn) {
        self.tables.extend(tables.into_iter().map(|oid| (oid, end)));
    }

    /// Takes the tables of which no row can come any more.
    pub(super) fn take_over(&mut self) -> Vec<Oid> {
        let passed = self.passed;
        self.tables.extract_if(|_, end| *end <= passed).map(|(oid, _)| oid).collect()
    }
}
