//! Kinds of WebSocket messages.

/// Kind of a WebSocket message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// Text message. Whether it is UTF-8 is not known yet.
    Text,
    /// Binary message.
    Binary,
}
