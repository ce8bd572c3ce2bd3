//! Why policies could not be evaluated, and what clients and operators are told (tenant_database 3.5).

use std::borrow::Cow;

use tokio_postgres::error::SqlState;

use crate::{ConnectError, foreign::NoAnswer, pool, sqlstate};

/// Why policies could not be evaluated. Nobody is allowed anything then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorizeError {
    /// A policy raised, the role does not exist or may not select, or any other error of the database.
    #[error("{0}")]
    RlsPolicy(String),
    /// The statement was cancelled: by somebody, or because policies took too long.
    #[error("{0}")]
    QueryCanceled(String),
    /// There is no partition for today.
    #[error("{0}")]
    MissingPartition(String),
    /// There was no connection in time, or too many have found none lately.
    #[error("Too many database timeouts")]
    IncreaseConnectionPool,
    /// The connection ended or gave no answer in time.
    #[error(transparent)]
    Unavailable(#[from] ConnectError),
}

impl AuthorizeError {
    /// What an error of a statement means.
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            return Self::Unavailable(ConnectError::Unreachable(pool::describe(error)));
        };
        let text = sqlstate::loggable(db);
        let code = db.code();
        // The table is a partition's parent; a user's own check on it has a name, a missing partition none.
        let no_partition =
            *code == SqlState::CHECK_VIOLATION && db.table() == Some("messages") && db.constraint().is_none();
        if *code == SqlState::QUERY_CANCELED {
            // Clients are told.
            Self::QueryCanceled(sqlstate::told(db))
        } else if no_partition {
            Self::MissingPartition(text)
        } else if *code == SqlState::ADMIN_SHUTDOWN
            || *code == SqlState::CRASH_SHUTDOWN
            || *code == SqlState::CANNOT_CONNECT_NOW
        {
            Self::Unavailable(ConnectError::Unreachable(text))
        } else {
            Self::RlsPolicy(text)
        }
    }

    /// Operators' code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::RlsPolicy(_) => "RlsPolicyError",
            Self::QueryCanceled(_) => "QueryCanceled",
            Self::MissingPartition(_) => "MissingPartition",
            Self::IncreaseConnectionPool => "IncreaseConnectionPool",
            Self::Unavailable(error) => error.code(),
        }
    }

    /// `reason` of a refused join.
    #[must_use]
    pub fn join_reason(&self, topic: &str) -> Cow<'static, str> {
        match self {
            Self::RlsPolicy(_) => {
                format!("Unauthorized: You do not have permissions to read from this Channel topic: {topic}")
                    .into()
            }
            Self::QueryCanceled(error) => format!("QueryCanceled: {error}").into(),
            Self::MissingPartition(_) => {
                "MissingPartition: Realtime was unable to find the expected messages partition".into()
            }
            Self::IncreaseConnectionPool => {
                "IncreaseConnectionPool: Please increase your connection pool size".into()
            }
            Self::Unavailable(error) => error.join_reason().into(),
        }
    }

    /// Message of the `system` frame with which a channel ends whose new token could not be judged.
    #[must_use]
    pub fn refresh_message(&self, topic: &str) -> Cow<'static, str> {
        match self {
            Self::RlsPolicy(_) => {
                format!("You do not have permissions to read from this Channel topic: {topic}").into()
            }
            Self::QueryCanceled(_) => "Query was cancelled, please try again".into(),
            Self::IncreaseConnectionPool => "Please increase your connection pool size".into(),
            Self::MissingPartition(_) | Self::Unavailable(_) => {
                "Realtime was unable to connect to the project database".into()
            }
        }
    }

    /// Status and text of a refused private broadcast over HTTP.
    #[must_use]
    pub const fn http(&self) -> (u16, &'static str) {
        match self {
            Self::RlsPolicy(_) => (422, "RLS policy error"),
            Self::QueryCanceled(_) => (422, "Query canceled"),
            Self::MissingPartition(_) => (422, "Missing messages partition"),
            Self::IncreaseConnectionPool => (429, "Connection pool exhausted"),
            Self::Unavailable(error) => error.http(),
        }
    }
}

impl From<NoAnswer> for AuthorizeError {
    fn from(error: NoAnswer) -> Self {
        match error {
            NoAnswer::Connect(error) => error.into(),
            NoAnswer::Query(error) => Self::of(&error),
            NoAnswer::Silent => Self::QueryCanceled(error.told()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let of = |error: AuthorizeError| {
            (
                error.code(),
                error.join_reason("T").into_owned(),
                error.refresh_message("T").into_owned(),
                error.http(),
            )
        };
        let unauthorized = "You do not have permissions to read from this Channel topic: T";
        let database = "Realtime was unable to connect to the project database";
        assert_eq!(
            of(AuthorizeError::RlsPolicy("x".into())),
            (
                "RlsPolicyError",
                format!("Unauthorized: {unauthorized}"),
                unauthorized.into(),
                (422, "RLS policy error")
            )
        );
        assert_eq!(
            of(AuthorizeError::QueryCanceled("x".into())),
            (
                "QueryCanceled",
                "QueryCanceled: x".into(),
                "Query was cancelled, please try again".into(),
                (422, "Query canceled")
            )
        );
        assert_eq!(
            of(AuthorizeError::MissingPartition("x".into())),
            (
                "MissingPartition",
                "MissingPartition: Realtime was unable to find the expected messages partition".into(),
                database.into(),
                (422, "Missing messages partition")
            )
        );
        assert_eq!(
            of(AuthorizeError::IncreaseConnectionPool),
            (
                "IncreaseConnectionPool",
                "IncreaseConnectionPool: Please increase your connection pool size".into(),
                "Please increase your connection pool size".into(),
                (429, "Connection pool exhausted")
            )
        );
        assert_eq!(
            of(ConnectError::Unreachable("x".into()).into()),
            (
                "UnableToConnectToProject",
                format!("UnableToConnectToProject: {database}"),
                database.into(),
                (422, "Tenant database unavailable")
            )
        );
    }
}
