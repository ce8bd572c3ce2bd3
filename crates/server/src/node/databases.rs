//! Keys and database of a tenant, from its record.

use realtime_auth::{Jwks, Keys, Verifier};
use realtime_postgres::DatabaseConfig;
use realtime_tenants::Tenant;
use secrecy::ExposeSecret as _;

use crate::config::{ConfigError, Settings};

/// The keys that verify a tenant's tokens.
///
/// # Errors
/// [`ConfigError`] if they cannot be used.
pub fn verifier(tenant: &Tenant, settings: &Settings) -> Result<Verifier, ConfigError> {
    let jwks = tenant.jwt_jwks.as_deref().map(Jwks::parse).transpose();
    let jwks = jwks.map_err(|error| ConfigError::new("jwt_jwks", error))?;
    let secret = tenant.jwt_secret.as_ref().map(|secret| secret.expose_secret());
    Ok(Verifier::new(Keys::new(secret, jwks), settings.claim_validators.clone()))
}

/// Where a tenant's database is, in the form that crate `postgres` takes.
#[must_use]
pub fn database_config(tenant: &Tenant) -> DatabaseConfig {
    let database = &tenant.database;
    let usual = DatabaseConfig::default();
    DatabaseConfig {
        tenant: tenant.external_id.clone(),
        host: database.host.clone(),
        port: database.port,
        route: database.route.clone(),
        user: database.user.clone(),
        password: database.password.expose_secret().into(),
        name: database.name.clone(),
        publication: database.publication.clone(),
        slot_name: database.slot_name.clone(),
        durable_slot: database.durable_slot,
        max_lag_bytes: database.max_lag_bytes,
        idle_stop: database.idle_stop,
        pool_size: database.pool_size,
        policy_pool_size: database.policy_pool_size.unwrap_or(usual.policy_pool_size),
        queue_target: database.queue_target.unwrap_or(usual.queue_target),
        ..usual
    }
}
