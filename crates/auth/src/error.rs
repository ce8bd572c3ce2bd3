//! Why a token is refused, and the texts for each place where clients see it (protocol 1.6, 4.6, 5.6, 13).

use std::borrow::Cow;

use realtime_codes::ErrorCode;

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Not three parts of base64url, or header or claims are not JSON objects.
    #[error("The token provided is not a valid JWT")]
    Malformed,
    /// The signature does not verify.
    #[error("Failed to validate JWT signature")]
    Signature,
    /// There is no key for the token's algorithm.
    #[error("Failed to generate JWT signer, check your JWT secret or JWKS configuration")]
    Signer,
    /// The key set has no usable key of the token's `kid`.
    #[error(
        "Failed to generate JWT signer for key ID (kid) \"{0}\", check your JWT secret or JWKS configuration"
    )]
    SignerForKid(String),
    /// Expired this many seconds ago, perhaps 0.
    #[error("Token has expired {0} seconds ago")]
    Expired(u64),
    /// Its `nbf` or `iat` is this many seconds ahead.
    #[error("Token is not valid before {0} seconds from now")]
    NotYetValid(u64),
    /// The header has `crit`: it demands extensions that we do not support.
    #[error("Header `crit` is not supported in JWT")]
    Critical,
    /// A token for tenants must have `role` and `exp`.
    #[error("Fields `role` and `exp` are required in JWT")]
    MissingFields,
    /// A fractional expiry that rounds to the present second.
    #[error("Token expiration time is invalid")]
    ExpirationInvalid,
    /// A claim has the wrong type, or not the value that the server's settings demand.
    #[error("Claim `{0}` is not valid in JWT")]
    Claim(String),
}

impl AuthError {
    /// HTTP status and text for a refused handshake.
    #[must_use]
    pub fn handshake(&self) -> (u16, Cow<'static, str>) {
        let text = match self {
            Self::Expired(_) => "Token has expired".into(),
            Self::NotYetValid(_) => "Token is not valid yet".into(),
            Self::ExpirationInvalid | Self::Claim(_) => "Error connecting to Realtime".into(),
            other => other.to_string().into(),
        };
        (401, text)
    }

    /// `reason` of a refused join.
    #[must_use]
    pub fn join_reason(&self) -> Cow<'static, str> {
        match self {
            Self::Claim(_) => "Unknown Error on Channel".into(),
            other => format!("{}: {other}", self.code()).into(),
        }
    }

    /// Message of the `system` frame before a channel is closed.
    #[must_use]
    pub fn system_message(&self) -> String {
        self.to_string()
    }

    /// Operators' code, as text.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.error_code().as_str()
    }

    /// Operators' code.
    #[must_use]
    pub const fn error_code(&self) -> ErrorCode {
        match self {
            Self::Malformed | Self::Critical => ErrorCode::MalformedJWT,
            Self::Signature => ErrorCode::JwtSignatureError,
            Self::Signer | Self::SignerForKid(_) => ErrorCode::JwtSignerError,
            Self::Expired(_)
            | Self::NotYetValid(_)
            | Self::MissingFields
            | Self::ExpirationInvalid
            | Self::Claim(_) => ErrorCode::InvalidJWTToken,
        }
    }
}
