//! Reads client frames from the bytes that have arrived, and assembles messages.
//!
//! `tungstenite` parses the headers. The differences from its own `WebSocket` are deliberate: there is no UTF-8 check
//! (protocol 1.8: a message with bad UTF-8 cannot be parsed, but the socket lives), payloads are unmasked in place and
//! shared instead of copied, and an idle connection holds no buffer.

use std::io::Cursor;

use bytes::{Bytes, BytesMut};
use realtime_protocol::Opcode;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

/// Largest message of a client, in bytes, whole or in fragments (protocol 1.8).
pub const MAX_MESSAGE_BYTES: usize = 5_000_000;

/// Room for one read if nothing is known about what comes, in bytes.
const READ_CHUNK: usize = 2048;

/// Most room for one read, in bytes. A frame that announces megabytes gets memory as they arrive.
const MAX_READ_CHUNK: usize = 256 * 1024;

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole text or binary message.
    Message(Opcode, Bytes),
    /// A ping, to be answered with a pong of the same payload.
    Ping(Bytes),
    /// A pong. Nothing has to be done.
    Pong,
    /// A close frame, and the code to answer it with.
    Close(u16),
}

/// The client has broken RFC 6455 or a limit. The connection ends with [`Violation::close_code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A malformed or unmasked frame, or frames in a wrong order.
    #[error("WebSocket protocol violation: {0}")]
    Protocol(&'static str),
    /// A message that is larger than the limit, usually [`MAX_MESSAGE_BYTES`].
    #[error("WebSocket message larger than {MAX_MESSAGE_BYTES} bytes")]
    TooLarge,
}

impl Violation {
    /// Close code to send: 1002 or 1009.
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::TooLarge => 1009,
        }
    }
}

/// Takes bytes, and returns [`Event`]s.
#[derive(Debug)]
pub struct Reader {
    /// Bytes that were not consumed yet. The memory is given back when there are none.
    buffer: BytesMut,
    /// Header of the frame whose payload is still arriving.
    pending: Option<(FrameHeader, usize)>,
    /// Whether consumed bytes still take memory in the buffer.
    taken: bool,
    /// The fragments of an unfinished message. Boxed, because almost no client sends fragments.
    fragments: Option<Box<(Opcode, BytesMut)>>,
    /// Largest message, in bytes.
    limit: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Reader {
    /// A reader that begins with the bytes that the HTTP server read beyond the upgrade request.
    #[must_use]
    pub fn new(already_read: &[u8]) -> Self {
        Self::with_limit(already_read, MAX_MESSAGE_BYTES)
    }

    /// A reader of messages up to `limit` bytes.
    #[must_use]
    pub fn with_limit(already_read: &[u8], limit: usize) -> Self {
        Self { buffer: BytesMut::from(already_read), pending: None, fragments: None, taken: false, limit }
    }

    /// The buffer to append received bytes to, with room for a read of sensible size.
    pub fn space(&mut self) -> &mut BytesMut {
        let missing = self.pending.as_ref().map_or(0, |(_, len)| len.saturating_sub(self.buffer.len()));
        self.buffer.reserve(missing.clamp(READ_CHUNK, MAX_READ_CHUNK));
        &mut self.buffer
    }

    /// Gives memory back if the buffer is empty or much too large. Call it before waiting for input.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        } else if self.buffer.len() <= READ_CHUNK && (self.taken || self.buffer.capacity() > 2 * READ_CHUNK) {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        self.taken = false;
    }

    /// Bytes of memory that the reader holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.capacity() + self.fragments.as_ref().map_or(0, |fragments| fragments.1.capacity())
    }

    /// The next event, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`Violation`]: the connection cannot go on.
    pub fn next_event(&mut self) -> Result<Option<Event>, Violation> {
        loop {
            let (header, len) = match self.pending.take() {
                Some(pending) => pending,
                None => match self.header()? {
                    Some(parsed) => parsed,
                    None => return Ok(None),
                },
            };
            if self.buffer.len() < len {
                self.pending = Some((header, len));
                return Ok(None);
            }
            self.taken = true;
            let mut payload = self.buffer.split_to(len);
            if let Some(mask) = header.mask {
                unmask(&mut payload, mask);
            }
            if let Some(event) = self.frame(&header, payload)? {
                return Ok(Some(event));
            }
        }
    }

    /// Parses and checks one header, consuming it.
    fn header(&mut self) -> Result<Option<(FrameHeader, usize)>, Violation> {
        let mut cursor = Cursor::new(&self.buffer[..]);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Violation::Protocol("reserved opcode"))?;
        let Some((header, len)) = parsed else { return Ok(None) };
        let consumed = usize::try_from(cursor.position()).map_err(|_| Violation::TooLarge)?;
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Violation::Protocol("reserved bit set without an extension"));
        }
        if header.mask.is_none() {
            return Err(Violation::Protocol("unmasked client frame"));
        }
        let started = self.fragments.as_ref().map_or(0, |fragments| fragments.1.len());
        match header.opcode {
            OpCode::Control(_) if !header.is_final => {
                return Err(Violation::Protocol("fragmented control frame"));
            }
            OpCode::Control(_) if len > 125 => {
                return Err(Violation::Protocol("control frame over 125 bytes"));
            }
            OpCode::Control(_) => {}
            OpCode::Data(Data::Continue) if self.fragments.is_none() => {
                return Err(Violation::Protocol("continuation of nothing"));
            }
            OpCode::Data(Data::Text | Data::Binary) if self.fragments.is_some() => {
                return Err(Violation::Protocol("message inside a fragmented message"));
            }
            OpCode::Data(_) => {}
        }
        let len = usize::try_from(len).map_err(|_| Violation::TooLarge)?;
        if started.saturating_add(len) > self.limit {
            return Err(Violation::TooLarge);
        }
        let _ = self.buffer.split_to(consumed);
        Ok(Some((header, len)))
    }

    /// Handles one unmasked frame.
    fn frame(&mut self, header: &FrameHeader, payload: BytesMut) -> Result<Option<Event>, Violation> {
        let event = match header.opcode {
            OpCode::Control(Control::Ping) => Event::Ping(payload.freeze()),
            OpCode::Control(Control::Pong) => Event::Pong,
            OpCode::Control(_) => Event::Close(close_answer(&payload)?),
            OpCode::Data(Data::Continue) => {
                let Some(mut fragments) = self.fragments.take() else {
                    return Err(Violation::Protocol("continuation of nothing"));
                };
                fragments.1.extend_from_slice(&payload);
                if !header.is_final {
                    self.fragments = Some(fragments);
                    return Ok(None);
                }
                Event::Message(fragments.0, fragments.1.freeze())
            }
            OpCode::Data(data) => {
                let opcode = if data == Data::Text { Opcode::Text } else { Opcode::Binary };
                if !header.is_final {
                    // Copied, so that the rest of the read buffer is not kept.
                    self.fragments = Some(Box::new((opcode, BytesMut::from(&payload[..]))));
                    return Ok(None);
                }
                Event::Message(opcode, payload.freeze())
            }
        };
        Ok(Some(event))
    }
}

/// Unmasks a payload (RFC 6455 5.3). It works on four bytes at a time, which the compiler turns into vector
/// instructions.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let mut chunks = payload.chunks_exact_mut(4);
    for chunk in &mut chunks {
        for (byte, mask) in chunk.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// The code to answer a close frame with (RFC 6455 5.5.1 and 7.4); 1000 if it has none.
fn close_answer(payload: &[u8]) -> Result<u16, Violation> {
    match payload {
        [] => Ok(1000),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !CloseCode::from(code).is_allowed() {
                return Err(Violation::Protocol("close code not allowed"));
            }
            if std::str::from_utf8(reason).is_err() {
                return Err(Violation::Protocol("close reason is not UTF-8"));
            }
            Ok(code)
        }
        [_] => Err(Violation::Protocol("close payload of one byte")),
    }
}

#[cfg(test)]
mod tests;
