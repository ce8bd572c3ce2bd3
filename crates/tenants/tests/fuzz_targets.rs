//! The fuzz targets compile, and hold for their examples and for what is a little like these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "fuzz targets")]

#[path = "../fuzz/fuzz_targets/tenant.rs"]
mod tenant;

libfuzzer_sys::targets!(tenant);
