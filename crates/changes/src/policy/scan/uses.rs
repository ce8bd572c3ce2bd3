//! How tables are read that a policy depends on: wherever, or only where a column is equal to something of the claims.

use std::collections::BTreeMap;

use realtime_pgoutput::Oid;

use crate::value::Family;

/// An equality between a column of a table and something that the claims alone decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::policy) struct Tie {
    /// The column.
    pub(in crate::policy) column: Box<str>,
    /// How its values are compared.
    pub(in crate::policy) family: Family,
    /// The expression that it is equal.
    pub(in crate::policy) text: Box<str>,
}

/// How a table is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// How many FROM clauses have it.
    count: usize,
    /// The equalities of those that demand one.
    ties: Vec<Tie>,
}

/// How tables are read, by `pg_class.oid`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AllUses(BTreeMap<Oid, Uses>);

impl AllUses {
    /// A FROM clause has a table.
    pub(super) fn count(&mut self, table: Oid) {
        self.0.entry(table).or_default().count += 1;
    }

    pub(super) fn tie(&mut self, table: Oid, tie: Tie) {
        self.0.entry(table).or_default().ties.push(tie);
    }

    /// The tables that are read in no other way than by equalities, and these.
    pub(super) fn tied(&self) -> impl Iterator<Item = (Oid, &[Tie])> {
        let tied = self.0.iter().filter(|(_, uses)| uses.ties.len() == uses.count);
        tied.map(|(table, uses)| (*table, &*uses.ties))
    }
}
