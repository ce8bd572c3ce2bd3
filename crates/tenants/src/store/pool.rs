//! The connections.

use deadpool_postgres::{Hook, HookError, Pool, Runtime, Timeouts};
use secrecy::ExposeSecret as _;

use super::{
    config::{APPLICATION, MetadataConfig, SCHEMA},
    error::StoreError,
};

/// How to log in, under a name that operators see in `pg_stat_activity`.
pub(crate) fn settings(config: &MetadataConfig, application: &str) -> tokio_postgres::Config {
    let mut postgres = tokio_postgres::Config::new();
    postgres
        .host(&config.host)
        .port(config.port)
        .user(&config.user)
        .password(config.password.expose_secret())
        .dbname(&config.name)
        .connect_timeout(config.connect_timeout)
        .application_name(application)
        .options(format!(
            "-c search_path={SCHEMA} -c TimeZone=UTC -c statement_timeout={} -c lock_timeout={} \
             -c idle_in_transaction_session_timeout=60000",
            config.statement_timeout.as_millis(),
            config.statement_timeout.as_millis(),
        ));
    postgres
}

/// Connections at most, whatever the settings say: a pool takes memory for each that it may have.
const MAX_SIZE: usize = 1000;

/// Makes the pool; nothing is connected yet.
pub(super) fn make(config: &MetadataConfig) -> Result<Pool, StoreError> {
    let manager = config.route.manager(settings(config, APPLICATION));
    let mut pool = Pool::builder(manager)
        .max_size(config.pool_size.clamp(1, MAX_SIZE))
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts {
            wait: Some(config.wait),
            create: Some(config.connect_timeout),
            recycle: Some(config.connect_timeout),
        });
    if let Some(query) = config.after_connect.clone() {
        pool = pool.post_create(Hook::async_fn(move |client, _| {
            let query = query.clone();
            Box::pin(async move { client.batch_execute(&query).await.map_err(HookError::Backend) })
        }));
    }
    pool.build().map_err(|error| StoreError::Unreachable(error.to_string()))
}
