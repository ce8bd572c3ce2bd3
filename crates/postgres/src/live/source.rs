//! Where a result comes from.

use std::sync::Arc;

use realtime_changes::{Plan, RoleAccess, Table};
use realtime_pgoutput::{Oid, TypeRegistry, message::Relation};
use rustc_hash::FxHashSet;

use super::refusal::LiveRefusal;

/// What a live binding names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A table that stands alone or has children.
    Table,
    /// The root of partitions.
    Partitioned,
    /// A view.
    View,
    /// A materialized view.
    Materialized,
}

/// What tells the rows of a result apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// These columns, by their places in the table.
    Columns(Box<[usize]>),
    /// All that is sent of a row.
    WholeRow,
}

/// Where a result comes from, as the catalog has it for a role, and the query that reads it.
#[derive(Debug)]
pub(crate) struct Source {
    /// `pg_class.oid`.
    pub(crate) oid: Oid,
    pub(crate) kind: Kind,
    /// All columns count as being in the log: what is read has them. The primary key is [`Source::key`].
    pub(crate) table: Arc<Table>,
    /// The relation as the log would describe it, with all columns: tuples that are read are its tuples.
    pub(crate) relation: Arc<Relation>,
    pub(crate) key: Key,
    /// Whether it has a number of rows at most.
    pub(crate) is_limited: bool,
    /// Whether the key is the table's own primary key, which the log has of every change.
    pub(crate) has_own_key: bool,
    /// Columns that the log lacks, by place: generated ones, and those that a column list leaves out.
    pub(crate) unlogged: Box<[usize]>,
    /// The columns that are read, ascending: those that were selected, or all that the role may read, and the key. Of the
    /// others a tuple has `Value::Unchanged`.
    pub(crate) columns: Box<[usize]>,
    /// The tables whose changes may change the result: those that the query reads, and those that the policies on them
    /// read, as the log names them: partitions and their roots.
    pub(crate) reads: FxHashSet<Oid>,
    /// Those of them whose changes the log does not tell, as `schema.name`. Not empty only where results are read again by
    /// the clock.
    pub(crate) unpublished: Vec<String>,
    /// Those that only policies read and that have to be published before it is read, each with what is said if that
    /// cannot be done.
    pub(crate) lacking: Vec<(Oid, LiveRefusal)>,
    /// Why it is not known all that changes the result, in words for people: what functions read that are called. Empty: it is.
    pub(crate) doubts: Box<[String]>,
    /// Everything in the catalog that was looked at: what [`prints`](super::prints) is asked about.
    pub(crate) relations: Box<[Oid]>,
    /// The filter.
    pub(crate) plan: Plan,
    /// Canonical texts of its literals, for [`Plan::compile`].
    pub(crate) literals: Vec<String>,
    pub(crate) access: Arc<RoleAccess>,
    /// The types of the columns.
    pub(crate) types: Arc<TypeRegistry>,
    /// The query.
    pub(crate) sql: Box<str>,
}

impl Source {
    /// Whether the log does not tell all that changes the result, as far as that is known.
    pub(crate) fn needs_clock(&self) -> bool {
        !self.unpublished.is_empty() || !self.doubts.is_empty()
    }
}
