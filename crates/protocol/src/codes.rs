//! The codes that operators know errors by (http_and_ops 10, protocol 13).

/// Code of an operational error: a label in logs and metrics, and the prefix of join refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(&'static str);

impl ErrorCode {
    /// As it is written in logs and join replies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

macro_rules! codes {
    ($($name:ident = $text:literal),+ $(,)?) => {
        #[allow(missing_docs, reason = "the name says what the code says")]
        impl ErrorCode {
            $(pub const $name: Self = Self($text);)+
        }
    };
}

codes! {
    CHANNEL_RATE_LIMIT_REACHED = "ChannelRateLimitReached",
    CHANNEL_SHUTDOWN = "ChannelShutdown",
    CLIENT_JOIN_RATE_LIMIT_REACHED = "ClientJoinRateLimitReached",
    CONNECTION_RATE_LIMIT_REACHED = "ConnectionRateLimitReached",
    ERROR_CONNECTING_TO_WEBSOCKET = "ErrorConnectingToWebsocket",
    INVALID_JOIN_PAYLOAD = "InvalidJoinPayload",
    JOINS_RATE_LIMIT_REACHED = "JoinsRateLimitReached",
    MALFORMED_WEBSOCKET_MESSAGE = "MalformedWebSocketMessage",
    MISSING_API_KEY = "MissingAPIKey",
    PRIVATE_ONLY = "PrivateOnly",
    REALTIME_DISABLED_FOR_CONFIGURATION = "RealtimeDisabledForConfiguration",
    REALTIME_DISABLED_FOR_TENANT = "RealtimeDisabledForTenant",
    REALTIME_RESTARTING = "RealtimeRestarting",
    TENANT_NOT_FOUND = "TenantNotFound",
    TOPIC_NAME_REQUIRED = "TopicNameRequired",
    UNABLE_TO_REPLAY_MESSAGES = "UnableToReplayMessages",
    UNABLE_TO_SUBSCRIBE_TO_POSTGRES = "UnableToSubscribeToPostgres",
    UNAUTHORIZED = "Unauthorized",
    UNKNOWN_ERROR_ON_CHANNEL = "UnknownErrorOnChannel",
    UNKNOWN_ERROR_ON_WEBSOCKET_MESSAGE = "UnknownErrorOnWebSocketMessage",
}
