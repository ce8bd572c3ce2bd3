//! A client's verified token.

use std::{sync::Arc, time::Duration};

use realtime_auth::{Claims, SKEW};
use tokio::time::Instant;

/// How often a valid token is verified again (protocol 8.5).
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

    /// The token of a client on a server that asks for none. It cannot be verified anywhere.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { text: "".into(), role: "".into(), claims: "{}".into(), exp: i64::MAX }
    }

    /// When the token is verified again: at its expiry, or after [`RECHECK`]. A token that came after its expiry stays
    /// valid for as long as clocks may differ.
    #[must_use]
    pub fn recheck_at(&self, unix_seconds: u64) -> Instant {
        let exp = u64::try_from(self.exp).unwrap_or(0);
        let end = if exp > unix_seconds { exp } else { exp.saturating_add(SKEW) };
        let left = end.saturating_sub(unix_seconds);
        Instant::now() + RECHECK.min(Duration::from_secs(left))
    }
}
