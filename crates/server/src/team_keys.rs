//! The keys of Cloudflare Access, which sign the tokens of the dashboard's users (http_and_ops 3.1).

use std::time::Duration;

use realtime_auth::Jwks;

/// The path of a team's keys.
const CERTS: &str = "/cdn-cgi/access/certs";

/// How long the keys may take to come.
const FETCH_LIMIT: Duration = Duration::from_secs(5);

/// Largest answer that is read, in bytes: a key set has a few thousand.
const MAX_KEYS: usize = 256 * 1024;

/// Why there are no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Nobody answers there, or not with success.
    #[error("The keys cannot be fetched: {0}")]
    Unreachable(String),
    /// What is there is no key set.
    #[error("What was fetched is no key set: {0}")]
    NoKeySet(&'static str),
    /// The set has no key that tokens can be verified with.
    #[error("The key set has no key that can be used")]
    NoKey,
}

/// The address of a team's keys. `team` is an origin.
#[must_use]
pub fn address(team: &str) -> String {
    format!("{team}{CERTS}")
}

/// A client to fetch them with.
///
/// # Errors
/// When the system's certificates cannot be read.
pub fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(FETCH_LIMIT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
}

/// Fetches the keys of a team. At least one of them can be used.
///
/// # Errors
/// Why there are none.
pub async fn fetch(client: &reqwest::Client, team: &str) -> Result<Jwks, KeysError> {
    let unreachable = |error: reqwest::Error| KeysError::Unreachable(realtime_tls::describe(&error));
    let answer = client.get(address(team)).send().await.and_then(reqwest::Response::error_for_status);
    let mut answer = answer.map_err(unreachable)?;
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&part);
        if body.len() > MAX_KEYS {
            return Err(KeysError::NoKeySet("it is too large"));
        }
    }
    let text = String::from_utf8(body).map_err(|_| KeysError::NoKeySet("it is no text"))?;
    let jwks = Jwks::parse(&text);
    let jwks = jwks.map_err(|_| KeysError::NoKeySet("it must be a JSON object with a list `keys`"))?;
    if jwks.is_usable() { Ok(jwks) } else { Err(KeysError::NoKey) }
}
