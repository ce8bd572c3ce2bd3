use realtime_tenants::Limits;
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

/// As addresses of IPv6 are written in URLs.
#[test]
fn the_databases_address_may_be_in_brackets() {
    let settings = settings(&[("DB_HOST", "[::1]")]).unwrap();
    assert_eq!(settings.tenants[0].database.host, "::1");
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
        ("DB_PUBLICATION", "mine"),
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
    assert_eq!(tenant.database.publication, "mine");
    assert_eq!(tenant.limits.max_concurrent_users, 7);
    assert_eq!(settings.channel_error_backoff, Duration::ZERO);
}

#[test]
fn without_a_seed_there_is_no_tenant() {
    assert!(settings(&[("SEED_SELF_HOST", "false")]).unwrap().tenants.is_empty());
}

#[test]
fn secrets_do_not_print() {
    let jwks = r#"{"keys":[{"kty":"oct","kid":"a","k":"c2VjcmV0LWtleQ"}]}"#;
    let secrets = [
        ("API_JWT_SECRET", "s3cret"),
        ("DB_PASSWORD", "pa55"),
        ("API_JWT_JWKS", jwks),
        ("DB_ENC_KEY", "1234567890123456"),
        ("SEED_SELF_HOST", "true"),
    ];
    let text = format!("{:?}", settings(&secrets).unwrap());
    for secret in ["s3cret", "pa55", "c2VjcmV0", "12345678901"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn wrong_settings_are_one_readable_line() {
    for (name, value, expected) in [
        (
            "LOG_LEVEL",
            "loud",
            "LOG_LEVEL must be one of emergency, alert, critical, error, warning, warn, notice, info, debug, trace, not \"loud\"",
        ),
        (
            "DB_SSL_MODE",
            "on",
            "DB_SSL_MODE must be one of disable, prefer, require, verify-ca, verify-full, not \"on\"",
        ),
        ("DB_IP_VERSION", "v4", "DB_IP_VERSION must be one of ipv4, ipv6, not \"v4\""),
        ("PORT", "http", "PORT must be a whole number from 0 to 65535, not \"http\""),
        ("DB_PORT", "65536", "DB_PORT must be a whole number from 0 to 65535, not \"65536\""),
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

/// What the reference reads (http_and_ops 5), and the first generation.
const OF_THE_REFERENCE: &str = "
PORT APP_NAME SECRET_KEY_BASE METRICS_JWT_SECRET API_JWT_SECRET API_JWT_SECRET_NEXT API_TOKEN_BLOCKLIST
METRICS_TOKEN_BLOCKLIST JWT_CLAIM_VALIDATORS DB_HOST DB_PORT DB_NAME DB_USER DB_PASSWORD DB_AFTER_CONNECT_QUERY DB_ENC_KEY
DB_ENC_KEY_GCM DB_ENC_WRITE_GCM DB_SSL DB_SSL_CA_CERT DB_IP_VERSION REALTIME_IP_VERSION DB_POOL_SIZE DB_REPLICA_POOL_SIZE
DB_QUEUE_TARGET DB_QUEUE_INTERVAL DB_REPLICA_HOST DB_HOST_REPLICA_FRA DB_HOST_REPLICA_IAD DB_HOST_REPLICA_SIN
DB_HOST_REPLICA_SJC DB_MASTER_REGION MAX_CONNECTIONS NUM_ACCEPTORS MAX_HEADER_LENGTH HTTP_DYNAMIC_BUFFER_MIN
HTTP_DYNAMIC_BUFFER_MAX WEBSOCKET_MAX_HEAP_SIZE NO_CHANNEL_TIMEOUT_IN_MS MEASURE_TRAFFIC_INTERVAL_IN_MS
CONNECT_ERROR_BACKOFF_MS CHANNEL_ERROR_BACKOFF_MS TENANT_MAX_CONCURRENT_USERS TENANT_MAX_EVENTS_PER_SECOND
TENANT_MAX_BYTES_PER_SECOND TENANT_MAX_CHANNELS_PER_CLIENT TENANT_MAX_JOINS_PER_SECOND CLIENT_PRESENCE_MAX_CALLS
CLIENT_PRESENCE_WINDOW_MS TENANT_CACHE_EXPIRATION_IN_MS SEED_SELF_HOST SELF_HOST_TENANT_NAME API_JWT_JWKS SLOT_NAME_SUFFIX
RUN_JANITOR JANITOR_SCHEDULE_TIMER_IN_MS JANITOR_SCHEDULE_RANDOMIZE JANITOR_RUN_AFTER_IN_MS JANITOR_MAX_CHILDREN
JANITOR_CHUNK_SIZE JANITOR_CHILDREN_TIMEOUT METRICS_CLEANER_SCHEDULE_TIMER_IN_MS REGION REGION_MAPPING CLUSTER_STRATEGIES
DNS_NODES REBALANCE_CHECK_INTERVAL_IN_MS NODE_BALANCE_UPTIME_THRESHOLD_IN_MS CONNECT_PARTITION_SLOTS
MIGRATION_PARTITION_SLOTS POSTGRES_CDC_SCOPE_SHARDS USERS_SCOPE_SHARDS MUSTER_SCOPE_SHARDS BROADCAST_POOL_SIZE
PRESENCE_POOL_SIZE PRESENCE_BROADCAST_PERIOD_IN_MS PRESENCE_PERMDOWN_PERIOD_IN_MS RPC_TIMEOUT METRICS_RPC_TIMEOUT_IN_MS
GEN_RPC_TCP_SERVER_PORT GEN_RPC_TCP_CLIENT_PORT GEN_RPC_SSL_SERVER_PORT GEN_RPC_SSL_CLIENT_PORT GEN_RPC_CERTFILE
GEN_RPC_KEYFILE GEN_RPC_CACERTFILE GEN_RPC_CONNECT_TIMEOUT_IN_MS GEN_RPC_SEND_TIMEOUT_IN_MS GEN_RPC_SOCKET_IP
GEN_RPC_IPV6_ONLY GEN_RPC_MAX_BATCH_SIZE GEN_RPC_COMPRESS GEN_RPC_COMPRESSION_THRESHOLD_IN_BYTES GEN_RPC_SOCKET_BUFFER
GEN_RPC_SOCKET_RECEIVE_BUFFER GEN_RPC_SOCKET_SEND_BUFFER MAX_GEN_RPC_CLIENTS MAX_GEN_RPC_CALL_CLIENTS LOG_LEVEL LOGS_ENGINE
LOGFLARE_API_KEY LOGFLARE_SOURCE_ID LOGFLARE_LOGGER_BACKEND_URL LOG_THROTTLE_JANITOR_INTERVAL_IN_MS
DISABLE_HEALTHCHECK_LOGGING REQUEST_ID_BAGGAGE_KEY PROM_POLL_RATE METRICS_PUSHER_ENABLED METRICS_PUSHER_URL
METRICS_PUSHER_USER METRICS_PUSHER_AUTH METRICS_PUSHER_INTERVAL_MS METRICS_PUSHER_TIMEOUT_MS METRICS_PUSHER_COMPRESS
METRICS_PUSHER_EXTRA_LABELS DASHBOARD_AUTH DASHBOARD_USER DASHBOARD_PASSWORD CF_TEAM_DOMAIN OTEL_SDK_DISABLED
OTEL_TRACES_EXPORTER OTEL_TRACES_SAMPLER AWS_EXECUTION_ENV CLUSTER RLIMIT_NOFILE ERL_AFLAGS POD_IP NODE_NAME
ENABLE_ERL_CRASH_DUMP GENERATE_CLUSTER_CERTS SLOT_NAME SECURE_CHANNELS JWT_SECRET SOCKET_TIMEOUT";

/// Every variable of the reference is a setting, or known to mean nothing; none is both (spec README, decision 15).
#[test]
fn every_variable_is_accounted_for() {
    let names: Vec<_> = table::all().map(|(_, setting)| setting.name).collect();
    let ignored: Vec<_> = ignored::IGNORED.iter().map(|(name, _)| *name).collect();
    for name in OF_THE_REFERENCE.split_whitespace() {
        let counts = [&names, &ignored].map(|known| known.iter().filter(|known| **known == name).count());
        assert_eq!(counts.iter().sum::<usize>(), 1, "{name}: {counts:?}");
    }
    assert!(names.iter().all(|name| !ignored.contains(name)));
}

/// A line of the table that nothing could be set with is found before anybody needs it.
#[test]
fn the_table_is_consistent() {
    let mut seen = std::collections::HashSet::new();
    for (group, setting) in table::all() {
        assert!(
            seen.insert(setting.name) && seen.insert(&*format!("{}.{}", group.table, setting.key).leak())
        );
        assert!(!setting.meaning.ends_with('.') && !setting.meaning.contains('|'), "{}", setting.name);
        let default = Env::new(&|name| (name == setting.name).then(|| setting.default.to_owned()));
        env::check(&default, setting).unwrap();
    }
}

/// spec README, decision 11: nothing is made in a database that nobody asked for.
#[test]
fn where_tenants_are_kept() {
    let key = ("DB_ENC_KEY", "1234567890123456");
    assert!(settings(&[]).unwrap().metadata.is_none());
    assert!(settings(&[key, ("METADATA_DATABASE", "false")]).unwrap().metadata.is_none());

    let kept = settings(&[key, ("DB_HOST", "db"), ("TENANT_MAX_CONCURRENT_USERS", "7")]).unwrap();
    assert!(kept.tenants.is_empty() && !kept.well_known_secret && !kept.seeds);
    let metadata = kept.metadata.unwrap();
    assert!(metadata.seed.is_none() && metadata.options.template.default_tenant.is_none());
    assert_eq!((metadata.config.host.as_str(), metadata.config.defaults.max_concurrent_users), ("db", 7));
    assert_eq!(metadata.options.expiry, Duration::from_secs(30));
    assert!(!metadata.config.ciphers.writes_gcm());

    let seeded = settings(&[key, ("SEED_SELF_HOST", "true"), ("SELF_HOST_TENANT_NAME", "home")]).unwrap();
    assert!(seeded.well_known_secret && seeded.seeds && seeded.tenants.len() == 1);
    let metadata = seeded.metadata.unwrap();
    assert_eq!(metadata.options.template.default_tenant.as_deref(), Some("home"));
    let seed = metadata.seed.unwrap();
    assert!(seed.jwt_secret.is_none() && !seed.place.ssl_enforced);

    let gcm = ("DB_ENC_KEY_GCM", "0123456789abcdef0123456789abcdef");
    let both = settings(&[key, gcm, ("DB_ENC_WRITE_GCM", "true")]).unwrap().metadata.unwrap();
    assert!(both.config.ciphers.writes_gcm() && !both.gcm_without_key);
    let without = settings(&[key, ("DB_ENC_WRITE_GCM", "true")]).unwrap().metadata.unwrap();
    assert!(without.gcm_without_key && !without.config.ciphers.writes_gcm());

    for (variables, expected) in [
        (&[("METADATA_DATABASE", "true")][..], "METADATA_DATABASE needs a key: DB_ENC_KEY_GCM or DB_ENC_KEY"),
        (&[("METADATA_DATABASE", "yes")], "METADATA_DATABASE must be one of auto, true, false, not \"yes\""),
        (&[("DB_ENC_KEY", "short")], "DB_ENC_KEY must be 16 bytes long"),
        (&[("DB_ENC_KEY_GCM", "short")], "DB_ENC_KEY_GCM must be 32 bytes long"),
        (
            &[key, ("TENANT_CACHE_EXPIRATION_IN_MS", "-1")],
            "TENANT_CACHE_EXPIRATION_IN_MS must be a whole number of at least 0, not \"-1\"",
        ),
    ] {
        assert_eq!(settings(variables).unwrap_err().to_string(), expected);
    }
}
