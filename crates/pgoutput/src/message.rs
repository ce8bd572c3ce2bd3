//! The messages of the logical replication protocol, versions 1 to 4
//! (PostgreSQL documentation, "Logical Replication Message Formats").

use std::sync::Arc;

use bytes::Bytes;

use crate::{Lsn, Oid};

/// Microseconds since 1970-01-01 00:00:00 UTC. PostgreSQL counts from 2000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMicros(pub i64);

/// Microseconds from 1970-01-01 to 2000-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

impl UnixMicros {
    /// A time as PostgreSQL counts it. One that is out of range becomes the last one that can be told.
    #[must_use]
    pub const fn from_postgres(micros: i64) -> Self {
        Self(micros.saturating_add(POSTGRES_EPOCH))
    }

    /// A time as PostgreSQL counts it; `None` if it is out of range, as infinity is.
    #[must_use]
    pub fn checked_from_postgres(micros: i64) -> Option<Self> {
        micros.checked_add(POSTGRES_EPOCH).map(Self)
    }
}

/// Which columns of the old row a table writes to the log (`pg_class.relreplident`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplicaIdentity {
    /// `d`: the primary key, if there is one.
    Default,
    /// `n`: nothing.
    Nothing,
    /// `f`: all columns.
    Full,
    /// `i`: the columns of a chosen unique index.
    Index,
}

/// A table as the walsender describes it before its first change and again after each alteration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: Oid,
    /// Schema; the decoder turns the protocol's empty string into `pg_catalog`.
    pub schema: Box<str>,
    /// Table name, verbatim.
    pub name: Box<str>,
    /// Replica identity of the table.
    pub replica_identity: ReplicaIdentity,
    /// The published columns in `attnum` order.
    pub columns: Vec<RelationColumn>,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// Whether the column is part of the replica identity. Under `FULL` every column is.
    pub identity: bool,
    /// Column name, verbatim.
    pub name: Box<str>,
    /// `pg_type.oid`.
    pub type_oid: Oid,
    /// `pg_attribute.atttypmod`, −1 for none.
    pub type_modifier: i32,
}

/// One value of a row. `Bytes` are slices of the message they came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// SQL NULL; in a key tuple also every column outside the key.
    Null,
    /// A TOASTed value that the update left alone and that the old row does not have either: not sent.
    Unchanged,
    /// Text form, as the type's output function wrote it.
    Text(Bytes),
    /// Binary form, only where `binary 'true'` was asked for.
    Binary(Bytes),
}

/// A row: one [`Value`] per column of its [`Relation`].
pub type Tuple = Vec<Value>;

/// What is known of the row before an update or delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldTuple {
    /// `K`: the columns of the replica identity; the others stand as [`Value::Null`] without meaning it.
    Key(Tuple),
    /// `O`: the whole old row (replica identity `FULL`).
    Full(Tuple),
}

/// A row change with what it belongs to. `xid` is present only inside a streamed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// `B`: a transaction starts.
    Begin {
        /// LSN of the commit record.
        final_lsn: Lsn,
        /// Commit time.
        commit_time: UnixMicros,
        /// Transaction id.
        xid: u32,
    },
    /// `C`: the transaction is complete.
    Commit {
        /// Unused by PostgreSQL, 0.
        flags: u8,
        /// LSN of the commit record.
        commit_lsn: Lsn,
        /// First byte after the transaction: the position to confirm.
        end_lsn: Lsn,
        /// Commit time.
        commit_time: UnixMicros,
    },
    /// `O`: where a replicated transaction came from.
    Origin {
        /// Commit LSN on the origin server.
        commit_lsn: Lsn,
        /// Name of the origin.
        name: Box<str>,
    },
    /// `R`: description of a table.
    Relation {
        /// Set inside a streamed transaction.
        xid: Option<u32>,
        /// The table.
        relation: Arc<Relation>,
    },
    /// `Y`: description of a type that is not built in.
    Type {
        /// Set inside a streamed transaction.
        xid: Option<u32>,
        /// `pg_type.oid`.
        oid: Oid,
        /// Schema (`pg_catalog` where the protocol has an empty string).
        schema: Box<str>,
        /// Type name. For a domain PostgreSQL names its base type.
        name: Box<str>,
    },
    /// `I`: a row was inserted.
    Insert {
        /// Set inside a streamed transaction.
        xid: Option<u32>,
        /// Table.
        relation: Oid,
        /// The new row.
        new: Tuple,
    },
    /// `U`: a row was updated.
    Update {
        /// Set inside a streamed transaction.
        xid: Option<u32>,
        /// Table.
        relation: Oid,
        /// The old row where the replica identity wrote one.
        old: Option<OldTuple>,
        /// The new row.
        new: Tuple,
    },
    /// `D`: a row was deleted.
    Delete {
        /// Set inside a streamed transaction.
        xid: Option<u32>,
        /// Table.
        relation: Oid,
        /// The old row.
        old: OldTuple,
    },
    /// `T`: tables were truncated.
    Truncate {
        /// Set inside a streamed transaction.
        xid: Option<u32>,
        /// `TRUNCATE … CASCADE`.
        cascade: bool,
        /// `TRUNCATE … RESTART IDENTITY`.
        restart_identity: bool,
        /// Tables.
        relations: Vec<Oid>,
    },
    /// `M`: `pg_logical_emit_message`.
    Logical {
        /// Set inside a streamed transaction.
        xid: Option<u32>,
        /// Whether it belongs to the surrounding transaction.
        transactional: bool,
        /// Its position.
        lsn: Lsn,
        /// Prefix given by the caller.
        prefix: Box<str>,
        /// Content.
        content: Bytes,
    },
    /// `S`: a block of an unfinished transaction follows (version ≥ 2).
    StreamStart {
        /// Transaction.
        xid: u32,
        /// Whether this is its first block.
        first: bool,
    },
    /// `E`: the block ends.
    StreamStop,
    /// `c`: a streamed transaction committed.
    StreamCommit {
        /// Transaction.
        xid: u32,
        /// Unused by PostgreSQL, 0.
        flags: u8,
        /// LSN of the commit record.
        commit_lsn: Lsn,
        /// First byte after the transaction.
        end_lsn: Lsn,
        /// Commit time.
        commit_time: UnixMicros,
    },
    /// `A`: a streamed (sub)transaction rolled back.
    StreamAbort {
        /// Transaction.
        xid: u32,
        /// Subtransaction, equal to `xid` for the whole.
        subxid: u32,
        /// LSN and time of the abort; only with `streaming 'parallel'` (version 4).
        abort: Option<(Lsn, UnixMicros)>,
    },
    /// `b`, `P`, `K`, `r`, `p`: two-phase commit (version 3). Off in our sessions.
    TwoPhase(TwoPhase),
}

/// The messages of two-phase commit (protocol version 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TwoPhase {
    /// `b`: a transaction that will be prepared starts.
    BeginPrepare(Prepared),
    /// `P`: it is prepared.
    Prepare(Prepared),
    /// `K`: a prepared transaction committed; `prepared.prepare_lsn` holds the commit LSN.
    CommitPrepared(Prepared),
    /// `r`: a prepared transaction rolled back.
    RollbackPrepared {
        /// End of the prepare record.
        prepare_end_lsn: Lsn,
        /// End of the rollback record.
        rollback_end_lsn: Lsn,
        /// When it was prepared.
        prepare_time: UnixMicros,
        /// When it was rolled back.
        rollback_time: UnixMicros,
        /// Transaction id.
        xid: u32,
        /// Global transaction id.
        gid: Box<str>,
    },
    /// `p`: a streamed transaction is prepared.
    StreamPrepare(Prepared),
}

/// Common fields of the two-phase messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// LSN of the prepare (or commit) record.
    pub prepare_lsn: Lsn,
    /// First byte after it.
    pub end_lsn: Lsn,
    /// When.
    pub time: UnixMicros,
    /// Transaction id.
    pub xid: u32,
    /// Global transaction id.
    pub gid: Box<str>,
}
