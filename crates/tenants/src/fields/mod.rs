//! The fields that a request gives when a tenant is created or changed (http_and_ops 1.3).

mod apply;
mod cast;

use std::fmt;

use secrecy::SecretString;
use serde_json::{Map, Value};

pub(crate) use apply::{clear, set_webhooks};
pub use cast::FieldErrors;

/// Fields of a tenant as given by a request. An outer `None` means that a field was not given, an inner one that it shall
/// have no value. Fields without a comment are as in [`TenantRecord`](crate::TenantRecord).
#[expect(missing_docs, reason = "see TenantRecord")]
#[derive(Clone, Default)]
pub struct TenantFields {
    /// Unique name. Given at creation only.
    pub external_id: Option<String>,
    /// Name for people.
    pub name: Option<Option<String>>,
    /// Secret of its tokens, in clear.
    pub jwt_secret: Option<Option<SecretString>>,
    /// JSON Web Key Set.
    pub jwt_jwks: Option<Option<Value>>,
    /// Extension that serves row changes.
    pub postgres_cdc_default: Option<Option<String>>,
    pub max_concurrent_users: Option<i32>,
    pub max_events_per_second: Option<i32>,
    pub max_bytes_per_second: Option<i32>,
    pub max_channels_per_client: Option<i32>,
    pub max_joins_per_second: Option<i32>,
    pub max_presence_events_per_second: Option<Option<i32>>,
    pub max_payload_size_in_kb: Option<Option<i32>>,
    pub max_client_presence_events_per_window: Option<Option<i32>>,
    pub client_presence_window_ms: Option<Option<i32>>,
    pub broadcast_history_seconds: Option<Option<i32>>,
    pub broadcast_history_messages: Option<Option<i32>>,
    pub suspend: Option<bool>,
    pub private_only: Option<bool>,
    pub presence_enabled: Option<bool>,
    pub migrations_ran: Option<Option<i32>>,
    pub broadcast_adapter: Option<Option<String>>,
    pub feature_flags: Option<Map<String, Value>>,
    /// All its extensions; those that it has already are replaced.
    pub extensions: Option<Vec<ExtensionFields>>,
}

impl fmt::Debug for TenantFields {
    /// Shows no field that may hold a secret, such as a key set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantFields")
            .field("external_id", &self.external_id)
            .field("name", &self.name)
            .field("jwt_secret", &self.jwt_secret)
            .field("extensions", &self.extensions)
            .finish_non_exhaustive()
    }
}

/// An extension as given by a request, with its secrets in clear.
#[derive(Clone, PartialEq)]
pub struct ExtensionFields {
    /// Column `type`.
    pub kind: String,
    /// Its settings, defaults filled in.
    pub settings: Map<String, Value>,
}

impl fmt::Debug for ExtensionFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.settings.keys().collect();
        f.debug_struct("ExtensionFields").field("kind", &self.kind).field("settings", &names).finish()
    }
}

/// A field of a tenant, to name what an update changed.
#[expect(missing_docs, reason = "the fields of TenantRecord")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    Name,
    JwtSecret,
    JwtJwks,
    PostgresCdcDefault,
    MaxConcurrentUsers,
    MaxEventsPerSecond,
    MaxBytesPerSecond,
    MaxChannelsPerClient,
    MaxJoinsPerSecond,
    MaxPresenceEventsPerSecond,
    MaxPayloadSizeInKb,
    MaxClientPresenceEventsPerWindow,
    ClientPresenceWindowMs,
    BroadcastHistorySeconds,
    BroadcastHistoryMessages,
    Suspend,
    PrivateOnly,
    PresenceEnabled,
    MigrationsRan,
    BroadcastAdapter,
    FeatureFlags,
    Extensions,
}
