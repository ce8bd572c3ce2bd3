//! The connections for queries.

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts,
};
use secrecy::ExposeSecret as _;
use tokio_postgres::NoTls;

use crate::{ConnectError, DatabaseConfig, config::SESSION_OPTIONS};

/// Makes a pool; nothing is connected yet.
///
/// # Errors
/// [`ConnectError`] for settings that no pool can be made of.
pub(crate) fn make(config: &DatabaseConfig) -> Result<Pool, ConnectError> {
    let mut postgres = tokio_postgres::Config::new();
    postgres
        .host(&config.host)
        .port(config.port)
        .user(&config.user)
        .password(config.password.expose_secret())
        .dbname(&config.name)
        .connect_timeout(config.connect_timeout)
        .application_name("realtime")
        .options(format!("{SESSION_OPTIONS} -c statement_timeout={}", config.statement_timeout.as_millis()));
    let manager =
        Manager::from_config(postgres, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    Pool::builder(manager)
        .max_size(config.pool_size.max(1))
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts {
            wait: Some(config.connect_timeout),
            create: Some(config.connect_timeout),
            recycle: Some(config.connect_timeout),
        })
        .build()
        .map_err(|error| ConnectError::Unreachable(error.to_string()))
}

/// A connection of the pool.
///
/// # Errors
/// [`ConnectError`] when there is none to be had in time.
pub(crate) async fn get(pool: &Pool) -> Result<Object, ConnectError> {
    pool.get().await.map_err(|error| match &error {
        PoolError::Backend(backend) => ConnectError::from_code(backend.code(), describe(backend)),
        _ => ConnectError::Unreachable(error.to_string()),
    })
}

/// An error with its causes; the library's own text often says no more than that there was one.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
