//! The messages of a request. Pure, and without other modules: `crates/server/fuzz` includes this file.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use realtime_protocol::Opcode;

/// Messages in one request.
const MAX_LINES: usize = 100;

/// Reads one message per line: JSON, or a binary frame in base64.
pub(super) fn lines(body: &Bytes) -> Vec<(Opcode, Bytes)> {
    body.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .take(MAX_LINES)
        .filter_map(|line| match line.first() {
            Some(b'[' | b'{') => Some((Opcode::Text, body.slice_ref(line))),
            _ => Some((Opcode::Binary, BASE64_STANDARD.decode(line).ok()?.into())),
        })
        .collect()
}
