//! Settings: from the environment, from a file, from files with secrets (http_and_ops 5).

mod admin;
mod cluster;
mod dashboard;
mod env;
mod file;
mod first_generation;
mod found;
pub mod ignored;
mod legacy;
mod memory;
mod metadata;
mod near;
mod operations;
mod problems;
pub mod reference;
mod setting;
mod show;
pub mod table;
mod tenant_entry;
mod tenants;
mod webhooks;
mod well_known;
mod whole;

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

pub use admin::AdminSettings;
pub use dashboard::{DashboardAccess, DashboardSettings};
pub use env::Env;
pub use found::{ConfigError, Found, Origin};
pub use metadata::MetadataSettings;
pub use near::{NearMiss, misses};
pub use operations::{Operations, Pusher};
pub use problems::check;
use realtime_auth::ClaimValidators;
use realtime_channels::{first_generation::LegacySettings, webhooks::Reach};
use realtime_cluster::NatsConfig;
use realtime_postgres::{JanitorSettings, JournalBounds, LiveSettings, PolicyMemory, RowSecurity};
use realtime_tenants::Tenant;
use realtime_tls::Certificate;
use secrecy::SecretString;
pub use setting::{Group, Kind, Setting};
pub use show::effective;
pub use webhooks::read_webhooks;
pub use well_known::{DEFAULT_TENANT, WELL_KNOWN, WELL_KNOWN_SECRET};

/// How a server runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on.
    pub listen: IpAddr,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Certificate to serve with, if connections are encrypted.
    pub certificate: Option<Arc<Certificate>>,
    /// Pause before a refused connection is answered.
    pub connect_error_backoff: Duration,
    /// Pause before a refused join is answered.
    pub channel_error_backoff: Duration,
    /// Whether channels above a limit are closed, as the reference does. Otherwise what is above it is dropped.
    pub limits_close_channels: bool,
    /// Claims that every token must have.
    pub claim_validators: ClaimValidators,
    /// Largest value of a request header, in bytes.
    pub max_header_length: usize,
    /// Connections of all kinds at once; further ones are turned away at the back door.
    pub max_connections: usize,
    /// Bytes that may be held for all clients together.
    pub client_memory: usize,
    /// From how many bytes on messages are compressed for clients that take it (`WEBSOCKET_COMPRESSION_MIN_BYTES`). `None`: no
    /// messages are.
    pub compression: Option<usize>,
    /// Sessions of the long-poll transport that a tenant may have, and that an address may have.
    pub long_polls: (usize, usize),
    /// A socket that joined and then has no channel for this long is dropped.
    pub no_channel_timeout: Duration,
    /// How many subscriptions to row changes a channel may have.
    pub max_subscriptions: usize,
    /// Shortest time between two presence diffs of a room. Changes in between are told in one diff.
    pub presence_interval: Duration,
    /// Whether databases are set up for private topics on their first use, and partitions are made and dropped.
    pub prepare_databases: bool,
    /// How long a replication connection may be silent before it is given up; zero: for ever.
    pub replication_watchdog: Duration,
    /// How long after the start an existing permanent slot is read.
    pub resume_delay: Duration,
    /// The memory for what policies were asked for.
    pub policy_memory: Arc<PolicyMemory>,
    /// What live results may take.
    pub live: LiveSettings,
    /// What is kept of each database's log for clients that come back.
    pub journal: JournalBounds,
    /// What is done about rows under row-level security.
    pub row_security: RowSecurity,
    /// How long rows wait for users who are asked (`POLICY_WAIT_MS`).
    pub policy_wait: Duration,
    /// Whether tables that policies read are published for the server (`POLICY_PUBLICATION`).
    pub policy_publication: bool,
    /// When partitions of stored messages are made and dropped.
    pub janitor: JanitorSettings,
    /// Secret of the tokens that may read the metrics. `None`: nobody can.
    pub metrics_secret: Option<SecretString>,
    /// Who may administer tenants.
    pub admin: AdminSettings,
    /// The metadata database, if tenants are kept in one.
    pub metadata: Option<MetadataSettings>,
    /// Name of the node.
    pub node: String,
    /// Who may see the dashboard.
    pub dashboard: DashboardSettings,
    /// Region of the node, a label of metrics.
    pub region: Option<String>,
    /// How the node finds others. `None`: it is alone.
    pub cluster: Option<NatsConfig>,
    /// How operators watch the server.
    pub operations: Operations,
    /// The tenants that are known from the start.
    pub tenants: Vec<Tenant>,
    /// What webhooks may be posted to.
    pub webhooks_reach: Reach,
    /// The files with webhooks of these tenants, by name.
    pub webhook_files: Vec<(Box<str>, PathBuf)>,
    /// Whether a tenant has the well-known secret.
    pub well_known_secret: bool,
    /// Whether the environment describes a tenant (`SEED_SELF_HOST`).
    pub seeds: bool,
    /// How long an answer waits for a client that does not read it; zero for any time.
    pub send_timeout: Duration,
    /// How long a client may be silent.
    pub idle_limit: Duration,
    /// How the first generation is served. `None`: it is not.
    pub legacy: Option<LegacySettings>,
}

impl Settings {
    /// Reads all settings.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let legacy = legacy::read(env)?;
        let mut tenants = tenants::all(env)?;
        legacy::adjust(legacy.as_ref(), &mut tenants.tenants);
        let settings = Self {
            listen: listen_address(env)?,
            port: env.integer("PORT")?,
            certificate: certificate(env)?,
            connect_error_backoff: env.millis("CONNECT_ERROR_BACKOFF_MS")?,
            channel_error_backoff: env.millis("CHANNEL_ERROR_BACKOFF_MS")?,
            limits_close_channels: env.boolean("LIMITS_CLOSE_CHANNELS")?,
            claim_validators: claim_validators(env)?,
            max_header_length: env.integer("MAX_HEADER_LENGTH")?,
            max_connections: env.integer("MAX_CONNECTIONS")?,
            client_memory: client_memory(env)?,
            compression: compression(env)?,
            long_polls: (
                env.integer("LONGPOLL_MAX_SESSIONS_PER_TENANT")?,
                env.integer("LONGPOLL_MAX_SESSIONS_PER_ADDRESS")?,
            ),
            no_channel_timeout: env.millis("NO_CHANNEL_TIMEOUT_IN_MS")?,
            max_subscriptions: env.integer("CHANNEL_MAX_SUBSCRIPTIONS")?,
            presence_interval: env.millis("PRESENCE_DIFF_INTERVAL_IN_MS")?,
            prepare_databases: env.boolean("PREPARE_DATABASES")?,
            replication_watchdog: env.millis("REPLICATION_WATCHDOG_MS")?,
            resume_delay: env.millis("RESUME_DELAY_MS")?,
            policy_memory: Arc::new(PolicyMemory::new(
                env.integer::<usize>("POLICY_CACHE_MB")?.saturating_mul(1 << 20),
            )),
            live: live(env)?,
            journal: journal(env)?,
            row_security: RowSecurity {
                check_every: env.integer("POLICY_CHECK_EVERY")?,
                drop_unjudged_deletes: env.text("DELETE_UNJUDGED").as_deref() == Some("drop"),
            },
            policy_wait: env.millis("POLICY_WAIT_MS")?,
            policy_publication: env.one_of("POLICY_PUBLICATION", true, &[("auto", true), ("off", false)])?,
            janitor: janitor(env)?,
            metrics_secret: env.text("METRICS_JWT_SECRET").map(SecretString::from),
            admin: AdminSettings::from_env(env),
            metadata: tenants.metadata,
            node: node_name(env),
            dashboard: DashboardSettings::from_env(env)?,
            region: env.text("REGION"),
            cluster: cluster::cluster(env, node_name(env))?,
            operations: Operations::from_env(env)?,
            well_known_secret: tenants.well_known_secret,
            seeds: tenants.seeds,
            tenants: tenants.tenants,
            webhooks_reach: Reach { private: env.boolean("WEBHOOKS_PRIVATE_ADDRESSES")? },
            webhook_files: tenants.webhook_files,
            send_timeout: env.millis("HTTP_SEND_TIMEOUT_MS")?,
            idle_limit: legacy::socket_timeout(env)?,
            legacy,
        };
        // Checks the settings that were not read above.
        table::all().try_for_each(|(_, setting)| env::check(env, setting))?;
        Ok(settings)
    }
}

/// `JWT_CLAIM_VALIDATORS` and whether a token may lack them.
fn claim_validators(env: &Env) -> Result<ClaimValidators, ConfigError> {
    let lenient = env.boolean("JWT_CLAIM_VALIDATORS_LENIENT")?;
    ClaimValidators::parse(&env.required("JWT_CLAIM_VALIDATORS")?, lenient)
        .map_err(|error| env.wrong("JWT_CLAIM_VALIDATORS", error))
}

/// `LIVE_…`.
fn live(env: &Env) -> Result<LiveSettings, ConfigError> {
    let recheck = env.millis("LIVE_RECHECK_MS")?;
    Ok(LiveSettings {
        max_rows: env.integer("LIVE_MAX_ROWS")?,
        max_results: env.integer("LIVE_MAX_RESULTS")?,
        statement_timeout: env.millis("LIVE_STATEMENT_TIMEOUT")?,
        recheck: (!recheck.is_zero()).then_some(recheck),
        memory: Arc::new(PolicyMemory::new(env.integer::<usize>("LIVE_MAX_MB")?.saturating_mul(1 << 20))),
    })
}

/// `RUN_JANITOR` and `JANITOR_…`.
fn janitor(env: &Env) -> Result<JanitorSettings, ConfigError> {
    Ok(JanitorSettings {
        delete: env.boolean("RUN_JANITOR")?,
        run_after: env.millis("JANITOR_RUN_AFTER_IN_MS")?,
        every: env.millis("JANITOR_SCHEDULE_TIMER_IN_MS")?.max(Duration::from_secs(1)),
        randomize: env.boolean("JANITOR_SCHEDULE_RANDOMIZE")?,
    })
}

/// `CHANGES_JOURNAL_MB` and `CHANGES_JOURNAL_SECONDS`.
fn journal(env: &Env) -> Result<JournalBounds, ConfigError> {
    Ok(JournalBounds {
        bytes: env.integer::<usize>("CHANGES_JOURNAL_MB")?.saturating_mul(1 << 20),
        age: Duration::from_secs(env.integer("CHANGES_JOURNAL_SECONDS")?),
    })
}

/// From how many bytes on messages are compressed, if they are.
fn compression(env: &Env) -> Result<Option<usize>, ConfigError> {
    let from = env.integer("WEBSOCKET_COMPRESSION_MIN_BYTES")?;
    Ok(env.boolean("WEBSOCKET_COMPRESSION")?.then_some(from))
}

/// `MAX_CLIENT_MEMORY_MB` in bytes.
fn client_memory(env: &Env) -> Result<usize, ConfigError> {
    match env.found("MAX_CLIENT_MEMORY_MB") {
        Some(_) => Ok(env.integer::<usize>("MAX_CLIENT_MEMORY_MB")?.saturating_mul(1 << 20)),
        None => Ok(memory::default_client_bytes()),
    }
}

/// Name of the node: `<NODE_NAME or APP_NAME>@<POD_IP or the host's name>` (http_and_ops 8).
fn node_name(env: &Env) -> String {
    let name = env.text("NODE_NAME").or_else(|| env.text("APP_NAME")).unwrap_or_default();
    let host = env.text("POD_IP").or_else(|| nix::unistd::gethostname().ok()?.into_string().ok());
    format!("{name}@{}", host.as_deref().unwrap_or("localhost"))
}

/// `TLS_CERT_FILE` and `TLS_KEY_FILE`.
fn certificate(env: &Env) -> Result<Option<Arc<Certificate>>, ConfigError> {
    match (env.text("TLS_CERT_FILE"), env.text("TLS_KEY_FILE")) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            let loaded = Certificate::load(certificate.into(), key.into());
            let wrong = |error| env.wrong("TLS_CERT_FILE", format!("cannot be used: {error}"));
            Ok(Some(Arc::new(loaded.map_err(wrong)?)))
        }
        (Some(_), None) => Err(env.wrong("TLS_CERT_FILE", "needs TLS_KEY_FILE")),
        (None, Some(_)) => Err(env.wrong("TLS_KEY_FILE", "needs TLS_CERT_FILE")),
    }
}

/// `REALTIME_IP_VERSION`; a dual-stack listener unless told otherwise.
fn listen_address(env: &Env) -> Result<IpAddr, ConfigError> {
    let v4 = IpAddr::from([0, 0, 0, 0]);
    let v6 = IpAddr::from([0u16; 8]);
    let default = if ipv6_available() { v6 } else { v4 };
    env.one_of("REALTIME_IP_VERSION", default, &[("ipv4", v4), ("ipv6", v6)])
}

/// Whether this machine has IPv6 at all.
fn ipv6_available() -> bool {
    std::net::TcpListener::bind((IpAddr::from([0u16; 8]), 0)).is_ok()
}

#[cfg(test)]
mod tests;
