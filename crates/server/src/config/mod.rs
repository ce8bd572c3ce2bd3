//! What the server is told by its environment (http_and_ops 5).

mod cluster;
mod env;
pub mod ignored;

use std::{net::IpAddr, path::PathBuf, time::Duration};

pub use env::{ConfigError, Env};
use realtime_auth::ClaimValidators;
use realtime_cluster::NatsConfig;
use realtime_hub::DEFAULT_PRESENCE_INTERVAL;
use realtime_postgres::JanitorSettings;
use realtime_tenants::{DatabaseSettings, Limits, Tenant};
use realtime_tls::{IpVersion, Route, Tls};
use secrecy::SecretString;

/// Tenant secret of a self-hosted server that was given none (http_and_ops 6). Known to everybody.
pub const WELL_KNOWN_SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";

/// Tenant of a self-hosted server that was given no name.
pub const DEFAULT_TENANT: &str = "realtime-dev";

/// Connections at once unless set otherwise: far more than descriptors usually allow.
const MAX_CONNECTIONS: usize = 200_000;

/// Longest name PostgreSQL keeps, in bytes, less what a temporary slot's name gets appended.
const MAX_SLOT_NAME: usize = 63 - 14;

/// How a server runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on.
    pub listen: IpAddr,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Pause before a refused connection is answered.
    pub connect_error_backoff: Duration,
    /// Pause before a refused join is answered.
    pub channel_error_backoff: Duration,
    /// Claims that every token must carry.
    pub claim_validators: ClaimValidators,
    /// Largest value of a request header, in bytes.
    pub max_header_length: usize,
    /// Connections of all kinds at once; further ones wait.
    pub max_connections: usize,
    /// A socket that joined and then has no channel for this long is dropped.
    pub no_channel_timeout: Duration,
    /// Shortest time between two presence diffs of a room; what changes meanwhile is told as one.
    pub presence_interval: Duration,
    /// Whether databases are set up for private topics on their first use, and looked after.
    pub prepare_databases: bool,
    /// A replication connection is given up when the server was not heard on it for this long; zero for never.
    pub replication_watchdog: Duration,
    /// When stored messages are looked after.
    pub janitor: JanitorSettings,
    /// Secret of the tokens that may read the metrics; nobody may without one.
    pub metrics_secret: Option<SecretString>,
    /// Where the node is, as a label of metrics.
    pub region: Option<String>,
    /// What people call this node.
    pub node_name: String,
    /// How it finds others; alone without.
    pub cluster: Option<NatsConfig>,
    /// The tenants known from the start.
    pub tenants: Vec<Tenant>,
    /// Whether the tenant's secret is the one that everybody knows.
    pub well_known_secret: bool,
}

impl Settings {
    /// Reads all settings.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn from_env(env: &Env<'_>) -> Result<Self, ConfigError> {
        let secret = env.text("API_JWT_SECRET");
        let well_known_secret = secret.is_none();
        let validators = ClaimValidators::parse(
            &env.text_or("JWT_CLAIM_VALIDATORS", "{}"),
            env.boolean("JWT_CLAIM_VALIDATORS_LENIENT", false)?,
        )
        .map_err(|error| ConfigError::new("JWT_CLAIM_VALIDATORS", error))?;
        let tenants = if env.boolean("SEED_SELF_HOST", true)? {
            vec![seeded_tenant(env, secret.unwrap_or_else(|| WELL_KNOWN_SECRET.to_owned()))?]
        } else {
            Vec::new()
        };
        Ok(Self {
            listen: listen_address(env)?,
            port: env.integer("PORT", 4000)?,
            connect_error_backoff: Duration::from_millis(env.integer("CONNECT_ERROR_BACKOFF_MS", 2000)?),
            channel_error_backoff: Duration::from_millis(env.integer("CHANNEL_ERROR_BACKOFF_MS", 5000)?),
            claim_validators: validators,
            max_header_length: env.integer("MAX_HEADER_LENGTH", 4096)?,
            max_connections: env.integer("MAX_CONNECTIONS", MAX_CONNECTIONS)?,
            no_channel_timeout: Duration::from_millis(env.integer("NO_CHANNEL_TIMEOUT_IN_MS", 600_000)?),
            presence_interval: Duration::from_millis(env.integer(
                "PRESENCE_DIFF_INTERVAL_IN_MS",
                u64::try_from(DEFAULT_PRESENCE_INTERVAL.as_millis()).unwrap_or_default(),
            )?),
            prepare_databases: env.boolean("PREPARE_DATABASES", true)?,
            replication_watchdog: Duration::from_millis(env.integer("REPLICATION_WATCHDOG_MS", 300_000)?),
            janitor: janitor(env)?,
            metrics_secret: env.text("METRICS_JWT_SECRET").map(SecretString::from),
            region: env.text("REGION"),
            node_name: cluster::node_name(env),
            cluster: cluster::cluster(env)?,
            tenants,
            well_known_secret,
        })
    }
}

/// `RUN_JANITOR` and `JANITOR_…` (tenant_database 5). Partitions are made in any case.
fn janitor(env: &Env<'_>) -> Result<JanitorSettings, ConfigError> {
    let default = JanitorSettings::default();
    let millis = |name: &str, default: Duration| {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        env.integer(name, default).map(Duration::from_millis)
    };
    Ok(JanitorSettings {
        delete: env.boolean("RUN_JANITOR", default.delete)?,
        run_after: millis("JANITOR_RUN_AFTER_IN_MS", default.run_after)?,
        every: millis("JANITOR_SCHEDULE_TIMER_IN_MS", default.every)?.max(Duration::from_secs(1)),
        randomize: env.boolean("JANITOR_SCHEDULE_RANDOMIZE", default.randomize)?,
    })
}

/// `REALTIME_IP_VERSION`; a dual-stack listener unless told otherwise.
fn listen_address(env: &Env<'_>) -> Result<IpAddr, ConfigError> {
    let v4 = IpAddr::from([0, 0, 0, 0]);
    let v6 = IpAddr::from([0u16; 8]);
    let default = if ipv6_available() { v6 } else { v4 };
    env.one_of("REALTIME_IP_VERSION", default, &[("ipv4", v4), ("ipv6", v6)])
}

/// Whether this machine has IPv6 at all.
fn ipv6_available() -> bool {
    std::net::TcpListener::bind((IpAddr::from([0u16; 8]), 0)).is_ok()
}

/// The one tenant of a self-hosted server (http_and_ops 6): its database is the server's own.
fn seeded_tenant(env: &Env<'_>, secret: String) -> Result<Tenant, ConfigError> {
    let external_id = env.text_or("SELF_HOST_TENANT_NAME", DEFAULT_TENANT).to_ascii_lowercase();
    if external_id.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_') {
        return Err(ConfigError::new("SELF_HOST_TENANT_NAME", "must consist of letters, digits, - and _"));
    }
    let jwks = env.text("API_JWT_JWKS");
    if let Some(jwks) = &jwks {
        realtime_auth::Jwks::parse(jwks).map_err(|error| ConfigError::new("API_JWT_JWKS", error))?;
    }
    let limits = Limits::default();
    Ok(Tenant {
        external_id: external_id.into(),
        default: true,
        jwt_secret: Some(secret.into()),
        jwt_jwks: jwks.map(String::into_boxed_str),
        private_only: false,
        suspend: false,
        presence_enabled: env.boolean("TENANT_PRESENCE_ENABLED", false)?,
        limits: Limits {
            max_concurrent_users: env.integer("TENANT_MAX_CONCURRENT_USERS", limits.max_concurrent_users)?,
            max_channels_per_client: env
                .integer("TENANT_MAX_CHANNELS_PER_CLIENT", limits.max_channels_per_client)?,
            max_joins_per_second: env.integer("TENANT_MAX_JOINS_PER_SECOND", limits.max_joins_per_second)?,
            max_events_per_second: env
                .integer("TENANT_MAX_EVENTS_PER_SECOND", limits.max_events_per_second)?,
            max_presence_events_per_second: env
                .integer("TENANT_MAX_PRESENCE_EVENTS_PER_SECOND", limits.max_presence_events_per_second)?,
            max_client_presence_events_per_window: positive(env.integer("CLIENT_PRESENCE_MAX_CALLS", 0)?),
            client_presence_window_ms: positive(env.integer("CLIENT_PRESENCE_WINDOW_MS", 0)?),
            ..limits
        },
        database: DatabaseSettings {
            host: env.text_or("DB_HOST", "127.0.0.1"),
            port: env.integer("DB_PORT", 5432)?,
            route: route(env)?,
            name: env.text_or("DB_NAME", "postgres"),
            user: env.text_or("DB_USER", "supabase_admin"),
            password: SecretString::from(env.text_or("DB_PASSWORD", "postgres")),
            publication: "supabase_realtime".to_owned(),
            slot_name: slot_name(env)?,
            durable_slot: env.boolean("SLOT_DURABLE", false)?,
            max_lag_bytes: env.integer("MAX_REPLICATION_LAG_MB", 10_000_u64)?.saturating_mul(1_000_000),
            idle_stop: Duration::from_millis(env.integer("REPLICATION_IDLE_STOP_MS", 600_000)?),
            pool_size: env.integer("DB_POOL_SIZE", 5)?,
        },
    })
}

/// `DB_SSL`, `DB_SSL_CA_CERT`, `DB_SSL_MODE` and `DB_IP_VERSION`.
fn route(env: &Env<'_>) -> Result<Route, ConfigError> {
    let ca_file = env.text("DB_SSL_CA_CERT").map(PathBuf::from);
    let ssl = env.boolean("DB_SSL", false)?;
    let wrong = |name, error: &dyn std::fmt::Display| ConfigError::new(name, error);
    let tls = match env.text("DB_SSL_MODE") {
        Some(mode) => {
            let mode = mode.parse().map_err(|error: String| wrong("DB_SSL_MODE", &error))?;
            Tls::new(mode, ca_file.as_deref())
        }
        None => Tls::of_variables(ssl, ca_file.as_deref()),
    };
    let tls = tls.map_err(|error| wrong("DB_SSL_CA_CERT", &format_args!("cannot be used: {error}")))?;
    let ip_version = match env.text("DB_IP_VERSION") {
        Some(version) => version.parse().map_err(|error: String| wrong("DB_IP_VERSION", &error))?,
        None => IpVersion::Any,
    };
    Ok(Route { tls, ip_version })
}

/// Zero counts as not set.
fn positive(value: u32) -> Option<u32> {
    Some(value).filter(|value| *value > 0)
}

/// The slot's name with `SLOT_NAME_SUFFIX`, which PostgreSQL must accept.
fn slot_name(env: &Env<'_>) -> Result<String, ConfigError> {
    const BASE: &str = "supabase_realtime_replication_slot";
    let Some(suffix) = env.text("SLOT_NAME_SUFFIX") else { return Ok(BASE.to_owned()) };
    let name = format!("{BASE}_{suffix}");
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !suffix.chars().all(valid) || name.len() > MAX_SLOT_NAME {
        let room = MAX_SLOT_NAME - BASE.len() - 1;
        let problem = format!("must be lower-case letters, digits and _, at most {room} of them");
        return Err(ConfigError::new("SLOT_NAME_SUFFIX", problem));
    }
    Ok(name)
}

#[cfg(test)]
mod tests;
