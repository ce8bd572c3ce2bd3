//! Why a question has no answer.

use tokio_postgres::{Error, error::SqlState};

use crate::{ConnectError, sqlstate};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed.
    #[error("{}", sqlstate::loggable_of(.0))]
    Query(#[from] Error),
    /// Code of an application ran for longer than it may, and was not to be cancelled. Its session was ended.
    #[error("{}", sqlstate::brief(SqlState::QUERY_CANCELED.code()))]
    Silent,
}

impl NoAnswer {
    /// The condition that the database names.
    pub(crate) fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Connect(_) => None,
            Self::Query(error) => error.code(),
            Self::Silent => Some(&SqlState::QUERY_CANCELED),
        }
    }

    /// The condition, as notices have it.
    pub(crate) fn brief(&self) -> String {
        match self {
            Self::Query(error) => sqlstate::brief_of(error),
            Self::Connect(_) | Self::Silent => self.to_string(),
        }
    }

    /// What clients are told.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Connect(error) => error.join_reason().to_owned(),
            Self::Query(error) => sqlstate::told_of(error),
            Self::Silent => sqlstate::told_code(SqlState::QUERY_CANCELED.code()),
        }
    }
}
