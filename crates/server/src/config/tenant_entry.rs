//! A tenant of the configuration file.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::found::{ConfigError, secret_of_file};

/// The keys of `[[tenants]]`. Missing ones have the value of the server's settings.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantEntry {
    /// Where it begins in the file.
    #[serde(skip)]
    pub place: String,
    /// Unique name; the first label of the host that clients connect to.
    pub external_id: String,
    /// Hosts that name no other tenant mean this one.
    #[serde(default)]
    pub default: bool,
    /// Secret of its HS256, HS384 and HS512 tokens.
    pub jwt_secret: Option<String>,
    /// A file with it.
    pub jwt_secret_file: Option<PathBuf>,
    /// JSON Web Key Set of its other tokens: JSON in a string, or a table.
    pub jwks: Option<serde_json::Value>,
    /// A file with it.
    pub jwks_file: Option<PathBuf>,
    /// Only private channels may be joined.
    #[serde(default)]
    pub private_only: bool,
    /// Suspended: no connection is accepted.
    #[serde(default)]
    pub suspend: bool,
    /// Whether channels that do not ask for presence get it.
    pub presence_enabled: Option<bool>,
    /// A JSON file with its webhooks.
    pub webhooks_file: Option<PathBuf>,
    /// Limits.
    #[serde(default)]
    pub limits: LimitsEntry,
    /// Its database.
    #[serde(default)]
    pub database: DatabaseEntry,
}

/// Limits of a tenant.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsEntry {
    /// Sockets with a joined channel.
    pub max_concurrent_users: Option<u32>,
    /// Joined channels of one socket.
    pub max_channels_per_client: Option<u32>,
    /// Joins, averaged over up to a minute.
    pub max_joins_per_second: Option<u32>,
    /// Messages delivered, averaged over up to a minute.
    pub max_events_per_second: Option<u32>,
    /// Presence messages, averaged over up to a minute.
    pub max_presence_events_per_second: Option<u32>,
    /// Presence messages of one channel within its window.
    pub client_presence_max_calls: Option<u32>,
    /// Length of that window in milliseconds.
    pub client_presence_window_ms: Option<u32>,
    /// Size of one message, in units of 1000 bytes.
    pub max_payload_size_in_kb: Option<u32>,
    /// How long broadcasts are kept, in seconds.
    pub broadcast_history_seconds: Option<u32>,
    /// How many broadcasts of a topic are kept.
    pub broadcast_history_messages: Option<u32>,
}

/// Where a tenant's database is.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseEntry {
    /// Host name or address.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Name of the database.
    pub name: Option<String>,
    /// Role to log in as; needs REPLICATION.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// A file with it.
    pub password_file: Option<PathBuf>,
    /// `disable`, `prefer`, `require`, `verify-ca` or `verify-full`.
    pub ssl_mode: Option<String>,
    /// PEM file of the authorities that sign the server's certificate.
    pub ssl_ca_cert: Option<PathBuf>,
    /// `ipv4` or `ipv6`.
    pub ip_version: Option<String>,
    /// Connections for queries.
    pub pool_size: Option<usize>,
    /// Publication whose tables are watched.
    pub publication: Option<String>,
    /// Appended to the name of the replication slot.
    pub slot_name_suffix: Option<String>,
    /// A permanent slot.
    pub slot_durable: Option<bool>,
    /// How much of the log a slot may keep, in megabytes.
    pub max_lag_mb: Option<u64>,
    /// How long the log is read after the last subscriber has gone, in milliseconds.
    pub idle_stop_ms: Option<u64>,
}

impl fmt::Debug for TenantEntry {
    /// Shows only the name: the other fields may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantEntry").field("external_id", &self.external_id).finish_non_exhaustive()
    }
}

impl TenantEntry {
    /// An error about this tenant.
    pub(super) fn wrong(&self, key: &str, problem: impl fmt::Display) -> ConfigError {
        ConfigError::new(&format!("{}: {key} of tenant {}", self.place, self.external_id), problem)
    }

    /// Reads the files that hold secrets, and makes other paths relative to the configuration file.
    pub(super) fn resolve_files(&mut self, relative: &dyn Fn(&Path) -> PathBuf) -> Result<(), ConfigError> {
        let place = format!("{}: tenant {}", self.place, self.external_id);
        let read = |key: &str, given: bool, file: &mut Option<PathBuf>| {
            let Some(path) = file.take() else { return Ok(None) };
            let name = format!("{place}: {key}_file");
            if given {
                return Err(ConfigError::new(&name, format!("cannot be set beside {key}")));
            }
            secret_of_file(&name, &relative(&path)).map(Some)
        };
        let database = &mut self.database;
        if let Some(secret) = read("jwt_secret", self.jwt_secret.is_some(), &mut self.jwt_secret_file)? {
            self.jwt_secret = Some(secret);
        }
        if let Some(jwks) = read("jwks", self.jwks.is_some(), &mut self.jwks_file)? {
            self.jwks = Some(jwks.into());
        }
        if let Some(password) = read("password", database.password.is_some(), &mut database.password_file)? {
            database.password = Some(password);
        }
        for path in [&mut database.ssl_ca_cert, &mut self.webhooks_file].into_iter().flatten() {
            *path = relative(path);
        }
        Ok(())
    }

    /// The key set as JSON text.
    pub(super) fn jwks_text(&self) -> Option<String> {
        self.jwks.as_ref().map(|jwks| match jwks {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }
}
