//! The claims of a token, and what they must be (protocol 8.3, spec README decision 8).

use serde_json::{Map, Value};

use crate::AuthError;

/// How far the clocks of token issuers may differ from ours, in seconds: more than machines with NTP differ, and so little
/// that nobody profits from it.
pub const SKEW: u64 = 5;

/// The claims of a verified token.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    role: String,
    exp: i64,
    json: String,
}

impl Claims {
    /// The database role that the token stands for.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Expiry in Unix seconds, rounded.
    #[must_use]
    pub fn exp(&self) -> i64 {
        self.exp
    }

    /// All claims as JSON text; fractional `exp` and `iat` are rounded.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The claims of a token of the first generation, which needs none: without `role` it stands for no role (the empty name),
    /// without `exp` it never expires.
    pub(crate) fn of_first_generation(claims: Map<String, Value>, text: String) -> Self {
        let role = claims.get("role").and_then(Value::as_str).unwrap_or_default().to_owned();
        let exp = claims.get("exp").and_then(rounded).unwrap_or(i64::MAX);
        Self { role, exp, json: with_whole_seconds(claims, text) }
    }

    /// Checks the claims that every token for a tenant must have.
    pub(crate) fn of_tenant(claims: Map<String, Value>, text: String, now: u64) -> Result<Self, AuthError> {
        let (Some(role), Some(exp)) = (claims.get("role"), claims.get("exp")) else {
            return Err(AuthError::MissingFields);
        };
        let role = role.as_str().ok_or_else(|| AuthError::Claim("role".into()))?.to_owned();
        let exp = rounded(exp).ok_or_else(|| AuthError::Claim("exp".into()))?;
        if u64::try_from(exp).unwrap_or(0).saturating_add(SKEW) <= now {
            return Err(AuthError::ExpirationInvalid);
        }
        Ok(Self { role, exp, json: with_whole_seconds(claims, text) })
    }
}

/// Checks `exp`, `nbf`, `iat` and the validators. Absent claims pass, except configured ones. Clocks may differ by [`SKEW`].
pub(crate) fn check(
    claims: &Map<String, Value>,
    validators: &ClaimValidators,
    now: u64,
) -> Result<(), AuthError> {
    if let Some(exp) = claims.get("exp") {
        let Value::Number(number) = exp else { return Err(AuthError::Claim("exp".into())) };
        let expired = match (number.as_u64(), number.as_f64()) {
            (Some(seconds), _) => seconds.saturating_add(SKEW) <= now,
            (None, Some(seconds)) => seconds + SKEW as f64 <= now as f64,
            (None, None) => true,
        };
        if expired {
            let exp = rounded(exp).unwrap_or(0);
            let ago = i128::from(now) - i128::from(exp);
            return Err(AuthError::Expired(u64::try_from(ago).unwrap_or(0)));
        }
    }
    for name in ["nbf", "iat"] {
        let Some(begin) = claims.get(name) else { continue };
        let begin = begin.as_f64().ok_or_else(|| AuthError::Claim(name.into()))?;
        let ahead = begin - now as f64;
        if ahead > SKEW as f64 {
            // The cast saturates.
            return Err(AuthError::NotYetValid(ahead.ceil() as u64));
        }
    }
    validators.check(claims)
}

/// A number of seconds, rounded to the nearest whole one.
fn rounded(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let seconds = value.as_f64()?.round();
        // Far beyond any date; a cast would otherwise hide the overflow.
        (seconds.abs() < 9e15).then_some(seconds as i64)
    })
}

/// The claims' text, with fractional times rounded; unchanged if there are none.
fn with_whole_seconds(mut claims: Map<String, Value>, text: String) -> String {
    let mut changed = false;
    for name in ["exp", "iat"] {
        if let Some(value) = claims.get_mut(name)
            && value.is_f64()
            && let Some(seconds) = rounded(value)
        {
            *value = seconds.into();
            changed = true;
        }
    }
    if changed { Value::Object(claims).to_string() } else { text }
}

/// Values that claims must have (`JWT_CLAIM_VALIDATORS`).
#[derive(Debug, Clone, Default)]
pub struct ClaimValidators {
    expected: Map<String, Value>,
    lenient: bool,
}

/// The setting is not a JSON object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a JSON object of claims and the values they must have")]
pub struct ClaimValidatorsError;

impl ClaimValidators {
    /// Reads a JSON object of claims and the values they must have. `lenient` lets tokens pass that lack a
    /// configured claim, as the reference does.
    ///
    /// # Errors
    /// [`ClaimValidatorsError`] when the text is anything else.
    pub fn parse(json: &str, lenient: bool) -> Result<Self, ClaimValidatorsError> {
        let expected = serde_json::from_str(json).map_err(|_| ClaimValidatorsError)?;
        Ok(Self { expected, lenient })
    }

    fn check(&self, claims: &Map<String, Value>) -> Result<(), AuthError> {
        for (name, expected) in &self.expected {
            let passes = match claims.get(name) {
                Some(value) => value == expected,
                None => self.lenient,
            };
            if !passes {
                return Err(AuthError::Claim(name.clone()));
            }
        }
        Ok(())
    }
}
