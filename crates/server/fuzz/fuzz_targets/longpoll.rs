//! The messages of a long-poll, none of which is longer than what it came in.
#![cfg_attr(fuzzing, no_main)]

#[path = "../../src/transport/longpoll/lines.rs"]
mod lines;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for (_, message) in lines::lines(&Bytes::copy_from_slice(data)) {
        assert!(message.len() <= data.len());
    }
});
