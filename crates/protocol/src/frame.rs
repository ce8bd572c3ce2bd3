//! Finished WebSocket frames from server to client (RFC 6455 5.2): final, unmasked, the same bytes for all; and finished
//! chunks of HTTP bodies (RFC 9112 7.1), which take their place where messages are server-sent events.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// The bit of the first byte that says that a message is compressed (RFC 7692 6).
const RSV1: u8 = 0x40;

/// The end of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The end of a chunk.
const CHUNK_END: &[u8] = b"\r\n";

const CLOSE: u8 = 0x88;
const PONG: u8 = 0x8A;

/// Longest header: two bytes and a 64-bit length; of a chunk, eight digits and the end of their line.
const MAX_HEADER: usize = 10;

/// What a frame costs beside its bytes: its owner and what an allocator adds.
const OVERHEAD: usize = 64;

/// Bytes of all frames that somebody still holds.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// Bytes of all frames that were made and not dropped yet, wherever they wait. A frame that many receivers share counts
/// once.
#[must_use]
pub fn alive() -> usize {
    ALIVE.load(Ordering::Relaxed)
}

/// The buffer of a frame, counted until its last holder drops it.
struct Counted(Vec<u8>);

impl Counted {
    fn new(buffer: Vec<u8>) -> Self {
        ALIVE.fetch_add(buffer.capacity() + OVERHEAD, Ordering::Relaxed);
        Self(buffer)
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALIVE.fetch_sub(self.0.capacity() + OVERHEAD, Ordering::Relaxed);
    }
}

/// A frame that is being written. The header goes in front when the length is known, without a copy.
pub(crate) struct Builder {
    /// [`MAX_HEADER`] spare bytes, then the payload.
    buffer: Vec<u8>,
}

impl Builder {
    pub(crate) fn new(expected_payload: usize) -> Self {
        let mut buffer = Vec::with_capacity(MAX_HEADER + expected_payload);
        buffer.resize(MAX_HEADER, 0);
        Self { buffer }
    }

    /// Where the payload is appended.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    pub(crate) fn text(self) -> Bytes {
        self.finish(TEXT)
    }

    pub(crate) fn binary(self) -> Bytes {
        self.finish(BINARY)
    }

    /// The frame of a compressed message: `first` is the first byte of the plain one.
    pub(crate) fn packed(self, first: u8) -> Bytes {
        self.finish(first | RSV1)
    }

    /// A chunk of an HTTP body.
    pub(crate) fn chunk(mut self) -> Bytes {
        let len = self.buffer.len() - MAX_HEADER;
        let header = format!("{len:x}\r\n");
        self.buffer.extend_from_slice(CHUNK_END);
        let start = MAX_HEADER.saturating_sub(header.len());
        if let Some(place) = self.buffer.get_mut(start..MAX_HEADER) {
            place.copy_from_slice(header.as_bytes());
        }
        Bytes::from_owner(Counted::new(self.buffer)).slice(start..)
    }

    fn finish(mut self, first: u8) -> Bytes {
        let len = self.buffer.len() - MAX_HEADER;
        let mut header = [0; MAX_HEADER];
        header[0] = first;
        let used = if len < 126 {
            header[1] = len as u8;
            2
        } else if let Ok(len) = u16::try_from(len) {
            header[1] = 126;
            header[2..4].copy_from_slice(&len.to_be_bytes());
            4
        } else {
            header[1] = 127;
            header[2..10].copy_from_slice(&(len as u64).to_be_bytes());
            10
        };
        let start = MAX_HEADER - used;
        self.buffer[start..MAX_HEADER].copy_from_slice(&header[..used]);
        Bytes::from_owner(Counted::new(self.buffer)).slice(start..)
    }
}

fn with_payload(first: u8, payload: &[u8]) -> Bytes {
    let mut builder = Builder::new(payload.len());
    builder.out().extend_from_slice(payload);
    builder.finish(first)
}

/// A chunk of an HTTP body. An empty one would be its end, so the content must not be empty.
#[must_use]
pub fn chunk(content: &[u8]) -> Bytes {
    let mut builder = Builder::new(content.len() + CHUNK_END.len());
    builder.out().extend_from_slice(content);
    builder.chunk()
}

/// What a finished chunk carries. `None` for what is no whole chunk of this server.
#[must_use]
pub fn content(chunk: &[u8]) -> Option<&[u8]> {
    let header = chunk.iter().take(MAX_HEADER).position(|byte| *byte == b'\n')?;
    chunk.get(header + 1..)?.strip_suffix(CHUNK_END)
}

/// A text frame.
#[must_use]
pub fn text(payload: &[u8]) -> Bytes {
    with_payload(TEXT, payload)
}

/// A binary frame.
#[must_use]
pub fn binary(payload: &[u8]) -> Bytes {
    with_payload(BINARY, payload)
}

/// A close frame without reason text.
#[must_use]
pub fn close(code: u16) -> Bytes {
    with_payload(CLOSE, &code.to_be_bytes())
}

/// The answer to a ping; a payload over 125 bytes is cut.
#[must_use]
pub fn pong(payload: &[u8]) -> Bytes {
    with_payload(PONG, payload.get(..125).unwrap_or(payload))
}

/// What a finished frame carries. `None` for what is no whole frame of this server.
#[must_use]
pub fn payload(frame: &Bytes) -> Option<Bytes> {
    let header = match frame.get(1)? {
        127 => 10,
        126 => 4,
        _ => 2,
    };
    (frame.len() >= header).then(|| frame.slice(header..))
}

/// The first byte and the content of a finished frame that may be compressed: a plain text or binary one.
pub(crate) fn plain(frame: &Bytes) -> Option<(u8, Bytes)> {
    let first = *frame.first()?;
    Some((first, payload(frame)?)).filter(|_| matches!(first, TEXT | BINARY))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tungstenite::protocol::frame::{
        FrameHeader,
        coding::{Control, OpCode},
    };

    use super::*;

    /// A frame counts once, however many hold it, until the last lets it go.
    #[test]
    fn shared_frames_count_once() {
        // Other tests make small frames meanwhile.
        let near = |expected: usize| alive().abs_diff(expected) < 1_000_000;
        let before = alive();
        let frame = text(&vec![b'x'; 50_000_000]);
        let others = vec![frame.slice(1..); 100];
        assert!(near(before + 50_000_000));
        drop(frame);
        assert!(near(before + 50_000_000));
        drop(others);
        assert!(near(before));
    }

    /// RFC 9112 7.1
    #[test]
    fn chunks_tell_their_length() {
        for len in [1, 15, 16, 4_095, 4_096, 100_000] {
            let chunk = chunk(&vec![b'x'; len]);
            assert!(chunk.starts_with(format!("{len:x}\r\nx").as_bytes()) && chunk.ends_with(b"x\r\n"));
            assert_eq!(content(&chunk).unwrap(), vec![b'x'; len]);
        }
        assert_eq!(content(b"no chunk"), None);
    }

    #[test]
    fn headers_are_those_of_rfc_6455() {
        for len in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
            let frame = text(&vec![b'x'; len]);
            let mut cursor = Cursor::new(&frame);
            let (header, parsed) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
            assert_eq!(parsed, len as u64);
            assert!(header.is_final && header.mask.is_none());
            assert_eq!(frame.len(), cursor.position() as usize + len);
            assert_eq!(payload(&frame).unwrap(), vec![b'x'; len]);
        }
        assert_eq!(&close(1009)[..], [0x88, 2, 0x03, 0xF1]);
        let header = FrameHeader::parse(&mut Cursor::new(pong(&[1; 200]))).unwrap().unwrap();
        assert_eq!((header.0.opcode, header.1), (OpCode::Control(Control::Pong), 125));
    }
}
