//! The body of a broadcast over HTTP: one message, or any number. A payload that is taken is an object for its receivers.
#![cfg_attr(fuzzing, no_main)]

#[allow(dead_code, reason = "the server's")]
#[path = "../../src/http/broadcast/bodies.rs"]
mod bodies;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

/// Small, so that it is met.
const MAX_PAYLOAD: usize = 1000;

fn is_object(payload: &[u8]) -> bool {
    payload.starts_with(b"{") && serde_json::from_slice::<&RawValue>(payload).is_ok()
}

fuzz_target!(|data: &[u8]| {
    if let Some(payload) = bodies::payload(&Bytes::copy_from_slice(data)) {
        assert!(is_object(&payload));
    }
    if let Ok(messages) = bodies::messages(data, MAX_PAYLOAD) {
        for message in messages {
            assert!(is_object(message.payload) && !message.topic.is_empty() && !message.event.is_empty());
        }
    }
});
