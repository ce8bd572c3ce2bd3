//! An entry of `postgres_changes`, as a client writes it.
#![cfg_attr(fuzzing, no_main)]

use libfuzzer_sys::fuzz_target;
use realtime_changes::SubscriptionSpec;
use serde_json::{Map, Value};

fuzz_target!(|data: &[u8]| {
    let Ok(params) = serde_json::from_slice::<Map<String, Value>>(data) else { return };
    if let Ok(spec) = SubscriptionSpec::parse(&params) {
        let _ = spec.context();
    }
});
