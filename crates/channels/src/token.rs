//! A client's token, once it was verified.

use std::{sync::Arc, time::Duration};

use realtime_auth::{Claims, SKEW};
use tokio::time::Instant;

/// How often a token is verified again while it lasts (protocol 8.5).
const RECHECK: Duration = Duration::from_secs(300);

/// A verified token. Shared by the channels that use it.
#[derive(Debug)]
pub struct Token {
    /// As the client sent it.
    pub text: Box<str>,
    /// Its `role` claim.
    pub role: Arc<str>,
    /// All claims, as JSON.
    pub claims: Arc<str>,
    /// Expiry in Unix seconds.
    pub exp: i64,
}

impl Token {
    /// Keeps what channels need of a verified token.
    #[must_use]
    pub fn new(text: &str, claims: &Claims) -> Self {
        Self {
            text: text.into(),
            role: claims.role().into(),
            claims: claims.json().into(),
            exp: claims.exp(),
        }
    }

    /// That of a client that nobody asked for one. It verifies nowhere.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { text: "".into(), role: "".into(), claims: "{}".into(), exp: i64::MAX }
    }

    /// When it has to be verified again: at its expiry, and at the latest after [`RECHECK`]. One that came after its expiry
    /// lasts as long as clocks may differ.
    #[must_use]
    pub fn recheck_at(&self, unix_seconds: u64) -> Instant {
        let exp = u64::try_from(self.exp).unwrap_or(0);
        let end = if exp > unix_seconds { exp } else { exp.saturating_add(SKEW) };
        let left = end.saturating_sub(unix_seconds);
        Instant::now() + RECHECK.min(Duration::from_secs(left))
    }
}
