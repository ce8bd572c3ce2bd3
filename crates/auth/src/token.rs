//! Tokens as text: cleaning, parts, which one a channel uses, signing.

use std::borrow::Cow;

use aws_lc_rs::hmac;
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::AuthError;

/// base64url; padding is never written, and accepted when reading.
pub(crate) const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The parts of a token; nothing is verified yet.
pub(crate) struct Parts {
    pub(crate) header: Map<String, Value>,
    pub(crate) claims: Map<String, Value>,
    /// The claims as they were written.
    pub(crate) claims_text: String,
    /// What was signed: header and claims, encoded, with the dot.
    pub(crate) signed: String,
    pub(crate) signature: Vec<u8>,
}

impl Parts {
    /// Cleans a token (protocol 8.1) and takes it apart.
    pub(crate) fn of(token: &str) -> Result<Self, AuthError> {
        let cleaned = clean(token)?;
        let (signed, signature) = cleaned.rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(AuthError::Malformed)?;
        let decode = |part: &str| BASE64URL.decode(part).map_err(|_| AuthError::Malformed);
        let signature = decode(signature)?;
        let header = serde_json::from_slice(&decode(header)?).map_err(|_| AuthError::Malformed)?;
        let claims_text = String::from_utf8(decode(claims)?).map_err(|_| AuthError::Malformed)?;
        let claims = serde_json::from_str(&claims_text).map_err(|_| AuthError::Malformed)?;
        Ok(Self { header, claims, claims_text, signed: signed.to_owned(), signature })
    }
}

/// Cleans a token: percent-decoded, without white space (protocol 8.1).
///
/// # Errors
/// [`AuthError::Malformed`] if it is not text.
pub fn clean(token: &str) -> Result<String, AuthError> {
    let decoded: Cow<'_, str> = percent_decode_str(token).decode_utf8().map_err(|_| AuthError::Malformed)?;
    let mut cleaned = decoded.into_owned();
    cleaned.retain(|c| !c.is_whitespace());
    Ok(cleaned)
}

/// Whether a token is a gateway's API key (`sb_…`): ignored wherever a JWT is expected (protocol 4.4).
#[must_use]
pub fn is_api_key(token: &str) -> bool {
    token.starts_with("sb_")
}

/// The token a channel uses (protocol 4.4): its own, under either name, unless that is an API key; else the
/// one the socket connected with.
#[must_use]
pub fn channel_token<'a>(
    tenant_token: &'a str,
    access_token: Option<&'a str>,
    user_token: Option<&'a str>,
) -> &'a str {
    if access_token.or(user_token).is_some_and(is_api_key) {
        return tenant_token;
    }
    user_token.or(access_token).unwrap_or(tenant_token)
}

/// Signs claims, given as JSON text, with HS256.
#[must_use]
pub fn sign_hs256(secret: &str, claims: &str) -> String {
    let signed =
        format!("{}.{}", BASE64URL.encode(r#"{"alg":"HS256","typ":"JWT"}"#), BASE64URL.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = BASE64URL.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// protocol 32
    #[test]
    fn which_token_a_channel_uses() {
        let of = |access, user| channel_token("tenant", access, user);
        assert_eq!(of(None, None), "tenant");
        assert_eq!(of(Some("a"), None), "a");
        assert_eq!(of(None, Some("u")), "u");
        assert_eq!(of(Some("a"), Some("u")), "u");
        assert_eq!(of(Some("sb_publishable_x"), Some("u")), "tenant");
        assert_eq!(of(None, Some("sb_secret_x")), "tenant");
    }
}
