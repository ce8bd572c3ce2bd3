//! From what was seen to what is told.

use realtime_channels::token::Token;
use realtime_doctor::explain::{Explanation, Seen, TokenSeen, explain};
use realtime_postgres::{ConnectError, ExplainRequest, TenantDatabase};

use super::asked::Asked;

/// The explanation for a token that was verified. `operator`: whoever asks may know what the token may not.
///
/// # Errors
/// [`ConnectError`] when the database cannot be asked.
pub async fn of_token(
    database: &TenantDatabase,
    token: &Token,
    now: u64,
    asked: &Asked,
    operator: bool,
) -> Result<Explanation, ConnectError> {
    let request = ExplainRequest {
        role: token.role.to_string(),
        claims: token.claims.to_string(),
        schema: asked.schema.clone(),
        table: asked.table.clone(),
        spec: asked.spec.clone(),
        key: asked.key.clone(),
        operator,
    };
    let seen = database.explain(&request).await?;
    let claims: serde_json::Value = serde_json::from_str(&token.claims).unwrap_or_default();
    let subject = claims["sub"].as_str().map(str::to_owned);
    let seconds_left = token.exp.checked_sub(i64::try_from(now).unwrap_or(i64::MAX));
    let token = TokenSeen { role: request.role, subject, seconds_left, refused: None };
    Ok(explain(&Seen { token, ..seen }))
}

/// The explanation for a token that was refused.
#[must_use]
pub fn of_refused(why: String, asked: &Asked) -> Explanation {
    let token = TokenSeen { refused: Some(why), ..TokenSeen::default() };
    let Asked { schema, table, .. } = asked.clone();
    explain(&Seen { token, schema, table, ..Seen::default() })
}
