//! Variables that the reference or an older server reads, and that have no meaning here (spec README, decision 15).

/// Why a variable has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It concerns the reference's virtual machine, its web framework or its container.
    Machine,
    /// It concerns the reference's own way of clustering.
    Cluster,
    /// It tunes a mechanism that works differently here.
    Mechanism,
    /// It concerns a feature that does not exist here.
    Absent,
    /// The first generation read it, for a mechanism that works differently here.
    Dead,
}

impl Why {
    /// All reasons, in the order of the reference.
    pub const ALL: [Self; 5] = [Self::Machine, Self::Cluster, Self::Mechanism, Self::Absent, Self::Dead];

    /// A heading for such variables.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Machine => "About the reference's virtual machine, web framework or container",
            Self::Cluster => "About the reference's own way of clustering",
            Self::Mechanism => "About a mechanism that works otherwise here",
            Self::Absent => "About something that is not there, or not yet",
            Self::Dead => "Of the first generation, about a mechanism that works otherwise here",
        }
    }
}

use Why::{Absent, Cluster, Dead, Machine, Mechanism};

/// The variables, in alphabetical order.
pub const IGNORED: &[(&str, Why)] = &[
    ("AWS_EXECUTION_ENV", Cluster),
    ("BROADCAST_POOL_SIZE", Cluster),
    ("CLUSTER_STRATEGIES", Cluster),
    ("CONNECT_PARTITION_SLOTS", Machine),
    ("DB_HOST_REPLICA_FRA", Cluster),
    ("DB_HOST_REPLICA_IAD", Cluster),
    ("DB_HOST_REPLICA_SIN", Cluster),
    ("DB_HOST_REPLICA_SJC", Cluster),
    ("DB_MASTER_REGION", Cluster),
    ("DB_QUEUE_INTERVAL", Mechanism),
    ("DB_RECONNECT_BACKOFF_MAX", Dead),
    ("DB_RECONNECT_BACKOFF_MIN", Dead),
    ("DB_REPLICA_HOST", Cluster),
    ("DB_REPLICA_POOL_SIZE", Cluster),
    ("DB_RETRY_INITIAL_DELAY", Dead),
    ("DB_RETRY_JITTER", Dead),
    ("DB_RETRY_MAXIMUM_DELAY", Dead),
    ("DNS_NODES", Cluster),
    ("ENABLE_ERL_CRASH_DUMP", Machine),
    ("ERL_AFLAGS", Machine),
    ("GENERATE_CLUSTER_CERTS", Cluster),
    ("GEN_RPC_CACERTFILE", Cluster),
    ("GEN_RPC_CERTFILE", Cluster),
    ("GEN_RPC_COMPRESS", Cluster),
    ("GEN_RPC_COMPRESSION_THRESHOLD_IN_BYTES", Cluster),
    ("GEN_RPC_CONNECT_TIMEOUT_IN_MS", Cluster),
    ("GEN_RPC_IPV6_ONLY", Cluster),
    ("GEN_RPC_KEYFILE", Cluster),
    ("GEN_RPC_MAX_BATCH_SIZE", Cluster),
    ("GEN_RPC_SEND_TIMEOUT_IN_MS", Cluster),
    ("GEN_RPC_SOCKET_BUFFER", Cluster),
    ("GEN_RPC_SOCKET_IP", Cluster),
    ("GEN_RPC_SOCKET_RECEIVE_BUFFER", Cluster),
    ("GEN_RPC_SOCKET_SEND_BUFFER", Cluster),
    ("GEN_RPC_SSL_CLIENT_PORT", Cluster),
    ("GEN_RPC_SSL_SERVER_PORT", Cluster),
    ("GEN_RPC_TCP_CLIENT_PORT", Cluster),
    ("GEN_RPC_TCP_SERVER_PORT", Cluster),
    ("HTTP_DYNAMIC_BUFFER_MAX", Machine),
    ("HTTP_DYNAMIC_BUFFER_MIN", Machine),
    ("JANITOR_CHILDREN_TIMEOUT", Mechanism),
    ("JANITOR_CHUNK_SIZE", Mechanism),
    ("JANITOR_MAX_CHILDREN", Mechanism),
    ("LOGFLARE_API_KEY", Absent),
    ("LOGFLARE_LOGGER_BACKEND_URL", Absent),
    ("LOGFLARE_SOURCE_ID", Absent),
    ("LOGS_ENGINE", Absent),
    ("LOG_THROTTLE_JANITOR_INTERVAL_IN_MS", Mechanism),
    ("MAX_CHANGES", Dead),
    ("MAX_GEN_RPC_CALL_CLIENTS", Cluster),
    ("MAX_GEN_RPC_CLIENTS", Cluster),
    ("MAX_RECORD_BYTES", Dead),
    ("MEASURE_TRAFFIC_INTERVAL_IN_MS", Mechanism),
    ("METRICS_CLEANER_SCHEDULE_TIMER_IN_MS", Mechanism),
    ("MIGRATION_PARTITION_SLOTS", Machine),
    ("MUSTER_SCOPE_SHARDS", Cluster),
    ("NODE_BALANCE_UPTIME_THRESHOLD_IN_MS", Cluster),
    ("NUM_ACCEPTORS", Machine),
    ("POSTGRES_CDC_SCOPE_SHARDS", Cluster),
    ("PRESENCE_BROADCAST_PERIOD_IN_MS", Cluster),
    ("PRESENCE_PERMDOWN_PERIOD_IN_MS", Cluster),
    ("PRESENCE_POOL_SIZE", Cluster),
    ("PROM_POLL_RATE", Mechanism),
    ("REBALANCE_CHECK_INTERVAL_IN_MS", Cluster),
    ("REGION_MAPPING", Cluster),
    ("REPLICATION_POLL_INTERVAL", Dead),
    ("RLIMIT_NOFILE", Machine),
    ("RPC_TIMEOUT", Cluster),
    ("SESSION_SECRET_KEY_BASE", Dead),
    ("SUBSCRIPTION_SYNC_INTERVAL", Dead),
    ("USERS_SCOPE_SHARDS", Cluster),
    ("WEBSOCKET_MAX_HEAP_SIZE", Machine),
];

/// The ignored variables that are set, in alphabetical order; for one log line at the start.
pub fn present(is_set: impl Fn(&str) -> bool) -> Vec<&'static str> {
    IGNORED.iter().map(|(name, _)| *name).filter(|name| is_set(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_only_what_is_set() {
        assert_eq!(present(|name| name == "NUM_ACCEPTORS" || name == "PORT"), ["NUM_ACCEPTORS"]);
        assert!(IGNORED.is_sorted_by_key(|(name, _)| *name));
    }
}
