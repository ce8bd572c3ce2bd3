//! The fuzz targets compile, and hold for their examples and for what is a little like these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "fuzz targets")]

#[path = "../fuzz/fuzz_targets/filter.rs"]
mod filter;
#[path = "../fuzz/fuzz_targets/policy.rs"]
mod policy;
#[path = "../fuzz/fuzz_targets/subscription.rs"]
mod subscription;

libfuzzer_sys::targets!(filter, policy, subscription);
