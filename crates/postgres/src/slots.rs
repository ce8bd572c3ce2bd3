//! The replication slots of this server in a database that it leaves.

use tokio_postgres::error::SqlState;

use crate::{ConnectError, DatabaseConfig, pool};

/// Name of the connection.
const APPLICATION: &str = "realtime_slot_teardown";

/// Slots of this database that are ours by their names. Temporary ones go with their sessions, but are waited for.
/// Neither name has a character that LIKE takes for a wildcard but `_`, so prefixes are compared as such.
const OURS: &str = "select slot_name::text, active or temporary
    from pg_catalog.pg_replication_slots
    where database = current_database()
        and (slot_name::text = $1::text or starts_with(slot_name::text, $1::text || '_')
            or starts_with(slot_name::text, 'supabase_realtime_messages_replication_slot'))";

/// Permanent slots of this database whose names begin so.
const BEGINNING: &str = "select slot_name::text, active
    from pg_catalog.pg_replication_slots
    where database = current_database() and not temporary and starts_with(slot_name::text, $1::text)";

/// Drops what nobody reads; returns what somebody does.
///
/// # Errors
/// [`ConnectError`] when the database cannot be asked.
pub(crate) async fn drop_idle(
    config: &DatabaseConfig,
    dropped: &mut Vec<String>,
) -> Result<Vec<String>, ConnectError> {
    drop_found(config, OURS, &config.slot_name, &|_| false, dropped).await
}

/// Drops the permanent slots whose names begin so and that are not to be kept. Returns the names of those that somebody
/// reads: these stay.
///
/// # Errors
/// [`ConnectError`] when the database cannot be asked.
pub async fn drop_idle_beginning(
    config: &DatabaseConfig,
    prefix: &str,
    keep: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Vec<String>, ConnectError> {
    drop_found(config, BEGINNING, prefix, keep, &mut Vec::new()).await
}

/// Drops what a query finds, if nobody reads it; returns what somebody does.
async fn drop_found(
    config: &DatabaseConfig,
    find: &str,
    name: &str,
    keep: &(dyn Fn(&str) -> bool + Sync),
    dropped: &mut Vec<String>,
) -> Result<Vec<String>, ConnectError> {
    let unusable =
        |error: tokio_postgres::Error| ConnectError::from_code(error.code(), pool::describe(&error));
    let client = pool::connect(config, APPLICATION).await?;
    let mut busy = Vec::new();
    for row in client.query(find, &[&name]).await.map_err(unusable)? {
        let name: String = row.try_get(0).map_err(unusable)?;
        if keep(&name) {
            continue;
        }
        if row.try_get(1).map_err(unusable)? {
            busy.push(name);
            continue;
        }
        match client.execute("select pg_catalog.pg_drop_replication_slot($1)", &[&name]).await {
            Ok(_) => dropped.push(name),
            // Somebody has just begun to read it, or another node has just dropped it.
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => busy.push(name),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => {}
            Err(error) => return Err(unusable(error)),
        }
    }
    Ok(busy)
}
