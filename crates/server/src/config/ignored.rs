//! Variables that the reference reads and that mean nothing here (spec README, decision 15).

/// Settings of its virtual machine, its build and its own clustering.
const IGNORED: &[&str] = &[
    "APP_NAME",
    "BROADCAST_POOL_SIZE",
    "CLUSTER_STRATEGIES",
    "CONNECT_PARTITION_SLOTS",
    "DB_AFTER_CONNECT_QUERY",
    "DB_ENC_KEY",
    "DB_ENC_KEY_GCM",
    "DB_QUEUE_INTERVAL",
    "DB_QUEUE_TARGET",
    "DISABLE_HEALTHCHECK_LOGGING",
    "DNS_NODES",
    "ERL_AFLAGS",
    "GEN_RPC_MAX_BATCH_SIZE",
    "GEN_RPC_SOCKET_IP",
    "GEN_RPC_TCP_CLIENT_PORT",
    "GEN_RPC_TCP_SERVER_PORT",
    "HTTP_DYNAMIC_BUFFER_MAX",
    "HTTP_DYNAMIC_BUFFER_MIN",
    "JANITOR_CHILDREN_TIMEOUT",
    "JANITOR_CHUNK_SIZE",
    "JANITOR_MAX_CHILDREN",
    "MAX_GEN_RPC_CALL_CLIENTS",
    "MAX_GEN_RPC_CLIENTS",
    "MIGRATION_PARTITION_SLOTS",
    "MUSTER_SCOPE_SHARDS",
    "NUM_ACCEPTORS",
    "POSTGRES_CDC_SCOPE_SHARDS",
    "PRESENCE_POOL_SIZE",
    "RLIMIT_NOFILE",
    "RPC_TIMEOUT",
    "SECRET_KEY_BASE",
    "USERS_SCOPE_SHARDS",
    "WEBSOCKET_MAX_HEAP_SIZE",
];

/// Which of the ignored variables are set, in alphabetical order, for one line at start.
pub fn present(is_set: impl Fn(&str) -> bool) -> Vec<&'static str> {
    IGNORED.iter().copied().filter(|name| is_set(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_only_what_is_set() {
        assert_eq!(present(|name| name == "NUM_ACCEPTORS" || name == "PORT"), ["NUM_ACCEPTORS"]);
        assert!(IGNORED.is_sorted());
    }
}
