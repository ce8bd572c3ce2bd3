//! What a database says of itself.

/// A database as it is now.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The server as a whole.
    pub server: ServerFacts,
    /// The role that we log in as.
    pub role: RoleFacts,
    /// The replication slots of this database.
    pub slots: Vec<SlotFacts>,
    /// The publication of row changes; `None`: there is none.
    pub publication: Option<PublicationFacts>,
    /// The publications that the server keeps for itself.
    pub own_publications: Vec<OwnPublication>,
    /// The published tables.
    pub tables: Vec<TableFacts>,
    /// Views that clients' roles may read.
    pub views: Vec<ViewFacts>,
    /// Tables that clients' roles may read and that are not published, for suggestions.
    pub candidates: Vec<(String, String)>,
    /// What a set-up would do, each a line.
    pub set_up: Vec<String>,
}

/// A PostgreSQL server.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    /// Its version, as it names it.
    pub version: String,
    /// Its version as a number, such as 150004.
    pub version_number: i32,
    /// Whether it is a standby.
    pub standby: bool,
    /// `wal_level`.
    pub wal_level: String,
    /// Slots in use, and how many there may be.
    pub slots: (i64, i64),
    /// Walsenders in use, and how many there may be.
    pub senders: (i64, i64),
    /// `max_slot_wal_keep_size` in megabytes; -1 for any amount.
    pub keep_mb: Option<i64>,
    /// `idle_replication_slot_timeout` in seconds; 0 for never. `None`: the server has no such setting.
    pub idle_slot_seconds: Option<i64>,
    /// Sessions, how many there may be, and how many of these are kept for superusers.
    pub connections: (i64, i64, i64),
    /// Sessions of our role, and how many it may have; -1 for any number.
    pub of_role: (i64, i64),
    /// Sessions of this database, and how many it may have; -1 for any number.
    pub of_database: (i64, i64),
    /// How far its clock is ahead of ours, in milliseconds, where that is sure.
    pub clock_ahead_ms: i64,
    /// Why it refused a replication connection, if it was asked for one and did.
    pub replication_refused: Option<String>,
}

/// The role that we log in as.
#[derive(Debug, Clone, Default)]
pub struct RoleFacts {
    /// Its name.
    pub name: String,
    /// Name of the database.
    pub database: String,
    /// Whether it is a superuser.
    pub superuser: bool,
    /// Whether it may replicate, by its attribute or as providers grant it.
    pub replication: bool,
    /// Whether it may create schemas and publications.
    pub create: bool,
    /// Clients' roles that there are, and whether ours may take them on.
    pub clients: Vec<(String, bool)>,
    /// Usual roles of clients that there are not.
    pub missing: Vec<String>,
}

/// A replication slot.
#[derive(Debug, Clone, Default)]
pub struct SlotFacts {
    /// Its name.
    pub name: String,
    /// Whether it is this server's, by its name.
    pub ours: bool,
    /// Process that reads it.
    pub reader: Option<i32>,
    /// Whether it goes with the session that made it.
    pub temporary: bool,
    /// Whether what it keeps of the log is still there.
    pub lost: bool,
    /// How far its reader is behind, in bytes.
    pub lag_bytes: f64,
    /// How long its reader has not answered, in seconds, where that is known.
    pub silent_seconds: Option<f64>,
}

/// The publication of row changes.
#[derive(Debug, Clone, Default)]
pub struct PublicationFacts {
    /// What it leaves out, of `insert`, `update` and `delete`.
    pub left_out: Vec<String>,
}

/// A publication that the server keeps for itself.
#[derive(Debug, Clone, Default)]
pub struct OwnPublication {
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// Whether our role may change it.
    pub ours: bool,
}

/// A published table.
#[derive(Debug, Clone, Default)]
pub struct TableFacts {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Whether row-level security is on.
    pub row_security: bool,
    /// Clients' roles that may select one of its columns, whether they may use its schema or not.
    pub readers: Vec<String>,
    /// Those of them that may not use its schema.
    pub without_usage: Vec<String>,
    /// Those of them for whom a policy may show a row, or who need none.
    pub with_policy: Vec<String>,
    /// Replica identity: `d`, `i`, `f` or `n`.
    pub identity: String,
    /// Whether it has a primary key.
    pub has_key: bool,
    /// Whether it has a column `id` that is unique and not null by now, or could be.
    pub has_id: bool,
    /// Columns of its replica identity that the publication's list leaves out.
    pub unlisted: Vec<String>,
    /// The publication's list of columns.
    pub listed: Option<Vec<String>>,
    /// The publication's condition on rows.
    pub row_filter: Option<String>,
    /// Whether that condition computes something.
    pub filter_may_raise: bool,
    /// Columns of that condition that are not of the replica identity.
    pub unidentified: Vec<String>,
    /// Whether the publication names the table itself, and not its schema or all tables.
    pub named: bool,
    /// Policies that are not compiled.
    pub asked: Vec<AskedPolicy>,
    /// Tables that its policies read and whose changes do not come with the log.
    pub reads: Vec<String>,
}

/// A policy that is not compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AskedPolicy {
    /// Its name.
    pub name: String,
    /// Why, and what helps.
    pub why: String,
}

/// A view that clients may read.
#[derive(Debug, Clone, Default)]
pub struct ViewFacts {
    /// Schema and name.
    pub name: String,
    /// Tables that it reads and whose changes do not come with the log: schema and name.
    pub reads: Vec<(String, String)>,
}

/// What the settings want of the database.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Name of the publication.
    pub publication: String,
    /// Whether the slot is permanent.
    pub durable: bool,
    /// How much of the log a slot may keep; 0 for any amount.
    pub max_lag_bytes: u64,
    /// Connections that the server's pools may take, and those for replication.
    pub connections: i64,
    /// Whether the server sets databases up by itself.
    pub prepares: bool,
    /// Whether the server publishes tables that policies read.
    pub publishes_read: bool,
}
