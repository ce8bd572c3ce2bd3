//! Why a database cannot be used.

use tokio_postgres::error::SqlState;

/// Why the tenant's database cannot be reached, with the text that joins are refused with (protocol 4.6).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No connection, or no login.
    #[error("Cannot connect to the database: {0}")]
    Unreachable(String),
    /// The server accepts no more connections.
    #[error("Database can't accept more connections: {0}")]
    LackOfConnections(String),
}

impl ConnectError {
    /// `reason` of a refused join.
    #[must_use]
    pub const fn join_reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => {
                "UnableToConnectToProject: Realtime was unable to connect to the project database"
            }
            Self::LackOfConnections(_) => {
                "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect"
            }
        }
    }

    /// Operators' code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "UnableToConnectToProject",
            Self::LackOfConnections(_) => "DatabaseLackOfConnections",
        }
    }

    /// Tells one from the other by the server's code.
    pub(crate) fn from_code(code: Option<&SqlState>, detail: String) -> Self {
        if code == Some(&SqlState::TOO_MANY_CONNECTIONS) {
            Self::LackOfConnections(detail)
        } else {
            Self::Unreachable(detail)
        }
    }
}
