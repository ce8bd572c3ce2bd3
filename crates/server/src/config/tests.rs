use secrecy::ExposeSecret;

use super::*;

fn settings(variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let lookup =
        |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    Settings::from_env(&Env::new(&lookup))
}

#[test]
fn defaults_serve_the_development_tenant() {
    let settings = settings(&[]).unwrap();
    assert_eq!(settings.port, 4000);
    assert_eq!(settings.connect_error_backoff, Duration::from_secs(2));
    assert_eq!(settings.channel_error_backoff, Duration::from_secs(5));
    assert!(settings.well_known_secret);
    let [tenant] = &settings.tenants[..] else { panic!("one tenant expected") };
    assert_eq!(&*tenant.external_id, "realtime-dev");
    assert!(tenant.default);
    assert_eq!(tenant.limits, Limits::default());
    assert_eq!((tenant.database.host.as_str(), tenant.database.port), ("127.0.0.1", 5432));
    assert_eq!(tenant.database.slot_name, "supabase_realtime_replication_slot");
}

#[test]
fn everything_can_be_set() {
    let settings = settings(&[
        ("PORT", "0"),
        ("REALTIME_IP_VERSION", "ipv4"),
        ("API_JWT_SECRET", "s3cret"),
        ("SEED_SELF_HOST", "true"),
        ("SELF_HOST_TENANT_NAME", "Home"),
        ("DB_HOST", "db"),
        ("DB_PORT", "6543"),
        ("DB_NAME", "app"),
        ("DB_USER", "me"),
        ("DB_PASSWORD", "pw"),
        ("SLOT_NAME_SUFFIX", "blue_2"),
        ("TENANT_MAX_CONCURRENT_USERS", "7"),
        ("CHANNEL_ERROR_BACKOFF_MS", "0"),
        ("PREPARE_DATABASES", "false"),
        ("RUN_JANITOR", "false"),
        ("JANITOR_SCHEDULE_TIMER_IN_MS", "60000"),
    ])
    .unwrap();
    assert!(settings.listen.is_ipv4());
    assert!(!settings.prepare_databases);
    assert_eq!((settings.janitor.delete, settings.janitor.every), (false, Duration::from_secs(60)));
    assert!(!settings.well_known_secret);
    let [tenant] = &settings.tenants[..] else { panic!("one tenant expected") };
    assert_eq!(&*tenant.external_id, "home");
    assert_eq!(tenant.jwt_secret.as_ref().unwrap().expose_secret(), "s3cret");
    assert_eq!(tenant.database.slot_name, "supabase_realtime_replication_slot_blue_2");
    assert_eq!(tenant.limits.max_concurrent_users, 7);
    assert_eq!(settings.channel_error_backoff, Duration::ZERO);
}

#[test]
fn without_a_seed_there_is_no_tenant() {
    assert!(settings(&[("SEED_SELF_HOST", "false")]).unwrap().tenants.is_empty());
}

#[test]
fn secrets_do_not_print() {
    let text = format!("{:?}", settings(&[("API_JWT_SECRET", "s3cret"), ("DB_PASSWORD", "pa55")]).unwrap());
    assert!(!text.contains("s3cret") && !text.contains("pa55"), "{text}");
}

#[test]
fn wrong_settings_are_one_readable_line() {
    for (name, value, expected) in [
        ("PORT", "http", "PORT must be a whole number in range, not \"http\""),
        ("DB_PORT", "65536", "DB_PORT must be a whole number in range, not \"65536\""),
        ("SEED_SELF_HOST", "maybe", "SEED_SELF_HOST must be true, 1, false or 0, not \"maybe\""),
        ("REALTIME_IP_VERSION", "ipv5", "REALTIME_IP_VERSION must be one of ipv4, ipv6, not \"ipv5\""),
        ("SELF_HOST_TENANT_NAME", "a.b", "SELF_HOST_TENANT_NAME must consist of letters, digits, - and _"),
        (
            "SLOT_NAME_SUFFIX",
            "X",
            "SLOT_NAME_SUFFIX must be lower-case letters, digits and _, at most 14 of them",
        ),
    ] {
        assert_eq!(settings(&[(name, value)]).unwrap_err().to_string(), expected);
    }
    for (name, value) in [("JWT_CLAIM_VALIDATORS", "[]"), ("API_JWT_JWKS", "{"), ("DB_SSL_MODE", "on")] {
        let error = settings(&[(name, value)]).unwrap_err();
        assert_eq!(error.name, name);
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
    }
}
