//! Settings of the first generation (legacy 5.3, 9.3).
//!
//! A server that is started with the environment of a first-generation server, and with nothing that only the second
//! knows, behaves as one: `JWT_SECRET` or `SECURE_CHANNELS`, and no `API_JWT_SECRET`. Its variables are then translated to
//! those that the rest of the settings read ([`Overlay`]). `LEGACY_MODE` chooses by hand.

use std::{collections::HashMap, time::Duration};

use realtime_legacy::{ConfigFile, Profile, StarEvents, parse_headers};
use secrecy::SecretString;

use super::{ConfigError, Env};

/// Which engine serves joins without `config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyEngine {
    /// That of the second generation, as the reference has it: every subscriber gets what its role may see.
    Rls,
    /// Every change goes to everybody who joined a topic of it.
    Stream,
}

/// How the first generation is served.
#[derive(Debug, Clone)]
pub struct LegacySettings {
    /// The engine.
    pub engine: LegacyEngine,
    /// Nothing but the first generation is wanted: its answers, and none of the HTTP API.
    pub pure: bool,
    /// Which versions are emulated.
    pub profile: Profile,
    /// Tokens are asked for.
    pub secure: bool,
    /// Publications that the stream engine reads.
    pub publications: Vec<String>,
    /// The permanent replication slot; `None`: a temporary one.
    pub slot: Option<String>,
    /// Bytes of the log that the slot may keep before it is given up; 0 for any number.
    pub max_lag_bytes: u64,
    /// How long after the start a permanent slot is read that was there before.
    pub resume_delay: Duration,
    /// What is broadcast, and the webhooks.
    pub file: ConfigFile,
    /// How webhooks are posted.
    pub webhooks: WebhookSettings,
    /// Whether `/metrics` is there, without a token.
    pub expose_metrics: bool,
}

/// How webhooks are posted (legacy 6).
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Headers beside `content-type`.
    pub headers: Vec<(String, String)>,
    /// Longest time for an answer.
    pub timeout: Duration,
    /// Attempts after the first that failed.
    pub retries: u32,
    /// Pause before the first of them; it doubles.
    pub retry_delay: Duration,
    /// Key of signatures; without one nothing is signed.
    pub secret: Option<SecretString>,
    /// Largest body in bytes. A transaction with a larger one is not posted.
    pub max_body: usize,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self {
            headers: Vec::new(),
            timeout: Duration::from_secs(5),
            retries: 0,
            retry_delay: Duration::from_secs(1),
            secret: None,
            max_body: 64_000_000,
        }
    }
}

/// What a first-generation environment means to the rest of the settings: by name, values that are put in place of what
/// the environment says, or into the gaps that it leaves.
#[derive(Debug, Default)]
pub struct Overlay(HashMap<&'static str, String>);

impl Overlay {
    /// The value that the rest of the settings read.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn put(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.insert(name, value.into());
    }

    fn fill(&mut self, env: &Env<'_>, name: &'static str, value: &str) {
        if env.text(name).is_none() {
            self.put(name, value);
        }
    }
}

/// Variables of the first generation that mean nothing here (spec README, decision 15).
pub const IGNORED: &[&str] = &[
    "DB_RECONNECT_BACKOFF_MAX",
    "DB_RECONNECT_BACKOFF_MIN",
    "DB_RETRY_INITIAL_DELAY",
    "DB_RETRY_JITTER",
    "DB_RETRY_MAXIMUM_DELAY",
    "MAX_CHANGES",
    "MAX_RECORD_BYTES",
    "REPLICATION_POLL_INTERVAL",
    "SESSION_SECRET_KEY_BASE",
    "SUBSCRIPTION_SYNC_INTERVAL",
];

/// Whether the environment is that of a first-generation server.
#[must_use]
pub fn is_pure(env: &Env<'_>) -> bool {
    let set = |names: &[&str]| names.iter().any(|name| env.text(name).is_some());
    env.text("LEGACY_MODE").is_none()
        && set(&["JWT_SECRET", "JWT_SECRET_FILE", "SECURE_CHANNELS"])
        && !set(&["API_JWT_SECRET", "API_JWT_SECRET_FILE", "API_JWT_JWKS"])
}

/// What a first-generation environment means to the rest of the settings; nothing if the first generation is not served.
///
/// # Errors
/// The first setting that cannot be used.
pub fn overlay(env: &Env<'_>, settings: Option<&LegacySettings>) -> Result<Overlay, ConfigError> {
    let mut overlay = Overlay::default();
    let Some(settings) = settings else { return Ok(overlay) };
    let secret = with_file(env, "JWT_SECRET", "JWT_SECRET_FILE")?;
    if let Some(secret) = &secret
        && env.text("API_JWT_SECRET").is_none()
    {
        overlay.put("API_JWT_SECRET", secret);
    }
    if !settings.pure {
        return Ok(overlay);
    }
    overlay.put("SEED_SELF_HOST", "true");
    if secret.is_none() {
        // Nobody is asked for a token; whoever brings one for the second generation's channels is not believed.
        overlay
            .put("API_JWT_SECRET", format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()));
    }
    if let Some(password) = with_file(env, "DB_PASSWORD", "DB_PASSWORD_FILE")? {
        overlay.put("DB_PASSWORD", password);
    }
    overlay.fill(env, "DB_HOST", "localhost");
    overlay.fill(env, "DB_USER", "postgres");
    // TLS was used if the database offered it; the engine RLS asked for it.
    let mode = match (env.text("DB_SSL").as_deref(), settings.engine) {
        (Some("false"), _) => "disable",
        (Some(_), LegacyEngine::Rls) => "require",
        (_, _) => "prefer",
    };
    overlay.put("DB_SSL", "false");
    overlay.fill(env, "DB_SSL_MODE", mode);
    if let Some(version) = env.text("REALTIME_IP_VERSION") {
        overlay.put("REALTIME_IP_VERSION", version.to_ascii_lowercase());
    }
    overlay.fill(env, "JWT_CLAIM_VALIDATORS_LENIENT", "true");
    // There were no limits.
    overlay.fill(env, "TENANT_MAX_CONCURRENT_USERS", "200000");
    overlay.fill(env, "TENANT_MAX_CHANNELS_PER_CLIENT", "1000");
    overlay.fill(env, "TENANT_MAX_JOINS_PER_SECOND", "2500");
    overlay.fill(env, "TENANT_MAX_EVENTS_PER_SECOND", "10000");
    // It made nothing in the database.
    overlay.fill(env, "PREPARE_DATABASES", "false");
    overlay.fill(env, "MAX_REPLICATION_LAG_MB", "0");
    Ok(overlay)
}

/// The settings of the first generation, if it is served.
///
/// # Errors
/// The first setting that cannot be used.
pub fn read(env: &Env<'_>) -> Result<Option<LegacySettings>, ConfigError> {
    let pure = is_pure(env);
    let engines = [("off", None), ("rls", Some(LegacyEngine::Rls)), ("stream", Some(LegacyEngine::Stream))];
    let default = if pure { Some(replication_mode(env)?) } else { None };
    let Some(engine) = env.one_of("LEGACY_MODE", default, &engines)? else { return Ok(None) };
    let secure = is_secure(env);
    if secure && pure && with_file(env, "JWT_SECRET", "JWT_SECRET_FILE")?.is_none() {
        return Err(ConfigError::new("JWT_SECRET", "must be set unless SECURE_CHANNELS is false"));
    }
    let publications = publications(env)?;
    if engine == LegacyEngine::Rls && publications.len() != 1 {
        return Err(ConfigError::new("PUBLICATIONS", "must name one publication in the mode RLS"));
    }
    let lag_default = if pure { 0 } else { 10_000 };
    Ok(Some(LegacySettings {
        engine,
        pure,
        profile: profile(env)?,
        secure,
        publications,
        slot: slot(env, engine)?,
        max_lag_bytes: env
            .integer("MAX_REPLICATION_LAG_MB", lag_default)
            .map(|megabytes: u64| megabytes.saturating_mul(1_000_000))?,
        resume_delay: millis(env, "LEGACY_RESUME_DELAY_MS", Duration::from_secs(3))?,
        file: file(env)?,
        webhooks: webhooks(env)?,
        expose_metrics: pure && env.boolean("EXPOSE_METRICS", false)?,
    }))
}

/// `SOCKET_TIMEOUT`: how long a client may be silent, in milliseconds, or `infinity`.
///
/// # Errors
/// When it is neither.
pub fn socket_timeout(env: &Env<'_>) -> Result<Duration, ConfigError> {
    /// Longer than a machine runs, and short enough for any clock.
    const INFINITY: Duration = Duration::from_secs(30 * 365 * 86_400);
    match env.text("SOCKET_TIMEOUT").as_deref() {
        Some("infinity") => Ok(INFINITY),
        Some(text) if text.parse::<u64>().is_ok_and(|millis| millis > 0) => {
            Ok(millis(env, "SOCKET_TIMEOUT", INFINITY)?.min(INFINITY))
        }
        Some(text) => {
            Err(ConfigError::new("SOCKET_TIMEOUT", format!("must be milliseconds or infinity, not {text:?}")))
        }
        None => Ok(crate::socket::IDLE_LIMIT),
    }
}

/// Anything but `false` asks for tokens.
fn is_secure(env: &Env<'_>) -> bool {
    env.text("SECURE_CHANNELS").as_deref() != Some("false")
}

fn replication_mode(env: &Env<'_>) -> Result<LegacyEngine, ConfigError> {
    let modes = [("STREAM", LegacyEngine::Stream), ("RLS", LegacyEngine::Rls)];
    env.one_of("REPLICATION_MODE", LegacyEngine::Stream, &modes)
}

fn profile(env: &Env<'_>) -> Result<Profile, ConfigError> {
    let names = [("v0.10", Profile::V0_10), ("v0.22", Profile::V0_22), ("v1.0", Profile::V0_22)];
    let profile = env.one_of("LEGACY_PROFILE", Profile::ANY, &names)?;
    let stars = [("true", StarEvents::Always), ("false", StarEvents::Never), ("auto", StarEvents::Auto)];
    Ok(Profile {
        star_events: env.one_of("LEGACY_STAR_EVENTS", profile.star_events, &stars)?,
        dotted_filter: env.boolean("LEGACY_DOTTED_FILTER", profile.dotted_filter)?,
        iso_timestamps: env.boolean("LEGACY_ISO_TIMESTAMPS", profile.iso_timestamps)?,
        errors_key: env.boolean("LEGACY_ERRORS_KEY", profile.errors_key)?,
        ..profile
    })
}

/// `PUBLICATIONS`, a JSON array of names.
fn publications(env: &Env<'_>) -> Result<Vec<String>, ConfigError> {
    let Some(text) = env.text("PUBLICATIONS") else { return Ok(vec!["supabase_realtime".to_owned()]) };
    let names: Option<Vec<String>> = serde_json::from_str(&text).ok();
    names
        .filter(|names| !names.is_empty())
        .ok_or_else(|| ConfigError::new("PUBLICATIONS", "must be a JSON array of names"))
}

/// `SLOT_NAME`, in lower case as PostgreSQL has it; a temporary slot without one.
fn slot(env: &Env<'_>, engine: LegacyEngine) -> Result<Option<String>, ConfigError> {
    let temporary = env.boolean("TEMPORARY_SLOT", false)? && engine == LegacyEngine::Rls;
    let Some(name) = env.text("SLOT_NAME").filter(|_| !temporary) else { return Ok(None) };
    let name = name.to_ascii_lowercase();
    if name.len() > 63 || name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        return Err(ConfigError::new("SLOT_NAME", "must be letters, digits and _, at most 63 of them"));
    }
    Ok(Some(name))
}

/// What `CONFIGURATION_FILE` says; everything is broadcast without one.
fn file(env: &Env<'_>) -> Result<ConfigFile, ConfigError> {
    const NAME: &str = "CONFIGURATION_FILE";
    let Some(path) = env.text(NAME) else { return Ok(ConfigFile::default()) };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| ConfigError::new(NAME, format!("{path} cannot be read: {error}")))?;
    ConfigFile::parse(&text).map_err(|error| ConfigError::new(NAME, format!("{path} {error}")))
}

fn webhooks(env: &Env<'_>) -> Result<WebhookSettings, ConfigError> {
    let default = WebhookSettings::default();
    let headers = env.text("WEBHOOK_HEADERS").and_then(|text| parse_headers(&text)).unwrap_or_default();
    Ok(WebhookSettings {
        headers,
        timeout: millis(env, "WEBHOOK_TIMEOUT_MS", default.timeout)?,
        retries: env.integer("WEBHOOK_RETRIES", default.retries)?,
        retry_delay: millis(env, "WEBHOOK_RETRY_DELAY_MS", default.retry_delay)?,
        secret: env.text("WEBHOOK_SECRET").map(SecretString::from),
        max_body: env.integer("WEBHOOK_MAX_BODY_BYTES", default.max_body)?,
    })
}

fn millis(env: &Env<'_>, name: &str, default: Duration) -> Result<Duration, ConfigError> {
    let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
    env.integer(name, default).map(Duration::from_millis)
}

/// A value that may stand in a file instead. Both are too much.
fn with_file(env: &Env<'_>, name: &'static str, file: &'static str) -> Result<Option<String>, ConfigError> {
    match (env.text(name), env.text(file)) {
        (Some(_), Some(_)) => Err(ConfigError::new(file, format!("must not be set beside {name}"))),
        (value, None) => Ok(value),
        (None, Some(path)) => match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned())),
            Err(error) => Err(ConfigError::new(file, format!("{path} cannot be read: {error}"))),
        },
    }
}

#[cfg(test)]
mod tests;
