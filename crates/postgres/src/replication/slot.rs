//! The slot of a session: found or made.

use pgwire_replication::ReplicationClient;
use realtime_pgoutput::Lsn;
use tokio::time;

use super::{
    ReplicationError,
    unfinished::{Backend, Unfinished},
};
use crate::{
    DatabaseConfig,
    failpoints::{self, Point},
};

/// The server gives up making a slot this long after we do: it must not give up first.
const SERVER_WAITS_LONGER: time::Duration = time::Duration::from_secs(5);

/// Name of the slot; of a temporary one nobody else uses it.
pub(super) fn name(config: &DatabaseConfig) -> Result<String, ReplicationError> {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !config.slot_name.chars().all(valid) {
        let problem = "The slot's name must consist of lower-case letters, digits and _".to_owned();
        return Err(ReplicationError::Preparation(problem));
    }
    Ok(if config.durable_slot {
        config.slot_name.clone()
    } else {
        format!("{}_{:08x}", config.slot_name, rand::random::<u32>())
    })
}

/// Makes the slot. Returns where it begins.
pub(super) async fn make(
    client: &mut ReplicationClient,
    config: &DatabaseConfig,
    name: &str,
    unfinished: &Unfinished,
) -> Result<Lsn, ReplicationError> {
    let lifetime = if config.durable_slot { "" } else { "TEMPORARY " };
    // The older spelling of "no snapshot", which every version since 10 understands.
    let create = format!("CREATE_REPLICATION_SLOT {name} {lifetime}LOGICAL pgoutput NOEXPORT_SNAPSHOT");
    let backend = prepare_to_wait(client, config.connect_timeout + config.slot_timeout).await?;
    unfinished.begins(backend.clone());
    let made = client.simple_query(&create).await;
    unfinished.finished(&backend);
    let made = made?;
    client.simple_query("reset lock_timeout").await?;
    let start = position(made.first().and_then(|row| row.get(1)));
    if failpoints::reach(Point::SlotMade).await {
        return Err(ReplicationError::Ended);
    }
    Ok(start)
}

/// Where a permanent slot of this name stands, if there is one to go on with. One of another plugin or database is
/// left to the operator: making ours fails and says so.
pub(super) async fn find(
    client: &mut ReplicationClient,
    slot: &str,
    anew: bool,
) -> Result<Option<Lsn>, ReplicationError> {
    let sql = format!(
        "select confirmed_flush_lsn from pg_catalog.pg_replication_slots
         where slot_name operator(pg_catalog.=) '{slot}' and plugin operator(pg_catalog.=) 'pgoutput'
             and database operator(pg_catalog.=) pg_catalog.current_database()"
    );
    let rows = client.simple_query(&sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if anew {
        client.simple_query(&format!("DROP_REPLICATION_SLOT {slot}")).await?;
        return Ok(None);
    }
    Ok(Some(position(row.first())))
}

/// Which server process makes a slot; if this process dies, it does not wait much longer.
async fn prepare_to_wait(
    client: &mut ReplicationClient,
    limit: time::Duration,
) -> Result<Backend, ReplicationError> {
    let limit = limit + SERVER_WAITS_LONGER;
    let sql = format!(
        "select pid, backend_start, pg_catalog.set_config('lock_timeout', '{}', false)
         from pg_catalog.pg_stat_activity where pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()",
        limit.as_millis()
    );
    let rows = client.simple_query(&sql).await?;
    let text = |at: usize| Some(String::from_utf8_lossy(rows.first()?.get(at)?.as_deref()?).into_owned());
    let unknown = || ReplicationError::Preparation("The server does not say which process it is".to_owned());
    Ok(Backend { pid: text(0).ok_or_else(unknown)?, begun: text(1).ok_or_else(unknown)? })
}

/// A position as the server writes it; the beginning of the log if it does not tell any.
fn position(value: Option<&Option<impl AsRef<[u8]>>>) -> Lsn {
    let text = value.and_then(|value| std::str::from_utf8(value.as_ref()?.as_ref()).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}
