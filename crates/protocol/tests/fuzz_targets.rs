//! The fuzz targets compile, and hold for their examples and for what is a little like these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "fuzz targets")]

#[path = "../fuzz/fuzz_targets/decode_v1.rs"]
mod decode_v1;
#[path = "../fuzz/fuzz_targets/decode_v2.rs"]
mod decode_v2;
#[path = "../fuzz/fuzz_targets/join.rs"]
mod join;

libfuzzer_sys::targets!(decode_v1, decode_v2, join);
