//! WebSocket framing on the server side (RFC 6455), without I/O.

pub mod handshake;
pub mod reader;
