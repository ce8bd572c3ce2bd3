//! Where the metadata database is.

use std::time::Duration;

use realtime_tls::Route;
use secrecy::SecretString;

use crate::Ciphers;

/// Schema of the metadata.
pub const SCHEMA: &str = "_realtime";

/// Name of the connections in `pg_stat_activity`.
pub const APPLICATION: &str = "supabase_mt_realtime";

/// Where the metadata database is, and how it is used (http_and_ops 5, 7.1).
#[derive(Debug, Clone)]
pub struct MetadataConfig {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether encrypted, what its server has to prove, over which addresses.
    pub route: Route,
    /// Database name.
    pub name: String,
    /// Role to log in as.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// `DB_AFTER_CONNECT_QUERY`: run on each new connection; where it sets no search path, that is
    /// [`SCHEMA`](super::SCHEMA).
    pub after_connect: Option<String>,
    /// Connections at once.
    pub pool_size: usize,
    /// How long anybody waits for a free connection (`DB_QUEUE_TARGET`).
    pub wait: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// Keys of what is kept encrypted.
    pub ciphers: Ciphers,
    /// What new tenants get where nothing is said.
    pub defaults: TenantDefaults,
}

impl Default for MetadataConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 5432,
            route: Route::default(),
            name: "postgres".to_owned(),
            user: "supabase_admin".to_owned(),
            password: SecretString::default(),
            after_connect: None,
            pool_size: 5,
            wait: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            ciphers: Ciphers::default(),
            defaults: TenantDefaults::default(),
        }
    }
}

/// Limits of new tenants (`TENANT_MAX_…`, http_and_ops 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantDefaults {
    /// `TENANT_MAX_CONCURRENT_USERS`.
    pub max_concurrent_users: i32,
    /// `TENANT_MAX_EVENTS_PER_SECOND`.
    pub max_events_per_second: i32,
    /// `TENANT_MAX_BYTES_PER_SECOND`.
    pub max_bytes_per_second: i32,
    /// `TENANT_MAX_CHANNELS_PER_CLIENT`.
    pub max_channels_per_client: i32,
    /// `TENANT_MAX_JOINS_PER_SECOND`.
    pub max_joins_per_second: i32,
    /// `TENANT_MAX_PRESENCE_EVENTS_PER_SECOND`.
    pub max_presence_events_per_second: i32,
}

impl Default for TenantDefaults {
    fn default() -> Self {
        Self {
            max_concurrent_users: 200,
            max_events_per_second: 100,
            max_bytes_per_second: 100_000,
            max_channels_per_client: 100,
            max_joins_per_second: 100,
            max_presence_events_per_second: 1000,
        }
    }
}
