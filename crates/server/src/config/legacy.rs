//! Settings of the first generation (legacy 5.3, 9.3).

use std::time::Duration;

use realtime_channels::first_generation::{LegacyEngine, LegacySettings, WebhookSettings};
use realtime_legacy::{ConfigFile, Profile, StarEvents, parse_headers};
use realtime_tenants::Tenant;
use secrecy::SecretString;

use super::{ConfigError, Env, Origin, first_generation::is_pure};

/// The settings of the first generation, if it is served.
///
/// # Errors
/// The first setting that cannot be used.
pub(super) fn read(env: &Env) -> Result<Option<LegacySettings>, ConfigError> {
    let given = |name: &str| env.found(name).is_some_and(|found| found.origin != Origin::FirstGeneration);
    let pure = is_pure(given);
    let modes = [("STREAM", LegacyEngine::Stream), ("RLS", LegacyEngine::Rls)];
    let mode = env.one_of("REPLICATION_MODE", LegacyEngine::Stream, &modes)?;
    let engines = [("off", None), ("rls", Some(LegacyEngine::Rls)), ("stream", Some(LegacyEngine::Stream))];
    let Some(engine) = env.one_of("LEGACY_MODE", pure.then_some(mode), &engines)? else { return Ok(None) };
    // Any value but `false` asks for tokens.
    let secure = env.text("SECURE_CHANNELS").as_deref() != Some("false");
    if secure && pure && env.text("JWT_SECRET").is_none() {
        return Err(env.wrong("JWT_SECRET", "must be set unless SECURE_CHANNELS is false"));
    }
    let publications = publications(env)?;
    if engine == LegacyEngine::Rls && publications.len() != 1 {
        return Err(env.wrong("PUBLICATIONS", "must name one publication in the mode RLS"));
    }
    Ok(Some(LegacySettings {
        engine,
        pure,
        profile: profile(env)?,
        secure,
        publications,
        slot: slot(env, engine)?,
        max_lag_bytes: env.integer::<u64>("MAX_REPLICATION_LAG_MB")?.saturating_mul(1_000_000),
        resume_delay: env.millis("LEGACY_RESUME_DELAY_MS")?,
        file: file(env)?,
        webhooks: webhooks(env)?,
        expose_metrics: pure && env.boolean("EXPOSE_METRICS")?,
    }))
}

/// Applies the settings of the engine RLS to all tenants.
pub(super) fn adjust(legacy: Option<&LegacySettings>, tenants: &mut [Tenant]) {
    let Some(legacy) = legacy.filter(|legacy| legacy.pure && legacy.engine == LegacyEngine::Rls) else {
        return;
    };
    for tenant in tenants {
        tenant.database.publication = legacy.publications.first().cloned().unwrap_or_default();
        if let Some(slot) = &legacy.slot {
            tenant.database.slot_name.clone_from(slot);
            tenant.database.durable_slot = true;
        }
    }
}

/// `SOCKET_TIMEOUT`: how long a client may be silent.
///
/// # Errors
/// When it is neither a number of milliseconds nor `infinity`.
pub(super) fn socket_timeout(env: &Env) -> Result<Duration, ConfigError> {
    /// Longer than any machine runs, and short enough for any clock.
    const INFINITY: Duration = Duration::from_secs(30 * 365 * 86_400);
    let text = env.required("SOCKET_TIMEOUT")?;
    match text.parse() {
        _ if text == "infinity" => Ok(INFINITY),
        Ok(millis) if millis > 0 => Ok(Duration::from_millis(millis).min(INFINITY)),
        _ => Err(env.wrong("SOCKET_TIMEOUT", format!("must be milliseconds or infinity, not {text:?}"))),
    }
}

fn profile(env: &Env) -> Result<Profile, ConfigError> {
    let names = [("v0.10", Profile::V0_10), ("v0.22", Profile::V0_22), ("v1.0", Profile::V0_22)];
    let profile = env.one_of("LEGACY_PROFILE", Profile::ANY, &names)?;
    let stars = [("true", StarEvents::Always), ("false", StarEvents::Never), ("auto", StarEvents::Auto)];
    let switch = |name, default| match env.found(name) {
        Some(_) => env.boolean(name),
        None => Ok(default),
    };
    Ok(Profile {
        star_events: env.one_of("LEGACY_STAR_EVENTS", profile.star_events, &stars)?,
        dotted_filter: switch("LEGACY_DOTTED_FILTER", profile.dotted_filter)?,
        iso_timestamps: switch("LEGACY_ISO_TIMESTAMPS", profile.iso_timestamps)?,
        errors_key: switch("LEGACY_ERRORS_KEY", profile.errors_key)?,
        ..profile
    })
}

/// `PUBLICATIONS`, a JSON array of names.
fn publications(env: &Env) -> Result<Vec<String>, ConfigError> {
    let names: Option<Vec<String>> = serde_json::from_str(&env.required("PUBLICATIONS")?).ok();
    names
        .filter(|names| !names.is_empty())
        .ok_or_else(|| env.wrong("PUBLICATIONS", "must be a JSON array of names"))
}

/// `SLOT_NAME`, in lower case as PostgreSQL wants it. `None`: a temporary slot.
fn slot(env: &Env, engine: LegacyEngine) -> Result<Option<String>, ConfigError> {
    let temporary = env.boolean("TEMPORARY_SLOT")? && engine == LegacyEngine::Rls;
    let Some(name) = env.text("SLOT_NAME").filter(|_| !temporary) else { return Ok(None) };
    let name = name.to_ascii_lowercase();
    if name.len() > 63 || name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        return Err(env.wrong("SLOT_NAME", "must be letters, digits and _, at most 63 of them"));
    }
    Ok(Some(name))
}

/// The contents of `CONFIGURATION_FILE`. Without one, everything is broadcast.
fn file(env: &Env) -> Result<ConfigFile, ConfigError> {
    const NAME: &str = "CONFIGURATION_FILE";
    let Some(path) = env.text(NAME) else { return Ok(ConfigFile::default()) };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| env.wrong(NAME, format!("{path} cannot be read: {error}")))?;
    ConfigFile::parse(&text).map_err(|error| env.wrong(NAME, format!("{path} {error}")))
}

fn webhooks(env: &Env) -> Result<WebhookSettings, ConfigError> {
    let headers = env.text("WEBHOOK_HEADERS").and_then(|text| parse_headers(&text)).unwrap_or_default();
    Ok(WebhookSettings {
        headers,
        timeout: env.millis("WEBHOOK_TIMEOUT_MS")?,
        retries: env.integer("WEBHOOK_RETRIES")?,
        retry_delay: env.millis("WEBHOOK_RETRY_DELAY_MS")?,
        secret: env.text("WEBHOOK_SECRET").map(SecretString::from),
        max_body: env.integer("WEBHOOK_MAX_BODY_BYTES")?,
    })
}

#[cfg(test)]
mod tests;
