//! What has to be asked before the log is read.

use deadpool_postgres::Pool;

use crate::{pool, replication::ReplicationError};

/// Which of these publications do not exist.
pub(super) async fn missing_publications(
    pool: &Pool,
    wanted: &[String],
) -> Result<Vec<String>, ReplicationError> {
    const SQL: &str = "select pubname::text from pg_catalog.pg_publication where pubname = any($1)";
    let client = pool::get(pool).await.map_err(preparation)?;
    let rows = client.query(SQL, &[&wanted]).await.map_err(query)?;
    let found: Vec<String> =
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(query)?;
    Ok(wanted.iter().filter(|name| !found.contains(name)).cloned().collect())
}

/// Whether the server is older than version 14.
pub(super) async fn is_old(pool: &Pool) -> Result<bool, ReplicationError> {
    const SQL: &str = "select pg_catalog.current_setting('server_version_num')::int4 < 140000";
    let client = pool::get(pool).await.map_err(preparation)?;
    client.query_one(SQL, &[]).await.and_then(|row| row.try_get(0)).map_err(query)
}

/// How many bytes of the log a permanent slot of ours keeps. `None`: there is none.
pub(super) async fn kept_bytes(pool: &Pool, slot: &str) -> Result<Option<u64>, ReplicationError> {
    const SQL: &str = "select pg_catalog.pg_wal_lsn_diff(
            case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_receive_lsn()
                else pg_catalog.pg_current_wal_flush_lsn() end,
            restart_lsn)::int8
        from pg_catalog.pg_replication_slots
        where slot_name = $1 and plugin = 'pgoutput' and database = current_database()";
    let client = pool::get(pool).await.map_err(preparation)?;
    let Some(row) = client.query_opt(SQL, &[&slot]).await.map_err(query)? else { return Ok(None) };
    // A slot whose log is gone has no position.
    let kept: Option<i64> = row.try_get(0).map_err(query)?;
    Ok(Some(kept.and_then(|kept| u64::try_from(kept).ok()).unwrap_or(0)))
}

fn preparation(error: crate::ConnectError) -> ReplicationError {
    ReplicationError::Preparation(error.to_string())
}

fn query(error: tokio_postgres::Error) -> ReplicationError {
    ReplicationError::Preparation(pool::describe(&error))
}
