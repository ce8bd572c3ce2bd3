//! Why the server ends a channel.

use std::borrow::Cow;

use realtime_auth::AuthError;

/// The text for the client and the log (protocol 3.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stop(pub(super) Cow<'static, str>);

impl From<&'static str> for Stop {
    fn from(text: &'static str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Stop {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Cow<'static, str>> for Stop {
    fn from(text: Cow<'static, str>) -> Self {
        Self(text)
    }
}

impl From<AuthError> for Stop {
    fn from(error: AuthError) -> Self {
        error.system_message().into()
    }
}

/// A channel is stopped that was sent a frame while its tenant had too many messages (protocol 5.3).
pub(super) const TOO_MANY_EVENTS: &str = "Too many messages per second";

/// A channel is stopped whose tenant has too many presence events (protocol 5.4).
pub(super) const TOO_MANY_PRESENCE: &str = "Too many presence messages per second";

/// A channel is stopped whose client makes too many presence calls (protocol 5.4).
pub(super) const TOO_MANY_CALLS: &str = "Client presence rate limit exceeded";
