//! All settings. Parsing, `check-config`, `--help`, the configuration file and `docs/configuration.md` follow from this
//! table: a new setting is one line here, and the place that reads it.

use super::setting::{Group, Setting, boolean, integer, json, path, secret, text, words};

/// Words of `LOG_LEVEL`.
const LEVELS: &[&str] =
    &["emergency", "alert", "critical", "error", "warning", "warn", "notice", "info", "debug", "trace"];

/// Words of `DB_SSL_MODE`.
const TLS_MODES: &[&str] = &["disable", "prefer", "require", "verify-ca", "verify-full"];

/// All settings, in the order of the reference.
#[rustfmt::skip]
pub const GROUPS: &[Group] = &[
    Group { table: "server", title: "Listener", settings: &[
        integer("PORT", "port", "4000", "", "Port to listen on; 0 takes a free one"),
        words("REALTIME_IP_VERSION", "ip_version", "", &["ipv4", "ipv6"], "Address family to listen on. If not set: IPv6, which accepts IPv4 too, if the machine has it"),
        path("TLS_CERT_FILE", "tls_cert_file", "PEM file with the server's certificate, followed by the intermediate ones. If set, connections are encrypted. Read again on SIGHUP, and within a minute of a change"),
        path("TLS_KEY_FILE", "tls_key_file", "PEM file with the private key of that certificate"),
        integer("MAX_CONNECTIONS", "max_connections", "200000", "", "Connections of all kinds at once; further ones are answered with status 503, except `/healthcheck`"),
        integer("MAX_CLIENT_MEMORY_MB", "max_client_memory_mb", "", "megabytes", "Memory for data that waits to and from all clients together. Beyond it the sockets that hold most are closed. If not set: a third of the memory that the process may use"),
        boolean("WEBSOCKET_COMPRESSION", "websocket_compression", "false", "Compress messages for clients that offer it (permessage-deflate), and take compressed ones. See the page on scaling for what it saves and costs"),
        integer("WEBSOCKET_COMPRESSION_MIN_BYTES", "websocket_compression_min_bytes", "512", "bytes", "Smallest message that is compressed, its frame included"),
        integer("LONGPOLL_MAX_SESSIONS_PER_TENANT", "longpoll_max_sessions_per_tenant", "2500", "", "Sessions of the long-poll transport that a tenant may have at once, of 10000 in all"),
        integer("LONGPOLL_MAX_SESSIONS_PER_ADDRESS", "longpoll_max_sessions_per_address", "1000", "", "Sessions that one address may have at once; raise it if there is a proxy in front of the server"),
        integer("HTTP_SEND_TIMEOUT_MS", "http_send_timeout_ms", "60000", "milliseconds", "How long an answer over HTTP waits for a client that takes less than 64 KB of it, before its connection is closed; 0 for any time. Sockets and streams of events have bounds of their own"),
        integer("MAX_HEADER_LENGTH", "max_header_length", "4096", "bytes", "Largest value of a request header"),
        integer("NO_CHANNEL_TIMEOUT_IN_MS", "no_channel_timeout_ms", "600000", "milliseconds", "A socket that joined and then has no channel for this long is dropped"),
        integer("CONNECT_ERROR_BACKOFF_MS", "connect_error_backoff_ms", "2000", "milliseconds", "Pause before a refused connection is answered"),
        integer("CHANNEL_ERROR_BACKOFF_MS", "channel_error_backoff_ms", "5000", "milliseconds", "Pause before a refused join is answered"),
        text("NODE_NAME", "node_name", "", "Name of the node, the part before the @; `APP_NAME` if not set"),
        text("APP_NAME", "app_name", "realtime", "Name of all nodes that have no `NODE_NAME`"),
        text("POD_IP", "node_host", "", "Name of the node, the part after the @; the host's name if not set"),
        text("REGION", "region", "", "Region of the node, a label of metrics"),
    ]},
    Group { table: "cluster", title: "Many nodes", settings: &[
        secret("NATS_URL", "nats_url", "", "Addresses of NATS servers, with commas between, as `nats://host:4222` or `tls://host:4222`; without it the node is alone"),
        text("NATS_USER", "nats_user", "", "Name to log in to NATS with, if the address has none"),
        secret("NATS_PASSWORD", "nats_password", "", "Password of `NATS_USER`"),
        secret("NATS_TOKEN", "nats_token", "", "Token to log in to NATS with, instead of a name and a password"),
        secret("NATS_NKEY_SEED", "nats_nkey_seed", "", "Seed of an NKey to log in to NATS with, instead of a name and a password"),
        path("NATS_CREDENTIALS_FILE", "nats_credentials", "File with a JWT and the seed of its NKey, to log in to NATS with instead of a name and a password"),
        boolean("NATS_TLS", "nats_tls", "false", "Refuse connections without TLS; servers that ask for TLS get it in any case"),
        path("NATS_TLS_CA_FILE", "nats_tls_ca", "PEM file of authorities to trust instead of those of the system"),
        path("NATS_TLS_CERT_FILE", "nats_tls_cert", "PEM file of the certificate that the node shows to NATS"),
        path("NATS_TLS_KEY_FILE", "nats_tls_key", "PEM file of the key of that certificate"),
        text("NATS_SUBJECT_PREFIX", "nats_subject_prefix", "realtime", "First part of all subjects: clusters that share NATS servers need different ones"),
        integer("CLUSTER_HEARTBEAT_MS", "heartbeat_ms", "1000", "milliseconds", "Time between two heartbeats of a node; 100 to 60000"),
        integer("CLUSTER_NODE_TIMEOUT_MS", "node_timeout_ms", "", "milliseconds", "How long a silent node counts as alive; six heartbeats if not set"),
        integer("CLUSTER_LINGER_MS", "linger_ms", "30000", "milliseconds", "How long a node still receives a tenant's messages after its last socket of that tenant has gone"),
        integer("METRICS_RPC_TIMEOUT_IN_MS", "metrics_timeout_ms", "15000", "milliseconds", "How long `/metrics` waits for the other nodes; less, if the scraper says that it waits less"),
    ]},
    Group { table: "auth", title: "Tokens", settings: &[
        secret("API_JWT_SECRET", "jwt_secret", "", "Secret of the clients' tokens (HS256, HS384, HS512) of the environment's tenant. If not set: a well-known secret, with a warning"),
        secret("API_JWT_SECRET_NEXT", "jwt_secret_next", "", "Next secret of administrators' tokens, valid beside `API_JWT_SECRET`"),
        secret("API_TOKEN_BLOCKLIST", "token_blocklist", "", "Tokens of administrators that are refused, with commas between"),
        secret("API_JWT_JWKS", "jwks", "", "JSON Web Key Set of the environment's tenant, for RS, ES and EdDSA tokens"),
        json("JWT_CLAIM_VALIDATORS", "claim_validators", "{}", "Claims that every token must have, with their values"),
        boolean("JWT_CLAIM_VALIDATORS_LENIENT", "claim_validators_lenient", "false", "A token may lack a claim of the validators, as with Supabase Realtime"),
        secret("METRICS_JWT_SECRET", "metrics_jwt_secret", "", "Secret of the tokens that may read `/metrics`; if not set, nobody can"),
        secret("METRICS_TOKEN_BLOCKLIST", "metrics_token_blocklist", "", "Tokens that may not read `/metrics`, with commas between"),
    ]},
    Group { table: "self_host", title: "The tenant of a self-hosted server", settings: &[
        boolean("SEED_SELF_HOST", "seed", "true", "The environment describes a tenant with the database of `DB_HOST` and so on. The default is false if the file has `[[tenants]]`, or if tenants are in a metadata database"),
        text("SELF_HOST_TENANT_NAME", "tenant", "realtime-dev", "Name of the environment's tenant; hosts that name no other tenant mean it"),
    ]},
    Group { table: "limits", title: "Limits of tenants that have none of their own", settings: &[
        integer("TENANT_MAX_CONCURRENT_USERS", "max_concurrent_users", "200", "", "Sockets with a joined channel"),
        integer("TENANT_MAX_CHANNELS_PER_CLIENT", "max_channels_per_client", "100", "", "Joined channels of one socket"),
        integer("CHANNEL_MAX_SUBSCRIPTIONS", "max_subscriptions_per_channel", "100", "", "Subscriptions to row changes of one channel"),
        integer("TENANT_MAX_JOINS_PER_SECOND", "max_joins_per_second", "100", "", "Joins, averaged over up to a minute"),
        integer("TENANT_MAX_EVENTS_PER_SECOND", "max_events_per_second", "100", "", "Messages delivered, averaged over up to a minute"),
        integer("TENANT_MAX_PRESENCE_EVENTS_PER_SECOND", "max_presence_events_per_second", "1000", "", "Presence messages, averaged over up to a minute"),
        integer("CLIENT_PRESENCE_MAX_CALLS", "client_presence_max_calls", "5", "", "Presence messages of one channel within its window"),
        integer("CLIENT_PRESENCE_WINDOW_MS", "client_presence_window_ms", "30000", "milliseconds", "Length of the window of `CLIENT_PRESENCE_MAX_CALLS`"),
        boolean("LIMITS_CLOSE_CHANNELS", "close_channels", "false", "Close channels above the limits of messages and presence, as the reference does. Otherwise messages above the limit are not delivered, and this is told"),
    ]},
    Group { table: "presence", title: "Presence", settings: &[
        boolean("TENANT_PRESENCE_ENABLED", "enabled", "false", "Send the presence state to clients that do not ask for it, as supabase-js 2.39"),
        integer("PRESENCE_DIFF_INTERVAL_IN_MS", "diff_interval_ms", "50", "milliseconds", "Shortest time between two presence diffs of a channel"),
    ]},
    Group { table: "history", title: "Histories of broadcasts", settings: &[
        integer("BROADCAST_HISTORY_SECONDS", "seconds", "0", "seconds", "How long the broadcasts of a topic are kept in memory for those who come late or come back, of tenants that do not say it themselves; 0: none are kept"),
        integer("BROADCAST_HISTORY_MESSAGES", "messages", "0", "", "How many broadcasts of a topic are kept, 10000 at most; 0: none are. Histories are on if this and `BROADCAST_HISTORY_SECONDS` are set"),
        integer("BROADCAST_HISTORY_MB", "mb", "16", "megabytes", "Memory for the broadcasts of all topics of a tenant that are kept, on each node; the oldest go first"),
    ]},
    Group { table: "database", title: "Database", settings: &[
        text("DB_HOST", "host", "127.0.0.1", "Host name or address"),
        integer("DB_PORT", "port", "5432", "", "Port"),
        text("DB_NAME", "name", "postgres", "Name of the database"),
        text("DB_USER", "user", "supabase_admin", "Role to log in as; needs REPLICATION"),
        secret("DB_PASSWORD", "password", "postgres", "Password of `DB_USER`"),
        boolean("DB_SSL", "ssl", "false", "Encrypt connections; with `DB_SSL_CA_CERT` the server must also prove its name"),
        path("DB_SSL_CA_CERT", "ssl_ca_cert", "PEM file of the authorities that sign the server's certificate; if not set, those that the system trusts"),
        words("DB_SSL_MODE", "ssl_mode", "", TLS_MODES, "TLS mode, as in PostgreSQL's own clients; overrides `DB_SSL`"),
        words("DB_IP_VERSION", "ip_version", "", &["ipv4", "ipv6"], "Use only addresses of this family; all, if not set"),
        integer("DB_POOL_SIZE", "pool_size", "5", "", "Connections for queries, beside those for replication and for policies"),
        text("DB_PUBLICATION", "publication", "supabase_realtime", "Publication whose tables are watched"),
    ]},
    Group { table: "metadata", title: "Metadata database", settings: &[
        words("METADATA_DATABASE", "use", "auto", &["auto", "true", "false"], "Keep tenants in the database of `DB_HOST` and so on, in schema `_realtime`; `auto`: if there is a key to encrypt with"),
        secret("DB_ENC_KEY", "key", "", "Key of the older cipher, 16 bytes (AES-128-ECB)"),
        secret("DB_ENC_KEY_GCM", "key_gcm", "", "Key of the newer cipher, 32 bytes (AES-256-GCM)"),
        boolean("DB_ENC_WRITE_GCM", "write_gcm", "false", "Write with the newer cipher, and move to it what was written with the older one"),
        text("DB_AFTER_CONNECT_QUERY", "after_connect", "", "SQL that is run on each connection; sets the search path if the tables are not in `_realtime`"),
        integer("DB_QUEUE_TARGET", "wait_ms", "5000", "milliseconds", "How long a question waits for a connection"),
        integer("TENANT_CACHE_EXPIRATION_IN_MS", "cache_ms", "30000", "milliseconds", "How long a server remembers a tenant before it reads it again"),
        integer("TENANT_MAX_BYTES_PER_SECOND", "max_bytes_per_second", "100000", "bytes", "Stored with new tenants, but not enforced"),
    ]},
    Group { table: "replication", title: "Replication", settings: &[
        text("SLOT_NAME_SUFFIX", "slot_name_suffix", "", "Appended to the name of the replication slot"),
        boolean("SLOT_DURABLE", "slot_durable", "false", "A permanent slot: what was committed while the server was away is delivered when it is back"),
        integer("MAX_REPLICATION_LAG_MB", "max_lag_mb", "10000", "megabytes", "How much of the log a slot may keep before it is given up; 0 for any amount"),
        integer("REPLICATION_IDLE_STOP_MS", "idle_stop_ms", "600000", "milliseconds", "How long the log is read after the last subscriber or listener has gone"),
        integer("RESUME_DELAY_MS", "resume_delay_ms", "5000", "milliseconds", "How long after the start an existing permanent slot is read, so that clients can come back first"),
        integer("POLICY_CHECK_EVERY", "policy_check_every", "1000", "", "One in so many verdicts of compiled policies is also asked of the database, beside the stream; 0: none"),
        words("DELETE_UNJUDGED", "delete_unjudged", "key", &["key", "drop"], "What users of a table with row-level security receive of a deleted row that cannot be judged, because the log has its key alone: the `key`, or nothing (`drop`)"),
        integer("POLICY_CACHE_MB", "policy_cache_mb", "256", "megabytes", "Memory for what policies were asked for, on this node; where it is not enough the database is asked about each row"),
        integer("LIVE_MAX_ROWS", "live_max_rows", "10000", "", "Rows of a live result; one with more is refused, or ended"),
        integer("LIVE_MAX_RESULTS", "live_max_results", "10000", "", "Live results of a tenant on this node"),
        integer("LIVE_MAX_MB", "live_max_mb", "256", "megabytes", "Memory for what is kept of the rows of live results, on this node"),
        integer("LIVE_STATEMENT_TIMEOUT", "live_statement_timeout_ms", "5000", "milliseconds", "How long the query of a live result may take"),
        integer("LIVE_RECHECK_MS", "live_recheck_ms", "0", "milliseconds", "How often live results are read again of which the log does not tell all changes, such as materialized views; 0: these are refused"),
        integer("CHANGES_JOURNAL_MB", "changes_journal_mb", "64", "megabytes", "Row changes that are kept of each database for clients that come back (`since`); 0 to keep none"),
        integer("CHANGES_JOURNAL_SECONDS", "changes_journal_seconds", "120", "seconds", "How long they are kept"),
        integer("POLICY_WAIT_MS", "policy_wait_ms", "200", "milliseconds", "How long row changes wait for a user whose policies are slow; then only the user's own rows wait. Where the database is asked about rows: two seconds at most"),
        words("POLICY_PUBLICATION", "policy_publication", "auto", &["auto", "off"], "`auto`: tables that policies read and that `DB_PUBLICATION` lacks are published as `supabase_realtime_policies`, for the server alone, where its role may"),
        path("WEBHOOKS_FILE", "webhooks_file", "JSON file with the webhooks of the environment's tenant; read again when it changes. See the page on webhooks"),
        boolean("WEBHOOKS_PRIVATE_ADDRESSES", "webhooks_private_addresses", "true", "Webhooks may be posted to addresses that are not public, such as those of a private network. Link-local addresses are refused in any case"),
        integer("REPLICATION_WATCHDOG_MS", "watchdog_ms", "300000", "milliseconds", "How long the replication connection may be silent before a new one is made; 0 for any time"),
    ]},
    Group { table: "messages", title: "Private topics and stored messages", settings: &[
        boolean("PREPARE_DATABASES", "prepare_databases", "true", "Set databases up for private topics on first use, and make and drop partitions"),
        boolean("RUN_JANITOR", "run_janitor", "true", "Drop partitions of messages older than 72 hours"),
        integer("JANITOR_RUN_AFTER_IN_MS", "janitor_run_after_ms", "600000", "milliseconds", "How long after the first use of a database its partitions are checked again"),
        integer("JANITOR_SCHEDULE_TIMER_IN_MS", "janitor_schedule_ms", "14400000", "milliseconds", "Time between two checks of the partitions after that"),
        boolean("JANITOR_SCHEDULE_RANDOMIZE", "janitor_randomize", "true", "Add up to an hour to both times, so that not all servers check at once"),
    ]},
    Group { table: "legacy", title: "The first generation", settings: &[
        words("LEGACY_MODE", "mode", "", &["off", "rls", "stream"], "How channels that are joined without `config` are served: as by the second generation, as by the first with row-level security, or everything to everybody. A server that has `JWT_SECRET` or `SECURE_CHANNELS` and no `API_JWT_SECRET` is one of the first generation by itself"),
        words("LEGACY_PROFILE", "profile", "", &["v0.10", "v0.22", "v1.0"], "Which servers are emulated; if not set, the behaviour that serves most clients"),
        words("LEGACY_STAR_EVENTS", "star_events", "", &["true", "false", "auto"], "Send every change with the event `*` first; `auto`: to clients that may need it"),
        boolean("LEGACY_DOTTED_FILTER", "dotted_filter", "", "`column.eq.value` means the same as `column=eq.value`"),
        boolean("LEGACY_ISO_TIMESTAMPS", "iso_timestamps", "", "Timestamps in the form of ISO 8601"),
        boolean("LEGACY_ERRORS_KEY", "errors_key", "", "Changes have the key `errors`"),
        integer("LEGACY_RESUME_DELAY_MS", "resume_delay_ms", "3000", "milliseconds", "How long after the start an existing permanent slot is read, so that clients can come back first"),
        secret("JWT_SECRET", "jwt_secret", "", "Secret of the clients' tokens"),
        text("SECURE_CHANNELS", "secure_channels", "", "`false`: ask clients for no token"),
        words("REPLICATION_MODE", "replication_mode", "STREAM", &["STREAM", "RLS"], "Engine of a server of the first generation"),
        text("PUBLICATIONS", "publications", "[\"supabase_realtime\"]", "Publications that are read, as a JSON array"),
        text("SLOT_NAME", "slot_name", "", "Name of a permanent replication slot; if not set, the slot is temporary"),
        boolean("TEMPORARY_SLOT", "temporary_slot", "false", "In the mode RLS, the slot is temporary although it has a name"),
        text("SOCKET_TIMEOUT", "socket_timeout_ms", "60000", "Milliseconds that any client may be silent, or `infinity`"),
        path("CONFIGURATION_FILE", "configuration_file", "JSON file that says what is broadcast, and the webhooks"),
        boolean("EXPOSE_METRICS", "expose_metrics", "false", "Serve `/metrics` without a token, on a server of the first generation"),
        secret("WEBHOOK_HEADERS", "webhook_headers", "", "Headers of webhooks, as `name=value:name2=value2`"),
        secret("WEBHOOK_SECRET", "webhook_secret", "", "Key that signs webhooks, as standardwebhooks.com describes; if not set, they are not signed"),
        integer("WEBHOOK_TIMEOUT_MS", "webhook_timeout_ms", "5000", "milliseconds", "How long a webhook may take to answer"),
        integer("WEBHOOK_RETRIES", "webhook_retries", "0", "", "Further attempts after the first one has failed"),
        integer("WEBHOOK_RETRY_DELAY_MS", "webhook_retry_delay_ms", "1000", "milliseconds", "Pause before the second attempt of a webhook; it doubles with each one, up to a minute"),
        integer("WEBHOOK_MAX_BODY_BYTES", "webhook_max_body_bytes", "64000000", "bytes", "Largest body of a webhook; a larger transaction is not posted"),
    ]},
    Group { table: "dashboard", title: "Dashboard", settings: &[
        words("DASHBOARD_AUTH", "auth", "basic_auth", &["basic_auth", "zta"], "Who may see `/admin/dashboard`: people with a name and a password, or people whom Cloudflare Access lets through"),
        secret("DASHBOARD_USER", "user", "", "Name to log in with. If not set: a random one, so that nobody gets in"),
        secret("DASHBOARD_PASSWORD", "password", "", "Password to log in with. If not set: a random one"),
        text("CF_TEAM_DOMAIN", "cf_team_domain", "", "Domain of the team at Cloudflare Access, as `team.cloudflareaccess.com`; needed by `zta`"),
        text("CF_ACCESS_AUD", "cf_access_aud", "", "AUD tag of the application at Cloudflare Access: tokens for others are refused. Any application of the team may come in if not set"),
        secret("SECRET_KEY_BASE", "secret_key_base", "", "Key that seals the dashboard's forms. All nodes behind one address need the same key. If not set: a random one"),
    ]},
    Group { table: "log", title: "Logs", settings: &[
        words("LOG_LEVEL", "level", "info", LEVELS, "Least severe level that is logged, on standard error"),
        words("LOG_FORMAT", "format", "", &["json", "text"], "One JSON object a line, or text. If not set: text on a terminal, JSON elsewhere"),
        boolean("DISABLE_HEALTHCHECK_LOGGING", "disable_healthchecks", "false", "Leave requests about health out of the log"),
        text("REQUEST_ID_BAGGAGE_KEY", "request_id_baggage_key", "request-id", "Member of the header `baggage` that carries the id of a request"),
        text("CLUSTER", "cluster", "", "Name of the cluster, written in every line of the log"),
    ]},
    Group { table: "metrics_pusher", title: "Pushed metrics", settings: &[
        boolean("METRICS_PUSHER_ENABLED", "enabled", "false", "Push metrics, for a server that cannot be scraped"),
        secret("METRICS_PUSHER_URL", "url", "", "Address to push metrics to, with `http` or `https`"),
        text("METRICS_PUSHER_USER", "user", "realtime", "User of the receiver"),
        secret("METRICS_PUSHER_AUTH", "auth", "", "Password of that user, if the receiver asks for one"),
        integer("METRICS_PUSHER_INTERVAL_MS", "interval_ms", "30000", "milliseconds", "Time between two pushes"),
        integer("METRICS_PUSHER_TIMEOUT_MS", "timeout_ms", "15000", "milliseconds", "How long a request may take"),
        boolean("METRICS_PUSHER_COMPRESS", "compress", "true", "Compress what is pushed, with gzip"),
        text("METRICS_PUSHER_EXTRA_LABELS", "extra_labels", "", "Labels that the receiver is asked to add: `name=value`, with commas between"),
    ]},
    Group { table: "traces", title: "Traces", settings: &[
        words("OTEL_TRACES_EXPORTER", "exporter", "none", &["none", "otlp"], "Send traces of requests by OpenTelemetry's protocol over HTTP. Other `OTEL_…` variables of the standard, as for headers and batches, are read from the environment alone"),
        boolean("OTEL_SDK_DISABLED", "disabled", "false", "Send no traces, whatever `OTEL_TRACES_EXPORTER` says"),
        text("OTEL_EXPORTER_OTLP_ENDPOINT", "endpoint", "http://localhost:4318", "Address to send traces to; `/v1/traces` is appended"),
        text("OTEL_TRACES_SAMPLER", "sampler", "parentbased_always_on", "Which traces are sent: `always_on`, `always_off` or `traceidratio`, or one of these with `parentbased_` before it"),
        text("OTEL_TRACES_SAMPLER_ARG", "sampler_arg", "1.0", "Share of the traces that the samplers with a ratio send"),
        text("OTEL_SERVICE_NAME", "service_name", "realtime", "Name of the service in traces"),
    ]},
];

/// The setting of a variable, and its group.
#[must_use]
pub fn find(name: &str) -> Option<(&'static Group, &'static Setting)> {
    all().find(|(_, setting)| setting.name == name)
}

/// All settings with their groups.
pub fn all() -> impl Iterator<Item = (&'static Group, &'static Setting)> {
    GROUPS.iter().flat_map(|group| group.settings.iter().map(move |setting| (group, setting)))
}
