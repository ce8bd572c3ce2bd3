//! What a client sends after its handshake: a byte that says how the network cuts it, then the bytes. However they are cut,
//! the messages are the same, and what ends the connection too.
#![no_main]

#[allow(dead_code, reason = "the server's")]
#[path = "../../src/transport/ws/reader.rs"]
mod reader;

use libfuzzer_sys::fuzz_target;
use reader::{Event, Reader, Violation};

/// Small, so that it is met.
const MAX_MESSAGE: usize = 1000;

fn all(pieces: &mut dyn Iterator<Item = &[u8]>) -> (Vec<Event>, Option<Violation>) {
    let mut reader = Reader::with_limit(&[], MAX_MESSAGE);
    let mut events = Vec::new();
    for piece in pieces {
        reader.space().extend_from_slice(piece);
        loop {
            match reader.next_event() {
                Ok(Some(event)) => {
                    if let Event::Message(_, message) = &event {
                        assert!(message.len() <= MAX_MESSAGE);
                    }
                    events.push(event);
                }
                Ok(None) => break,
                Err(violation) => return (events, Some(violation)),
            }
        }
        reader.release();
    }
    (events, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, bytes)) = data.split_first() else { return };
    let whole = all(&mut std::iter::once(bytes));
    assert_eq!(all(&mut bytes.chunks(usize::from(*cut).max(1))), whole);
});
