//! What can go wrong with the metadata database.

use realtime_codes::ErrorCode;
use realtime_tls::describe;
use tokio_postgres::error::SqlState;

use crate::{CipherError, FieldErrors};

/// Why the metadata database did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no connection, or it broke. What was asked for may have been done.
    #[error("The metadata database cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long, or all connections were busy for too long.
    #[error("The metadata database did not answer in time: {0}")]
    Timeout(String),
    /// Too many unknown tenants are asked for: the database was not asked.
    #[error("Too many unknown tenants are asked for")]
    Flooded,
    /// There is no such tenant or flag.
    #[error("There is no {what} of that name")]
    NotFound {
        /// What was looked for: `tenant` or `feature flag`.
        what: &'static str,
    },
    /// There is one of that name already.
    #[error("{field} has already been taken")]
    Taken {
        /// `external_id`, `name` of a feature flag, or `extensions` with two of a type.
        field: &'static str,
    },
    /// Neither a token secret nor a key set: check constraint `jwt_secret_or_jwt_jwks_required`.
    #[error("Either jwt_secret or jwt_jwks must be provided")]
    KeyRequired,
    /// A value that a check constraint of the database does not allow.
    #[error("A value is not allowed by the constraint {0}")]
    Check(String),
    /// A secret could not be encrypted.
    #[error(transparent)]
    Cipher(#[from] CipherError),
    /// The webhooks of a tenant that are stored cannot be used.
    #[error("The stored webhooks cannot be used: {0}")]
    Webhooks(String),
    /// The schema could not be set up; nothing was changed.
    #[error("MigrationsFailedToRun: {what}: {error}")]
    SetUp {
        /// The step.
        what: String,
        /// The database's message.
        error: String,
    },
    /// Any other error of the database. Without its detail, which may quote values.
    #[error("The metadata database refused: {code} {message}")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// Its message.
        message: String,
    },
}

impl StoreError {
    /// Operators' code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.error_code().as_str()
    }

    /// Operators' code.
    #[must_use]
    pub const fn error_code(&self) -> ErrorCode {
        match self {
            Self::Unreachable(_) | Self::Flooded => ErrorCode::UnableCheckoutConnection,
            Self::Timeout(_) => ErrorCode::QueryCanceled,
            Self::NotFound { .. } => ErrorCode::TenantNotFound,
            Self::Taken { .. } | Self::KeyRequired | Self::Check(_) => ErrorCode::UnprocessableEntity,
            Self::SetUp { .. } => ErrorCode::MigrationsFailedToRun,
            Self::Webhooks(_) => ErrorCode::WebhooksUnavailable,
            Self::Cipher(_) | Self::Refused { .. } => ErrorCode::ErrorExecutingTransaction,
        }
    }

    /// The errors of a request's fields, for an answer with status 422; `None` if the request is not at fault.
    #[must_use]
    pub fn field_errors(&self) -> Option<FieldErrors> {
        Some(match self {
            Self::Taken { field } => FieldErrors::of(field, "has already been taken"),
            Self::KeyRequired => {
                FieldErrors::of("jwt_secret", "either jwt_secret or jwt_jwks must be provided")
            }
            Self::Check(constraint) if constraint == ROLLOUT_CHECK => {
                FieldErrors::of("rollout_percentage", "must be between 0 and 100")
            }
            _ => return None,
        })
    }
}

/// Check constraint of `tenants`.
pub(super) const KEY_CHECK: &str = "jwt_secret_or_jwt_jwks_required";

/// Check constraint of `feature_flags`.
pub(super) const ROLLOUT_CHECK: &str = "rollout_percentage_must_be_between_0_and_100";

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // Only I/O, protocol and conversion: no values in any of them.
            return Self::Unreachable(describe(&error));
        };
        let constraint = db.constraint().unwrap_or_default();
        match *db.code() {
            SqlState::UNIQUE_VIOLATION => Self::Taken {
                field: match constraint {
                    "feature_flags_name_index" => "name",
                    "extensions_tenant_external_id_type_index" => "extensions",
                    _ => "external_id",
                },
            },
            SqlState::CHECK_VIOLATION if constraint == KEY_CHECK => Self::KeyRequired,
            SqlState::CHECK_VIOLATION => Self::Check(constraint.to_owned()),
            SqlState::QUERY_CANCELED | SqlState::LOCK_NOT_AVAILABLE => Self::Timeout(db.message().to_owned()),
            SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW => {
                Self::Unreachable(db.message().to_owned())
            }
            _ => Self::Refused { code: db.code().code().to_owned(), message: db.message().to_owned() },
        }
    }
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        use deadpool_postgres::{PoolError, TimeoutType};
        match error {
            PoolError::Backend(error) => Self::Unreachable(describe(&error)),
            PoolError::Timeout(TimeoutType::Wait) => Self::Timeout("no connection was free".to_owned()),
            error => Self::Unreachable(error.to_string()),
        }
    }
}
