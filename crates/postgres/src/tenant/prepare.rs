//! The first use of a database: it is set up for private topics, then looked after.

use std::time::SystemTime;

use tokio::time::Instant;

use super::TenantDatabase;
use crate::{
    SchemaError,
    prepare::{self, Preparation},
};

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
                tracing::error!(database = name, code = "MigrationsFailedToRun", %error, "cannot set up the database for private topics");
                matches!(error, SchemaError::Connect(_))
            }
        }
    }

    /// Waits for the set-up.
    pub(crate) async fn prepared(&self) {
        prepare::over(&mut self.preparation().subscribe()).await;
    }
}
