//! Positions in the log.

use realtime_pgoutput::{Lsn, message::UnixMicros};

/// A row change's position in the log: the end of its transaction and its number in it. Ascends with the stream.
pub(super) type Position = (Lsn, u64);

/// A transaction whose rows are coming.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transaction {
    pub(super) xid: u32,
    pub(super) commit_time: UnixMicros,
    /// Position of the row that came last.
    pub(super) position: Position,
}

impl Transaction {
    /// One that begins, and was committed at a position of the log.
    pub(super) const fn new(xid: u32, commit: Lsn, commit_time: UnixMicros) -> Self {
        Self { xid, commit_time, position: (commit, 0) }
    }
}

/// A position as clients know it.
pub(super) const fn place((commit, number): Position) -> realtime_pgoutput::Position {
    realtime_pgoutput::Position { commit, number }
}
