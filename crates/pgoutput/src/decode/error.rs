//! Why bytes are no message.

/// A message that is not of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends in the middle of this field.
    #[error("Message ends within {0}")]
    Truncated(&'static str),
    /// The first byte names no message.
    #[error("Unknown message type {0:#04x}")]
    UnknownMessage(u8),
    /// A byte that selects the form of what follows has no meaning.
    #[error("Unknown {what} {byte:#04x}")]
    UnknownTag {
        /// What it selects.
        what: &'static str,
        /// The byte.
        byte: u8,
    },
    /// A name is not UTF-8.
    #[error("Name is not UTF-8")]
    NotUtf8,
    /// Bytes are left over.
    #[error("{0} bytes after the end of the message")]
    TrailingBytes(usize),
}
