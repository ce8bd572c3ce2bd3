use secrecy::ExposeSecret as _;

use super::*;
use crate::config::Settings;

fn settings(variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let lookup =
        |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    Settings::from_env(&Env::read(&lookup, None)?)
}

fn legacy(variables: &[(&str, &str)]) -> LegacySettings {
    settings(variables).unwrap().legacy.unwrap()
}

/// The variables that the README of the old server had for `docker run`.
const README: &[(&str, &str)] = &[
    ("DB_HOST", "docker.for.mac.host.internal"),
    ("DB_NAME", "app"),
    ("DB_USER", "me"),
    ("DB_PASSWORD", "pw"),
    ("DB_PORT", "5433"),
    ("PORT", "4001"),
    ("JWT_SECRET", "SOMETHING_SUPER_SECRET"),
    ("SECURE_CHANNELS", "false"),
    ("SLOT_NAME", "Realtime_1"),
    ("HOSTNAME", "localhost"),
];

#[test]
fn the_old_environment_is_understood() {
    let settings = settings(README).unwrap();
    let [tenant] = &settings.tenants[..] else { panic!("one tenant expected") };
    assert_eq!((settings.port, &*tenant.database.host), (4001, "docker.for.mac.host.internal"));
    assert_eq!((&*tenant.database.user, tenant.database.port), ("me", 5433));
    assert_eq!(tenant.jwt_secret.as_ref().unwrap().expose_secret(), "SOMETHING_SUPER_SECRET");
    assert!(!settings.prepare_databases && !tenant.database.durable_slot && !settings.well_known_secret);
    let legacy = settings.legacy.unwrap();
    assert_eq!((legacy.engine, legacy.pure, legacy.secure), (LegacyEngine::Stream, true, false));
    assert_eq!(legacy.slot.as_deref(), Some("realtime_1"));
    assert_eq!((legacy.profile, legacy.max_lag_bytes), (Profile::ANY, 0));
    assert_eq!(legacy.publications, ["supabase_realtime"]);
    assert!(!legacy.file.restrictions.allow_nothing() && !legacy.expose_metrics);
}

#[test]
fn which_generation_is_meant() {
    let mode = |variables: &[(&str, &str)]| {
        settings(variables).unwrap().legacy.map(|legacy| (legacy.engine, legacy.pure))
    };
    assert_eq!(mode(&[]), None);
    assert_eq!(mode(&[("JWT_SECRET", "x"), ("API_JWT_SECRET", "y")]), None);
    assert_eq!(mode(&[("JWT_SECRET", "x"), ("LEGACY_MODE", "off")]), None);
    assert_eq!(mode(&[("SECURE_CHANNELS", "false")]), Some((LegacyEngine::Stream, true)));
    assert_eq!(mode(&[("JWT_SECRET", "x"), ("REPLICATION_MODE", "RLS")]), Some((LegacyEngine::Rls, true)));
    assert_eq!(mode(&[("LEGACY_MODE", "stream")]), Some((LegacyEngine::Stream, false)));
    assert_eq!(mode(&[("LEGACY_MODE", "rls"), ("API_JWT_SECRET", "y")]), Some((LegacyEngine::Rls, false)));
}

#[test]
fn rls_reads_through_the_second_generation() {
    let settings = settings(&[
        ("JWT_SECRET", "x"),
        ("REPLICATION_MODE", "RLS"),
        ("SLOT_NAME", "old"),
        ("PUBLICATIONS", r#"["mine"]"#),
    ])
    .unwrap();
    let database = &settings.tenants[0].database;
    assert_eq!((&*database.publication, &*database.slot_name, database.durable_slot), ("mine", "old", true));
    let temporary = legacy(&[
        ("JWT_SECRET", "x"),
        ("REPLICATION_MODE", "RLS"),
        ("SLOT_NAME", "old"),
        ("TEMPORARY_SLOT", "true"),
    ]);
    assert_eq!(temporary.slot, None);
}

#[test]
fn profiles_and_their_switches() {
    let with =
        |name, value| legacy(&[("JWT_SECRET", "x"), ("LEGACY_PROFILE", "v0.10"), (name, value)]).profile;
    assert_eq!(with("X", ""), Profile::V0_10);
    assert_eq!(
        with("LEGACY_STAR_EVENTS", "false"),
        Profile { star_events: StarEvents::Never, ..Profile::V0_10 }
    );
}

#[test]
fn socket_timeouts() {
    let limit = |value| settings(&[("SOCKET_TIMEOUT", value)]).map(|settings| settings.idle_limit);
    assert_eq!(limit("").unwrap(), Duration::from_secs(60));
    assert_eq!(limit("1500").unwrap(), Duration::from_millis(1500));
    assert!(limit("infinity").unwrap() > Duration::from_secs(86_400 * 365));
    assert!(limit("0").is_err() && limit("forever").is_err());
}

/// legacy 45
#[test]
fn one_broken_header_discards_all() {
    let headers = |value| legacy(&[("JWT_SECRET", "x"), ("WEBHOOK_HEADERS", value)]).webhooks.headers;
    assert_eq!(headers("key=value1:header2=value2").len(), 2);
    assert!(headers("key=value1:broken").is_empty());
}

/// legacy 9
#[test]
fn what_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (secret, broken) = (file("secret", "s3cret\n"), file("broken", r#"{"webhooks": 1}"#));
    for (name, value) in [
        ("REPLICATION_MODE", "rls"),
        ("PUBLICATIONS", "supabase_realtime"),
        ("PUBLICATIONS", "[]"),
        ("CONFIGURATION_FILE", "/does/not/exist"),
        ("CONFIGURATION_FILE", &broken),
        ("SLOT_NAME", "a-b"),
        ("JWT_CLAIM_VALIDATORS", "{'iss': 'me'}"),
        ("JWT_SECRET_FILE", &secret),
        ("LEGACY_PROFILE", "v9"),
    ] {
        let error = settings(&[("JWT_SECRET", "x"), (name, value)]).unwrap_err();
        assert_eq!((&*error.name, error.to_string().lines().count()), (name, 1), "{error}");
    }
    assert_eq!(settings(&[("SECURE_CHANNELS", "true")]).unwrap_err().name, "JWT_SECRET");
    let two = [("JWT_SECRET", "x"), ("REPLICATION_MODE", "RLS"), ("PUBLICATIONS", r#"["a","b"]"#)];
    assert_eq!(settings(&two).unwrap_err().name, "PUBLICATIONS");
    let from_file = settings(&[("JWT_SECRET_FILE", &secret), ("DB_PASSWORD_FILE", &secret)]).unwrap();
    let tenant = &from_file.tenants[0];
    assert_eq!(tenant.jwt_secret.as_ref().unwrap().expose_secret(), "s3cret");
    assert_eq!(tenant.database.password.expose_secret(), "s3cret");
}
