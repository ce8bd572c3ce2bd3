//! Turns a record into the tenant that the server works with.

use std::{sync::Arc, time::Duration};

use realtime_codes::ErrorCode;
use realtime_tls::{Route, Tls};
use realtime_webhooks::Webhook;

use secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::{
    CipherError, Ciphers, DatabaseSettings, ExtensionRecord, Limits, Tenant, TenantRecord, bare_host,
};

/// Longest name of a slot, in bytes: PostgreSQL's limit less what is appended for temporary slots.
pub const MAX_SLOT_NAME: usize = 63 - 14;

/// Why a tenant cannot be served with its record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableTenant {
    /// It has no extension of type `postgres_cdc_rls`.
    #[error("It has no database: no extension of type postgres_cdc_rls")]
    NoDatabase,
    /// A value that is kept encrypted cannot be read.
    #[error("{setting}: {error}")]
    Cipher {
        /// Its name.
        setting: &'static str,
        /// Why not.
        error: CipherError,
    },
    /// A setting of its database is missing or makes no sense.
    #[error("{0} is missing or makes no sense")]
    Setting(&'static str),
}

/// The server's settings that concern every tenant.
#[derive(Debug, Clone)]
pub struct TenantTemplate {
    /// Limits where the record has none.
    pub limits: Limits,
    /// Settings that records do not have. Place and names are not used; of the route only the addresses, but for the
    /// default tenant, whose database is the one that the settings name.
    pub database: DatabaseSettings,
    /// Appended to the names of slots, after an underscore (`SLOT_NAME_SUFFIX`).
    pub slot_name_suffix: Option<String>,
    /// The tenant that is meant by hosts which name none (spec README, decision 12).
    pub default_tenant: Option<Box<str>>,
}

impl TenantRecord {
    /// The tenant that the server works with. Limits below zero mean zero.
    ///
    /// # Errors
    /// [`UnusableTenant`] when it cannot be served.
    pub fn tenant(&self, ciphers: &Ciphers, template: &TenantTemplate) -> Result<Tenant, UnusableTenant> {
        let jwt_secret = self
            .decrypt_jwt_secret(ciphers)
            .map_err(|error| UnusableTenant::Cipher { setting: "jwt_secret", error })?;
        Ok(Tenant {
            external_id: self.external_id.as_str().into(),
            default: template.default_tenant.as_deref() == Some(&*self.external_id),
            jwt_secret,
            jwt_jwks: self.jwt_jwks.as_ref().map(|jwks| jwks.to_string().into()),
            private_only: self.private_only,
            suspend: self.suspend,
            presence_enabled: self.presence_enabled,
            limits: self.limits(&template.limits),
            webhooks: self.usable_webhooks(ciphers),
            database: self.database_settings(ciphers, template)?,
        })
    }

    /// Its webhooks; none if what is stored cannot be used, which is logged: the tenant is served all the same.
    fn usable_webhooks(&self, ciphers: &Ciphers) -> Arc<[Webhook]> {
        let webhooks = self.webhooks(ciphers).unwrap_or_else(|error| {
            let code = ErrorCode::WebhooksUnavailable.as_str();
            tracing::error!(tenant = self.external_id, code, error, "the stored webhooks cannot be used");
            Vec::new()
        });
        webhooks.into()
    }

    fn limits(&self, default: &Limits) -> Limits {
        let count = |value: i32| u32::try_from(value).unwrap_or_default();
        let positive = |value: Option<i32>| value.map(count).filter(|value| *value > 0);
        Limits {
            max_concurrent_users: count(self.max_concurrent_users),
            max_channels_per_client: count(self.max_channels_per_client),
            max_joins_per_second: count(self.max_joins_per_second),
            max_events_per_second: count(self.max_events_per_second),
            max_presence_events_per_second: self
                .max_presence_events_per_second
                .map_or(default.max_presence_events_per_second, count),
            max_client_presence_events_per_window: positive(self.max_client_presence_events_per_window)
                .or(default.max_client_presence_events_per_window),
            client_presence_window_ms: positive(self.client_presence_window_ms)
                .or(default.client_presence_window_ms),
            max_payload_size_in_kb: self.max_payload_size_in_kb.map_or(default.max_payload_size_in_kb, count),
            broadcast_history_seconds: self
                .broadcast_history_seconds
                .map_or(default.broadcast_history_seconds, count),
            broadcast_history_messages: self
                .broadcast_history_messages
                .map_or(default.broadcast_history_messages, count),
            broadcast_history_mb: default.broadcast_history_mb,
        }
    }

    /// How the tenant's database is reached. The default tenant's is reached as the server's settings say.
    fn route(&self, extension: &ExtensionRecord, template: &TenantTemplate) -> Route {
        if template.default_tenant.as_deref() == Some(&*self.external_id) {
            return template.database.route.clone();
        }
        let plain = extension.settings.get("ssl_enforced") == Some(&Value::Bool(false));
        let tls = if plain { Tls::disable() } else { Tls::require() };
        Route { tls, ip_version: template.database.route.ip_version }
    }

    fn database_settings(
        &self,
        ciphers: &Ciphers,
        template: &TenantTemplate,
    ) -> Result<DatabaseSettings, UnusableTenant> {
        let extension = self.database().ok_or(UnusableTenant::NoDatabase)?;
        let secret = |setting: &'static str| {
            let value = extension.decrypt(setting, ciphers);
            let value = value.map_err(|error| UnusableTenant::Cipher { setting, error })?;
            value.ok_or(UnusableTenant::Setting(setting))
        };
        let clear = |setting: &'static str| {
            let value = secret(setting)?.expose_secret().to_owned();
            if value.is_empty() { Err(UnusableTenant::Setting(setting)) } else { Ok(value) }
        };
        let positive = |setting: &str| extension.integer(setting).filter(|value| *value > 0);
        let size = |setting: &str| positive(setting).and_then(|size| size.try_into().ok());
        let millis = |setting: &str| positive(setting).and_then(|millis| millis.try_into().ok());
        Ok(DatabaseSettings {
            host: bare_host(&clear("db_host")?).to_owned(),
            port: clear("db_port")?.trim().parse().map_err(|_| UnusableTenant::Setting("db_port"))?,
            route: self.route(extension, template),
            name: clear("db_name")?,
            user: clear("db_user")?,
            password: secret("db_password")?,
            publication: extension.text("publication").unwrap_or("supabase_realtime").to_owned(),
            slot_name: slot_name(extension, template)?,
            pool_size: size("subcriber_pool_size").unwrap_or(template.database.pool_size),
            policy_pool_size: size("db_pool").or(template.database.policy_pool_size),
            queue_target: millis("db_queue_target")
                .map(Duration::from_millis)
                .or(template.database.queue_target),
            ..template.database.clone()
        })
    }
}

/// The name of the tenant's replication slots, as PostgreSQL allows it.
fn slot_name(extension: &ExtensionRecord, template: &TenantTemplate) -> Result<String, UnusableTenant> {
    let mut name = extension.text("slot_name").unwrap_or("supabase_realtime_replication_slot").to_owned();
    if let Some(suffix) = &template.slot_name_suffix {
        name.push('_');
        name.push_str(suffix);
    }
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > MAX_SLOT_NAME || !name.chars().all(valid) {
        return Err(UnusableTenant::Setting("slot_name"));
    }
    Ok(name)
}
