//! The channel protocol on the wire: frames of serializers 1.0.0 and 2.0.0, join payloads, server messages,
//! refusals (spec `protocol`).
//!
//! Pure: bytes in, values out, and back; no I/O, no clock, no panic on any input.

mod decode;
pub mod deflate;
pub mod encode;
pub mod events;
pub mod frame;
mod join;
mod json;
mod message;
mod opcode;
mod push;
mod reference;
mod refusal;
pub mod size;
mod system;
mod vsn;

pub use decode::decode;
pub use join::{FieldError, JoinPayload, JoinPayloadError, MAX_REF_BYTES, MAX_TOPIC_BYTES, Replay};
pub use json::{has_lone_surrogate, write_json_string};
pub use message::{ClientMessage, DecodeError, Encoding, Payload, UserBroadcast};
pub use opcode::Opcode;
pub use push::{AccessTokenPush, PresencePush};
pub use realtime_codes::ErrorCode;
pub use reference::Ref;
pub use refusal::{HandshakeRefusal, JoinRefusal};
pub use system::{Extension, SystemMessage};
pub use vsn::{UnsupportedVsn, Vsn};
