//! Real PostgreSQL, real server processes and a channel client, for tests and bench. No mocks.

mod nats;
mod pg;
mod server;
mod ws;

pub use nats::{Link, Nats, until};
pub use pg::{MAX_CONNECTIONS, TestDb, cluster};
pub use server::{Answer, Server, ServerOptions, Usage, http};
pub use ws::{Frame, Refused, Socket, Version};

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Secret of the tokens of test servers.
pub const SECRET: &str = "a-secret-of-the-tests-with-enough-characters";

/// How long anything that should come may take. Generous: a machine may be ten times slower than this one, and what
/// comes comes at once. Nothing is proved by waiting this long; only tests that fail ever do.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A port of this machine that nothing listens on, for those who have to name one, or to listen on one again.
///
/// None of those that the system gives to outgoing connections: these could take it at any time.
///
/// # Errors
/// When none is to be had.
pub fn free_port() -> std::io::Result<u16> {
    realtime_localpg::free_port()
}

/// Seconds since 1970.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A token with these claims.
#[must_use]
pub fn sign(claims: &Value) -> String {
    sign_with(SECRET, claims)
}

/// A token with these claims, signed with another secret.
#[must_use]
pub fn sign_with(secret: &str, claims: &Value) -> String {
    realtime_auth::sign_hs256(secret, &claims.to_string())
}

/// A token of a role, good for an hour.
#[must_use]
pub fn token(role: &str) -> String {
    sign(&json!({"role": role, "exp": unix_now() + 3600}))
}
