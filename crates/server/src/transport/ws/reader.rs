//! Reads client frames out of whatever bytes have arrived and puts messages together.
//!
//! The header is parsed by `tungstenite`; what differs from its own `WebSocket` is deliberate: no UTF-8 check
//! (protocol 1.8: bad UTF-8 is only a message that cannot be parsed, the socket lives), payload bytes are
//! unmasked in place and shared instead of copied, and an idle connection holds no buffer. `tungstenite` does not read
//! compressed messages; it leaves their bit in the header, and `realtime_protocol::deflate` inflates them.

use std::io::Cursor;

use bytes::{Bytes, BytesMut};
use realtime_protocol::{
    Opcode,
    deflate::{self, UnpackError},
};
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

/// Largest message a client may send, in bytes, whole or re-assembled (protocol 1.8).
pub const MAX_MESSAGE_BYTES: usize = 5_000_000;

/// Space made for one read when nothing is known of what comes, in bytes.
const READ_CHUNK: usize = 2048;

/// Most space made for one read, in bytes: a frame that announces megabytes gets memory as they arrive.
const MAX_READ_CHUNK: usize = 256 * 1024;

/// Once one part in so many of a payload is there, memory is taken for the rest.
const BELIEVED: usize = 4;

/// The first fragment of a message is kept as it was read if it is larger than so many bytes.
const KEPT: usize = 64 * 1024;

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole text or binary message.
    Message(Opcode, Bytes),
    /// A ping, to be answered with a pong of the same payload.
    Ping(Bytes),
    /// A pong. Nothing to do.
    Pong,
    /// The client closes; the code to answer with.
    Close(u16),
}

/// The client broke RFC 6455 or a limit: the connection ends with [`Violation::close_code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Malformed or unmasked frame, or frames in an order that means nothing.
    #[error("WebSocket protocol violation: {0}")]
    Protocol(&'static str),
    /// Message larger than the reader takes: [`MAX_MESSAGE_BYTES`].
    #[error("WebSocket message larger than {MAX_MESSAGE_BYTES} bytes")]
    TooLarge,
    /// Compressed message that grows more than a client's messages do.
    #[error("WebSocket message grows from {0} bytes to more than {1}")]
    Bomb(usize, usize),
    /// Compressed message that cannot be inflated.
    #[error("WebSocket message is not compressed as agreed")]
    Compression,
}

impl Violation {
    /// Close code to send: 1002, 1007 or 1009.
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::Compression => 1007,
            Self::TooLarge | Self::Bomb(..) => 1009,
        }
    }
}

/// Bytes in, [`Event`]s out.
#[derive(Debug)]
pub struct Reader {
    /// Bytes not yet consumed. Given back whenever it is empty.
    buffer: BytesMut,
    /// Header of the frame whose payload is still arriving.
    pending: Option<(FrameHeader, usize)>,
    /// Whether something was taken out of the buffer that still takes its place in memory.
    taken: bool,
    /// The fragments so far of an unfinished message. Boxed: almost no client ever fragments.
    fragments: Option<Box<Fragments>>,
    /// Whether messages may be compressed.
    inflates: bool,
    /// A compressed message that waits for a turn. Boxed: few are so large.
    waiting: Option<Box<(Opcode, Bytes)>>,
    /// Bytes that may be inflated before the next turn.
    allowed: usize,
    /// Nobody wants the messages any more.
    skims: bool,
    /// Largest message, in bytes.
    limit: usize,
}

/// A message that has begun.
#[derive(Debug)]
struct Fragments {
    opcode: Opcode,
    /// Whether it is compressed: its first frame says so.
    packed: bool,
    bytes: BytesMut,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Reader {
    /// A reader that already holds what the HTTP server read beyond the upgrade request.
    #[must_use]
    pub fn new(already_read: &[u8]) -> Self {
        Self::with_limit(already_read, MAX_MESSAGE_BYTES)
    }

    /// One that takes messages of up to `limit` bytes.
    #[must_use]
    pub fn with_limit(already_read: &[u8], limit: usize) -> Self {
        Self {
            buffer: BytesMut::from(already_read),
            pending: None,
            fragments: None,
            taken: false,
            inflates: false,
            waiting: None,
            allowed: usize::MAX,
            skims: false,
            limit,
        }
    }

    /// Takes compressed messages too, if that was agreed on.
    #[must_use]
    pub fn inflating(self, agreed: bool) -> Self {
        Self { inflates: agreed, ..self }
    }

    /// From now on so many bytes may be inflated. A compressed message that becomes larger waits until this is said again.
    pub fn allow(&mut self, bytes: usize) {
        self.allowed = bytes;
    }

    /// Allows for one message, however large it may be.
    pub fn allow_one(&mut self) {
        self.allow(self.limit);
    }

    /// Whether a compressed message waits until more may be inflated.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.waiting.is_some()
    }

    /// From now on the contents of messages do not matter: compressed ones are not inflated.
    pub fn skim(&mut self) {
        self.skims = true;
    }

    /// The buffer to append received bytes to, with room for a sensible read.
    pub fn space(&mut self) -> &mut BytesMut {
        let len = self.pending.as_ref().map_or(0, |(_, len)| *len);
        let missing = len.saturating_sub(self.buffer.len());
        if missing > MAX_READ_CHUNK && self.buffer.len() >= len / BELIEVED {
            self.make_room_for(len);
        } else {
            self.buffer.reserve(missing.clamp(READ_CHUNK, MAX_READ_CHUNK));
        }
        &mut self.buffer
    }

    /// Makes room for a whole payload, and no more: a buffer that grows by itself doubles.
    fn make_room_for(&mut self, len: usize) {
        if self.buffer.capacity() < len {
            let mut whole = BytesMut::with_capacity(len);
            whole.extend_from_slice(&self.buffer);
            self.buffer = whole;
        }
    }

    /// Gives the read buffer's memory back if nothing waits in it, or much less than it has room for. To be called before
    /// waiting for input.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        } else if self.buffer.len() <= READ_CHUNK && (self.taken || self.buffer.capacity() > 2 * READ_CHUNK) {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        self.taken = false;
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        let fragments = self.fragments.as_ref().map_or(0, |fragments| fragments.bytes.capacity());
        let waiting = self.waiting.as_ref().map_or(0, |waiting| waiting.1.len());
        self.buffer.capacity() + fragments + waiting
    }

    /// Bytes of the message that is being read, as far as they are known: what came of it, and what its frame announces.
    #[must_use]
    pub fn announced(&self) -> usize {
        let announced = self.pending.as_ref().map_or(0, |(_, len)| *len);
        announced.saturating_add(self.started())
    }

    /// Bytes of the message that has begun.
    fn started(&self) -> usize {
        self.fragments.as_ref().map_or(0, |fragments| fragments.bytes.len())
    }

    /// The next event, or `None` until more bytes arrive or, if it [`waits`](Self::waits), more may be inflated.
    ///
    /// # Errors
    /// [`Violation`]: the connection cannot go on.
    pub fn next_event(&mut self) -> Result<Option<Event>, Violation> {
        if let Some((opcode, packed)) = self.waiting.take().map(|waiting| *waiting)
            && let Some(event) = self.message(opcode, true, packed)?
        {
            return Ok(Some(event));
        }
        while self.waiting.is_none() {
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
            let mut payload = if len == self.buffer.len() {
                std::mem::take(&mut self.buffer)
            } else {
                self.buffer.split_to(len)
            };
            if let Some(mask) = header.mask {
                unmask(&mut payload, mask);
            }
            if let Some(event) = self.frame(&header, payload)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Parses and checks one header, consuming it.
    fn header(&mut self) -> Result<Option<(FrameHeader, usize)>, Violation> {
        let mut cursor = Cursor::new(&self.buffer[..]);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Violation::Protocol("reserved opcode"))?;
        let Some((header, len)) = parsed else { return Ok(None) };
        let consumed = usize::try_from(cursor.position()).map_err(|_| Violation::TooLarge)?;
        if header.rsv2 || header.rsv3 || (header.rsv1 && !self.inflates) {
            return Err(Violation::Protocol("reserved bit set without an extension"));
        }
        // RFC 7692 6.1
        if header.rsv1 && !matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary)) {
            return Err(Violation::Protocol("compressed frame that begins no message"));
        }
        if header.mask.is_none() {
            return Err(Violation::Protocol("unmasked client frame"));
        }
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
        if self.started().saturating_add(len) > self.limit {
            return Err(Violation::TooLarge);
        }
        let _ = self.buffer.split_to(consumed);
        Ok(Some((header, len)))
    }

    /// Takes one unmasked frame.
    fn frame(&mut self, header: &FrameHeader, payload: BytesMut) -> Result<Option<Event>, Violation> {
        let event = match header.opcode {
            OpCode::Control(Control::Ping) => Event::Ping(payload.freeze()),
            OpCode::Control(Control::Pong) => Event::Pong,
            OpCode::Control(_) => Event::Close(close_answer(&payload)?),
            OpCode::Data(Data::Continue) => {
                let Some(mut fragments) = self.fragments.take() else {
                    return Err(Violation::Protocol("continuation of nothing"));
                };
                fragments.bytes.extend_from_slice(&payload);
                if !header.is_final {
                    self.fragments = Some(fragments);
                    return Ok(None);
                }
                let Fragments { opcode, packed, bytes } = *fragments;
                return self.message(opcode, packed, bytes.freeze());
            }
            OpCode::Data(data) => {
                let opcode = if data == Data::Text { Opcode::Text } else { Opcode::Binary };
                if !header.is_final {
                    // A copy of what is small: the rest of what was read with it is not kept.
                    let bytes = if payload.len() > KEPT { payload } else { BytesMut::from(&payload[..]) };
                    self.fragments = Some(Box::new(Fragments { opcode, packed: header.rsv1, bytes }));
                    return Ok(None);
                }
                return self.message(opcode, header.rsv1, payload.freeze());
            }
        };
        Ok(Some(event))
    }

    /// Takes a whole message.
    fn message(&mut self, opcode: Opcode, packed: bool, bytes: Bytes) -> Result<Option<Event>, Violation> {
        if packed && !self.skims {
            return self.inflate(opcode, bytes);
        }
        Ok(Some(Event::Message(opcode, bytes)))
    }

    /// Inflates a whole message, or has it wait. One that waits is begun anew later: nothing but its bytes is kept.
    fn inflate(&mut self, opcode: Opcode, packed: Bytes) -> Result<Option<Event>, Violation> {
        let most = deflate::most(packed.len()).min(self.limit);
        match deflate::unpack(&packed, most.min(self.allowed)) {
            Ok(message) => {
                self.allowed = self.allowed.saturating_sub(message.len());
                Ok(Some(Event::Message(opcode, message.into())))
            }
            Err(UnpackError::TooLarge) if self.allowed < most => {
                // A copy of what is small: the rest of what was read with it is not kept.
                let packed = if packed.len() > KEPT { packed } else { Bytes::copy_from_slice(&packed) };
                self.waiting = Some(Box::new((opcode, packed)));
                Ok(None)
            }
            Err(UnpackError::TooLarge) if most == self.limit => Err(Violation::TooLarge),
            Err(UnpackError::TooLarge) => Err(Violation::Bomb(packed.len(), most)),
            Err(UnpackError::Malformed) => Err(Violation::Compression),
        }
    }
}

/// RFC 6455 5.3. Four bytes at a time, which the compiler turns into vector instructions.
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

/// RFC 6455 5.5.1 and 7.4: the code a close frame is answered with; 1000 when it named none.
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
