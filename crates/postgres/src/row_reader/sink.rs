//! Where rows go.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use realtime_pgoutput::{Lsn, Position};

use crate::HandOver;

/// A row that is wanted.
#[derive(Debug, Clone)]
pub struct TakenRow {
    /// Where its change stands.
    pub position: Position,
    /// What clients are sent of it: finished JSON.
    pub data: Bytes,
    /// What it has in common with other changes of the same row: a digest of table and primary key.
    pub key: u64,
    /// The same of the old row, if its key was another one.
    pub old_key: Option<u64>,
}

/// Why a row that may be wanted cannot be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostRow {
    /// Its table was dropped before it could be looked at.
    TableGone,
    /// The filter cannot be used on its table, or cannot be evaluated for it.
    Filter,
    /// All rows of a table were removed by TRUNCATE, which tells none of them.
    Truncated,
}

/// Where rows go.
pub trait RowSink: Send + 'static {
    /// The log is read from a position on: see [`LogSink::begins`](crate::LogSink::begins).
    fn begins(&mut self, start: Lsn, resumed: bool);
    /// The log cannot be read now.
    fn waits(&mut self, code: &'static str);
    /// Everything before a position was handed over.
    fn confirmed(&mut self, position: Lsn);
    /// A transaction begins. It may have come in part before: then its rows that came do not come again.
    fn transaction(&mut self, commit: Lsn);
    /// A row, in the order of the log.
    fn row(&mut self, row: TakenRow);
    /// A row that cannot be handed over.
    fn lost(&mut self, position: Position, why: LostRow);
    /// The transaction is complete. What it waits for, as [`LogSink::committed`](crate::LogSink::committed).
    fn committed(&mut self) -> Option<HandOver>;
    /// A wait for room, if there is none.
    fn relieve(&mut self) -> Option<BoxFuture<'_, ()>>;
}
