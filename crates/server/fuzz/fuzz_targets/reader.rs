//! What a client sends after its handshake: a byte that says whether messages may be compressed and how the network cuts it,
//! then the bytes. However they are cut, and whatever is inflated at once, the messages are the same, and what ends the
//! connection too.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
#[rustfmt::skip]
#[allow(dead_code, reason = "the server's")]
#[path = "../../src/transport/ws/reader.rs"]
mod reader;

// The file has tests, which a test would look for in the wrong place.
#[cfg(not(fuzzing))]
use realtime_server::transport::ws::reader;

use libfuzzer_sys::fuzz_target;
use reader::{Event, Reader, Violation};

/// Small, so that it is met.
const MAX_MESSAGE: usize = 1000;

/// The bit of the first byte that says that messages may be compressed.
const COMPRESSED: u8 = 0x80;

fn all(
    pieces: &mut dyn Iterator<Item = &[u8]>,
    compressed: bool,
    allowed: usize,
) -> (Vec<Event>, Option<Violation>) {
    let mut reader = Reader::with_limit(&[], MAX_MESSAGE).inflating(compressed);
    let mut events = Vec::new();
    for piece in pieces {
        reader.space().extend_from_slice(piece);
        reader.allow(allowed);
        loop {
            match reader.next_event() {
                Ok(Some(event)) => {
                    if let Event::Message(_, message) = &event {
                        assert!(message.len() <= MAX_MESSAGE);
                    }
                    events.push(event);
                }
                Ok(None) if reader.waits() => reader.allow_one(),
                Ok(None) => break,
                Err(violation) => return (events, Some(violation)),
            }
        }
        reader.release();
    }
    (events, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let (compressed, cut) = (first & COMPRESSED != 0, usize::from(first & !COMPRESSED));
    let whole = all(&mut std::iter::once(bytes), compressed, usize::MAX);
    assert_eq!(all(&mut bytes.chunks(cut.max(1)), compressed, cut), whole);
});
