//! Applies fields to a record, and compares records.

use jiff::civil::DateTime;
use realtime_webhooks::Webhook;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use uuid::Uuid;

use super::{ExtensionFields, Field, TenantFields};
use crate::{
    CipherError, Ciphers, Ciphertext, ExtensionRecord, TenantRecord,
    record::{WEBHOOKS, WEBHOOKS_LIST, encrypted_settings},
};

impl TenantFields {
    /// Puts the fields that were given into a record. A secret that is the same in clear keeps its ciphertext,
    /// and extensions that are the same keep their rows, so that nothing seems changed that is not.
    ///
    /// # Errors
    /// When a secret cannot be encrypted; then the record is incomplete.
    pub(crate) fn apply(
        &self,
        record: &mut TenantRecord,
        ciphers: &Ciphers,
        now: DateTime,
    ) -> Result<(), CipherError> {
        set(&mut record.name, self.name.as_ref());
        set(&mut record.jwt_jwks, self.jwt_jwks.as_ref());
        set(&mut record.postgres_cdc_default, self.postgres_cdc_default.as_ref());
        set(&mut record.max_concurrent_users, self.max_concurrent_users.as_ref());
        set(&mut record.max_events_per_second, self.max_events_per_second.as_ref());
        set(&mut record.max_bytes_per_second, self.max_bytes_per_second.as_ref());
        set(&mut record.max_channels_per_client, self.max_channels_per_client.as_ref());
        set(&mut record.max_joins_per_second, self.max_joins_per_second.as_ref());
        set(&mut record.max_presence_events_per_second, self.max_presence_events_per_second.as_ref());
        set(&mut record.max_payload_size_in_kb, self.max_payload_size_in_kb.as_ref());
        let calls = self.max_client_presence_events_per_window.as_ref();
        set(&mut record.max_client_presence_events_per_window, calls);
        set(&mut record.client_presence_window_ms, self.client_presence_window_ms.as_ref());
        set(&mut record.broadcast_history_seconds, self.broadcast_history_seconds.as_ref());
        set(&mut record.broadcast_history_messages, self.broadcast_history_messages.as_ref());
        set(&mut record.suspend, self.suspend.as_ref());
        set(&mut record.private_only, self.private_only.as_ref());
        set(&mut record.presence_enabled, self.presence_enabled.as_ref());
        set(&mut record.migrations_ran, self.migrations_ran.as_ref());
        set(&mut record.broadcast_adapter, self.broadcast_adapter.as_ref());
        set(&mut record.feature_flags, self.feature_flags.as_ref());
        if let Some(secret) = &self.jwt_secret {
            let old = record.jwt_secret.take();
            record.jwt_secret = match secret {
                Some(secret) => Some(keep_or_encrypt(old, secret.expose_secret(), ciphers)?),
                None => None,
            };
        }
        if let Some(extensions) = &self.extensions {
            apply_extensions(record, extensions, ciphers, now)?;
        }
        if record.has_legacy_ciphertext() {
            record.gcm_migrated_at = None;
        }
        Ok(())
    }
}

impl ExtensionFields {
    fn encrypt(&self, ciphers: &Ciphers, now: DateTime) -> Result<ExtensionRecord, CipherError> {
        let mut settings = self.settings.clone();
        for name in encrypted_settings(&self.kind) {
            if let Some(Value::String(plain)) = settings.get_mut(*name) {
                ciphers.encrypt(plain)?.as_str().clone_into(plain);
            }
        }
        let kind = self.kind.clone();
        Ok(ExtensionRecord { id: Uuid::new_v4(), kind, settings, inserted_at: now, updated_at: now })
    }
}

/// Replaces the extensions, but for webhooks: these are set by themselves, and whoever changes the database need not know
/// of them.
fn apply_extensions(
    record: &mut TenantRecord,
    extensions: &[ExtensionFields],
    ciphers: &Ciphers,
    now: DateTime,
) -> Result<(), CipherError> {
    let (webhooks, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut record.extensions).into_iter().partition(|extension| extension.kind == WEBHOOKS);
    let given: Vec<ExtensionFields> =
        extensions.iter().filter(|extension| extension.kind != WEBHOOKS).cloned().collect();
    record.extensions = match same_extensions(&others, &given, ciphers) {
        true => others,
        false => given.iter().map(|given| given.encrypt(ciphers, now)).collect::<Result<_, _>>()?,
    };
    record.extensions.extend(webhooks);
    Ok(())
}

/// Sets the webhooks of a record.
pub(crate) fn set_webhooks(
    record: &mut TenantRecord,
    webhooks: &[Webhook],
    ciphers: &Ciphers,
    now: DateTime,
) -> Result<(), CipherError> {
    record.extensions.retain(|extension| extension.kind != WEBHOOKS);
    if !webhooks.is_empty() {
        let list = realtime_webhooks::to_json(webhooks).to_string();
        let settings = [(WEBHOOKS_LIST.to_owned(), list.into())].into_iter().collect();
        let fields = ExtensionFields { kind: WEBHOOKS.to_owned(), settings };
        record.extensions.push(fields.encrypt(ciphers, now)?);
    }
    Ok(())
}

fn set<T: Clone>(value: &mut T, given: Option<&T>) {
    if let Some(given) = given {
        value.clone_from(given);
    }
}

fn keep_or_encrypt(old: Option<Ciphertext>, new: &str, ciphers: &Ciphers) -> Result<Ciphertext, CipherError> {
    match old {
        Some(old) if ciphers.decrypt(&old).is_ok_and(|old| old.expose_secret() == new) => Ok(old),
        _ => ciphers.encrypt(new),
    }
}

/// An extension's type and settings, secrets in clear; `None` if one cannot be decrypted.
pub(crate) fn clear(record: &ExtensionRecord, ciphers: &Ciphers) -> Option<ExtensionFields> {
    let mut settings = record.settings.clone();
    for name in encrypted_settings(&record.kind) {
        if let Some(plain) = record.decrypt(name, ciphers).ok()? {
            settings.insert((*name).to_owned(), plain.expose_secret().into());
        }
    }
    Some(ExtensionFields { kind: record.kind.clone(), settings })
}

fn all_clear(records: &[ExtensionRecord], ciphers: &Ciphers) -> Option<Vec<ExtensionFields>> {
    records.iter().map(|record| clear(record, ciphers)).collect()
}

/// In any order: a tenant has one extension of a type at most.
fn same_extensions(old: &[ExtensionRecord], new: &[ExtensionFields], ciphers: &Ciphers) -> bool {
    let Some(old) = all_clear(old, ciphers) else { return false };
    old.len() == new.len() && old.iter().all(|old| new.contains(old))
}

impl Field {
    /// The fields in which two states of a tenant differ. Secrets are compared in clear: one that was only encrypted anew is
    /// no difference. Nor are the ids and times of rows.
    #[must_use]
    pub fn differing(before: &TenantRecord, after: &TenantRecord, ciphers: &Ciphers) -> Vec<Self> {
        let windows = (before.client_presence_window_ms, after.client_presence_window_ms);
        let calls =
            (before.max_client_presence_events_per_window, after.max_client_presence_events_per_window);
        let presence = (before.max_presence_events_per_second, after.max_presence_events_per_second);
        let seconds = (before.broadcast_history_seconds, after.broadcast_history_seconds);
        let messages = (before.broadcast_history_messages, after.broadcast_history_messages);
        let checks = [
            (Self::Name, before.name == after.name),
            (Self::JwtSecret, same_secret(before, after, ciphers)),
            (Self::JwtJwks, before.jwt_jwks == after.jwt_jwks),
            (Self::PostgresCdcDefault, before.postgres_cdc_default == after.postgres_cdc_default),
            (Self::MaxConcurrentUsers, before.max_concurrent_users == after.max_concurrent_users),
            (Self::MaxEventsPerSecond, before.max_events_per_second == after.max_events_per_second),
            (Self::MaxBytesPerSecond, before.max_bytes_per_second == after.max_bytes_per_second),
            (Self::MaxChannelsPerClient, before.max_channels_per_client == after.max_channels_per_client),
            (Self::MaxJoinsPerSecond, before.max_joins_per_second == after.max_joins_per_second),
            (Self::MaxPresenceEventsPerSecond, presence.0 == presence.1),
            (Self::MaxPayloadSizeInKb, before.max_payload_size_in_kb == after.max_payload_size_in_kb),
            (Self::MaxClientPresenceEventsPerWindow, calls.0 == calls.1),
            (Self::ClientPresenceWindowMs, windows.0 == windows.1),
            (Self::BroadcastHistorySeconds, seconds.0 == seconds.1),
            (Self::BroadcastHistoryMessages, messages.0 == messages.1),
            (Self::Suspend, before.suspend == after.suspend),
            (Self::PrivateOnly, before.private_only == after.private_only),
            (Self::PresenceEnabled, before.presence_enabled == after.presence_enabled),
            (Self::MigrationsRan, before.migrations_ran == after.migrations_ran),
            (Self::BroadcastAdapter, before.broadcast_adapter == after.broadcast_adapter),
            (Self::FeatureFlags, before.feature_flags == after.feature_flags),
            (Self::Extensions, same_rows(before, after, ciphers)),
        ];
        checks.into_iter().filter(|(_, same)| !same).map(|(field, _)| field).collect()
    }
}

/// Whether two states of a tenant have the same token secret.
fn same_secret(before: &TenantRecord, after: &TenantRecord, ciphers: &Ciphers) -> bool {
    let clear = |secret: &Ciphertext| ciphers.decrypt(secret).ok();
    match (&before.jwt_secret, &after.jwt_secret) {
        (Some(before), Some(after)) if before != after => match (clear(before), clear(after)) {
            (Some(before), Some(after)) => before.expose_secret() == after.expose_secret(),
            _ => false,
        },
        (before, after) => before.is_some() == after.is_some(),
    }
}

/// Whether two states of a tenant have the same extensions.
fn same_rows(before: &TenantRecord, after: &TenantRecord, ciphers: &Ciphers) -> bool {
    before.extensions == after.extensions
        || all_clear(&after.extensions, ciphers)
            .is_some_and(|after| same_extensions(&before.extensions, &after, ciphers))
}
