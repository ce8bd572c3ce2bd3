//! The environment of a first-generation server (legacy 5.3).
//!
//! A server behaves as one of the first generation if `JWT_SECRET` or `SECURE_CHANNELS` is set and `API_JWT_SECRET` is
//! not. Its variables are then translated to those that the other settings read. `LEGACY_MODE` overrides this choice.

use std::collections::HashMap;

use super::found::{Found, Origin};

/// What is set, by variable.
type Values = HashMap<&'static str, Found>;

/// What a first-generation server did where its environment says nothing.
const DEFAULTS: &[(&str, &str)] = &[
    ("DB_HOST", "localhost"),
    ("DB_USER", "postgres"),
    ("JWT_CLAIM_VALIDATORS_LENIENT", "true"),
    // There were no limits.
    ("TENANT_MAX_CONCURRENT_USERS", "200000"),
    ("TENANT_MAX_CHANNELS_PER_CLIENT", "1000"),
    ("TENANT_MAX_JOINS_PER_SECOND", "2500"),
    ("TENANT_MAX_EVENTS_PER_SECOND", "10000"),
    // It made nothing in the database.
    ("PREPARE_DATABASES", "false"),
    ("MAX_REPLICATION_LAG_MB", "0"),
];

/// Whether the settings are those of a first-generation server.
pub(super) fn is_pure(is_set: impl Fn(&str) -> bool) -> bool {
    let any = |names: &[&str]| names.iter().any(|name| is_set(name));
    !is_set("LEGACY_MODE")
        && any(&["JWT_SECRET", "SECURE_CHANNELS"])
        && !any(&["API_JWT_SECRET", "API_JWT_JWKS"])
}

/// Translates the variables of a first-generation server, and sets what it did by default. Does nothing if the first
/// generation is not served.
pub(super) fn translate(values: &mut Values) {
    let pure = is_pure(|name| values.contains_key(name));
    let served = values.get("LEGACY_MODE").map_or(pure, |mode| mode.value != "off");
    if served && !values.contains_key("API_JWT_SECRET") {
        put_secret(values, pure);
    }
    if pure {
        put_transport(values);
        put(values, "SEED_SELF_HOST", "true");
        for (name, value) in DEFAULTS {
            put_default(values, name, value);
        }
    }
}

/// Takes the secret from `JWT_SECRET`. A server that asks for no tokens gets a secret that nobody knows, so that
/// channels of the second generation accept no token.
fn put_secret(values: &mut Values, pure: bool) {
    match text(values, "JWT_SECRET") {
        Some(secret) => put(values, "API_JWT_SECRET", secret),
        None if pure => {
            let secret = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
            put(values, "API_JWT_SECRET", secret);
        }
        None => {}
    }
}

/// Sets how the database is reached. The first generation used TLS if the database offered it; its engine RLS required
/// it.
fn put_transport(values: &mut Values) {
    let rls = text(values, "REPLICATION_MODE").is_some_and(|mode| mode == "RLS");
    let ssl_mode = match text(values, "DB_SSL").as_deref() {
        Some("false") => "disable",
        Some(_) if rls => "require",
        _ => "prefer",
    };
    put(values, "DB_SSL", "false");
    put_default(values, "DB_SSL_MODE", ssl_mode);
    for name in ["REALTIME_IP_VERSION", "DB_IP_VERSION"] {
        if let Some(version) = text(values, name) {
            put(values, name, version.to_ascii_lowercase());
        }
    }
}

fn text(values: &Values, name: &str) -> Option<String> {
    values.get(name).map(|found| found.value.clone())
}

fn put(values: &mut Values, name: &'static str, value: impl Into<String>) {
    values.insert(name, Found { value: value.into(), origin: Origin::FirstGeneration });
}

fn put_default(values: &mut Values, name: &'static str, value: &str) {
    if !values.contains_key(name) {
        put(values, name, value);
    }
}
