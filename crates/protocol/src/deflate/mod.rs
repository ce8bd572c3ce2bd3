//! Compressed messages (permessage-deflate, RFC 7692): finished frames made smaller, and what clients send made whole.
//!
//! No message refers to an earlier one ("no context take-over"). So a frame is compressed once and shared by all who get
//! it, and a socket keeps nothing between two messages: what compresses and inflates belongs to the thread.

mod figures;
mod pack;
mod shared;
mod unpack;

pub use figures::{Figures, packed, unpacked};
pub use pack::{Packer, pack};
pub use shared::Shared;
pub use unpack::{UnpackError, most, unpack};

/// The end of a message when its last block is flushed. It is not sent (RFC 7692 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

#[cfg(test)]
mod tests;
