//! Tenants as rows.

use deadpool_postgres::GenericClient;
use std::collections::HashMap;

use jiff::civil::DateTime;
use realtime_codes::ErrorCode;
use serde_json::{Map, Value, value::RawValue};
use tokio_postgres::{
    Row,
    types::{Json, ToSql},
};

use super::StoreError;
use crate::{Ciphertext, ExtensionRecord, TenantRecord};

/// Every column, in the order in which [`values`] gives them.
const COLUMNS: [&str; 27] = [
    "id",
    "external_id",
    "name",
    "jwt_secret",
    "jwt_jwks",
    "postgres_cdc_default",
    "max_concurrent_users",
    "max_events_per_second",
    "max_bytes_per_second",
    "max_channels_per_client",
    "max_joins_per_second",
    "max_presence_events_per_second",
    "max_payload_size_in_kb",
    "max_client_presence_events_per_window",
    "client_presence_window_ms",
    "broadcast_history_seconds",
    "broadcast_history_messages",
    "suspend",
    "notify_private_alpha",
    "private_only",
    "presence_enabled",
    "migrations_ran",
    "broadcast_adapter",
    "feature_flags",
    "gcm_migrated_at",
    "inserted_at",
    "updated_at",
];

/// Levels of a value that are looked into for what can be read of it.
const MAX_DEPTH: usize = 32;

/// Records that were asked for. One that cannot be read is left out and logged: it must not cost the others.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) records: Vec<TenantRecord>,
    /// Names of those that are there and cannot be read.
    pub(crate) unreadable: Vec<String>,
}

pub(super) async fn list(client: &impl GenericClient) -> Result<Found, StoreError> {
    let tenants =
        client.query("select * from tenants where external_id is not null order by external_id", &[]).await?;
    let extensions =
        client.query("select * from extensions order by tenant_external_id, inserted_at, type", &[]).await?;
    Ok(joined(&tenants, &extensions))
}

/// The names of the tenants that have an extension of a type.
pub(super) async fn with_extension(
    client: &impl GenericClient,
    kind: &str,
) -> Result<Vec<String>, StoreError> {
    let rows = client
        .query(
            "select tenant_external_id from extensions
             where type = $1 and tenant_external_id is not null order by 1",
            &[&kind],
        )
        .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Some of the tenants, in the order of their names' bytes.
pub(super) async fn page(
    client: &impl GenericClient,
    after: Option<&str>,
    limit: i64,
) -> Result<Found, StoreError> {
    let tenants = client
        .query(
            "select * from tenants
             where external_id is not null and ($1::text is null or external_id collate \"C\" > $1)
             order by external_id collate \"C\" limit $2",
            &[&after, &limit],
        )
        .await?;
    let names = tenants.iter().map(|row| row.try_get("external_id")).collect::<Result<Vec<&str>, _>>()?;
    let extensions = client
        .query(
            "select * from extensions where tenant_external_id = any($1)
             order by tenant_external_id, inserted_at, type",
            &[&names],
        )
        .await?;
    Ok(joined(&tenants, &extensions))
}

pub(super) async fn get_many(
    client: &impl GenericClient,
    external_ids: &[&str],
) -> Result<Found, StoreError> {
    let tenants = client.query("select * from tenants where external_id = any($1)", &[&external_ids]).await?;
    let extensions = client
        .query(
            "select * from extensions where tenant_external_id = any($1)
             order by tenant_external_id, inserted_at, type",
            &[&external_ids],
        )
        .await?;
    Ok(joined(&tenants, &extensions))
}

fn joined(tenants: &[Row], extensions: &[Row]) -> Found {
    let mut found = Found::default();
    let mut places = HashMap::with_capacity(tenants.len());
    for row in tenants {
        match tenant(row) {
            Ok(record) => {
                places.insert(record.external_id.clone(), found.records.len());
                found.records.push(record);
            }
            Err(error) => found.leave_out(row, "external_id", &error),
        }
    }
    let mut incomplete = Vec::new();
    for row in extensions {
        let owner = row.try_get::<_, Option<&str>>("tenant_external_id").ok().flatten();
        let Some(place) = owner.and_then(|owner| places.get(owner).copied()) else { continue };
        match (extension(row), found.records.get_mut(place)) {
            (Ok(extension), Some(record)) => record.extensions.push(extension),
            (Err(error), _) => {
                found.leave_out(row, "tenant_external_id", &error);
                incomplete.push(place);
            }
            (_, None) => {}
        }
    }
    incomplete.sort_unstable();
    incomplete.dedup();
    for place in incomplete.into_iter().rev() {
        found.records.remove(place);
    }
    found
}

impl Found {
    fn leave_out(&mut self, row: &Row, name: &str, error: &tokio_postgres::Error) {
        let name = row.try_get::<_, Option<String>>(name).ok().flatten().unwrap_or_default();
        let code = ErrorCode::ErrorExecutingTransaction.as_str();
        tracing::error!(tenant = name, code, %error, "left out a tenant: its record cannot be read");
        if !self.unreadable.contains(&name) {
            self.unreadable.push(name);
        }
    }
}

pub(super) async fn get(
    client: &impl GenericClient,
    external_id: &str,
    lock: bool,
) -> Result<Option<TenantRecord>, StoreError> {
    let lock = if lock { " for update" } else { "" };
    let row = client
        .query_opt(&format!("select * from tenants where external_id = $1{lock}"), &[&external_id])
        .await?;
    let Some(row) = row else { return Ok(None) };
    let mut record = tenant(&row)?;
    let extensions = client
        .query(
            "select * from extensions where tenant_external_id = $1 order by inserted_at, type",
            &[&external_id],
        )
        .await?;
    record.extensions = extensions.iter().map(extension).collect::<Result<_, _>>()?;
    Ok(Some(record))
}

pub(super) async fn insert(client: &impl GenericClient, record: &TenantRecord) -> Result<(), StoreError> {
    let places: Vec<_> = (1..=COLUMNS.len()).map(|at| format!("${at}")).collect();
    let statement = format!("insert into tenants ({}) values ({})", COLUMNS.join(", "), places.join(", "));
    execute(client, &statement, record).await?;
    insert_extensions(client, record).await
}

/// Writes all columns of a record, and its extensions if told so.
pub(super) async fn update(
    client: &impl GenericClient,
    record: &TenantRecord,
    extensions: bool,
) -> Result<(), StoreError> {
    let sets: Vec<_> =
        COLUMNS.iter().enumerate().skip(2).map(|(at, column)| format!("{column} = ${}", at + 1)).collect();
    let statement = format!("update tenants set {} where id = $1 and external_id = $2", sets.join(", "));
    execute(client, &statement, record).await?;
    if extensions {
        client
            .execute("delete from extensions where tenant_external_id = $1", &[&record.external_id])
            .await?;
        insert_extensions(client, record).await?;
    }
    Ok(())
}

pub(super) async fn delete(client: &impl GenericClient, external_id: &str) -> Result<(), StoreError> {
    client.execute("delete from tenants where external_id = $1", &[&external_id]).await?;
    Ok(())
}

async fn insert_extensions(client: &impl GenericClient, record: &TenantRecord) -> Result<(), StoreError> {
    for extension in &record.extensions {
        let settings = Value::Object(extension.settings.clone());
        client
            .execute(
                "insert into extensions (id, type, settings, tenant_external_id, inserted_at, updated_at)
                 values ($1, $2, $3, $4, $5, $6)",
                &[
                    &extension.id,
                    &extension.kind,
                    &settings,
                    &record.external_id,
                    &extension.inserted_at,
                    &extension.updated_at,
                ],
            )
            .await?;
    }
    Ok(())
}

/// The values of [`COLUMNS`].
fn values(record: &TenantRecord) -> Vec<Box<dyn ToSql + Sync + Send>> {
    let jwt_secret = record.jwt_secret.as_ref().map(|secret| secret.as_str().to_owned());
    let feature_flags = Value::Object(record.feature_flags.clone());
    vec![
        Box::new(record.id),
        Box::new(record.external_id.clone()),
        Box::new(record.name.clone()),
        Box::new(jwt_secret),
        Box::new(record.jwt_jwks.clone()),
        Box::new(record.postgres_cdc_default.clone()),
        Box::new(record.max_concurrent_users),
        Box::new(record.max_events_per_second),
        Box::new(record.max_bytes_per_second),
        Box::new(record.max_channels_per_client),
        Box::new(record.max_joins_per_second),
        Box::new(record.max_presence_events_per_second),
        Box::new(record.max_payload_size_in_kb),
        Box::new(record.max_client_presence_events_per_window),
        Box::new(record.client_presence_window_ms),
        Box::new(record.broadcast_history_seconds),
        Box::new(record.broadcast_history_messages),
        Box::new(record.suspend),
        Box::new(record.notify_private_alpha),
        Box::new(record.private_only),
        Box::new(record.presence_enabled),
        Box::new(record.migrations_ran),
        Box::new(record.broadcast_adapter.clone()),
        Box::new(feature_flags),
        Box::new(record.gcm_migrated_at),
        Box::new(record.inserted_at),
        Box::new(record.updated_at),
    ]
}

/// Runs a statement with the values of [`COLUMNS`].
async fn execute(
    client: &impl GenericClient,
    statement: &str,
    record: &TenantRecord,
) -> Result<(), StoreError> {
    let values = values(record);
    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| &**value as _).collect();
    client.execute(statement, &values).await?;
    Ok(())
}

fn tenant(row: &Row) -> Result<TenantRecord, tokio_postgres::Error> {
    let flag = |name: &str| row.try_get::<_, Option<bool>>(name).map(Option::unwrap_or_default);
    let jwt_secret: Option<String> = row.try_get("jwt_secret")?;
    Ok(TenantRecord {
        id: row.try_get("id")?,
        external_id: row.try_get("external_id")?,
        name: row.try_get("name")?,
        jwt_secret: jwt_secret.map(Ciphertext::new),
        // What is JSON's null in the column is no key set.
        jwt_jwks: value(row, "jwt_jwks")?.filter(|jwks| !jwks.is_null()),
        postgres_cdc_default: row.try_get("postgres_cdc_default")?,
        max_concurrent_users: row.try_get("max_concurrent_users")?,
        max_events_per_second: row.try_get("max_events_per_second")?,
        max_bytes_per_second: row.try_get("max_bytes_per_second")?,
        max_channels_per_client: row.try_get("max_channels_per_client")?,
        max_joins_per_second: row.try_get("max_joins_per_second")?,
        max_presence_events_per_second: row.try_get("max_presence_events_per_second")?,
        max_payload_size_in_kb: row.try_get("max_payload_size_in_kb")?,
        max_client_presence_events_per_window: row.try_get("max_client_presence_events_per_window")?,
        client_presence_window_ms: row.try_get("client_presence_window_ms")?,
        broadcast_history_seconds: row.try_get("broadcast_history_seconds")?,
        broadcast_history_messages: row.try_get("broadcast_history_messages")?,
        suspend: flag("suspend")?,
        notify_private_alpha: flag("notify_private_alpha")?,
        private_only: flag("private_only")?,
        presence_enabled: flag("presence_enabled")?,
        migrations_ran: row.try_get("migrations_ran")?,
        broadcast_adapter: row.try_get("broadcast_adapter")?,
        feature_flags: object(row, "feature_flags")?,
        gcm_migrated_at: row.try_get::<_, Option<DateTime>>("gcm_migrated_at")?,
        inserted_at: row.try_get("inserted_at")?,
        updated_at: row.try_get("updated_at")?,
        extensions: Vec::new(),
    })
}

fn extension(row: &Row) -> Result<ExtensionRecord, tokio_postgres::Error> {
    Ok(ExtensionRecord {
        id: row.try_get("id")?,
        kind: row.try_get::<_, Option<String>>("type")?.unwrap_or_default(),
        settings: object(row, "settings")?,
        inserted_at: row.try_get("inserted_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

/// An object; anything else in the column counts as an empty one.
fn object(row: &Row, column: &str) -> Result<Map<String, Value>, tokio_postgres::Error> {
    Ok(match value(row, column)? {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    })
}

/// A column's JSON. Its numbers may be larger than any that can be calculated with: those are null, and the rest is what
/// it is.
fn value(row: &Row, column: &str) -> Result<Option<Value>, tokio_postgres::Error> {
    let raw: Option<Json<Box<RawValue>>> = row.try_get(column)?;
    Ok(raw.map(|Json(raw)| readable(&raw, MAX_DEPTH)))
}

/// What can be read of a value: parts that cannot are null.
fn readable(raw: &RawValue, depth: usize) -> Value {
    let text = raw.get();
    if let Ok(value) = serde_json::from_str(text) {
        return value;
    }
    let Some(depth) = depth.checked_sub(1) else { return Value::Null };
    if let Ok(parts) = serde_json::from_str::<Vec<&RawValue>>(text) {
        return parts.into_iter().map(|part| readable(part, depth)).collect();
    }
    let parts: HashMap<String, &RawValue> = serde_json::from_str(text).unwrap_or_default();
    match parts.is_empty() {
        true => Value::Null,
        false => parts.into_iter().map(|(name, part)| (name, readable(part, depth))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_beyond_all_bounds_cost_nothing_else() {
        let huge = format!("1{}", "0".repeat(400));
        assert!(serde_json::from_str::<Value>(&huge).is_err(), "else there is nothing to test");
        let read = |text: &str| readable(&RawValue::from_string(text.to_owned()).unwrap(), MAX_DEPTH);
        assert_eq!(read(&huge), Value::Null);
        let text = format!(r#"{{"a":{huge},"b":[1,-{huge},{{"c":"x","d":{huge}}}],"e":1.5}}"#);
        assert_eq!(read(&text), json!({"a": null, "b": [1, null, {"c": "x", "d": null}], "e": 1.5}));
        assert_eq!(read(r#"{"a":1}"#), json!({"a": 1}));
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(read(&deep).is_array(), "no depth is too much");
    }
}
