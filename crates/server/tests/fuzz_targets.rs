//! The fuzz targets compile, and hold for their examples and for what is a little like these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "fuzz targets")]

#[path = "../fuzz/fuzz_targets/address.rs"]
mod address;
#[path = "../fuzz/fuzz_targets/broadcast.rs"]
mod broadcast;
#[path = "../fuzz/fuzz_targets/longpoll.rs"]
mod longpoll;
#[path = "../fuzz/fuzz_targets/reader.rs"]
mod reader;

libfuzzer_sys::targets!(address, broadcast, longpoll, reader);
