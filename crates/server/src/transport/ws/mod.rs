//! WebSocket framing on the server side (RFC 6455, RFC 7692), without I/O.

pub mod deflate;
pub mod handshake;
pub mod reader;
