//! The slot in the database.

use deadpool_postgres::{ClientWrapper as Client, Pool};
use realtime_pgoutput::Lsn;
use tokio_postgres::Error;

use crate::{ConnectError, pool};

/// How long the server may take to move it on: it reads the log from the last checkpoint on.
const MOVE_LIMIT_MS: u64 = 60_000;

/// The slot, if it is ours: where it begins, whether somebody reads it, whether the log from there on is gone.
const FIND: &str =
    "select pg_catalog.pg_wal_lsn_diff(confirmed_flush_lsn, '0/0')::int8, active, wal_status = 'lost'
    from pg_catalog.pg_replication_slots
    where slot_name = $1 and plugin = 'pgoutput' and database = pg_catalog.current_database()";

const COPY: &str = "select pg_catalog.pg_copy_logical_replication_slot($1::text::name, $2::text::name)";

const DROP: &str = "select pg_catalog.pg_drop_replication_slot($1::text::name)";

/// Why the slot cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(in crate::worker) enum NotKept {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", pool::describe(.0))]
    Query(#[from] Error),
}

/// Its name, after the slot that is read.
pub(in crate::worker) fn name(slot: &str) -> String {
    format!("{slot}_journal")
}

/// The slot as it is found.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct Found {
    /// Where it begins. `None`: the log from there on is gone.
    pub(in crate::worker) begins: Option<Lsn>,
    /// Whether somebody reads it, or moves it on.
    pub(in crate::worker) is_read: bool,
}

async fn find(client: &Client, own: &str) -> Result<Option<Found>, NotKept> {
    let Some(row) = client.query_opt(FIND, &[&own]).await? else { return Ok(None) };
    let (begins, is_read, is_lost): (Option<i64>, bool, Option<bool>) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let begins = begins.filter(|_| is_lost != Some(true)).and_then(|begins| u64::try_from(begins).ok());
    Ok(Some(Found { begins: begins.map(Lsn), is_read }))
}

/// The slot beside one that is read, if it is there.
///
/// # Errors
/// When the database cannot be asked.
pub(in crate::worker) async fn look(pool: &Pool, slot: &str) -> Result<Option<Found>, NotKept> {
    let client = pool::get(pool).await?;
    find(&client, &name(slot)).await
}

/// Makes the slot if it is not there, and moves it on.
pub(super) async fn keep(pool: &Pool, slot: &str, target: Option<Lsn>) -> Result<(), NotKept> {
    let own = name(slot);
    let mut client = pool::get(pool).await?;
    let begins = match find(&client, &own).await? {
        Some(Found { is_read: true, .. }) => return Ok(()),
        Some(Found { begins: Some(begins), .. }) => begins,
        Some(Found { begins: None, .. }) => {
            client.execute(DROP, &[&own]).await?;
            client.execute(COPY, &[&slot, &own]).await?;
            return Ok(());
        }
        None => {
            client.execute(COPY, &[&slot, &own]).await?;
            return Ok(());
        }
    };
    let Some(target) = target.filter(|target| *target > begins) else { return Ok(()) };
    let moving = client.transaction().await?;
    moving.batch_execute(&format!("set local statement_timeout = {MOVE_LIMIT_MS}")).await?;
    let sql = "select pg_catalog.pg_replication_slot_advance($1::text::name, $2::text::pg_lsn)";
    moving.execute(sql, &[&own, &target.to_string()]).await?;
    moving.commit().await.map_err(NotKept::from)
}
