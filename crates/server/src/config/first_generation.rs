//! The environment of a first-generation server (legacy 5.3).
//!
//! A server that is started with the environment of a first-generation server, and with nothing that only the second
//! knows, behaves as one: `JWT_SECRET` or `SECURE_CHANNELS`, and no `API_JWT_SECRET`. Its variables are then translated to
//! those that the rest of the settings read. `LEGACY_MODE` chooses by hand.

use std::collections::HashMap;

use super::found::{Found, Origin};

/// Whether the settings are those of a first-generation server.
pub(super) fn is_pure(is_set: impl Fn(&str) -> bool) -> bool {
    let any = |names: &[&str]| names.iter().any(|name| is_set(name));
    !is_set("LEGACY_MODE")
        && any(&["JWT_SECRET", "SECURE_CHANNELS"])
        && !any(&["API_JWT_SECRET", "API_JWT_JWKS"])
}

/// Puts what a first-generation server did in place of what its environment means otherwise, and into the gaps that it
/// leaves; nothing if the first generation is not served.
pub(super) fn translate(values: &mut HashMap<&'static str, Found>) {
    let pure = is_pure(|name| values.contains_key(name));
    let served = values.get("LEGACY_MODE").map_or(pure, |mode| mode.value != "off");
    let text = |values: &HashMap<_, Found>, name| values.get(name).map(|found: &Found| found.value.clone());
    let put = |values: &mut HashMap<_, _>, name, value: String| {
        values.insert(name, Found { value, origin: Origin::FirstGeneration });
    };
    if served && !values.contains_key("API_JWT_SECRET") {
        match text(values, "JWT_SECRET") {
            Some(secret) => put(values, "API_JWT_SECRET", secret),
            // Nobody is asked for a token; one for the second generation's channels is not believed.
            None if pure => {
                let secret = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
                put(values, "API_JWT_SECRET", secret);
            }
            None => {}
        }
    }
    if !pure {
        return;
    }
    put(values, "SEED_SELF_HOST", "true".to_owned());
    // TLS was used if the database offered it; the engine RLS asked for it.
    let rls = text(values, "REPLICATION_MODE").is_some_and(|mode| mode == "RLS");
    let ssl_mode = match text(values, "DB_SSL").as_deref() {
        Some("false") => "disable",
        Some(_) if rls => "require",
        _ => "prefer",
    };
    put(values, "DB_SSL", "false".to_owned());
    for name in ["REALTIME_IP_VERSION", "DB_IP_VERSION"] {
        if let Some(version) = text(values, name) {
            put(values, name, version.to_ascii_lowercase());
        }
    }
    for (name, value) in [
        ("DB_SSL_MODE", ssl_mode),
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
    ] {
        if !values.contains_key(name) {
            put(values, name, value.to_owned());
        }
    }
}
