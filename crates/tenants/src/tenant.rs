//! What is known of a tenant.

use std::{fmt, sync::Arc, time::Duration};

use realtime_tls::Route;
use realtime_webhooks::Webhook;
use secrecy::{ExposeSecret as _, SecretString};

/// A tenant: one database and the people who may connect for it (http_and_ops 1.2).
#[derive(Clone)]
pub struct Tenant {
    /// Unique name; the first label of the host that clients connect to.
    pub external_id: Box<str>,
    /// Whether hosts that name no tenant mean this one (spec README, decision 12).
    pub default: bool,
    /// Secret of its HS256/384/512 tokens.
    pub jwt_secret: Option<SecretString>,
    /// JSON Web Key Set of its other tokens, as JSON text.
    pub jwt_jwks: Option<Box<str>>,
    /// Only private channels may be joined.
    pub private_only: bool,
    /// No connection is accepted.
    pub suspend: bool,
    /// Presence is on for channels that did not ask for it.
    pub presence_enabled: bool,
    /// Limits.
    pub limits: Limits,
    /// Its webhooks.
    pub webhooks: Arc<[Webhook]>,
    /// Its database.
    pub database: DatabaseSettings,
}

impl fmt::Debug for Tenant {
    /// Without the key set, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenant")
            .field("external_id", &self.external_id)
            .field("default", &self.default)
            .field("jwt_secret", &self.jwt_secret)
            .field("jwt_jwks", &self.jwt_jwks.is_some())
            .field("private_only", &self.private_only)
            .field("suspend", &self.suspend)
            .field("presence_enabled", &self.presence_enabled)
            .field("limits", &self.limits)
            .field("webhooks", &self.webhooks)
            .field("database", &self.database)
            .finish()
    }
}

/// A tenant's limits (protocol 9.1). Zero means nothing is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sockets with at least one joined channel.
    pub max_concurrent_users: u32,
    /// Joined channels of one socket.
    pub max_channels_per_client: u32,
    /// Joins, averaged over up to a minute.
    pub max_joins_per_second: u32,
    /// Messages delivered, averaged over up to a minute.
    pub max_events_per_second: u32,
    /// Presence states, changes and diffs, averaged over up to a minute.
    pub max_presence_events_per_second: u32,
    /// Presence messages of one channel within its window; `None` means [`CLIENT_PRESENCE_MAX_CALLS`].
    pub max_client_presence_events_per_window: Option<u32>,
    /// Length of that window in milliseconds; `None` means [`CLIENT_PRESENCE_WINDOW_MS`].
    pub client_presence_window_ms: Option<u32>,
    /// Size of one message, in units of 1000 bytes.
    pub max_payload_size_in_kb: u32,
    /// How long broadcasts are kept for those who come late, in seconds; 0: none are kept.
    pub broadcast_history_seconds: u32,
    /// How many broadcasts of a topic are kept; 0: none are.
    pub broadcast_history_messages: u32,
    /// Memory for the broadcasts of all topics, in megabytes.
    pub broadcast_history_mb: u32,
}

/// Broadcasts of a topic that can be kept: those who come back are sent them in one go.
pub const MAX_HISTORY_MESSAGES: u32 = 10_000;

/// Memory for the broadcasts of a tenant that are kept, unless set otherwise, in megabytes.
pub const HISTORY_MB: u32 = 16;

/// Presence messages of one channel within its window, unless a tenant or the environment says otherwise.
pub const CLIENT_PRESENCE_MAX_CALLS: u32 = 5;

/// Length of that window in milliseconds.
pub const CLIENT_PRESENCE_WINDOW_MS: u32 = 30_000;

impl Default for Limits {
    /// The reference's defaults for new tenants.
    fn default() -> Self {
        Self {
            max_concurrent_users: 200,
            max_channels_per_client: 100,
            max_joins_per_second: 100,
            max_events_per_second: 100,
            max_presence_events_per_second: 1000,
            max_client_presence_events_per_window: None,
            client_presence_window_ms: None,
            max_payload_size_in_kb: 3000,
            broadcast_history_seconds: 0,
            broadcast_history_messages: 0,
            broadcast_history_mb: HISTORY_MB,
        }
    }
}

impl Limits {
    /// Largest payload of a message in bytes: the setting and 500 bytes for the envelope (protocol 5.2).
    #[must_use]
    pub fn max_payload_bytes(&self) -> usize {
        self.max_payload_size_in_kb as usize * 1000 + 500
    }

    /// Presence messages that one channel may send, and within how long. Zero counts as not set.
    #[must_use]
    pub fn client_presence(&self) -> (u32, Duration) {
        let set = |value: Option<u32>, default| value.filter(|value| *value > 0).unwrap_or(default);
        let window = set(self.client_presence_window_ms, CLIENT_PRESENCE_WINDOW_MS);
        let calls = set(self.max_client_presence_events_per_window, CLIENT_PRESENCE_MAX_CALLS);
        (calls, Duration::from_millis(window.into()))
    }
}

/// Where a tenant's database is and what it is called there.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether encrypted, what its server has to prove, over which addresses.
    pub route: Route,
    /// Database name.
    pub name: String,
    /// Role to log in as; needs REPLICATION.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// Publication whose tables are watched.
    pub publication: String,
    /// Name of the permanent replication slot, or base of the temporary one's.
    pub slot_name: String,
    /// The slot is permanent: what was committed while the server was away is delivered when it is back.
    pub durable_slot: bool,
    /// Bytes of the log that a slot may keep before it is given up; 0 for any number.
    pub max_lag_bytes: u64,
    /// The log is not read when nobody has been subscribed for this long, unless the slot is permanent.
    pub idle_stop: Duration,
    /// Connections for queries, beside the one for replication.
    pub pool_size: usize,
    /// Further connections, for the policies of private topics and stored messages (`db_pool`); `None` for the usual
    /// number.
    pub policy_pool_size: Option<usize>,
    /// Half of the time that a question to policies waits for one of them (`db_queue_target`); `None` for the usual.
    pub queue_target: Option<Duration>,
}

/// A host as resolvers take it: an address of IPv6 may come in brackets, as it is written before a port.
#[must_use]
pub fn bare_host(text: &str) -> &str {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.filter(|inner| inner.contains(':')).unwrap_or(text)
}

impl PartialEq for DatabaseSettings {
    fn eq(&self, other: &Self) -> bool {
        // Taken apart, so that no setting to come is forgotten here.
        let Self {
            host,
            port,
            route,
            name,
            user,
            password,
            publication,
            slot_name,
            durable_slot,
            max_lag_bytes,
            idle_stop,
            pool_size,
            policy_pool_size,
            queue_target,
        } = self;
        let same_route =
            (route.tls.mode(), route.ip_version) == (other.route.tls.mode(), other.route.ip_version);
        same_route
            && (host, port, name, user) == (&other.host, &other.port, &other.name, &other.user)
            && password.expose_secret() == other.password.expose_secret()
            && (publication, slot_name, durable_slot)
                == (&other.publication, &other.slot_name, &other.durable_slot)
            && (max_lag_bytes, idle_stop, pool_size)
                == (&other.max_lag_bytes, &other.idle_stop, &other.pool_size)
            && (policy_pool_size, queue_target) == (&other.policy_pool_size, &other.queue_target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_no_part_of_an_address() {
        for (text, host) in [
            ("[::1]", "::1"),
            ("[fe80::1%eth0]", "fe80::1%eth0"),
            ("::1", "::1"),
            ("db", "db"),
            ("[db]", "[db]"),
            ("[::1", "[::1"),
            ("", ""),
        ] {
            assert_eq!(bare_host(text), host);
        }
    }
}
