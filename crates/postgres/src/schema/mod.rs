//! Setting a tenant's database up for private topics (tenant_database 1, 7.3, 9).
//!
//! Any number of nodes may do it at once, any number of times: an advisory lock puts them in line, everything is
//! one transaction, and what is there already is left alone. A schema that the original made is only used: of it
//! nothing changes but the daily partitions and the publication.

mod plan;
mod survey;

use std::time::SystemTime;

use jiff::Timestamp;
pub use survey::Origin;
use tokio_postgres::Client;

use crate::{ConnectError, DatabaseConfig, partitions::LOCK_KEY, pool};

/// Name of the connection.
const APPLICATION: &str = "realtime_migrations";

/// What a set-up did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaReport {
    /// Who made the schema.
    pub origin: Origin,
    /// What was changed, each a line for operators; empty if nothing had to be.
    pub changed: Vec<String>,
    /// What could not be done, and why.
    pub failed: Vec<String>,
    /// What operators should know or do.
    pub notes: Vec<String>,
}

/// Why a database could not be set up. Nothing was changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The database.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A step that everything depends on.
    #[error("MigrationsFailedToRun: {what}: {error}")]
    Step {
        /// The step.
        what: String,
        /// The database's words.
        error: String,
    },
}

/// Sets the database up. `grant` also gives rights to client roles that have none in a schema that exists: when
/// an operator asks for it, not on every start, so that taking them away lasts.
///
/// # Errors
/// [`SchemaError`]; nothing was changed then.
pub async fn set_up(
    config: &DatabaseConfig,
    now: SystemTime,
    grant: bool,
) -> Result<SchemaReport, SchemaError> {
    let client = pool::connect(config, APPLICATION).await?;
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    run(&client, now, grant).await
    // The connection ends here, and a transaction that is open with it.
}

/// A change that a set-up would make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What it does, for operators.
    pub what: String,
    /// Its statements.
    pub sql: String,
}

/// Who made the schema, what a set-up that an operator asks for would do, and what operators should know. Only looks.
pub(crate) async fn preview(
    client: &Client,
    now: Timestamp,
) -> Result<(Origin, Vec<Planned>, Vec<String>), tokio_postgres::Error> {
    let survey = survey::survey(client).await?;
    let plan::Plan { steps, notes } = plan::plan(&survey, now, true);
    let plan = steps.into_iter().map(|step| Planned { what: step.what, sql: step.sql }).collect();
    Ok((survey.origin, plan, notes))
}

async fn run(client: &Client, now: Timestamp, grant: bool) -> Result<SchemaReport, SchemaError> {
    // The lock may be held by a node that is at it; nothing else is waited for that long.
    let begin = format!(
        "begin;
         set local statement_timeout = '60s';
         select pg_catalog.pg_advisory_xact_lock({LOCK_KEY});
         set local lock_timeout = '5s';
         set local search_path = pg_catalog"
    );
    client.batch_execute(&begin).await.map_err(unusable)?;
    let survey = survey::survey(client).await.map_err(unusable)?;
    let plan::Plan { steps, notes } = plan::plan(&survey, now, grant);
    let mut report = SchemaReport { origin: survey.origin, changed: Vec::new(), failed: Vec::new(), notes };
    for step in steps {
        client.batch_execute("savepoint step").await.map_err(unusable)?;
        match client.batch_execute(&step.sql).await {
            Ok(()) => report.changed.push(step.what),
            Err(error) => {
                if step.essential || client.is_closed() {
                    return Err(SchemaError::Step { what: step.what, error: pool::describe(&error) });
                }
                client.batch_execute("rollback to savepoint step").await.map_err(unusable)?;
                report.failed.push(format!("{}: {}", step.what, pool::describe(&error)));
            }
        }
    }
    client.batch_execute("commit").await.map_err(unusable)?;
    Ok(report)
}

fn unusable(error: tokio_postgres::Error) -> SchemaError {
    ConnectError::from_code(error.code(), pool::describe(&error)).into()
}
