//! Partitions ahead of time, and old messages deleted by the day (tenant_database 5).

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rand::Rng as _;
use tokio_postgres::{Client, Row};

use crate::{
    ConnectError, DatabaseConfig, JanitorSettings,
    partitions::{self, CHILDREN, Child},
    pool,
};

/// Name of the connection.
const APPLICATION: &str = "realtime_janitor";

/// Pause after a run that could not do its work.
const RETRY: Duration = Duration::from_secs(300);

impl JanitorSettings {
    /// The pause before the run of this number, counted from 0, when the last one succeeded or failed.
    /// `minutes` gives a number from 1 to 59.
    pub(crate) fn pause(&self, run: u64, succeeded: bool, minutes: impl FnOnce() -> u64) -> Duration {
        let extra = if self.randomize { Duration::from_secs(60 * minutes()) } else { Duration::ZERO };
        let pause = match run {
            0 => self.run_after + self.every + extra,
            _ => self.every + extra,
        };
        if succeeded { pause } else { pause.min(RETRY) }
    }
}

/// What a run did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// Partitions made, in schema `realtime`.
    pub created: Vec<String>,
    /// Partitions dropped, with all of their messages.
    pub dropped: Vec<String>,
    /// What could not be done, each a line for operators that begins with a code.
    pub problems: Vec<String>,
}

/// Makes the partitions that are missing at this time; with `delete`, drops those that are too old. Each is
/// a transaction of its own: one that fails does not stop the others.
///
/// # Errors
/// [`ConnectError`] when the database cannot be asked at all.
pub(crate) async fn maintain(
    config: &DatabaseConfig,
    now: SystemTime,
    delete: bool,
) -> Result<Maintenance, ConnectError> {
    let client = pool::connect(config, APPLICATION).await?;
    let unusable =
        |error: tokio_postgres::Error| ConnectError::from_code(error.code(), pool::describe(&error));
    let children = children(&client).await.map_err(unusable)?;
    let mut done = Maintenance::default();
    let exists = "select exists (select from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'realtime' and c.relname = 'messages')";
    let exists =
        client.query_one(exists, &[]).await.and_then(|row| row.try_get::<_, bool>(0)).map_err(unusable)?;
    if !exists {
        return Ok(done);
    }
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    if delete {
        for name in partitions::expired(now, &children) {
            match client.batch_execute(&partitions::drop_sql(&name)).await {
                Ok(()) => done.dropped.push(name),
                Err(error) if client.is_closed() => return Err(unusable(error)),
                Err(error) => {
                    let error = pool::describe(&error);
                    done.problems.push(format!("JanitorFailedToDeleteOldMessages: {name}: {error}"));
                }
            }
        }
    }
    for day in partitions::missing(now, &children) {
        let name = partitions::name(day);
        match client.batch_execute(&partitions::create_sql(day)).await {
            Ok(()) => done.created.push(name),
            Err(error) if client.is_closed() => return Err(unusable(error)),
            Err(error) => {
                let error = pool::describe(&error);
                done.problems.push(format!("PartitionCreationFailed: {name}: {error}"));
            }
        }
    }
    Ok(done)
}

/// The partitions that exist.
pub(crate) async fn children(client: &Client) -> Result<Vec<Child>, tokio_postgres::Error> {
    let rows = client.query(CHILDREN, &[]).await?;
    let child = |row: &Row| {
        // A partition that another node drops at this moment has no bounds any more.
        let bounds: Option<String> = row.try_get(1)?;
        let name = row.try_get(0)?;
        Ok(bounds.map(|bounds| Child { name, bounds }))
    };
    rows.iter().filter_map(|row| child(row).transpose()).collect()
}

/// Runs until it is dropped: the first time at once, without deleting.
pub(crate) async fn run(
    config: DatabaseConfig,
    settings: JanitorSettings,
    clock: impl Fn() -> SystemTime + Send,
) {
    for run in 0.. {
        let succeeded = match maintain(&config, clock(), settings.delete && run > 0).await {
            Ok(done) => {
                for problem in &done.problems {
                    tracing::error!(database = config.name, code = "PartitionCreationFailed", "{problem}");
                }
                if !done.created.is_empty() || !done.dropped.is_empty() {
                    let (created, dropped) = (done.created.len(), done.dropped.len());
                    tracing::info!(
                        database = config.name,
                        created,
                        dropped,
                        "maintained the partitions of messages"
                    );
                }
                done.problems.is_empty()
            }
            Err(error) => {
                let code = "JanitorFailedToDeleteOldMessages";
                tracing::error!(database = config.name, code, %error, "cannot maintain the partitions of messages");
                false
            }
        };
        let pause = settings.pause(run, succeeded, || rand::rng().random_range(1..60));
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses() {
        let settings = JanitorSettings::default();
        let minutes = |duration: Duration| duration.as_secs() / 60;
        assert_eq!(minutes(settings.pause(0, true, || 7)), 10 + 240 + 7);
        assert_eq!(minutes(settings.pause(1, true, || 59)), 240 + 59);
        assert_eq!(settings.pause(1, false, || 59), RETRY);
        let exact = JanitorSettings { randomize: false, every: Duration::from_secs(9), ..settings };
        assert_eq!(exact.pause(3, true, || 59), Duration::from_secs(9));
        assert_eq!(exact.pause(3, false, || 59), Duration::from_secs(9));
    }
}
