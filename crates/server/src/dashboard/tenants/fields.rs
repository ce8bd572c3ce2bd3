//! The settings of a tenant, without secrets.

use maud::{Markup, html};
use realtime_tenants::{
    Ciphertext, ENCRYPTED_SETTINGS, ExtensionRecord, Limits, MAX_HISTORY_MESSAGES, Tenant, TenantRecord,
};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::known::Known;
use crate::{
    dashboard::{
        source,
        view::parts::{facts, maybe, plain, yes},
    },
    node::Node,
};

/// Words in the names of settings that are hidden.
const SECRET: [&str; 6] = ["password", "secret", "token", "key", "credential", "jwt"];

/// All settings of a tenant.
pub fn settings(known: &Known) -> Markup {
    match known {
        Known::Record(record) => of_record(record),
        Known::Configured(tenant) => of_configuration(tenant),
    }
}

fn of_record(record: &TenantRecord) -> Markup {
    facts(&[
        ("id", plain(record.id.to_string())),
        ("external_id", plain(&record.external_id)),
        ("name", maybe(record.name.as_deref())),
        ("jwt_secret", secret(record.jwt_secret.as_ref())),
        ("jwt_jwks", keys(record.jwt_jwks.as_ref())),
        ("suspend", yes(record.suspend)),
        ("private_only", yes(record.private_only)),
        ("presence_enabled", yes(record.presence_enabled)),
        ("max_concurrent_users", plain(record.max_concurrent_users)),
        ("max_channels_per_client", plain(record.max_channels_per_client)),
        ("max_joins_per_second", plain(record.max_joins_per_second)),
        ("max_events_per_second", plain(record.max_events_per_second)),
        ("max_bytes_per_second", plain(record.max_bytes_per_second)),
        ("max_presence_events_per_second", maybe(record.max_presence_events_per_second)),
        ("max_payload_size_in_kb", maybe(record.max_payload_size_in_kb)),
        ("max_client_presence_events_per_window", maybe(record.max_client_presence_events_per_window)),
        ("client_presence_window_ms", maybe(record.client_presence_window_ms)),
        ("broadcast_history_seconds", maybe(record.broadcast_history_seconds)),
        ("broadcast_history_messages", maybe(record.broadcast_history_messages)),
        ("postgres_cdc_default", maybe(record.postgres_cdc_default.as_deref())),
        ("broadcast_adapter", maybe(record.broadcast_adapter.as_deref())),
        ("notify_private_alpha", yes(record.notify_private_alpha)),
        ("migrations_ran", maybe(record.migrations_ran)),
        ("gcm_migrated_at", maybe(record.gcm_migrated_at.map(|at| at.to_string()))),
        ("inserted_at", plain(record.inserted_at.to_string())),
        ("updated_at", plain(record.updated_at.to_string())),
    ])
}

fn of_configuration(tenant: &Tenant) -> Markup {
    let limits = &tenant.limits;
    let database = &tenant.database;
    let jwks = tenant.jwt_jwks.as_deref().and_then(|jwks| serde_json::from_str(jwks).ok());
    facts(&[
        ("external_id", plain(&*tenant.external_id)),
        ("meant by hosts that name no tenant", yes(tenant.default)),
        ("jwt_secret", plain(if tenant.jwt_secret.is_some() { "set" } else { "not set" })),
        ("jwt_jwks", keys(jwks.as_ref())),
        ("suspend", yes(tenant.suspend)),
        ("private_only", yes(tenant.private_only)),
        ("presence_enabled", yes(tenant.presence_enabled)),
        ("max_concurrent_users", plain(limits.max_concurrent_users)),
        ("max_channels_per_client", plain(limits.max_channels_per_client)),
        ("max_joins_per_second", plain(limits.max_joins_per_second)),
        ("max_events_per_second", plain(limits.max_events_per_second)),
        ("max_presence_events_per_second", plain(limits.max_presence_events_per_second)),
        ("max_payload_size_in_kb", plain(limits.max_payload_size_in_kb)),
        ("max_client_presence_events_per_window", maybe(limits.max_client_presence_events_per_window)),
        ("client_presence_window_ms", maybe(limits.client_presence_window_ms)),
        ("broadcast_history_seconds", plain(limits.broadcast_history_seconds)),
        ("broadcast_history_messages", plain(limits.broadcast_history_messages)),
        ("db_host", plain(&database.host)),
        ("db_port", plain(database.port)),
        ("db_name", plain(&database.name)),
        ("db_user", plain(&database.user)),
        ("publication", plain(&database.publication)),
        ("slot_name", plain(&database.slot_name)),
    ])
}

/// The limits as they count, with the defaults where nothing is set.
pub fn limits(tenant: &Tenant) -> Markup {
    let limits = &tenant.limits;
    let (calls, window) = limits.client_presence();
    facts(&[
        ("Users", plain(limits.max_concurrent_users)),
        ("Channels of a socket", plain(limits.max_channels_per_client)),
        ("Joins per second", plain(limits.max_joins_per_second)),
        ("Events per second", plain(limits.max_events_per_second)),
        ("Presence messages per second", plain(limits.max_presence_events_per_second)),
        ("Presence calls of a channel", plain(format!("{calls} in {} s", window.as_secs_f64()))),
        ("Size of a message", plain(format!("{} kB", limits.max_payload_size_in_kb))),
        ("History of broadcasts", plain(history(limits))),
    ])
}

/// What is kept of the broadcasts of a topic.
fn history(limits: &Limits) -> String {
    match (limits.broadcast_history_seconds, limits.broadcast_history_messages) {
        (0, _) | (_, 0) => "none".to_owned(),
        (seconds, messages) => {
            let (most, mb) = (messages.min(MAX_HISTORY_MESSAGES), limits.broadcast_history_mb);
            format!("{most} messages of a topic for {seconds} s, {mb} MB in all")
        }
    }
}

/// Whether there is a secret, and how it is kept.
fn secret(secret: Option<&Ciphertext>) -> Markup {
    plain(match secret {
        None => "not set",
        Some(secret) if secret.is_legacy() => "set, encrypted with AES-128-ECB",
        Some(_) => "set, encrypted with AES-256-GCM",
    })
}

/// The names and kinds of the keys in a set; the keys themselves may be secret.
fn keys(jwks: Option<&Value>) -> Markup {
    let Some(jwks) = jwks else { return html! { "not set" } };
    let list = jwks.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |key: &Value, name: &str| {
        key.get(name).and_then(Value::as_str).unwrap_or("?").chars().take(100).collect::<String>()
    };
    let keys: Vec<String> =
        list.iter().map(|key| format!("{} ({})", text(key, "kid"), text(key, "kty"))).collect();
    plain(if keys.is_empty() { "set, without keys".to_owned() } else { keys.join(", ") })
}

/// The settings of an extension, decrypted, without secrets.
pub fn extension(node: &Node, extension: &ExtensionRecord) -> Markup {
    let ciphers = source::directory(node).map(|directory| directory.store().ciphers());
    let rows: Vec<(&str, Markup)> = extension
        .settings
        .iter()
        .map(|(name, value)| {
            let lower = name.to_lowercase();
            if SECRET.iter().any(|word| lower.contains(word)) {
                return (&**name, plain("***"));
            }
            let shown = match (extension.ciphertext(name), ciphers) {
                (Some(ciphertext), Some(ciphers)) => match ciphers.decrypt(&ciphertext) {
                    Ok(clear) => plain(clear.expose_secret()),
                    Err(error) => html! { span.state.bad { (error) } },
                },
                _ if ENCRYPTED_SETTINGS.contains(&&**name) => plain("***"),
                _ => readable(value),
            };
            (&**name, shown)
        })
        .collect();
    facts(&rows)
}

/// A setting that is not encrypted. Objects and lists are hidden, because they may contain a secret.
fn readable(value: &Value) -> Markup {
    match value {
        Value::String(text) => plain(text),
        Value::Object(_) | Value::Array(_) => plain("…"),
        value => plain(value.to_string()),
    }
}
