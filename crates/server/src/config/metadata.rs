//! The metadata database, which keeps tenants (http_and_ops 5, 7).

use std::time::Duration;

use realtime_tenants::{
    Ciphers, DirectoryOptions, MetadataConfig, Seed, SeedPlace, Tenant, TenantDefaults, TenantTemplate,
};
use realtime_tls::TlsMode;
use secrecy::SecretString;

use super::{ConfigError, Env, WELL_KNOWN_SECRET};

/// The metadata database and how its tenants are kept in memory.
#[derive(Debug, Clone)]
pub struct MetadataSettings {
    /// The database.
    pub config: MetadataConfig,
    /// How its tenants are kept.
    pub options: DirectoryOptions,
    /// The tenant that is made of the environment when the server starts, if there is to be one.
    pub seed: Option<Seed>,
}

impl MetadataSettings {
    /// Reads the settings; `None` without a key to encrypt with (`DB_ENC_KEY`, `DB_ENC_KEY_GCM`): then the tenants are
    /// those of the configuration. `model` is the tenant of the configuration, whose settings stand for what records do
    /// not say; `seed`: it is made in the database, and hosts that name no tenant mean it.
    ///
    /// # Errors
    /// [`ConfigError`] for a setting that cannot be used.
    pub(super) fn from_env(env: &Env<'_>, model: &Tenant, seed: bool) -> Result<Option<Self>, ConfigError> {
        let keys = ["DB_ENC_KEY", "DB_ENC_KEY_GCM"].map(|name| env.text(name).map(SecretString::from));
        if keys.iter().all(Option::is_none) {
            return Ok(None);
        }
        let [legacy, gcm] = keys;
        let ciphers = Ciphers::new(legacy.as_ref(), gcm.as_ref(), env.boolean("DB_ENC_WRITE_GCM", false)?)
            .map_err(|error| ConfigError::new("DB_ENC_KEY", error))?;
        let database = &model.database;
        let usual = TenantDefaults::default();
        let defaults = TenantDefaults {
            max_concurrent_users: env.integer("TENANT_MAX_CONCURRENT_USERS", usual.max_concurrent_users)?,
            max_events_per_second: env
                .integer("TENANT_MAX_EVENTS_PER_SECOND", usual.max_events_per_second)?,
            max_bytes_per_second: env.integer("TENANT_MAX_BYTES_PER_SECOND", usual.max_bytes_per_second)?,
            max_channels_per_client: env
                .integer("TENANT_MAX_CHANNELS_PER_CLIENT", usual.max_channels_per_client)?,
            max_joins_per_second: env.integer("TENANT_MAX_JOINS_PER_SECOND", usual.max_joins_per_second)?,
            max_presence_events_per_second: env
                .integer("TENANT_MAX_PRESENCE_EVENTS_PER_SECOND", usual.max_presence_events_per_second)?,
        };
        let config = MetadataConfig {
            host: database.host.clone(),
            port: database.port,
            route: database.route.clone(),
            name: database.name.clone(),
            user: database.user.clone(),
            password: database.password.clone(),
            after_connect: env.text("DB_AFTER_CONNECT_QUERY"),
            pool_size: env.integer("DB_POOL_SIZE", 5)?,
            wait: Duration::from_millis(env.integer("DB_QUEUE_TARGET", 5000)?),
            ciphers,
            defaults,
            ..MetadataConfig::default()
        };
        let options = DirectoryOptions {
            expiry: Duration::from_millis(env.integer("TENANT_CACHE_EXPIRATION_IN_MS", 30_000)?),
            template: TenantTemplate {
                limits: model.limits,
                database: database.clone(),
                slot_name_suffix: env.text("SLOT_NAME_SUFFIX"),
                default_tenant: seed.then(|| model.external_id.clone()),
            },
        };
        let seed = if seed { Some(Self::seed(env, model)?) } else { None };
        Ok(Some(Self { config, options, seed }))
    }

    fn seed(env: &Env<'_>, model: &Tenant) -> Result<Seed, ConfigError> {
        let database = &model.database;
        let jwt_jwks = env.text("API_JWT_JWKS").map(|jwks| serde_json::from_str(&jwks)).transpose();
        Ok(Seed {
            external_id: model.external_id.to_string(),
            jwt_secret: env.text("API_JWT_SECRET").map(SecretString::from),
            fallback_secret: WELL_KNOWN_SECRET.into(),
            jwt_jwks: jwt_jwks.map_err(|error| ConfigError::new("API_JWT_JWKS", error))?,
            presence_enabled: model.presence_enabled,
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
}
