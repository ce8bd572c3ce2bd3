//! The headers that policies see as `request.headers` (tenant_database 3.2).

use std::sync::Arc;

use http::HeaderMap;
use serde_json::{Map, Value};

/// For a socket: the headers of its handshake that begin with `x-`, as a JSON object.
pub fn of_handshake(headers: &HeaderMap) -> Arc<str> {
    object(headers, |name| name.starts_with("x-"))
}

/// For a request: all headers, as a JSON object.
pub fn of_request(headers: &HeaderMap) -> Arc<str> {
    object(headers, |_| true)
}

/// If a header is repeated, the last value counts.
fn object(headers: &HeaderMap, wanted: impl Fn(&str) -> bool) -> Arc<str> {
    let mut object = Map::new();
    for (name, value) in headers.iter().filter(|(name, _)| wanted(name.as_str())) {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        object.insert(name.as_str().to_owned(), Value::String(value));
    }
    Value::Object(object).to_string().into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn sockets_show_their_own_headers_alone() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("x-a", "2"), ("cookie", "c")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(&*of_handshake(&headers), r#"{"x-a":"2"}"#);
        assert_eq!(&*of_request(&headers), r#"{"cookie":"c","x-a":"2"}"#);
        assert_eq!(&*of_handshake(&HeaderMap::new()), "{}");
    }
}
