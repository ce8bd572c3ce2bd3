//! A tenant as the metadata database keeps it (http_and_ops 7.2).

use std::fmt;

use jiff::civil::DateTime;
use realtime_webhooks::Webhook;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{CipherError, Ciphers, Ciphertext};

/// The type of extension that holds a tenant's database; the only one that means something.
pub const POSTGRES_CDC_RLS: &str = "postgres_cdc_rls";

/// The type of extension that holds a tenant's webhooks. Ours alone: the reference keeps it and reads nothing of it.
pub const WEBHOOKS: &str = "realtime_webhooks";

/// The only setting of [`WEBHOOKS`]: the list as JSON text.
pub(crate) const WEBHOOKS_LIST: &str = "list";

/// Settings of [`POSTGRES_CDC_RLS`] that are kept encrypted.
pub const ENCRYPTED_SETTINGS: [&str; 5] = ["db_host", "db_name", "db_user", "db_port", "db_password"];

/// Settings of a type of extension that are kept encrypted.
#[must_use]
pub fn encrypted_settings(kind: &str) -> &'static [&'static str] {
    match kind {
        POSTGRES_CDC_RLS => &ENCRYPTED_SETTINGS,
        WEBHOOKS => &[WEBHOOKS_LIST],
        _ => &[],
    }
}

/// A row of `_realtime.tenants` and its rows of `_realtime.extensions`. Numbers may be anything that the column
/// allows; what they mean to the server is told by [`tenant`](Self::tenant).
#[derive(Clone, PartialEq)]
pub struct TenantRecord {
    /// Primary key.
    pub id: Uuid,
    /// Unique name; the first label of the host that clients connect to.
    pub external_id: String,
    /// Name for people.
    pub name: Option<String>,
    /// Secret of its HS256/384/512 tokens.
    pub jwt_secret: Option<Ciphertext>,
    /// JSON Web Key Set of its other tokens.
    pub jwt_jwks: Option<Value>,
    /// Extension that serves row changes.
    pub postgres_cdc_default: Option<String>,
    /// Users at once.
    pub max_concurrent_users: i32,
    /// Messages, row changes and HTTP requests per second.
    pub max_events_per_second: i32,
    /// Kept, and enforced by nobody.
    pub max_bytes_per_second: i32,
    /// Channels of one socket.
    pub max_channels_per_client: i32,
    /// Joins per second.
    pub max_joins_per_second: i32,
    /// Presence messages per second.
    pub max_presence_events_per_second: Option<i32>,
    /// Size of one message, in units of 1000 bytes.
    pub max_payload_size_in_kb: Option<i32>,
    /// Presence messages of one channel within its window.
    pub max_client_presence_events_per_window: Option<i32>,
    /// That window in milliseconds.
    pub client_presence_window_ms: Option<i32>,
    /// How long broadcasts are kept, in seconds.
    pub broadcast_history_seconds: Option<i32>,
    /// How many broadcasts of a topic are kept.
    pub broadcast_history_messages: Option<i32>,
    /// No connection is accepted.
    pub suspend: bool,
    /// Kept, and read by nobody.
    pub notify_private_alpha: bool,
    /// Only private channels may be joined.
    pub private_only: bool,
    /// Presence is on for channels that did not ask for it.
    pub presence_enabled: bool,
    /// How many migrations of the reference the tenant's database had when last looked at.
    pub migrations_ran: Option<i32>,
    /// Kept, and read by nobody.
    pub broadcast_adapter: Option<String>,
    /// Feature flags that this tenant has otherwise than everybody: name to boolean.
    pub feature_flags: Map<String, Value>,
    /// When all its secrets were moved to AES-256-GCM.
    pub gcm_migrated_at: Option<DateTime>,
    /// When it was made, in UTC.
    pub inserted_at: DateTime,
    /// When it was last changed, in UTC.
    pub updated_at: DateTime,
    /// Its extensions, oldest first.
    pub extensions: Vec<ExtensionRecord>,
}

impl TenantRecord {
    /// The extension that holds its database.
    #[must_use]
    pub fn database(&self) -> Option<&ExtensionRecord> {
        self.extensions.iter().find(|extension| extension.kind == POSTGRES_CDC_RLS)
    }

    /// Its webhooks.
    ///
    /// # Errors
    /// Why what is stored cannot be used.
    pub fn webhooks(&self, ciphers: &Ciphers) -> Result<Vec<Webhook>, String> {
        let Some(extension) = self.extensions.iter().find(|extension| extension.kind == WEBHOOKS) else {
            return Ok(Vec::new());
        };
        let list = extension.decrypt(WEBHOOKS_LIST, ciphers).map_err(|error| error.to_string())?;
        let list = list.ok_or_else(|| format!("{WEBHOOKS_LIST} is missing"))?;
        // The error of the parser may quote the text, which has secrets.
        let list: Value =
            serde_json::from_str(list.expose_secret()).map_err(|_| format!("{WEBHOOKS_LIST} is no JSON"))?;
        realtime_webhooks::parse(&list).map_err(|error| error.to_string())
    }

    /// Its token secret in clear.
    ///
    /// # Errors
    /// When it cannot be decrypted.
    pub fn decrypt_jwt_secret(&self, ciphers: &Ciphers) -> Result<Option<SecretString>, CipherError> {
        self.jwt_secret.as_ref().map(|secret| ciphers.decrypt(secret)).transpose()
    }

    /// Whether a value of its own is still of the older form (http_and_ops 7.3).
    #[must_use]
    pub fn has_legacy_ciphertext(&self) -> bool {
        self.jwt_secret.as_ref().is_some_and(Ciphertext::is_legacy)
            || self.extensions.iter().any(ExtensionRecord::has_legacy_ciphertext)
    }
}

impl fmt::Debug for TenantRecord {
    /// Without the key set, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantRecord")
            .field("id", &self.id)
            .field("external_id", &self.external_id)
            .field("name", &self.name)
            .field("jwt_secret", &self.jwt_secret)
            .field("jwt_jwks", &self.jwt_jwks.is_some())
            .field("suspend", &self.suspend)
            .field("private_only", &self.private_only)
            .field("gcm_migrated_at", &self.gcm_migrated_at)
            .field("updated_at", &self.updated_at)
            .field("extensions", &self.extensions)
            .finish_non_exhaustive()
    }
}

/// A row of `_realtime.extensions`.
#[derive(Clone, PartialEq)]
pub struct ExtensionRecord {
    /// Primary key.
    pub id: Uuid,
    /// Column `type`.
    pub kind: String,
    /// Settings as they are stored: those of [`ENCRYPTED_SETTINGS`] are ciphertext.
    pub settings: Map<String, Value>,
    /// When it was made, in UTC.
    pub inserted_at: DateTime,
    /// When it was last changed, in UTC.
    pub updated_at: DateTime,
}

impl ExtensionRecord {
    /// One of the settings that are kept encrypted; `None` if it is not there.
    #[must_use]
    pub fn ciphertext(&self, setting: &str) -> Option<Ciphertext> {
        let encrypted = encrypted_settings(&self.kind).contains(&setting);
        self.settings.get(setting).and_then(Value::as_str).filter(|_| encrypted).map(Ciphertext::new)
    }

    /// One of the settings that are kept encrypted, in clear.
    ///
    /// # Errors
    /// When it cannot be decrypted.
    pub fn decrypt(&self, setting: &str, ciphers: &Ciphers) -> Result<Option<SecretString>, CipherError> {
        self.ciphertext(setting).map(|value| ciphers.decrypt(&value)).transpose()
    }

    /// A text setting that is kept in clear.
    #[must_use]
    pub fn text(&self, setting: &str) -> Option<&str> {
        self.settings.get(setting).and_then(Value::as_str)
    }

    /// A number setting that is kept in clear; text of digits counts.
    #[must_use]
    pub fn integer(&self, setting: &str) -> Option<i64> {
        let value = self.settings.get(setting)?;
        value.as_i64().or_else(|| value.as_str()?.parse().ok())
    }

    fn has_legacy_ciphertext(&self) -> bool {
        let mut names = encrypted_settings(&self.kind).iter();
        names.any(|name| self.ciphertext(name).is_some_and(|value| value.is_legacy()))
    }
}

impl fmt::Debug for ExtensionRecord {
    /// Names of the settings alone: those of unknown extensions are not encrypted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtensionRecord")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("settings", &self.settings.keys().collect::<Vec<_>>())
            .field("inserted_at", &self.inserted_at)
            .field("updated_at", &self.updated_at)
            .finish()
    }
}
