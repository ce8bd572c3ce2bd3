//! Looks at a database for `realtime doctor`. Nothing is changed. What it means is said in crate `doctor`.

mod sql;
mod tables;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgwire_replication::ReplicationClient;
use realtime_doctor::{Facts, OwnPublication, PublicationFacts, RoleFacts, ServerFacts, SlotFacts};
use tokio::time::{self, Instant};
use tokio_postgres::{Client, Error, Row};

use crate::{ConnectError, DatabaseConfig, PolicyReport, look_at_schema, pool, replication};

/// Name of the connection.
const APPLICATION: &str = "realtime_doctor";

/// How long the answer to a replication connection is waited for.
const REPLICATION_LIMIT: Duration = Duration::from_secs(10);

/// Looks at everything that `realtime doctor` judges. `report`: what becomes of the policies.
///
/// # Errors
/// [`ConnectError`] when the database cannot be asked.
pub(crate) async fn examine(config: &DatabaseConfig, report: &PolicyReport) -> Result<Facts, ConnectError> {
    let client = pool::connect(config, APPLICATION).await?;
    let (mut server, role) = server_and_role(&client).await.map_err(unusable)?;
    let slots = slots(&client, config).await.map_err(unusable)?;
    let publication = publication(&client, config).await.map_err(unusable)?;
    let own_publications = own_publications(&client).await.map_err(unusable)?;
    let tables = tables::all(&client, &config.publication, report).await.map_err(unusable)?;
    let views = tables::views(&client, &config.publication).await.map_err(unusable)?;
    let candidates = tables::candidates(&client, &config.publication).await.map_err(unusable)?;
    drop(client);
    let schema = look_at_schema(config, SystemTime::now()).await?;
    let has_room = server.senders.0 < server.senders.1;
    if (role.replication || role.superuser) && has_room && server.wal_level == "logical" {
        server.replication_refused = try_replication(config).await;
    }
    Ok(Facts {
        server,
        role,
        slots,
        publication,
        own_publications,
        tables,
        views,
        candidates,
        set_up: schema.plan.into_iter().map(|planned| planned.what).collect(),
    })
}

fn unusable(error: Error) -> ConnectError {
    ConnectError::from_code(error.code(), pool::describe(&error))
}

async fn server_and_role(client: &Client) -> Result<(ServerFacts, RoleFacts), Error> {
    let asked = Instant::now();
    let clock: i64 = client.query_one(sql::CLOCK, &[]).await?.try_get(0)?;
    let clock_ahead_ms = ahead(clock, asked.elapsed());
    let row = client.query_one(sql::SERVER, &[]).await?;
    let number = |at: usize| row.try_get::<_, i64>(at);
    let server = ServerFacts {
        version: row.try_get(0)?,
        version_number: row.try_get(1)?,
        standby: row.try_get(2)?,
        wal_level: row.try_get(3)?,
        slots: (number(4)?, number(5)?),
        senders: (number(6)?, number(7)?),
        keep_mb: row.try_get(8)?,
        idle_slot_seconds: row.try_get(9)?,
        connections: (number(10)?, number(11)?, number(12)?),
        of_role: (number(13)?, number(14)?),
        of_database: (number(15)?, number(16)?),
        clock_ahead_ms,
        replication_refused: None,
    };
    let row = client.query_one(sql::ROLE, &[&&sql::CLIENTS[..]]).await?;
    let (names, may): (Vec<String>, Vec<bool>) = (row.try_get(5)?, row.try_get(6)?);
    let missing = sql::CLIENTS[..2].iter().filter(|usual| !names.iter().any(|name| name == *usual));
    let role = RoleFacts {
        name: row.try_get(0)?,
        database: row.try_get(1)?,
        superuser: row.try_get(2)?,
        replication: row.try_get(3)?,
        create: row.try_get(4)?,
        missing: missing.map(|name| (*name).to_owned()).collect(),
        clients: names.into_iter().zip(may).collect(),
    };
    Ok((server, role))
}

/// How far a clock, read on a way that took this long, is ahead of ours for sure.
fn ahead(theirs_ms: i64, way: Duration) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ours = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let way = i64::try_from(way.as_millis()).unwrap_or(i64::MAX);
    // The clock was read at some moment of the way.
    match theirs_ms - ours {
        ahead if ahead > 0 => ahead,
        behind => (behind + way).min(0),
    }
}

async fn slots(client: &Client, config: &DatabaseConfig) -> Result<Vec<SlotFacts>, Error> {
    let slot = |row: &Row| {
        Ok(SlotFacts {
            name: row.try_get(0)?,
            ours: row.try_get(1)?,
            reader: row.try_get(2)?,
            temporary: row.try_get(3)?,
            lost: row.try_get(4)?,
            lag_bytes: row.try_get::<_, Option<f64>>(5)?.unwrap_or_default(),
            silent_seconds: row.try_get(6)?,
        })
    };
    client.query(sql::SLOTS, &[&config.slot_name]).await?.iter().map(slot).collect()
}

async fn publication(client: &Client, config: &DatabaseConfig) -> Result<Option<PublicationFacts>, Error> {
    let row = client.query_opt(sql::PUBLICATION, &[&config.publication]).await?;
    row.map(|row| Ok(PublicationFacts { left_out: row.try_get(0)? })).transpose()
}

async fn own_publications(client: &Client) -> Result<Vec<OwnPublication>, Error> {
    let own = |row: &Row| {
        Ok(OwnPublication { name: row.try_get(0)?, owner: row.try_get(1)?, ours: row.try_get(2)? })
    };
    let names = [crate::publication::NAME, crate::policy_publication::NAME];
    client.query(sql::OWN_PUBLICATIONS, &[&&names[..]]).await?.iter().map(own).collect()
}

/// Why a replication connection is refused, if it is.
async fn try_replication(config: &DatabaseConfig) -> Option<String> {
    let trying = async {
        let settings = replication::probe_settings(config).await.map_err(|error| error.to_string())?;
        let connected = ReplicationClient::connect_gated(settings).await;
        connected.map(drop).map_err(|error| error.to_string())
    };
    match time::timeout(REPLICATION_LIMIT, trying).await {
        Ok(tried) => tried.err(),
        Err(_) => Some("no answer in time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_no_difference_of_clocks() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ours = i64::try_from(now.as_millis()).unwrap_or_default();
        assert_eq!(ahead(ours - 400, Duration::from_secs(60)), 0);
        assert!(ahead(ours + 60_000, Duration::from_secs(1)) > 50_000);
        assert!(ahead(ours - 60_000, Duration::from_secs(1)) < -50_000);
    }
}
