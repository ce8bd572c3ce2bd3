//! What operators want to know of a tenant's database (http_and_ops 3.1). Nothing is changed.

use std::time::SystemTime;

use jiff::Timestamp;
use tokio_postgres::{Client, Error};

use crate::{
    ConnectError, DatabaseConfig, Origin, pool,
    published::published,
    schema::{self, Planned},
};

/// Name of the connection.
const APPLICATION: &str = "realtime_dashboard";

const SERVER: &str = concat!(
    "select pg_catalog.version(), pg_catalog.current_setting('wal_level'),
        pg_catalog.current_setting('max_connections'),
        (select count(*) from pg_catalog.pg_stat_activity where backend_type = 'client backend'),
        (select count(*) from ",
    published!(),
    " t where t.pubname = $1),
        exists (select from pg_catalog.pg_publication where pubname = $1)"
);

/// A standby has no current position of its own; what it has received is as far as it can tell.
const SLOTS: &str = "select s.slot_name::text, s.plugin::text, s.active, s.temporary, s.wal_status,
        pg_catalog.pg_wal_lsn_diff(case when pg_catalog.pg_is_in_recovery()
                then pg_catalog.pg_last_wal_receive_lsn() else pg_catalog.pg_current_wal_lsn() end,
            coalesce(s.confirmed_flush_lsn, s.restart_lsn))::float8
    from pg_catalog.pg_replication_slots s where s.database = current_database() order by 1";

const HAS_MIGRATIONS: &str = "select exists (select from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'realtime' and c.relname = 'schema_migrations'
        and pg_catalog.has_table_privilege(c.oid, 'SELECT'))";

/// The rows may lack their time in an old schema.
const MIGRATIONS: &str = "select m.version::text, pg_catalog.to_jsonb(m) ->> 'inserted_at'
    from realtime.schema_migrations m order by m.version";

/// A tenant's database as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseFacts {
    /// What the server says it is.
    pub version: String,
    /// Its `wal_level`; `logical` is needed.
    pub wal_level: String,
    /// How many sessions there may be.
    pub max_connections: String,
    /// How many there are, of all clients.
    pub sessions: i64,
    /// Tables whose changes are published; `None` without the publication.
    pub published: Option<i64>,
    /// Its replication slots.
    pub slots: Vec<SlotFacts>,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotFacts {
    /// Its name.
    pub name: String,
    /// What it decodes with.
    pub plugin: Option<String>,
    /// Whether somebody reads it.
    pub active: bool,
    /// Whether it goes with the session that made it.
    pub temporary: bool,
    /// Whether what it keeps of the log is still there.
    pub wal_status: Option<String>,
    /// How far its reader is behind, in bytes.
    pub lag_bytes: Option<f64>,
}

/// The schema `realtime` of a tenant's database as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaFacts {
    /// Who made it.
    pub origin: Origin,
    /// What a set-up would do.
    pub plan: Vec<Planned>,
    /// What operators should know or do.
    pub notes: Vec<String>,
    /// The migrations that the original recorded: version and time.
    pub migrations: Vec<(String, Option<String>)>,
}

/// Looks at a database, on a connection of its own.
///
/// # Errors
/// [`ConnectError`] when it cannot be asked.
pub async fn look(config: &DatabaseConfig) -> Result<DatabaseFacts, ConnectError> {
    let client = pool::connect(config, APPLICATION).await?;
    facts(&client, &config.publication).await.map_err(unusable)
}

async fn facts(client: &Client, publication: &str) -> Result<DatabaseFacts, Error> {
    let row = client.query_one(SERVER, &[&publication]).await?;
    let slots = client.query(SLOTS, &[]).await?;
    let slots = slots.iter().map(|row| {
        Ok(SlotFacts {
            name: row.try_get(0)?,
            plugin: row.try_get(1)?,
            active: row.try_get(2)?,
            temporary: row.try_get(3)?,
            wal_status: row.try_get(4)?,
            lag_bytes: row.try_get(5)?,
        })
    });
    let published = row.try_get::<_, bool>(5)?.then(|| row.try_get(4)).transpose()?;
    Ok(DatabaseFacts {
        version: row.try_get(0)?,
        wal_level: row.try_get(1)?,
        max_connections: row.try_get(2)?,
        sessions: row.try_get(3)?,
        published,
        slots: slots.collect::<Result<_, Error>>()?,
    })
}

/// Looks at the schema, and tells what a set-up that is asked for by an operator would do.
///
/// # Errors
/// [`ConnectError`] when the database cannot be asked.
pub async fn look_at_schema(config: &DatabaseConfig, now: SystemTime) -> Result<SchemaFacts, ConnectError> {
    let client = pool::connect(config, APPLICATION).await?;
    client
        .batch_execute("begin read only; set local lock_timeout = '5s'; set local search_path = pg_catalog")
        .await
        .map_err(unusable)?;
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    let (origin, plan, notes) = schema::preview(&client, now).await.map_err(unusable)?;
    let migrations = migrations(&client).await.map_err(unusable)?;
    Ok(SchemaFacts { origin, plan, notes, migrations })
}

async fn migrations(client: &Client) -> Result<Vec<(String, Option<String>)>, Error> {
    if !client.query_one(HAS_MIGRATIONS, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(Vec::new());
    }
    let rows = client.query(MIGRATIONS, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn unusable(error: Error) -> ConnectError {
    ConnectError::from_code(error.code(), pool::describe(&error))
}
