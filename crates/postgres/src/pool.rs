//! The connections for queries.

use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Object, Pool, PoolError, Runtime, Timeouts};
pub(crate) use realtime_tls::describe;
use secrecy::ExposeSecret as _;
use tokio::time;
use tokio_postgres::Client;

use crate::{ConnectError, DatabaseConfig, config::SESSION_OPTIONS};

/// How to log in, under a name that operators see in `pg_stat_activity`.
pub(crate) fn settings(config: &DatabaseConfig, application: &str) -> tokio_postgres::Config {
    let mut postgres = tokio_postgres::Config::new();
    postgres
        .host(&config.host)
        .port(config.port)
        .user(&config.user)
        .password(config.password.expose_secret())
        .dbname(&config.name)
        .connect_timeout(config.connect_timeout)
        .application_name(application)
        .options(format!("{SESSION_OPTIONS} -c statement_timeout={}", config.statement_timeout.as_millis()));
    postgres
}

/// Connections of a pool at most, whatever a tenant's settings say: a pool takes memory for each that it may have, and a
/// size that somebody mistyped must not end the server.
pub(crate) const MAX_SIZE: usize = 1000;

/// Where the names of our own statements are looked up: nothing that an application has made is found by them, whatever
/// search path the database has and whatever is made in its schemas.
const OWN_PATH: &str = "search_path=pg_catalog,pg_temp";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Looking: it cannot write.
    Reading,
    /// Looking, and writing rows that are taken back.
    Probing,
}

impl Use {
    /// What a new connection begins with. As a statement, not as an option of the connection: it leaves the search path
    /// of the database as what `default` means.
    const fn first(self) -> &'static str {
        match self {
            Self::Reading => "set search_path = pg_catalog, pg_temp; set default_transaction_read_only = on",
            Self::Probing => "set search_path = pg_catalog, pg_temp",
        }
    }
}

/// Makes the pool for row changes; nothing is connected yet.
///
/// # Errors
/// [`ConnectError`] for settings that no pool can be made of.
pub(crate) fn make(config: &DatabaseConfig) -> Result<Pool, ConnectError> {
    make_named(config, "realtime", config.pool_size, config.connect_timeout, Use::Reading)
}

/// Makes a pool whose connections bear a name, and for which nobody waits longer than `wait`.
///
/// # Errors
/// [`ConnectError`] for settings that no pool can be made of.
pub(crate) fn make_named(
    config: &DatabaseConfig,
    application: &str,
    size: usize,
    wait: Duration,
    purpose: Use,
) -> Result<Pool, ConnectError> {
    Pool::builder(config.route.manager(settings(config, application)))
        .max_size(size.clamp(1, MAX_SIZE))
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts {
            wait: Some(wait),
            create: Some(config.connect_timeout),
            recycle: Some(config.connect_timeout),
        })
        .post_create(Hook::async_fn(move |client, _| {
            Box::pin(async move { client.batch_execute(purpose.first()).await.map_err(HookError::Backend) })
        }))
        .build()
        .map_err(|error| ConnectError::Unreachable(error.to_string()))
}

/// A connection of the pool.
///
/// # Errors
/// [`ConnectError`] when there is none to be had in time.
pub(crate) async fn get(pool: &Pool) -> Result<Object, ConnectError> {
    pool.get().await.map_err(|error| match &error {
        PoolError::Backend(backend) | PoolError::PostCreateHook(HookError::Backend(backend)) => {
            ConnectError::from_code(backend.code(), describe(backend))
        }
        _ => ConnectError::Unreachable(error.to_string()),
    })
}

/// A connection of its own, for our own statements alone, which ends when the client is dropped.
///
/// # Errors
/// [`ConnectError`] when there is none to be had in time.
pub(crate) async fn connect(config: &DatabaseConfig, application: &str) -> Result<Client, ConnectError> {
    let mut settings = settings(config, application);
    let options = settings.get_options().unwrap_or_default();
    settings.options(format!("{options} -c {OWN_PATH}"));
    let connecting = config.route.connect(&settings);
    let (client, connection) = match time::timeout(config.connect_timeout, connecting).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return Err(ConnectError::from_code(error.code(), describe(&error))),
        Err(_) => return Err(ConnectError::Unreachable("no answer in time".to_owned())),
    };
    tokio::spawn(async move {
        // The client is told too, by the statement that fails.
        if let Err(error) = connection.await {
            tracing::debug!(error = describe(&error), "connection ended");
        }
    });
    Ok(client)
}
