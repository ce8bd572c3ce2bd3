//! Why a channel is ended by the server.

use std::borrow::Cow;

/// What its client and the log are told (protocol 3.8).
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

/// Why a channel is stopped that was handed a frame while its tenant had too many (protocol 5.3).
pub(super) const TOO_MANY_EVENTS: &str = "Too many messages per second";

/// Why a channel is stopped whose tenant has too many presence events (protocol 5.4).
pub(super) const TOO_MANY_PRESENCE: &str = "Too many presence messages per second";

/// Why a channel is stopped whose client says too much about presence (protocol 5.4).
pub(super) const TOO_MANY_CALLS: &str = "Client presence rate limit exceeded";
