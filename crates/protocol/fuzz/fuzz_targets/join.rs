//! What a client asks for when it joins, of presence, and the tokens it sends: the payload alone, and the configuration in
//! its place.
#![cfg_attr(fuzzing, no_main)]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use realtime_protocol::{AccessTokenPush, JoinPayload, PresencePush, size};

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&[b"{\"config\":", data, b"}"].concat());
    check(&[b"{\"config\":{\"postgres_changes\":", data, b"}}"].concat());
    let payload = Bytes::copy_from_slice(data);
    let _ = PresencePush::parse(&payload);
    let _ = AccessTokenPush::parse(data);
    // The larger of the two comes close to six times the smaller.
    let _ = size::exceeds(data, 1000);
    assert!(size::external_size(data) <= data.len() * 6 + 1);
});

fn check(payload: &[u8]) {
    if let Ok((join, _)) = JoinPayload::parse(payload, 100) {
        assert_eq!(join.postgres_changes.len(), join.postgres_changes_text.len());
    }
}
