//! The metadata database, which keeps tenants (http_and_ops 5, 7).

use realtime_tenants::{
    CipherError, Ciphers, DatabaseSettings, DirectoryOptions, Limits, MetadataConfig, Seed, SeedPlace,
    Tenant, TenantDefaults, TenantTemplate,
};
use realtime_tls::TlsMode;
use secrecy::SecretString;

use super::{ConfigError, Env, well_known::WELL_KNOWN_SECRET};

/// The metadata database and how its tenants are kept in memory.
#[derive(Debug, Clone)]
pub struct MetadataSettings {
    /// The database.
    pub config: MetadataConfig,
    /// How tenants are kept in memory.
    pub options: DirectoryOptions,
    /// The tenant that the server makes from the environment at its start, if any.
    pub seed: Option<Seed>,
    /// Whether `DB_ENC_WRITE_GCM` is set without the key that it needs.
    pub gcm_without_key: bool,
}

/// The choices of `METADATA_DATABASE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Auto,
    Always,
    Never,
}

/// The keys of the metadata database, if there is one.
///
/// # Errors
/// [`ConfigError`] for keys that are missing or not valid.
pub(super) fn ciphers(env: &Env) -> Result<Option<Ciphers>, ConfigError> {
    let words = [("auto", Use::Auto), ("true", Use::Always), ("false", Use::Never)];
    let wanted = env.one_of("METADATA_DATABASE", Use::Auto, &words)?;
    let write_gcm = env.boolean("DB_ENC_WRITE_GCM")?;
    let [legacy, gcm] = ["DB_ENC_KEY", "DB_ENC_KEY_GCM"].map(|name| env.text(name).map(SecretString::from));
    match (wanted, legacy.is_some() || gcm.is_some()) {
        (Use::Never, _) | (Use::Auto, false) => return Ok(None),
        (Use::Always, false) => {
            return Err(env.wrong("METADATA_DATABASE", "needs a key: DB_ENC_KEY_GCM or DB_ENC_KEY"));
        }
        (_, true) => {}
    }
    let ciphers = Ciphers::new(legacy.as_ref(), gcm.as_ref(), write_gcm);
    ciphers.map(Some).map_err(|error| match error {
        CipherError::GcmKeyLength => env.wrong("DB_ENC_KEY_GCM", "must be 32 bytes long"),
        _ => env.wrong("DB_ENC_KEY", "must be 16 bytes long"),
    })
}

impl MetadataSettings {
    /// Reads the settings. `limits` and `database` are the environment's defaults for every tenant. `seeded` is made
    /// in the database; hosts that name no tenant mean it.
    ///
    /// # Errors
    /// [`ConfigError`] for a setting that cannot be used.
    pub(super) fn read(
        env: &Env,
        ciphers: Ciphers,
        limits: Limits,
        database: &DatabaseSettings,
        seeded: Option<&Tenant>,
    ) -> Result<Self, ConfigError> {
        let count = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let defaults = TenantDefaults {
            max_concurrent_users: count(limits.max_concurrent_users),
            max_events_per_second: count(limits.max_events_per_second),
            max_bytes_per_second: env.integer("TENANT_MAX_BYTES_PER_SECOND")?,
            max_channels_per_client: count(limits.max_channels_per_client),
            max_joins_per_second: count(limits.max_joins_per_second),
            max_presence_events_per_second: count(limits.max_presence_events_per_second),
        };
        let gcm_without_key = env.boolean("DB_ENC_WRITE_GCM")? && !ciphers.writes_gcm();
        let config = MetadataConfig {
            host: database.host.clone(),
            port: database.port,
            route: database.route.clone(),
            name: database.name.clone(),
            user: database.user.clone(),
            password: database.password.clone(),
            after_connect: env.text("DB_AFTER_CONNECT_QUERY"),
            pool_size: database.pool_size,
            wait: env.millis("DB_QUEUE_TARGET")?,
            ciphers,
            defaults,
            ..MetadataConfig::default()
        };
        let options = DirectoryOptions {
            expiry: env.millis("TENANT_CACHE_EXPIRATION_IN_MS")?,
            template: TenantTemplate {
                limits,
                database: database.clone(),
                slot_name_suffix: env.text("SLOT_NAME_SUFFIX"),
                default_tenant: seeded.map(|tenant| tenant.external_id.clone()),
            },
        };
        let seed = seeded.map(|tenant| seed(env, tenant)).transpose()?;
        Ok(Self { config, options, seed, gcm_without_key })
    }
}

fn seed(env: &Env, tenant: &Tenant) -> Result<Seed, ConfigError> {
    let database = &tenant.database;
    let jwt_jwks = env.text("API_JWT_JWKS").map(|jwks| serde_json::from_str(&jwks)).transpose();
    Ok(Seed {
        external_id: tenant.external_id.to_string(),
        jwt_secret: env.text("API_JWT_SECRET").map(SecretString::from),
        fallback_secret: WELL_KNOWN_SECRET.into(),
        jwt_jwks: jwt_jwks.map_err(|error| env.wrong("API_JWT_JWKS", error))?,
        presence_enabled: tenant.presence_enabled,
        place: SeedPlace {
            host: database.host.clone(),
            port: database.port,
            name: database.name.clone(),
            user: database.user.clone(),
            password: database.password.clone(),
            publication: database.publication.clone(),
            ssl_enforced: database.route.tls.mode() != TlsMode::Disable,
        },
    })
}
