//! Refused handshakes and joins: the texts that clients match on (protocol 1.6, 4.6, 13).

use std::borrow::Cow;

use realtime_codes::ErrorCode;

use crate::join::JoinPayloadError;

/// Why a connection is refused before the upgrade. Token problems come from the token's verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeRefusal {
    /// The host names no tenant.
    TenantNotFound,
    /// The tenant is suspended.
    RealtimeDisabledForTenant,
    /// Neither header `x-api-key` nor parameter `apikey`.
    MissingApiKey,
    /// The tenant has as many users as it may.
    ConnectionRateLimitReached,
    /// The tenant's joins limiter is triggered.
    JoinsRateLimitReached,
}

impl HandshakeRefusal {
    /// HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::TenantNotFound => 404,
            Self::RealtimeDisabledForTenant => 403,
            Self::MissingApiKey => 401,
            Self::ConnectionRateLimitReached | Self::JoinsRateLimitReached => 429,
        }
    }

    /// Value of `error` in the body.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::TenantNotFound => "Tenant not found",
            Self::RealtimeDisabledForTenant => "Realtime was disabled for this tenant",
            Self::MissingApiKey => "API key is missing",
            Self::ConnectionRateLimitReached => "Too many connected users",
            Self::JoinsRateLimitReached => "Too many joins per second",
        }
    }

    /// Operators' code.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::TenantNotFound => ErrorCode::TenantNotFound,
            Self::RealtimeDisabledForTenant => ErrorCode::RealtimeDisabledForTenant,
            Self::MissingApiKey => ErrorCode::MissingAPIKey,
            Self::ConnectionRateLimitReached => ErrorCode::ConnectionRateLimitReached,
            Self::JoinsRateLimitReached => ErrorCode::JoinsRateLimitReached,
        }
    }
}

/// Why a join is refused. `Display` is the `reason` of the reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// Topic `realtime:` with nothing after it.
    #[error("TopicNameRequired: You must provide a topic name")]
    TopicNameRequired,
    /// The node is going down.
    #[error("RealtimeRestarting: Realtime is restarting, please standby")]
    RealtimeRestarting,
    /// The tenant is gone. Closes the socket.
    #[error("TenantNotFound: Tenant with the given ID does not exist")]
    TenantNotFound,
    /// The tenant allows private channels only.
    #[error("PrivateOnly: This project only allows private channels")]
    PrivateOnly,
    /// The tenant has as many users as it may have.
    #[error("ConnectionRateLimitReached: Too many connected users")]
    ConnectionRateLimitReached,
    /// The joins limiter is triggered. Closes the socket.
    #[error("ClientJoinRateLimitReached: Too many joins per second")]
    ClientJoinRateLimitReached,
    /// The socket has as many channels as it may have.
    #[error("ChannelRateLimitReached: Too many channels")]
    ChannelRateLimitReached,
    /// The policies let nobody of this token read the private topic.
    #[error("Unauthorized: You do not have permissions to read from this Channel topic: {0}")]
    Unauthorized(Box<str>),
    /// `replay` on a public channel.
    #[error("UnableToReplayMessages: Replay is not allowed for public channels")]
    ReplayOnPublicChannel,
    /// A part of the join is too large, or is ambiguous where a guess could weaken a protection.
    #[error("InvalidJoinPayload: {0}")]
    InvalidJoinPayload(Cow<'static, str>),
    /// The payload is not of the form that a join must have.
    #[error("UnknownErrorOnChannel: {0}")]
    UnknownErrorOnChannel(Cow<'static, str>),
    /// A reason from another part of the server: the token, the database.
    #[error("{reason}")]
    Other {
        /// The whole `reason`.
        reason: Cow<'static, str>,
        /// Operators' code.
        code: &'static str,
    },
}

impl From<JoinPayloadError> for JoinRefusal {
    fn from(error: JoinPayloadError) -> Self {
        let text = error.to_string().into();
        match error {
            JoinPayloadError::NoObject(_) => Self::UnknownErrorOnChannel(text),
            _ => Self::InvalidJoinPayload(text),
        }
    }
}

impl JoinRefusal {
    /// Operators' code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        let code = match self {
            Self::TopicNameRequired => ErrorCode::TopicNameRequired,
            Self::RealtimeRestarting => ErrorCode::RealtimeRestarting,
            Self::TenantNotFound => ErrorCode::TenantNotFound,
            Self::PrivateOnly => ErrorCode::PrivateOnly,
            Self::ConnectionRateLimitReached => ErrorCode::ConnectionRateLimitReached,
            Self::ClientJoinRateLimitReached => ErrorCode::ClientJoinRateLimitReached,
            Self::ChannelRateLimitReached => ErrorCode::ChannelRateLimitReached,
            Self::Unauthorized(_) => ErrorCode::Unauthorized,
            Self::ReplayOnPublicChannel => ErrorCode::UnableToReplayMessages,
            Self::InvalidJoinPayload(_) => ErrorCode::InvalidJoinPayload,
            Self::UnknownErrorOnChannel(_) => ErrorCode::UnknownErrorOnChannel,
            Self::Other { code, .. } => return code,
        };
        code.as_str()
    }

    /// Whether the socket is closed after the reply, with code 1001.
    #[must_use]
    pub const fn closes_socket(&self) -> bool {
        matches!(self, Self::TenantNotFound | Self::ClientJoinRateLimitReached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_begin_with_their_code() {
        for refusal in [
            JoinRefusal::TopicNameRequired,
            JoinRefusal::RealtimeRestarting,
            JoinRefusal::TenantNotFound,
            JoinRefusal::PrivateOnly,
            JoinRefusal::ConnectionRateLimitReached,
            JoinRefusal::ClientJoinRateLimitReached,
            JoinRefusal::ChannelRateLimitReached,
            JoinRefusal::Unauthorized("x".into()),
            JoinRefusal::ReplayOnPublicChannel,
            JoinRefusal::InvalidJoinPayload("x".into()),
            JoinRefusal::UnknownErrorOnChannel("x".into()),
        ] {
            assert!(refusal.to_string().starts_with(&format!("{}: ", refusal.code())), "{refusal}");
        }
    }
}
