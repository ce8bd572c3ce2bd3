//! The fuzz targets compile, and hold for their examples and for what is a little like these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "fuzz targets")]

#[path = "../fuzz/fuzz_targets/decode.rs"]
mod decode;
#[path = "../fuzz/fuzz_targets/json.rs"]
mod json;

libfuzzer_sys::targets!(decode, json);
