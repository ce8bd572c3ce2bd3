//! What was seen on the way of a row.

/// What was seen on the way of a row to a client.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The token.
    pub token: TokenSeen,
    /// Schema of the table.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The events that are watched: `*`, `INSERT`, `UPDATE` or `DELETE`.
    pub event: String,
    /// The publication.
    pub publication: String,
    /// `wal_level`, if it is known.
    pub wal_level: Option<String>,
    /// The role that the server logs in as. Unknown to clients.
    pub server_role: Option<String>,
    /// Whether the role of the token exists.
    pub role_exists: bool,
    /// Whether the server's role may take it on.
    pub role_is_served: bool,
    /// Whether the table is published.
    pub published: Published,
    /// What the role may read.
    pub grant: Grant,
    /// The conditions of the binding, one after the other; or why they are refused.
    pub filters: Result<Vec<FilterSeen>, String>,
    /// Whether row-level security decides about rows for the role.
    pub secured: bool,
    /// Whether row-level security is on, but not for this role.
    pub bypasses: bool,
    /// The row.
    pub row: RowSeen,
    /// The policies that decide for the role.
    pub policies: Vec<PolicySeen>,
    /// Columns of the replica identity: all that the log has of a deleted row. Empty: the whole row.
    pub identity: Vec<String>,
}

impl Default for Seen {
    /// Nothing was seen.
    fn default() -> Self {
        Self {
            token: TokenSeen::default(),
            schema: String::new(),
            table: String::new(),
            event: "*".to_owned(),
            publication: String::new(),
            wal_level: None,
            server_role: None,
            role_exists: false,
            role_is_served: false,
            published: Published::No,
            grant: Grant::default(),
            filters: Ok(Vec::new()),
            secured: false,
            bypasses: false,
            row: RowSeen::NotAsked,
            policies: Vec::new(),
            identity: Vec::new(),
        }
    }
}

/// A token.
#[derive(Debug, Clone, Default)]
pub struct TokenSeen {
    /// Its role.
    pub role: String,
    /// Its user.
    pub subject: Option<String>,
    /// For how many seconds it is still valid.
    pub seconds_left: Option<i64>,
    /// Why it is refused.
    pub refused: Option<String>,
}

/// Whether a table is published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Published {
    /// It is.
    Yes,
    /// It is a view, whose rows are watched as live rows.
    View,
    /// It is not; whether it exists is known to operators alone.
    #[default]
    No,
    /// There is no such table, for sure.
    NoTable,
    /// It is, without this event.
    WithoutEvent,
}

/// What a role may read of a table.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// Whether it may use the schema.
    pub usage: bool,
    /// Columns that it may read.
    pub columns: Vec<String>,
    /// Columns that it may not read.
    pub hidden: Vec<String>,
    /// Columns of the primary key; empty if there is none.
    pub key: Vec<String>,
}

/// A condition of a binding.
#[derive(Debug, Clone)]
pub struct FilterSeen {
    /// As clients write it.
    pub text: String,
    /// Whether it holds for the row.
    pub holds: Holds,
    /// Whether the log has its column when a row is deleted.
    pub of_deleted: bool,
}

/// Whether something holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Holds {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It is null, which counts as not.
    Null,
    /// It raises an error, with this text.
    Raises(String),
    /// It cannot be told.
    #[default]
    Open,
}

/// The row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RowSeen {
    /// No row was named.
    #[default]
    NotAsked,
    /// It is there, and the token sees it.
    Seen,
    /// It is there, and the token does not see it.
    Hidden,
    /// The token sees none. Whether there is one is not said.
    NoneSeen,
    /// There is none.
    Missing,
    /// It could not be read, and why.
    Unreadable(String),
}

/// A policy that decides for the role.
#[derive(Debug, Clone)]
pub struct PolicySeen {
    /// Its name; for clients its number.
    pub name: String,
    /// Its condition. Unknown to clients.
    pub using: Option<String>,
    /// Whether it shows rows, or demands something of those that are shown.
    pub permissive: bool,
    /// Whether it holds for the row.
    pub holds: Holds,
    /// Why it is not compiled, if it is not.
    pub asked: Option<String>,
}
