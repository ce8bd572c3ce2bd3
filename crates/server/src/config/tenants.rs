//! The tenants that are known from the start: the environment's tenant, and those of the file.

use std::{fmt::Display, path::PathBuf, sync::Arc};

use realtime_auth::Jwks;
use realtime_tenants::{DatabaseSettings, Limits, Tenant, bare_host};
use realtime_tls::{IpVersion, Route, Tls};
use secrecy::SecretString;

use super::{
    env::Env,
    found::ConfigError,
    metadata::{self, MetadataSettings},
    tenant_entry::{DatabaseEntry, LimitsEntry, TenantEntry},
    webhooks::read_webhooks,
    well_known::WELL_KNOWN_SECRET,
};

/// Longest name that PostgreSQL keeps, in bytes, less the suffix of a temporary slot's name.
const MAX_SLOT_NAME: usize = 63 - 14;

/// Name of a replication slot, without suffix.
const SLOT: &str = "supabase_realtime_replication_slot";

/// The tenants, the database that keeps them, whether one has the well-known secret, and whether the environment
/// describes one.
pub(super) struct Tenants {
    pub(super) tenants: Vec<Tenant>,
    pub(super) metadata: Option<MetadataSettings>,
    pub(super) webhook_files: Vec<(Box<str>, PathBuf)>,
    pub(super) well_known_secret: bool,
    pub(super) seeds: bool,
}

/// All tenants.
pub(super) fn all(env: &Env) -> Result<Tenants, ConfigError> {
    // Read in any case, so that mistakes are found at the start.
    let database = database(env)?;
    let limits = limits(env)?;
    let presence_enabled = env.boolean("TENANT_PRESENCE_ENABLED")?;
    let ciphers = metadata::ciphers(env)?;
    let seed = env.boolean("SEED_SELF_HOST")?;
    // If a database keeps tenants, the environment's tenant has to be asked for: it could have the well-known secret.
    let asked = env.found("SEED_SELF_HOST").is_some();
    let seed = seed && (asked || (env.tenants().is_empty() && ciphers.is_none()));
    let (mut tenants, mut webhook_files) = (Vec::new(), Vec::new());
    if seed {
        tenants.push(seeded(env, limits, database.clone(), presence_enabled)?);
    }
    if let Some(path) = env.text("WEBHOOKS_FILE") {
        let wrong = |problem: &str| Err(env.wrong("WEBHOOKS_FILE", problem));
        let Some(tenant) = tenants.last_mut() else {
            return wrong("is for the environment's tenant, and there is none");
        };
        if ciphers.is_some() {
            return wrong("cannot be beside a metadata database, which keeps webhooks; use the admin API");
        }
        webhook_files
            .push(take_webhooks(tenant, path.into()).map_err(|problem| env.wrong("WEBHOOKS_FILE", problem))?);
    }
    if let (Some(_), Some(entry)) = (&ciphers, env.tenants().first()) {
        let problem =
            "cannot be beside a metadata database, which keeps the tenants; set METADATA_DATABASE to false";
        return Err(entry.wrong("external_id", problem));
    }
    for entry in env.tenants() {
        tenants.push(of_file(entry, limits, &database, presence_enabled)?);
        reject_doubles(entry, &tenants)?;
        if let (Some(path), Some(tenant)) = (&entry.webhooks_file, tenants.last_mut()) {
            let taken = take_webhooks(tenant, path.clone());
            webhook_files.push(taken.map_err(|problem| entry.wrong("webhooks_file", problem))?);
        }
    }
    let metadata = ciphers
        .map(|ciphers| MetadataSettings::read(env, ciphers, limits, &database, tenants.first()))
        .transpose()?;
    let well_known_secret = seed && env.text("API_JWT_SECRET").is_none();
    Ok(Tenants { tenants, metadata, webhook_files, well_known_secret, seeds: seed })
}

/// Reads the webhooks of a tenant; gives its name and the file.
fn take_webhooks(tenant: &mut Tenant, path: PathBuf) -> Result<(Box<str>, PathBuf), String> {
    tenant.webhooks = read_webhooks(&path)?.into();
    Ok((tenant.external_id.clone(), path))
}

/// The tenant of a self-hosted server (http_and_ops 6). Its database is the server's own.
fn seeded(
    env: &Env,
    limits: Limits,
    database: DatabaseSettings,
    presence_enabled: bool,
) -> Result<Tenant, ConfigError> {
    let external_id = env.required("SELF_HOST_TENANT_NAME")?.to_ascii_lowercase();
    check_name(&external_id).map_err(|problem| env.wrong("SELF_HOST_TENANT_NAME", problem))?;
    let jwks = env.text("API_JWT_JWKS");
    if let Some(jwks) = &jwks {
        Jwks::parse(jwks).map_err(|error| env.wrong("API_JWT_JWKS", error))?;
    }
    let secret = env.text("API_JWT_SECRET").unwrap_or_else(|| WELL_KNOWN_SECRET.to_owned());
    Ok(Tenant {
        external_id: external_id.into(),
        default: true,
        jwt_secret: Some(secret.into()),
        jwt_jwks: jwks.map(String::into_boxed_str),
        private_only: false,
        suspend: false,
        presence_enabled,
        limits,
        webhooks: Arc::default(),
        database,
    })
}

/// A tenant of the file. Missing keys have the value of the settings.
fn of_file(
    entry: &TenantEntry,
    limits: Limits,
    database: &DatabaseSettings,
    presence_enabled: bool,
) -> Result<Tenant, ConfigError> {
    let external_id = entry.external_id.to_ascii_lowercase();
    check_name(&external_id).map_err(|problem| entry.wrong("external_id", problem))?;
    let jwks = entry.jwks_text();
    if let Some(jwks) = &jwks {
        Jwks::parse(jwks).map_err(|error| entry.wrong("jwks", error))?;
    }
    if entry.jwt_secret.as_ref().is_none_or(String::is_empty) && jwks.is_none() {
        return Err(entry.wrong("jwt_secret", "or jwks has to be set"));
    }
    Ok(Tenant {
        external_id: external_id.into(),
        default: entry.default,
        jwt_secret: entry.jwt_secret.clone().map(SecretString::from),
        jwt_jwks: jwks.map(String::into_boxed_str),
        private_only: entry.private_only,
        suspend: entry.suspend,
        presence_enabled: entry.presence_enabled.unwrap_or(presence_enabled),
        limits: own_limits(&entry.limits, limits),
        webhooks: Arc::default(),
        database: own_database(entry, &entry.database, database)?,
    })
}

/// Refuses the last tenant if an earlier one has its name, its permanent slot, or is the default too.
fn reject_doubles(entry: &TenantEntry, tenants: &[Tenant]) -> Result<(), ConfigError> {
    let Some((last, others)) = tenants.split_last() else { return Ok(()) };
    if others.iter().any(|other| other.external_id == last.external_id) {
        return Err(entry.wrong("external_id", "is another tenant's too"));
    }
    if last.default && others.iter().any(|other| other.default) {
        return Err(entry.wrong(
            "default",
            "is another tenant's too; set self_host.seed to false if it is the environment's",
        ));
    }
    let slot = |tenant: &Tenant| {
        let DatabaseSettings { host, port, slot_name, .. } = &tenant.database;
        (host.clone(), *port, slot_name.clone())
    };
    let durable = |tenant: &Tenant| tenant.database.durable_slot;
    if durable(last) && others.iter().any(|other| durable(other) && slot(other) == slot(last)) {
        return Err(entry.wrong("slot_name_suffix", "must tell its permanent slot from another tenant's"));
    }
    Ok(())
}

fn check_name(external_id: &str) -> Result<(), &'static str> {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if external_id.is_empty() || !external_id.chars().all(valid) {
        return Err("must consist of letters, digits, - and _");
    }
    Ok(())
}

/// `TENANT_MAX_…`, `CLIENT_PRESENCE_…` and `BROADCAST_HISTORY_…`.
fn limits(env: &Env) -> Result<Limits, ConfigError> {
    // The crate `tenants` has the defaults of what the environment leaves open.
    let own = |name: &str| env.found(name).map(|_| env.integer(name)).transpose();
    Ok(Limits {
        max_concurrent_users: env.integer("TENANT_MAX_CONCURRENT_USERS")?,
        max_channels_per_client: env.integer("TENANT_MAX_CHANNELS_PER_CLIENT")?,
        max_joins_per_second: env.integer("TENANT_MAX_JOINS_PER_SECOND")?,
        max_events_per_second: env.integer("TENANT_MAX_EVENTS_PER_SECOND")?,
        max_presence_events_per_second: env.integer("TENANT_MAX_PRESENCE_EVENTS_PER_SECOND")?,
        max_client_presence_events_per_window: own("CLIENT_PRESENCE_MAX_CALLS")?,
        client_presence_window_ms: own("CLIENT_PRESENCE_WINDOW_MS")?,
        broadcast_history_seconds: env.integer("BROADCAST_HISTORY_SECONDS")?,
        broadcast_history_messages: env.integer("BROADCAST_HISTORY_MESSAGES")?,
        broadcast_history_mb: env.integer("BROADCAST_HISTORY_MB")?,
        ..Limits::default()
    })
}

fn own_limits(entry: &LimitsEntry, limits: Limits) -> Limits {
    let client_calls = entry.client_presence_max_calls.or(limits.max_client_presence_events_per_window);
    Limits {
        max_concurrent_users: entry.max_concurrent_users.unwrap_or(limits.max_concurrent_users),
        max_channels_per_client: entry.max_channels_per_client.unwrap_or(limits.max_channels_per_client),
        max_joins_per_second: entry.max_joins_per_second.unwrap_or(limits.max_joins_per_second),
        max_events_per_second: entry.max_events_per_second.unwrap_or(limits.max_events_per_second),
        max_presence_events_per_second: entry
            .max_presence_events_per_second
            .unwrap_or(limits.max_presence_events_per_second),
        max_client_presence_events_per_window: client_calls,
        client_presence_window_ms: entry.client_presence_window_ms.or(limits.client_presence_window_ms),
        max_payload_size_in_kb: entry.max_payload_size_in_kb.unwrap_or(limits.max_payload_size_in_kb),
        broadcast_history_seconds: entry
            .broadcast_history_seconds
            .unwrap_or(limits.broadcast_history_seconds),
        broadcast_history_messages: entry
            .broadcast_history_messages
            .unwrap_or(limits.broadcast_history_messages),
        broadcast_history_mb: limits.broadcast_history_mb,
    }
}

/// `DB_…` and the settings of replication.
fn database(env: &Env) -> Result<DatabaseSettings, ConfigError> {
    Ok(DatabaseSettings {
        host: bare_host(&env.required("DB_HOST")?).to_owned(),
        port: env.integer("DB_PORT")?,
        route: route(env)?,
        name: env.required("DB_NAME")?,
        user: env.required("DB_USER")?,
        password: SecretString::from(env.required("DB_PASSWORD")?),
        publication: env.required("DB_PUBLICATION")?,
        slot_name: slot_name(env.text("SLOT_NAME_SUFFIX").as_deref())
            .map_err(|problem| env.wrong("SLOT_NAME_SUFFIX", problem))?,
        durable_slot: env.boolean("SLOT_DURABLE")?,
        max_lag_bytes: env.integer::<u64>("MAX_REPLICATION_LAG_MB")?.saturating_mul(1_000_000),
        idle_stop: env.millis("REPLICATION_IDLE_STOP_MS")?,
        pool_size: env.integer("DB_POOL_SIZE")?,
        policy_pool_size: None,
        queue_target: None,
    })
}

fn own_database(
    tenant: &TenantEntry,
    entry: &DatabaseEntry,
    database: &DatabaseSettings,
) -> Result<DatabaseSettings, ConfigError> {
    let text = |own: &Option<String>, common: &String| own.clone().unwrap_or_else(|| common.clone());
    let slot_name = match entry.slot_name_suffix.as_deref() {
        None => database.slot_name.clone(),
        suffix => slot_name(suffix).map_err(|problem| tenant.wrong("slot_name_suffix", problem))?,
    };
    Ok(DatabaseSettings {
        host: bare_host(&text(&entry.host, &database.host)).to_owned(),
        port: entry.port.unwrap_or(database.port),
        route: own_route(tenant, entry, &database.route)?,
        name: text(&entry.name, &database.name),
        user: text(&entry.user, &database.user),
        password: entry.password.clone().map_or_else(|| database.password.clone(), SecretString::from),
        publication: text(&entry.publication, &database.publication),
        slot_name,
        durable_slot: entry.slot_durable.unwrap_or(database.durable_slot),
        max_lag_bytes: entry.max_lag_mb.map_or(database.max_lag_bytes, |mb| mb.saturating_mul(1_000_000)),
        idle_stop: entry.idle_stop_ms.map_or(database.idle_stop, std::time::Duration::from_millis),
        pool_size: entry.pool_size.unwrap_or(database.pool_size),
        policy_pool_size: database.policy_pool_size,
        queue_target: database.queue_target,
    })
}

/// `DB_SSL`, `DB_SSL_CA_CERT`, `DB_SSL_MODE` and `DB_IP_VERSION`.
fn route(env: &Env) -> Result<Route, ConfigError> {
    let ca_file = env.text("DB_SSL_CA_CERT").map(PathBuf::from);
    let ssl = env.boolean("DB_SSL")?;
    let tls = match env.text("DB_SSL_MODE") {
        Some(mode) => {
            let mode = mode.parse().map_err(|error: String| env.wrong("DB_SSL_MODE", error))?;
            Tls::new(mode, ca_file.as_deref())
        }
        None => Tls::of_variables(ssl, ca_file.as_deref()),
    };
    let tls = tls.map_err(|error| env.wrong("DB_SSL_CA_CERT", cannot_be_used(&error)))?;
    let ip_version = match env.text("DB_IP_VERSION") {
        Some(version) => version.parse().map_err(|error: String| env.wrong("DB_IP_VERSION", error))?,
        None => IpVersion::Any,
    };
    Ok(Route { tls, ip_version })
}

fn own_route(tenant: &TenantEntry, entry: &DatabaseEntry, common: &Route) -> Result<Route, ConfigError> {
    let tls = if entry.ssl_mode.is_some() || entry.ssl_ca_cert.is_some() {
        let mode = match &entry.ssl_mode {
            Some(mode) => mode.parse().map_err(|error: String| tenant.wrong("ssl_mode", error))?,
            None => realtime_tls::TlsMode::VerifyFull,
        };
        let ca_file = entry.ssl_ca_cert.as_deref().or(common.tls.ca_file());
        Tls::new(mode, ca_file).map_err(|error| tenant.wrong("ssl_ca_cert", cannot_be_used(&error)))?
    } else {
        common.tls.clone()
    };
    let ip_version = match &entry.ip_version {
        Some(version) => version.parse().map_err(|error: String| tenant.wrong("ip_version", error))?,
        None => common.ip_version,
    };
    Ok(Route { tls, ip_version })
}

fn cannot_be_used(error: &dyn Display) -> String {
    format!("cannot be used: {error}")
}

/// The slot's name with its suffix, checked for PostgreSQL's rules.
fn slot_name(suffix: Option<&str>) -> Result<String, String> {
    let Some(suffix) = suffix else { return Ok(SLOT.to_owned()) };
    let name = format!("{SLOT}_{suffix}");
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !suffix.chars().all(valid) || name.len() > MAX_SLOT_NAME {
        let room = MAX_SLOT_NAME - SLOT.len() - 1;
        return Err(format!("must be lower-case letters, digits and _, at most {room} of them"));
    }
    Ok(name)
}
