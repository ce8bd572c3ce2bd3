//! The filter of a subscription, as a client writes it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realtime_changes::SubscriptionSpec;
use serde_json::Map;

fuzz_target!(|data: &[u8]| {
    let Ok(filter) = std::str::from_utf8(data) else { return };
    let params = Map::from_iter(
        [("schema", "public"), ("table", "test"), ("filter", filter)]
            .map(|(name, value)| (name.to_owned(), value.into())),
    );
    if let Ok(spec) = SubscriptionSpec::parse(&params) {
        let _ = spec.context();
    }
});
