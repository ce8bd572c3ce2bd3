//! The address of a request: its path, which is straight once it was straightened, and the query of a handshake.
#![cfg_attr(fuzzing, no_main)]

#[path = "../../src/transport/listener/paths.rs"]
mod paths;
#[allow(dead_code, reason = "the server's")]
#[path = "../../src/transport/query.rs"]
mod query;

use http::Uri;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut uri) = Uri::try_from(data) else { return };
    let _ = paths::is_text(uri.path());
    let _ = query::Query::parse(uri.query().unwrap_or_default()).vsn();
    paths::straighten(&mut uri);
    let once = uri.clone();
    paths::straighten(&mut uri);
    assert_eq!(uri, once);
});
