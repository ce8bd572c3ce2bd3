//! Messages from clients (protocol 2.1 to 2.5).

mod binary;
mod text;

use bytes::Bytes;

use crate::{ErrorCode, Opcode, Ref, Vsn, has_lone_surrogate};

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
    /// Bytes that it holds once it is [`compact`](Self::compact).
    #[must_use]
    pub fn size(&self) -> usize {
        let payload = match &self.payload {
            Payload::Json(bytes) | Payload::Binary(bytes) => bytes.len(),
            Payload::UserBroadcast(user) => user.body.len() + user.event.len(),
        };
        let refs = self.join_ref.as_json().len() + self.msg_ref.as_json().len();
        size_of::<Self>() + refs + self.topic.len() + self.event.len() + payload
    }

    /// The same message with a payload of its own, for one that has to wait: a slice would keep all that was read with
    /// it.
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

/// How the body of a user broadcast is meant.
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
    /// What the body is.
    pub encoding: Encoding,
    /// The user's payload, untouched.
    pub body: Bytes,
}

/// A message that cannot be understood. It is dropped and logged; the socket lives (protocol 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, half of a character in it, or its top level lacks what a message must have.
    #[error("Not a message of this serializer")]
    Malformed,
    /// A JSON value of another kind, or an impossible binary frame.
    #[error("Not a message of this serializer")]
    Unexpected,
    /// A topic, event or reference that is longer than any may be.
    #[error("Topic, event or reference too long")]
    TooLong,
}

/// Longest topic and event, in bytes: a channel keeps its topic, and the topics of the first generation name values.
const MAX_NAME: usize = 8_192;

/// Longest reference, in bytes: a channel keeps its join's. Those of binary frames cannot be longer than 255.
const MAX_REF: usize = 1_024;

impl DecodeError {
    /// Operators' code.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Malformed | Self::TooLong => ErrorCode::MALFORMED_WEBSOCKET_MESSAGE,
            Self::Unexpected => ErrorCode::UNKNOWN_ERROR_ON_WEBSOCKET_MESSAGE,
        }
    }
}

/// Decodes one WebSocket message.
///
/// # Errors
/// [`DecodeError`] for anything that is no message of this serializer.
pub fn decode(vsn: Vsn, opcode: Opcode, frame: &Bytes) -> Result<ClientMessage, DecodeError> {
    if (vsn == Vsn::V1 || opcode == Opcode::Text) && has_lone_surrogate(frame) {
        return Err(DecodeError::Malformed);
    }
    match (vsn, opcode) {
        // Serializer 1.0.0 does not look at the opcode (protocol 2.1).
        (Vsn::V1, _) => text::decode_v1(frame),
        (Vsn::V2 | Vsn::V2Text, Opcode::Text) => text::decode_v2(frame),
        (Vsn::V2 | Vsn::V2Text, Opcode::Binary) => binary::decode(frame),
    }
}

#[cfg(test)]
mod tests;
