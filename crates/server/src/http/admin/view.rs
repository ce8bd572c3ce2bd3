//! A tenant as the admin API shows it (http_and_ops 1.2).

use jiff::civil::DateTime;
use realtime_tenants::{ExtensionRecord, POSTGRES_CDC_RLS, Tenant, TenantRecord, WEBHOOKS};
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::node::Node;

/// The health of a tenant.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Health<'a> {
    pub(super) healthy: bool,
    pub(super) db_connected: bool,
    pub(super) replication_connected: bool,
    pub(super) connected_cluster: u32,
    pub(super) region: Option<&'a str>,
    pub(super) node: &'a str,
}

/// A tenant without its secrets. The order of the fields is that of the answer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Tenant)]
pub(super) struct TenantView {
    id: Uuid,
    external_id: String,
    name: Option<String>,
    max_concurrent_users: i64,
    max_channels_per_client: i64,
    max_events_per_second: i64,
    max_joins_per_second: i64,
    inserted_at: String,
    extensions: Vec<ExtensionView>,
    private_only: bool,
    max_client_presence_events_per_window: Option<i64>,
    client_presence_window_ms: Option<i64>,
    presence_enabled: bool,
    /// How long broadcasts are kept, if the tenant says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    broadcast_history_seconds: Option<i64>,
    /// How many broadcasts of a topic are kept, if the tenant says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    broadcast_history_messages: Option<i64>,
}

/// An extension. Values that the metadata database keeps encrypted are shown encrypted, passwords not at all.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Extension)]
struct ExtensionView {
    r#type: String,
    inserted_at: String,
    updated_at: String,
    settings: Map<String, Value>,
}

impl TenantView {
    /// A record of the metadata database. Values that are encrypted there are shown encrypted, passwords not at all.
    pub(super) fn of_record(record: &TenantRecord) -> Self {
        Self {
            id: record.id,
            external_id: record.external_id.clone(),
            name: record.name.clone(),
            max_concurrent_users: record.max_concurrent_users.into(),
            max_channels_per_client: record.max_channels_per_client.into(),
            max_events_per_second: record.max_events_per_second.into(),
            max_joins_per_second: record.max_joins_per_second.into(),
            inserted_at: time(record.inserted_at),
            // Webhooks have a path of their own.
            extensions: record
                .extensions
                .iter()
                .filter(|extension| extension.kind != WEBHOOKS)
                .map(ExtensionView::of_record)
                .collect(),
            private_only: record.private_only,
            max_client_presence_events_per_window: record
                .max_client_presence_events_per_window
                .map(Into::into),
            client_presence_window_ms: record.client_presence_window_ms.map(Into::into),
            presence_enabled: record.presence_enabled,
            broadcast_history_seconds: record.broadcast_history_seconds.map(Into::into),
            broadcast_history_messages: record.broadcast_history_messages.map(Into::into),
        }
    }

    /// A tenant of the configuration. Its id never changes, and its time is the server's start. Its database is not
    /// shown, because that would be in clear text.
    pub(super) fn of_configuration(node: &Node, tenant: &Tenant) -> Self {
        let limits = &tenant.limits;
        let started = time(node.identity().started);
        let settings = json!({
            "region": node.region(),
            "publication": tenant.database.publication,
            "slot_name": tenant.database.slot_name,
        });
        let extension = ExtensionView {
            r#type: POSTGRES_CDC_RLS.to_owned(),
            inserted_at: started.clone(),
            updated_at: started.clone(),
            settings: settings.as_object().cloned().unwrap_or_default(),
        };
        Self {
            id: Uuid::new_v5(&Uuid::NAMESPACE_DNS, tenant.external_id.as_bytes()),
            external_id: tenant.external_id.to_string(),
            name: Some(tenant.external_id.to_string()),
            max_concurrent_users: limits.max_concurrent_users.into(),
            max_channels_per_client: limits.max_channels_per_client.into(),
            max_events_per_second: limits.max_events_per_second.into(),
            max_joins_per_second: limits.max_joins_per_second.into(),
            inserted_at: started,
            extensions: vec![extension],
            private_only: tenant.private_only,
            max_client_presence_events_per_window: limits
                .max_client_presence_events_per_window
                .map(Into::into),
            client_presence_window_ms: limits.client_presence_window_ms.map(Into::into),
            presence_enabled: tenant.presence_enabled,
            broadcast_history_seconds: set(limits.broadcast_history_seconds),
            broadcast_history_messages: set(limits.broadcast_history_messages),
        }
    }
}

/// A number that is not zero.
fn set(number: u32) -> Option<i64> {
    (number > 0).then(|| number.into())
}

impl ExtensionView {
    fn of_record(record: &ExtensionRecord) -> Self {
        let mut settings = record.settings.clone();
        settings.remove("db_password");
        Self {
            r#type: record.kind.clone(),
            inserted_at: time(record.inserted_at),
            updated_at: time(record.updated_at),
            settings,
        }
    }
}

/// UTC in whole seconds, without a time zone: `2026-08-21T14:03:56`.
fn time(time: DateTime) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds() {
        let at = jiff::civil::date(2026, 8, 21).at(14, 3, 56, 7);
        assert_eq!(time(at), "2026-08-21T14:03:56");
    }
}
