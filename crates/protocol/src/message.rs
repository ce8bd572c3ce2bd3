//! A message from a client, and why bytes are none.

use bytes::Bytes;
use realtime_codes::ErrorCode;

use crate::reference::Ref;

/// A message from a client. Payload bytes are slices of the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientMessage {
    /// Reference of the join that opened the channel, if the client names it.
    pub join_ref: Ref,
    /// Reference for the reply.
    pub msg_ref: Ref,
    /// Topic, verbatim.
    pub topic: Box<str>,
    /// Event, verbatim.
    pub event: Box<str>,
    /// Payload.
    pub payload: Payload,
}

impl ClientMessage {
    /// Bytes that the message holds once it is [`compact`](Self::compact).
    #[must_use]
    pub fn size(&self) -> usize {
        let payload = match &self.payload {
            Payload::Json(bytes) | Payload::Binary(bytes) => bytes.len(),
            Payload::UserBroadcast(user) => user.body.len() + user.event.len(),
        };
        let refs = self.join_ref.as_json().len() + self.msg_ref.as_json().len();
        size_of::<Self>() + refs + self.topic.len() + self.event.len() + payload
    }

    /// Gives the message a payload of its own, if it has to wait: a slice would keep everything that was read with it.
    #[must_use]
    pub fn compact(mut self) -> Self {
        match &mut self.payload {
            Payload::Json(bytes) | Payload::Binary(bytes) => *bytes = Bytes::copy_from_slice(bytes),
            Payload::UserBroadcast(user) => user.body = Bytes::copy_from_slice(&user.body),
        }
        self
    }
}

/// What a message carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// JSON text of any kind, not only objects.
    Json(Bytes),
    /// Raw bytes of a binary push (kind 0).
    Binary(Bytes),
    /// A user broadcast (kind 3).
    UserBroadcast(UserBroadcast),
}

impl Payload {
    /// The JSON text, if that is what it carries.
    #[must_use]
    pub const fn json(&self) -> Option<&Bytes> {
        match self {
            Self::Json(json) => Some(json),
            _ => None,
        }
    }
}

/// The encoding of a user broadcast's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Opaque bytes.
    Binary,
    /// JSON text.
    Json,
}

/// A broadcast in its compact form: event `broadcast` with `{type, event, payload}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserBroadcast {
    /// The user's event name.
    pub event: Box<str>,
    /// The encoding of the body.
    pub encoding: Encoding,
    /// The user's payload, untouched.
    pub body: Bytes,
}

/// Why a message cannot be understood. It is dropped and logged; the socket lives on (protocol 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, half of a character in it, or its top level lacks what a message must have.
    #[error("Not a message of this serializer")]
    Malformed,
    /// A JSON value of another kind, or an impossible binary frame.
    #[error("Not a message of this serializer")]
    Unexpected,
    /// A topic, event or reference is too long.
    #[error("Topic, event or reference too long")]
    TooLong,
}

/// Longest topic and event, in bytes: channels keep their topics, and those of the first generation contain values.
pub(crate) const MAX_NAME: usize = 8_192;

/// Longest reference, in bytes: a channel keeps that of its join. In binary frames none can be longer than 255.
pub(crate) const MAX_REF: usize = 1_024;

impl DecodeError {
    /// Operators' code.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Malformed | Self::TooLong => ErrorCode::MalformedWebSocketMessage,
            Self::Unexpected => ErrorCode::UnknownErrorOnWebSocketMessage,
        }
    }
}
