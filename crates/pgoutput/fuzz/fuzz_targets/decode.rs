//! A session of several messages: a byte for the protocol version, then each message behind its length.
#![cfg_attr(fuzzing, no_main)]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use realtime_pgoutput::Decoder;

fuzz_target!(|data: &[u8]| {
    let Some((version, mut rest)) = data.split_first() else { return };
    let mut decoder = Decoder::new(version % 4 + 1);
    while let Some((len, after)) = rest.split_first() {
        let (message, next) = after.split_at(after.len().min(usize::from(*len)));
        let _ = decoder.decode(Bytes::copy_from_slice(message));
        rest = next;
    }
});
