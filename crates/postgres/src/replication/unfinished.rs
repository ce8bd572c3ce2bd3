//! Connections that may still be making a slot.
//!
//! Making a slot waits for the transactions that are running, for as long as they run. A connection that we leave
//! meanwhile goes on waiting, and keeps a slot and a walsender. So it is ended by its pid before another one is tried.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::{self, Duration, Instant};
use tokio_postgres::Client;

use super::ReplicationError;
use crate::{DatabaseConfig, pool};

/// Name of the connection.
const APPLICATION: &str = "realtime_slot_teardown";

/// How long a connection may take to end after it was told to.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Pause between looks whether it has ended.
const LOOK: Duration = Duration::from_millis(20);

/// The connections that make a slot, until they have made it: one, but for a moment when an attempt takes over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unfinished(Arc<Mutex<Vec<Backend>>>);

/// A server process. Its start tells it from a later one of the same pid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) pid: String,
    pub(super) begun: String,
}

impl Unfinished {
    pub(super) fn begins(&self, backend: Backend) {
        self.0.lock().push(backend);
    }

    pub(super) fn finished(&self, backend: &Backend) {
        self.0.lock().retain(|unfinished| unfinished != backend);
    }

    /// Ends the connections of attempts that were given up.
    ///
    /// # Errors
    /// When it goes on, as far as is known.
    pub(crate) async fn end(&self, config: &DatabaseConfig) -> Result<(), ReplicationError> {
        let backends = self.0.lock().clone();
        if backends.is_empty() {
            return Ok(());
        }
        let goes_on = |reason: String| {
            ReplicationError::Preparation(format!("A connection that makes a slot cannot be ended: {reason}"))
        };
        let client = pool::connect(config, APPLICATION).await.map_err(|error| goes_on(error.to_string()))?;
        let limit = Instant::now() + ENDS_WITHIN;
        for backend in &backends {
            while is_there(&client, backend).await.map_err(|error| goes_on(pool::describe(&error)))? {
                if Instant::now() > limit {
                    return Err(goes_on("it does not end".to_owned()));
                }
                time::sleep(LOOK).await;
            }
            self.finished(backend);
        }
        Ok(())
    }
}

/// Tells a backend to end. Whether it was there.
async fn is_there(client: &Client, backend: &Backend) -> Result<bool, tokio_postgres::Error> {
    const SQL: &str = "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity
        where pid::text = $1 and backend_start::text = $2";
    Ok(client.query_opt(SQL, &[&backend.pid, &backend.begun]).await?.is_some())
}
