//! Cloudflare Access: a request that comes through it has a token, which its keys verify (http_and_ops 3.1).

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use realtime_auth::{AuthError, ClaimValidators, Keys, Verifier};
use realtime_channels::tenant_runtime::Clock;
use serde_json::{Map, Value};
use tokio::{sync::Mutex, time::Instant};

use crate::{answers::text, team_keys};

/// The header with the token.
const HEADER: &str = "cf-access-jwt-assertion";

/// Age at which keys are fetched again. They change every few weeks, and old ones stay valid for days.
const KEYS_LIFE: Duration = Duration::from_secs(3600);

/// Shortest time between two fetches because of a token with an unknown key.
const RETRY: Duration = Duration::from_secs(10);

/// While there are no keys at all, everyone who asks within this time after a failure gets the same failure.
const FAILURE_LIFE: Duration = Duration::from_secs(1);

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It has no valid token.
    Denied(&'static str),
    /// The keys cannot be fetched.
    Unavailable,
}

/// Verifies the tokens of a team.
pub struct Zta {
    team: String,
    audience: Option<String>,
    client: reqwest::Client,
    /// Locked while keys are being fetched, so that all who wait share one answer.
    keys: Mutex<Cached>,
}

#[derive(Default)]
struct Cached {
    verifier: Option<(Instant, Arc<Verifier>)>,
    tried: Option<Instant>,
}

impl Zta {
    /// Verifies tokens of a team, for one application if it is named. `team` is an origin.
    pub fn new(team: String, audience: Option<String>) -> reqwest::Result<Self> {
        Ok(Self { team, audience, client: team_keys::client()?, keys: Mutex::default() })
    }

    /// The person who asks, if their token is valid.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<String, Refusal> {
        let token = text(headers, HEADER).ok_or(Refusal::Denied("no token"))?;
        let now = Clock::System.unix_seconds();
        let verified = match self.verifier(false).await?.verify_any(token, now) {
            // The token's key may be newer than ours.
            Err(AuthError::SignerForKid(_)) => self.verifier(true).await?.verify_any(token, now),
            verified => verified,
        };
        let claims = verified.map_err(|_| Refusal::Denied("a token that is not good"))?;
        self.check(&claims, now)
    }

    /// Checks what the signature does not prove: that the token is of this team, for this application, and expires.
    fn check(&self, claims: &Map<String, Value>, now: u64) -> Result<String, Refusal> {
        if claims.get("iss").and_then(Value::as_str) != Some(&self.team) {
            return Err(Refusal::Denied("a token of another team"));
        }
        if !claims.contains_key("exp") {
            return Err(Refusal::Denied("a token that does not end"));
        }
        if claims.get("nbf").and_then(Value::as_f64).is_some_and(|from| from > now as f64) {
            return Err(Refusal::Denied("a token that is not good yet"));
        }
        if let Some(wanted) = &self.audience {
            let named = match claims.get("aud") {
                Some(Value::Array(all)) => all.iter().any(|aud| aud.as_str() == Some(wanted)),
                Some(Value::String(aud)) => aud == wanted,
                _ => false,
            };
            if !named {
                return Err(Refusal::Denied("a token for another application"));
            }
        }
        let who = ["email", "common_name", "sub"].iter().find_map(|name| claims.get(*name)?.as_str());
        Ok(who.unwrap_or("unknown").to_owned())
    }

    /// The cached keys, or fresh ones. If fresh ones cannot be fetched, older ones stay in use.
    async fn verifier(&self, fresh: bool) -> Result<Arc<Verifier>, Refusal> {
        let mut cached = self.keys.lock().await;
        let tried_lately = cached.tried.is_some_and(|tried| tried.elapsed() < RETRY);
        if let Some((fetched, verifier)) = &cached.verifier
            && (tried_lately || (!fresh && fetched.elapsed() < KEYS_LIFE))
        {
            return Ok(Arc::clone(verifier));
        }
        if cached.verifier.is_none() && cached.tried.is_some_and(|tried| tried.elapsed() < FAILURE_LIFE) {
            return Err(Refusal::Unavailable);
        }
        match team_keys::fetch(&self.client, &self.team).await {
            Ok(jwks) => {
                let verifier = Verifier::new(Keys::new(None, Some(jwks)), ClaimValidators::default());
                let verifier = Arc::new(verifier);
                let now = Instant::now();
                *cached = Cached { verifier: Some((now, Arc::clone(&verifier))), tried: Some(now) };
                Ok(verifier)
            }
            Err(error) => {
                cached.tried = Some(Instant::now());
                let url = team_keys::address(&self.team);
                tracing::error!(
                    url,
                    %error,
                    "there are no keys of Cloudflare Access, so nobody new can log in to the dashboard; check CF_TEAM_DOMAIN"
                );
                match &cached.verifier {
                    Some((_, verifier)) => Ok(Arc::clone(verifier)),
                    None => Err(Refusal::Unavailable),
                }
            }
        }
    }
}
