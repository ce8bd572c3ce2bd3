//! Why a database cannot be used.

use tokio_postgres::error::SqlState;

/// Why the tenant's database cannot be reached, with the texts that joins and requests are refused with
/// (protocol 4.6, tenant_database 3.5).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No connection, or no login.
    #[error("Cannot connect to the database: {0}")]
    Unreachable(String),
    /// The server accepts no more connections, or has no room for ours.
    #[error("{0}")]
    LackOfConnections(String),
    /// Connecting failed three times within five seconds; it is not tried again until these are past.
    #[error("Too many connection attempts against the tenant database")]
    RateLimited,
    /// The connection is being made, for longer than anybody waits.
    #[error("The connection to the database is being initialized")]
    Initializing,
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
            Self::RateLimited => {
                "DatabaseConnectionRateLimitReached: Too many database connections attempts per second"
            }
            Self::Initializing => {
                "InitializingProjectConnection: Realtime is initializing the project connection"
            }
        }
    }

    /// Operators' code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "UnableToConnectToProject",
            Self::LackOfConnections(_) => "DatabaseLackOfConnections",
            Self::RateLimited => "DatabaseConnectionRateLimitReached",
            Self::Initializing => "InitializingProjectConnection",
        }
    }

    /// Status and text of a refused private broadcast over HTTP.
    #[must_use]
    pub const fn http(&self) -> (u16, &'static str) {
        match self {
            Self::Unreachable(_) => (422, "Tenant database unavailable"),
            Self::LackOfConnections(_) => (422, "Tenant database has too many connections"),
            Self::RateLimited => (422, "Connect rate limit reached"),
            Self::Initializing => (422, "Tenant database initializing"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_begin_with_their_code() {
        for error in [
            ConnectError::Unreachable("x".into()),
            ConnectError::LackOfConnections("x".into()),
            ConnectError::RateLimited,
            ConnectError::Initializing,
        ] {
            assert!(error.join_reason().starts_with(&format!("{}: ", error.code())), "{error}");
        }
    }
}
