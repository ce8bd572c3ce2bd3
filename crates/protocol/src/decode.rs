//! Messages from clients (protocol 2.1 to 2.5).

mod binary;
mod text;

use bytes::Bytes;

use crate::{
    json::has_lone_surrogate,
    message::{ClientMessage, DecodeError},
    opcode::Opcode,
    vsn::Vsn,
};

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
        (Vsn::V2 | Vsn::V2Text | Vsn::Events, Opcode::Text) => text::decode_v2(frame),
        (Vsn::V2 | Vsn::V2Text | Vsn::Events, Opcode::Binary) => binary::decode(frame),
    }
}

#[cfg(test)]
mod tests;
