//! Why a live binding is refused. `Display` says what to do about it.

use realtime_changes::SubscribeRefusal;

use crate::foreign::NoAnswer;

/// Why a live binding is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LiveRefusal {
    /// There is no relation of this name.
    #[error("there is no table or view of this name")]
    NoRelation,
    /// The name means something else: a sequence, a type, a foreign table.
    #[error("{0} is neither a table nor a view: live rows need one of these")]
    Neither(String),
    /// There is no such role.
    #[error("role \"{0}\" does not exist")]
    NoRole(String),
    /// The role may not read any column.
    #[error("role \"{role}\" may not read {of}: grant select on it to the role, and usage on its schema")]
    NoRights { role: String, of: String },
    /// A column of the key that the role may not read.
    #[error(
        "role \"{role}\" may not read column {column} of the key of {of}: grant select on it, or give another `key`"
    )]
    NoKey { role: String, column: String, of: String },
    /// The log does not tell changes of the table itself.
    #[error("{of} is not in the publication {publication}: alter publication {publication} add table {of}")]
    Unpublished { of: String, publication: String },
    /// The log does not tell changes of a table that the relation reads.
    #[error(
        "{of} reads {read}, which is not in the publication {publication}: alter publication {publication} add table {read}"
    )]
    ReadsUnpublished { of: String, read: String, publication: String },
    /// A function that it calls reads such a table.
    #[error(
        "a function that {of} calls reads {read}, which is not in the publication {publication}: alter publication {publication} add table {read}"
    )]
    FunctionReadsUnpublished { of: String, read: String, publication: String },
    /// A policy that decides for the role reads such a table.
    #[error(
        "policies on {of} read {read}, which is not in the publication {publication}: alter publication {publication} add table {read}"
    )]
    PolicyReadsUnpublished { of: String, read: String, publication: String },
    /// The publication leaves out some kinds of changes, or some rows.
    #[error(
        "the publication {publication} does not tell every change of {read}: it must publish insert, update, delete and truncate, without a row filter"
    )]
    InPart { read: String, publication: String },
    /// The log never tells changes of it.
    #[error(
        "{read} is {what}: PostgreSQL does not tell its changes. Set LIVE_RECHECK_MS to read it again by the clock"
    )]
    Untold { read: String, what: &'static str },
    /// A column of the order or the key that is not there or may not be read.
    #[error("invalid column for {of} {column}")]
    NoColumn { of: &'static str, column: String },
    /// A column of a type that has no order.
    #[error("column {column} of `order` is of type {sql_type}, which has no order")]
    NoOrder { column: String, sql_type: String },
    /// More rows wanted than a result may have.
    #[error("`limit` is {limit}: a result has {max} rows at most (LIVE_MAX_ROWS)")]
    LimitTooLarge { limit: u32, max: usize },
    /// The filter or the selection.
    #[error("{0}")]
    Plan(String),
    /// A literal that the database refuses.
    #[error("{0}")]
    Literal(String),
    /// The database cannot be asked.
    #[error(transparent)]
    Unavailable(NoAnswer),
}

impl LiveRefusal {
    /// As clients are told. `context`: what they asked for.
    pub(crate) fn told(&self, context: String) -> SubscribeRefusal {
        match self {
            Self::NoRelation => SubscribeRefusal::NoTable(context),
            Self::NoRole(_) => {
                let error = format!("ERROR 42704 (undefined_object) {self}");
                SubscribeRefusal::Database { context, error }
            }
            Self::Literal(error) => SubscribeRefusal::Database { context, error: error.clone() },
            Self::Unavailable(error) => SubscribeRefusal::Unavailable(error.told()),
            other => SubscribeRefusal::raised(context, &other.to_string()),
        }
    }
}

impl<E: Into<NoAnswer>> From<E> for LiveRefusal {
    fn from(error: E) -> Self {
        Self::Unavailable(error.into())
    }
}
