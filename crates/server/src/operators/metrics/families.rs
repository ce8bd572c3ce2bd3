//! Every metric: its name, help and labels. `docs/operations.md` is written from this.

use std::fmt::Write as _;

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// A distribution of values.
    Histogram,
}

impl Kind {
    /// The name in the text format.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric: samples with one name.
#[derive(Debug)]
pub struct Family {
    /// Name.
    pub name: &'static str,
    /// What its numbers are.
    pub kind: Kind,
    /// Labels beside those that every sample has.
    pub labels: &'static [&'static str],
    /// The description.
    pub help: &'static str,
    /// Stored units per unit of the metric: 1000 for milliseconds that are stored as microseconds.
    pub scale: f64,
}

/// All metrics as a table in Markdown.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| metric | type | labels | what it tells |\n| --- | --- | --- | --- |\n");
    for Family { name, kind, labels, help, .. } in ALL {
        let _ = writeln!(text, "| `{name}` | {} | {} | {help} |", kind.as_str(), labels.join(", "));
    }
    text
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal $labels:tt / $scale:literal $help:literal;)+) => {
        $(
            #[doc = $help]
            pub static $constant: Family =
                Family { name: $name, kind: Kind::$kind, labels: &$labels, help: $help, scale: $scale };
        )+

        /// All of them, in the order in which they are shown.
        pub static ALL: &[&Family] = &[$(&$constant),+];
    };
}

families! {
    GLOBAL_CONNECTED = Gauge "realtime_connections_global_connected" [] / 1.0
        "Sockets with a joined channel on this node";
    GLOBAL_CONNECTED_CLUSTER = Gauge "realtime_connections_global_connected_cluster" [] / 1.0
        "Sockets with a joined channel on all nodes, as they said last";
    CONNECTED = Gauge "realtime_connections_connected" ["tenant"] / 1.0
        "Sockets of a tenant with a joined channel on this node";
    CONNECTED_CLUSTER = Gauge "realtime_connections_connected_cluster" ["tenant"] / 1.0
        "Sockets of a tenant with a joined channel on all nodes; told by the nodes that have sockets of it";
    SOCKETS = Gauge "realtime_sockets" ["tenant"] / 1.0
        "Sockets of a tenant on this node, those without a channel included";
    TENANTS_CONNECTED = Gauge "realtime_tenants_connected" [] / 1.0
        "Tenants whose database answered when it was last needed";
    GLOBAL_JOINS = Counter "realtime_channel_global_joins" [] / 1.0
        "Joins that passed the checks for which no database is asked";
    GLOBAL_EVENTS = Counter "realtime_channel_global_events" [] / 1.0 "Broadcasts accepted and delivered";
    GLOBAL_PRESENCE_EVENTS = Counter "realtime_channel_global_presence_events" [] / 1.0
        "Presence states, changes and diffs";
    GLOBAL_DB_EVENTS = Counter "realtime_channel_global_db_events" [] / 1.0
        "Row changes, times the subscriptions they matched";
    GLOBAL_INPUT_BYTES = Counter "realtime_channel_global_input_bytes" [] / 1.0 "Bytes read from sockets";
    GLOBAL_OUTPUT_BYTES = Counter "realtime_channel_global_output_bytes" [] / 1.0 "Bytes written to sockets";
    COMPRESSED_MESSAGES = Counter "realtime_websocket_compressed_messages" ["direction"] / 1.0
        "Messages that were compressed (`sent`) and inflated (`received`). One that is sent to many counts once";
    COMPRESSED_BYTES = Counter "realtime_websocket_compressed_bytes" ["direction", "form"] / 1.0
        "Bytes of these messages as they are (`plain`) and as they travel (`compressed`). One that does not get smaller is not sent compressed, and counts as it is in both";
    JOINS = Counter "realtime_channel_joins" ["tenant"] / 1.0
        "Joins that passed the checks for which no database is asked";
    EVENTS = Counter "realtime_channel_events" ["tenant"] / 1.0 "Broadcasts accepted and delivered";
    HISTORY_MESSAGES = Gauge "realtime_broadcast_history_messages" ["tenant"] / 1.0
        "Broadcasts that are kept for those who come late";
    HISTORY_BYTES = Gauge "realtime_broadcast_history_bytes" ["tenant"] / 1.0 "Bytes of these broadcasts";
    MESSAGES_REPLAYED = Counter "realtime_broadcast_history_replayed" ["tenant"] / 1.0
        "Broadcasts that were sent to those who had missed them, of topics with a history";
    PRESENCE_EVENTS = Counter "realtime_channel_presence_events" ["tenant"] / 1.0
        "Presence states, changes and diffs";
    DB_EVENTS = Counter "realtime_channel_db_events" ["tenant"] / 1.0
        "Row changes, times the subscriptions they matched";
    INPUT_BYTES = Counter "realtime_channel_input_bytes" ["tenant"] / 1.0 "Bytes read from sockets";
    OUTPUT_BYTES = Counter "realtime_channel_output_bytes" ["tenant"] / 1.0 "Bytes written to sockets";
    GLOBAL_ERROR = Counter "realtime_channel_global_error" ["code"] / 1.0
        "Operational warnings and errors by code, whether or not they were logged";
    ERROR = Counter "realtime_channel_error" ["code", "tenant"] / 1.0
        "Operational warnings and errors that concern a tenant";
    PAYLOAD_SIZE = Histogram "realtime_payload_size" ["message_type"] / 1.0
        "Bytes of the payloads of accepted messages, as JSON text";
    TENANTS_PAYLOAD_SIZE = Histogram "realtime_tenants_payload_size" ["message_type", "tenant"] / 1.0
        "Bytes of the payloads of accepted messages, as JSON text";
    READ_AUTHORIZATION = Histogram "realtime_tenants_read_authorization_check" ["tenant"] / 1000.0
        "Milliseconds that policies took to say what may be read of a private topic";
    WRITE_AUTHORIZATION = Histogram "realtime_tenants_write_authorization_check" ["tenant"] / 1000.0
        "Milliseconds that policies took to say what may be written to a private topic";
    COMMITTED_LATENCY = Histogram "realtime_tenants_broadcast_from_database_latency_committed_at" ["tenant"] / 1000.0
        "Milliseconds from the commit of a stored message to its delivery, by both clocks";
    INSERTED_LATENCY = Histogram "realtime_tenants_broadcast_from_database_latency_inserted_at" ["tenant"] / 1000.0
        "Milliseconds from the insertion of a stored message to its delivery, by both clocks";
    REPLAY = Histogram "realtime_tenants_replay" ["tenant"] / 1000.0
        "Milliseconds that reading stored messages for a replay took";
    QUERY_DURATION = Histogram "realtime_replication_poller_query_duration" ["tenant"] / 1000.0
        "Milliseconds that the database took to say who may see rows";
    POLLER_STOP = Counter "realtime_replication_poller_stop_total" ["reason", "tenant"] / 1.0
        "Replication sessions that ended: normal, on purpose; other, lost or given up";
    POLLER_EXCEPTION = Counter "realtime_replication_poller_exception_total" ["tenant"] / 1.0
        "Replication sessions that were lost or given up";
    POLLER_QUERY_EXCEPTION = Counter "realtime_replication_poller_query_exception_total" ["reason", "tenant"] / 1.0
        "Questions about rows that failed and were put again";
    POLLER_PREPARE_EXCEPTION = Counter "realtime_replication_poller_prepare_exception_total" ["tenant"] / 1.0
        "Attempts to start a replication session that failed";
    CHANGES_DISPATCH = Counter "realtime_replication_poller_changes_dispatch" ["tenant"] / 1.0
        "Row changes sent, by columns";
    CHANGES_SKIP = Counter "realtime_replication_poller_changes_skip" ["reason", "tenant"] / 1.0
        "Row changes dropped: too many";
    SUBSCRIBERS = Gauge "realtime_subscriptions_manager_subscribers" ["tenant"] / 1.0
        "Channels that watch row changes";
    CHANGES_ROWS = Counter "realtime_changes_rows" ["tenant"] / 1.0 "Row changes read from the log";
    CHANGES_QUESTIONS = Counter "realtime_changes_filter_questions" ["tenant"] / 1.0
        "Filters that the database evaluated";
    CHANGES_CHECKS = Counter "realtime_changes_checks" ["tenant"] / 1.0
        "Roles and claims whose sight of rows was checked";
    CHANGES_JUDGED = Counter "realtime_changes_judged" ["tenant"] / 1.0
        "Verdicts about rows that compiled policies gave without the database";
    CHANGES_COMPILED = Counter "realtime_changes_compiled" ["relation", "tenant"] / 1.0
        "The same by table: the first 100 of a tenant that had rows; all others are `other`";
    CHANGES_ASKED = Counter "realtime_changes_asked" ["relation", "tenant"] / 1.0
        "Verdicts about rows that the database was asked for, by table";
    CHANGES_WITHHELD = Counter "realtime_changes_withheld" ["relation", "tenant"] / 1.0
        "Rows withheld from a role and claims because policies could not be evaluated, by table";
    CHANGES_COMPARED = Counter "realtime_changes_compared" ["relation", "tenant"] / 1.0
        "Compiled verdicts that the database was asked about too, by table";
    CHANGES_MISMATCH = Counter "realtime_changes_mismatch" ["relation", "tenant"] / 1.0
        "Compiled verdicts that the database contradicted, by table: should be 0";
    CHANGES_TERMS_ASKED = Counter "realtime_changes_terms_asked" ["tenant"] / 1.0
        "Roles and claims that were asked for what policies compare rows with";
    CHANGES_CHECK_ROUNDS = Counter "realtime_changes_check_rounds" ["tenant"] / 1.0
        "Times the database was asked who sees rows";
    CHANGES_CHECK_SECONDS = Counter "realtime_changes_check_seconds" ["tenant"] / 1e6
        "Time that these questions took";
    LIVE_RESULTS = Gauge "realtime_live_results" ["tenant"] / 1.0 "Live results that are kept";
    LIVE_ROWS = Gauge "realtime_live_rows" ["tenant"] / 1.0 "Rows of live results that are kept";
    LIVE_RUNS = Histogram "realtime_live_run_duration_milliseconds" ["tenant"] / 1000.0
        "Milliseconds that reading a live result took, sending included";
    LIVE_CHANGES = Counter "realtime_live_changes" ["tenant"] / 1.0
        "Changes of live results that were told without reading them again";
    LIVE_LOOKS = Counter "realtime_live_looks" ["tenant"] / 1.0
        "Live results that were looked at for changed rows, each once for a transaction";
    LIVE_FAILURES = Counter "realtime_live_run_failures" ["tenant"] / 1.0
        "Readings of live results that failed, or took too long";
    POLICIES_ASKED = Counter "realtime_policies_asked" ["tenant"] / 1.0
        "Questions to the policies of private topics";
    POLICIES_PROBES = Counter "realtime_policies_probes" ["tenant"] / 1.0
        "Round trips to the database for them: equal questions share one";
    POLICIES_STATEMENTS = Counter "realtime_policies_statements" ["tenant"] / 1.0
        "Statements in these round trips";
    POLICIES_CROWDED = Counter "realtime_policies_crowded" ["tenant"] / 1.0
        "Questions that found no connection in time, or were not put for that reason";
    POLICIES_READ_SECONDS = Counter "realtime_policies_read_seconds" ["tenant"] / 1e6
        "Time that checks of reading took";
    POLICIES_WRITE_SECONDS = Counter "realtime_policies_write_seconds" ["tenant"] / 1e6
        "Time that checks of writing took";
    REPLICATION_SESSIONS = Counter "realtime_replication_sessions" ["tenant"] / 1.0
        "Replication sessions started";
    SUBSCRIPTION_CHECKS = Counter "realtime_changes_subscription_checks" ["tenant"] / 1.0
        "Checks of what channels want to watch: those who want the same at once share one";
    CHANGES_SKIPPED = Counter "realtime_changes_skipped" ["tenant"] / 1.0
        "Rows that another node has read and not sent here, because nobody here watches their tables";
    CHANGES_LEFT_OUT = Gauge "realtime_changes_left_out_tables" ["tenant"] / 1.0
        "Tables whose rows it does not send here";
    JOURNAL_PASSES = Counter "realtime_changes_journal_passes" ["tenant"] / 1.0
        "Times that the kept log was read for clients that came back, 128 channels at once";
    JOURNAL_BYTES = Gauge "realtime_changes_journal_bytes" ["tenant"] / 1.0
        "Bytes of the log that are kept for clients that come back";
    REPLICATION_LAG = Gauge "realtime_replication_lag_bytes" ["tenant"] / 1.0
        "Bytes of the log that were not handed over yet";
    WEBHOOKS_DELIVERED = Counter "realtime_webhooks_delivered" ["webhook", "tenant"] / 1.0
        "Changes that the endpoint of a webhook has taken";
    WEBHOOKS_FAILED = Counter "realtime_webhooks_failed_attempts" ["webhook", "tenant"] / 1.0
        "Attempts to post a change that failed";
    WEBHOOKS_DEAD_LETTERS = Counter "realtime_webhooks_dead_letters" ["webhook", "tenant"] / 1.0
        "Changes that were given up for a webhook";
    WEBHOOKS_GAPS = Counter "realtime_webhooks_gaps" ["webhook", "tenant"] / 1.0
        "Times that a webhook began to read at the end of the log, its first start included";
    WEBHOOKS_WAITING = Gauge "realtime_webhooks_waiting" ["webhook", "tenant"] / 1.0
        "Changes that wait to be posted, or are being posted";
    MIGRATIONS_DURATION = Histogram "realtime_tenants_migrations_duration_milliseconds" ["platform_region"] / 1000.0
        "Milliseconds that setting a database up for private topics took";
    MIGRATIONS_EXCEPTIONS = Counter "realtime_tenants_migrations_exceptions_total" ["error_code"] / 1.0
        "Set-ups of databases that failed, in whole or in part";
    SLOW_CONSUMERS = Counter "realtime_slow_consumers" [] / 1.0
        "Sockets closed because they read slower than their channels talk, or held most of the memory for clients";
    CLIENT_MEMORY = Gauge "realtime_client_memory_bytes" [] / 1.0
        "Memory held for clients: frames that wait, messages that were not handled yet, presence";
    CLIENT_MEMORY_MAX = Gauge "realtime_client_memory_max_bytes" [] / 1.0
        "Memory that may be held for clients";
    LOG_LINES_SUPPRESSED = Counter "realtime_log_lines_suppressed" [] / 1.0
        "Lines left out of the log because equal ones came too often";
    CONNECTIONS_TOTAL = Gauge "phoenix_connections_total" [] / 1.0 "Open connections, of sockets and requests";
    CONNECTIONS_ACTIVE = Gauge "phoenix_connections_active" [] / 1.0
        "Open connections that count against the limit: all of them";
    CONNECTIONS_MAX = Gauge "phoenix_connections_max" [] / 1.0 "Connections that may be open at once";
    CHANNEL_JOINED = Counter "phoenix_channel_joined_total" ["result", "transport", "endpoint"] / 1.0
        "Joins by result: ok, error; those of the first generation are not counted";
    GLOBAL_RPC = Histogram "realtime_global_rpc" ["success", "mechanism"] / 1000.0
        "Milliseconds that other nodes took to answer operators' questions";
    HANDLED_IN = Histogram "phoenix_channel_handled_in_duration_milliseconds" ["endpoint"] / 1000.0
        "Milliseconds from reading what a client sent to having handled it, slow steps not included";
    SOCKET_CONNECTED = Histogram "phoenix_socket_connected_duration_milliseconds"
        ["result", "transport", "endpoint", "serializer"] / 1000.0
        "Milliseconds that the checks of a handshake took";
    CPU_UTIL = Gauge "osmon_cpu_util" [] / 1.0 "Per cent of the host's processor time in use";
    CPU_AVG1 = Gauge "osmon_cpu_avg1" [] / 1.0 "Load of the host, averaged over a minute, times 256";
    CPU_AVG5 = Gauge "osmon_cpu_avg5" [] / 1.0 "Load of the host, averaged over five minutes, times 256";
    CPU_AVG15 = Gauge "osmon_cpu_avg15" [] / 1.0 "Load of the host, averaged over fifteen minutes, times 256";
    RAM_USAGE = Gauge "osmon_ram_usage" [] / 1.0 "Per cent of the host's memory that is not available";
    PROCESS_CPU = Counter "process_cpu_seconds_total" [] / 1.0 "Processor time used, user and system";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" [] / 1.0 "Resident memory";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes" [] / 1.0 "Virtual memory";
    PROCESS_FDS = Gauge "process_open_fds" [] / 1.0 "Open file descriptors";
    PROCESS_MAX_FDS = Gauge "process_max_fds" [] / 1.0 "File descriptors that may be open at once";
    PROCESS_THREADS = Gauge "process_threads" [] / 1.0 "Operating system threads";
    PROCESS_START = Gauge "process_start_time_seconds" [] / 1.0 "When the process started, as Unix time";
    TOKIO_WORKERS = Gauge "tokio_workers" [] / 1.0 "Threads that run tasks";
    TOKIO_TASKS = Gauge "tokio_alive_tasks" [] / 1.0 "Tasks that have not ended";
    TOKIO_QUEUE = Gauge "tokio_global_queue_depth" [] / 1.0 "Tasks that wait in the global queue";
    TOKIO_BUSY = Counter "tokio_worker_busy_seconds_total" ["worker"] / 1.0 "Time a thread was not parked";
    TOKIO_PARKS = Counter "tokio_worker_parks_total" ["worker"] / 1.0 "Times a thread had nothing to do";
    BUILD_INFO = Gauge "realtime_build_info" ["version"] / 1.0 "Always 1; the version is a label";
    CLUSTER_CONNECTED_NATS = Gauge "realtime_cluster_connected" [] / 1.0
        "Whether NATS is connected; shown by nodes that have others";
    CLUSTER_NODES = Gauge "realtime_cluster_nodes" [] / 1.0
        "Nodes that are heard, this one included";
    CLUSTER_SENT = Counter "realtime_cluster_messages_sent" [] / 1.0
        "Messages sent to other nodes";
    CLUSTER_SENT_BYTES = Counter "realtime_cluster_bytes_sent" [] / 1.0
        "Bytes sent to other nodes";
    CLUSTER_RECEIVED = Counter "realtime_cluster_messages_received" [] / 1.0
        "Messages received from other nodes";
    CLUSTER_RECEIVED_BYTES = Counter "realtime_cluster_bytes_received" [] / 1.0
        "Bytes received from other nodes";
    CLUSTER_GAPS = Counter "realtime_cluster_gaps" [] / 1.0
        "Times that messages of other nodes were missed, by node and tenant";
    CLUSTER_MALFORMED = Counter "realtime_cluster_malformed" [] / 1.0
        "Messages of other nodes that could not be read";
    CLUSTER_WAITING_BYTES = Gauge "realtime_cluster_waiting_bytes" [] / 1.0
        "Bytes that wait to be sent to other nodes";
}
