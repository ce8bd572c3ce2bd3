//! How the first generation is served (legacy 5.3, 9.3).

use std::time::Duration;

use realtime_legacy::{ConfigFile, Profile};
use secrecy::SecretString;

/// Which engine serves joins without `config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyEngine {
    /// That of the second generation, as the reference has it: every subscriber gets what its role may see.
    Rls,
    /// Every change goes to everybody who joined a topic of it.
    Stream,
}

/// How the first generation is served.
#[derive(Debug, Clone)]
pub struct LegacySettings {
    /// The engine.
    pub engine: LegacyEngine,
    /// Nothing but the first generation is wanted: its answers, and none of the HTTP API.
    pub pure: bool,
    /// Which versions are emulated.
    pub profile: Profile,
    /// Tokens are asked for.
    pub secure: bool,
    /// Publications that the stream engine reads.
    pub publications: Vec<String>,
    /// The permanent replication slot; `None`: a temporary one.
    pub slot: Option<String>,
    /// Bytes of the log that the slot may keep before it is given up; 0 for any number.
    pub max_lag_bytes: u64,
    /// How long after the start a permanent slot is read that was there before.
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
    /// Attempts after the first that failed.
    pub retries: u32,
    /// Pause before the first of them; it doubles.
    pub retry_delay: Duration,
    /// Key of signatures; without one nothing is signed.
    pub secret: Option<SecretString>,
    /// Largest body in bytes. A transaction with a larger one is not posted.
    pub max_body: usize,
}
