//! The payloads of events on a joined channel (protocol 5.4, 5.6).

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::join::{MAX_TOKEN_BYTES, members};

/// What a `presence` event asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresencePush {
    /// No `event` key: nothing happens.
    NoEvent,
    /// `track`: the JSON text to track, of any kind.
    Track(Bytes),
    /// `untrack`.
    Untrack,
    /// Any other event.
    Unknown,
}

impl PresencePush {
    /// Reads the payload. The event's name may be in any letter case; a track without payload tracks `{}`.
    #[must_use]
    pub fn parse(payload: &Bytes) -> Self {
        let Some([event, tracked]) = members(payload, ["event", "payload"]) else { return Self::NoEvent };
        let Some(event) = event else { return Self::NoEvent };
        match serde_json::from_str::<String>(event.get()) {
            Ok(event) if event.eq_ignore_ascii_case("track") => Self::Track(tracked.map_or_else(
                || Bytes::from_static(b"{}"),
                |raw: &RawValue| payload.slice_ref(raw.get().as_bytes()),
            )),
            Ok(event) if event.eq_ignore_ascii_case("untrack") => Self::Untrack,
            _ => Self::Unknown,
        }
    }
}

/// What an `access_token` event brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessTokenPush {
    /// A token to use from now on.
    Token(Box<str>),
    /// A text that is longer than any token: one that is not valid.
    TooLong,
    /// Null: ignored.
    Null,
    /// Missing or no string: an unknown event.
    NotAToken,
}

impl AccessTokenPush {
    /// Reads the payload.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Self {
        let Some([Some(token)]) = members(payload, ["access_token"]) else { return Self::NotAToken };
        if token.get() == "null" {
            return Self::Null;
        }
        if token.get().starts_with('"') && token.get().len() > MAX_TOKEN_BYTES {
            return Self::TooLong;
        }
        serde_json::from_str(token.get()).map_or(Self::NotAToken, Self::Token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(text: &'static str) -> PresencePush {
        PresencePush::parse(&Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn presence_events() {
        let track = |text: &'static str| PresencePush::Track(Bytes::from_static(text.as_bytes()));
        assert_eq!(
            presence(r#"{"type":"presence","event":"TRACK","payload":{"a": 1}}"#),
            track(r#"{"a": 1}"#)
        );
        assert_eq!(presence(r#"{"event":"track"}"#), track("{}"));
        assert_eq!(presence(r#"{"event":"track","payload":null}"#), track("null"));
        assert_eq!(presence(r#"{"event":"Untrack"}"#), PresencePush::Untrack);
        assert_eq!(presence("{}"), PresencePush::NoEvent);
        assert_eq!(presence("[1]"), PresencePush::NoEvent);
        assert_eq!(presence(r#"{"event":"dance"}"#), PresencePush::Unknown);
        assert_eq!(presence(r#"{"event":5}"#), PresencePush::Unknown);
    }

    #[test]
    fn access_tokens() {
        assert_eq!(
            AccessTokenPush::parse(br#"{"access_token":"a.b.c"}"#),
            AccessTokenPush::Token("a.b.c".into())
        );
        assert_eq!(AccessTokenPush::parse(br#"{"access_token":null}"#), AccessTokenPush::Null);
        let long = |length: usize| {
            AccessTokenPush::parse(format!(r#"{{"access_token":"{}"}}"#, "x".repeat(length)).as_bytes())
        };
        assert!(matches!(long(MAX_TOKEN_BYTES - 2), AccessTokenPush::Token(_)));
        assert_eq!(long(MAX_TOKEN_BYTES - 1), AccessTokenPush::TooLong);
        for text in ["{}", r#"{"access_token":5}"#, "5"] {
            assert_eq!(AccessTokenPush::parse(text.as_bytes()), AccessTokenPush::NotAToken);
        }
    }
}
