//! The connections for private topics: bounded, with a limit on waiting and a circuit breaker
//! (tenant_database 3.6).

use std::sync::Arc;

use deadpool_postgres::{HookError, Object, Pool, PoolError, TimeoutType};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::AuthorizeError;
use crate::{
    ConnectError, DatabaseConfig,
    breaker::{Gate, PoolBreaker},
    pool,
};

/// Name of the connections.
const APPLICATION: &str = "realtime_connect";

/// Connections for private topics, and what is known of their being too few.
pub(crate) struct PolicyPool {
    pool: Result<Pool, ConnectError>,
    breaker: Mutex<PoolBreaker>,
    /// For the log.
    tenant: Arc<str>,
}

impl PolicyPool {
    /// A pool of the configured size; nothing is connected yet. Nobody waits longer than twice the target.
    pub(crate) fn new(config: &DatabaseConfig) -> Self {
        let (size, wait) = (config.policy_pool_size, config.queue_target * 2);
        Self {
            pool: pool::make_named(config, APPLICATION, size, wait, pool::Use::Probing),
            breaker: Mutex::new(PoolBreaker::new(size)),
            tenant: (*config.tenant).into(),
        }
    }

    /// Whose it is, for the log.
    pub(crate) fn tenant(&self) -> Arc<str> {
        Arc::clone(&self.tenant)
    }

    /// Whether a question may be put.
    ///
    /// # Errors
    /// [`AuthorizeError::IncreaseConnectionPool`] while too many found no connection lately.
    pub(crate) fn gate(&self) -> Result<(), AuthorizeError> {
        let gate = self.breaker.lock().gate(Instant::now());
        match gate {
            Gate::Closed => Ok(()),
            Gate::Open { news } => {
                if news {
                    let (tenant, code) = (&*self.tenant, "IncreaseConnectionPool");
                    tracing::error!(tenant, code, "Too many database timeouts");
                }
                Err(AuthorizeError::IncreaseConnectionPool)
            }
        }
    }

    /// A connection. Waits for one, for as long as the queue limit says.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`AuthorizeError::IncreaseConnectionPool`] when none was free in time, which the breaker counts;
    /// [`AuthorizeError::Unavailable`] when none could be made.
    pub(crate) async fn get(&self) -> Result<Object, AuthorizeError> {
        let pool = self.pool.as_ref().map_err(Clone::clone)?;
        match pool.get().await {
            Ok(client) => Ok(client),
            Err(PoolError::Timeout(TimeoutType::Wait)) => Err(self.crowded()),
            Err(PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error))) => {
                Err(ConnectError::from_code(error.code(), pool::describe(&error)).into())
            }
            Err(error) => Err(ConnectError::Unreachable(error.to_string()).into()),
        }
    }

    /// Notes that somebody found no connection.
    pub(crate) fn crowded(&self) -> AuthorizeError {
        self.breaker.lock().failed(Instant::now());
        AuthorizeError::IncreaseConnectionPool
    }

    /// Ends the connections; whoever waits for one gets an error.
    pub(crate) fn close(&self) {
        if let Ok(pool) = &self.pool {
            pool.close();
        }
    }
}
