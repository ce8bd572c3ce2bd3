//! Whatever a client sends under serializer 2.0.0, in either kind of WebSocket message.
#![cfg_attr(fuzzing, no_main)]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use realtime_protocol::{JoinPayload, Opcode, Vsn, decode};

fuzz_target!(|data: &[u8]| {
    let frame = Bytes::copy_from_slice(data);
    for opcode in [Opcode::Text, Opcode::Binary] {
        if let Ok(message) = decode(Vsn::V2, opcode, &frame)
            && let Some(payload) = message.payload.json()
        {
            let _ = JoinPayload::parse(payload, 100);
        }
    }
    let _ = JoinPayload::parse(data, 100);
});
