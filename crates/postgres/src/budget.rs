//! Whether the database has room for a tenant's connections (tenant_database 8.3).

use tokio_postgres::{Client, Error};

use crate::{ConnectError, DatabaseConfig};

/// Connections beside the pools: replication, and one at a time for set-up, partitions or the budget itself.
const FURTHER: usize = 2;

/// Percentage of what is needed that has to be free.
const SHARE: usize = 95;

/// What the server lets in at most, less what is connected and is not ours. The statistics of databases are
/// open to everybody, unlike the names of others' sessions, so the figure needs no privilege. Ours are those
/// of this role to this database under our names.
const AVAILABLE: &str = "select pg_catalog.current_setting('max_connections')::bigint
    - (select coalesce(sum(numbackends), 0)::bigint from pg_catalog.pg_stat_database)
    + (select count(*) from pg_catalog.pg_stat_activity
       where datname = current_database() and usename = current_user
           and application_name ~ '^realtime(_connect|_connect_probe|_janitor|_migrations|_replication.*)?$')";

/// Connections that a tenant needs free before the first.
fn required(config: &DatabaseConfig) -> usize {
    let pools = config.pool_size.max(1).saturating_add(config.policy_pool_size.max(1));
    pools.saturating_add(FURTHER).saturating_mul(SHARE).div_ceil(100)
}

/// Checks that there is room.
///
/// # Errors
/// [`ConnectError::LackOfConnections`] if there is none.
pub(crate) async fn check(client: &Client, config: &DatabaseConfig) -> Result<(), ConnectError> {
    let available = available(client)
        .await
        .map_err(|error| ConnectError::from_code(error.code(), crate::pool::describe(&error)))?;
    judge(available, required(config))
}

async fn available(client: &Client) -> Result<i64, Error> {
    client.query_one(AVAILABLE, &[]).await?.try_get(0)
}

fn judge(available: i64, required: usize) -> Result<(), ConnectError> {
    if usize::try_from(available).is_ok_and(|available| required < available) {
        return Ok(());
    }
    Err(ConnectError::LackOfConnections(format!(
        "Only {available} available connections. At least {required} connections are required."
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_more_than_it_takes() {
        let config = DatabaseConfig { pool_size: 5, policy_pool_size: 2, ..DatabaseConfig::default() };
        assert_eq!(required(&config), 9);
        assert_eq!(required(&DatabaseConfig { pool_size: 20, ..config.clone() }), 23);
        let absurd = required(&DatabaseConfig { pool_size: usize::MAX, ..config });
        assert!(judge(i64::MAX, absurd).is_ok() && judge(1_000_000, absurd).is_err(), "{absurd}");
        assert_eq!(judge(10, 9), Ok(()));
        let error = judge(9, 9).unwrap_err();
        assert_eq!(
            format!("{}: {error}", error.code()),
            "DatabaseLackOfConnections: Only 9 available connections. At least 9 connections are required."
        );
        assert!(judge(-3, 9).is_err());
    }
}
