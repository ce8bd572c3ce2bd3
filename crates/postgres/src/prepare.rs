//! The first use of a database: it is set up for private topics, then looked after.

use std::time::SystemTime;

use tokio::{
    sync::watch,
    time::{self, Duration, Instant},
};

use crate::{DatabaseConfig, SchemaError, TenantDatabase};

/// How long anybody waits for the set-up. It goes on by itself.
const LIMIT: Duration = Duration::from_secs(10);

/// How far the set-up of a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preparation {
    /// The database has not been reached yet.
    Due,
    /// Under way.
    Running,
    /// Over, whatever came of it; or there is to be none.
    Over,
}

impl Preparation {
    /// Before the first use.
    pub(crate) fn first(config: &DatabaseConfig) -> Self {
        if config.prepare.is_some() { Self::Due } else { Self::Over }
    }
}

/// Returns when no set-up is under way, or it has taken too long. Cancel safe.
pub(crate) async fn over(preparation: &mut watch::Receiver<Preparation>) {
    let over = preparation.wait_for(|preparation| *preparation != Preparation::Running);
    // An error means that the handle is gone, with all that could be waited for.
    let _ = time::timeout(LIMIT, over).await;
}

impl TenantDatabase {
    /// Begins the set-up, if it is due. What goes wrong is logged: public topics and row changes do without.
    pub(crate) fn prepare(&self) {
        let Some(janitor) = self.config().prepare.clone() else { return };
        let begin = |preparation: &mut Preparation| {
            let due = *preparation == Preparation::Due;
            if due {
                *preparation = Preparation::Running;
            }
            due
        };
        if !self.preparation().send_if_modified(begin) {
            return;
        }
        let database = self.clone();
        self.spawn(async move {
            let again = database.set_up().await;
            database.preparation().send_replace(if again { Preparation::Due } else { Preparation::Over });
            database.attendees().look_again();
            if !again {
                database.keep_maintained(janitor, SystemTime::now);
            }
        });
    }

    /// Sets the database up; whether it should be tried again when the database is next reached.
    async fn set_up(&self) -> bool {
        let name = &*self.config().name;
        let started = Instant::now();
        let outcome = self.set_up_schema(SystemTime::now(), false).await;
        self.stats().set_ups.record_time(started.elapsed());
        if outcome.as_ref().map_or(true, |report| !report.failed.is_empty()) {
            self.stats().set_up_failures.add(1);
        }
        match outcome {
            Ok(report) => {
                for change in &report.changed {
                    tracing::info!(database = name, "set-up: {change}");
                }
                for failure in &report.failed {
                    tracing::warn!(database = name, code = "MigrationsFailedToRun", "set-up: {failure}");
                }
                for note in &report.notes {
                    tracing::info!(database = name, "set-up: {note}");
                }
                false
            }
            Err(error) => {
                tracing::error!(database = name, code = "MigrationsFailedToRun", %error, "the database could not be set up for private topics");
                matches!(error, SchemaError::Connect(_))
            }
        }
    }

    /// Waits for the set-up.
    pub(crate) async fn prepared(&self) {
        over(&mut self.preparation().subscribe()).await;
    }
}
