//! How the first generation is served (legacy 5.3, 9.3).

use std::time::Duration;

use realtime_legacy::{ConfigFile, Profile};
use secrecy::SecretString;

/// Which engine serves joins without `config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyEngine {
    /// The engine of the second generation, as in the reference: every subscriber gets what its role may see.
    Rls,
    /// Everyone who joined a topic gets every change of it.
    Stream,
}

/// How the first generation is served.
#[derive(Debug, Clone)]
pub struct LegacySettings {
    /// The engine.
    pub engine: LegacyEngine,
    /// Only the first generation is wanted: its answers, and no HTTP API.
    pub pure: bool,
    /// Which versions are emulated.
    pub profile: Profile,
    /// Whether clients need a token.
    pub secure: bool,
    /// Publications that the stream engine reads.
    pub publications: Vec<String>,
    /// The permanent replication slot; `None`: a temporary one.
    pub slot: Option<String>,
    /// Bytes of the log that the slot may keep before it is given up; 0 for any number.
    pub max_lag_bytes: u64,
    /// How long after the start an existing permanent slot is read.
    pub resume_delay: Duration,
    /// What is broadcast, and the webhooks.
    pub file: ConfigFile,
    /// How webhooks are posted.
    pub webhooks: WebhookSettings,
    /// Whether `/metrics` is there, without a token.
    pub expose_metrics: bool,
}

/// How webhooks are posted (legacy 6).
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Headers beside `content-type`.
    pub headers: Vec<(String, String)>,
    /// Longest time for an answer.
    pub timeout: Duration,
    /// Further attempts after the first one has failed.
    pub retries: u32,
    /// Pause before the second attempt; it doubles with each one.
    pub retry_delay: Duration,
    /// Key of signatures. `None`: webhooks are not signed.
    pub secret: Option<SecretString>,
    /// Largest body in bytes. A transaction with a larger one is not posted.
    pub max_body: usize,
}
