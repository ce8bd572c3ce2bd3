//! Why a statement has no answer.

use crate::store::StoreError;

/// Why a statement has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// The statement reads something that it must not.
    #[error("{0}")]
    Refused(String),
    /// PostgreSQL does not understand the statement, or gave up.
    #[error("{0}")]
    Sql(String),
    /// There is no connection.
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) fn refused(text: impl Into<String>) -> InspectError {
    InspectError::Refused(text.into())
}

pub(super) fn sql(error: &tokio_postgres::Error) -> InspectError {
    match error.as_db_error() {
        Some(db) => InspectError::Sql(db.message().to_owned()),
        None => InspectError::Sql(realtime_tls::describe(error)),
    }
}
