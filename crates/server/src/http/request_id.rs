//! `x-request-id` (http_and_ops 0): links an answer with its log lines.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, or a new one. `key` is the member of the W3C `baggage` header that carries the id.
pub(super) fn of(headers: &HeaderMap, key: &str) -> HeaderValue {
    let from_baggage = || {
        let id = baggage(headers, key)?;
        ((10..=200).contains(&id.len()) && printable(&id)).then(|| HeaderValue::from_str(&id).ok())?
    };
    let incoming = || {
        let id = headers.get(HEADER)?;
        ((20..=200).contains(&id.len()) && printable(id.to_str().ok()?)).then(|| id.clone())
    };
    from_baggage().or_else(incoming).unwrap_or_else(|| {
        let id = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 15]>());
        HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("none"))
    })
}

/// The id in `baggage: key=value;property,key=value`, percent-decoded.
fn baggage(headers: &HeaderMap, wanted: &str) -> Option<String> {
    let members = headers.get_all("baggage").iter().filter_map(|value| value.to_str().ok());
    members.flat_map(|value| value.split(',')).find_map(|member| {
        let (key, value) = member.split(';').next()?.split_once('=')?;
        (key.trim() == wanted)
            .then(|| percent_encoding::percent_decode_str(value.trim()).decode_utf8().ok())?
            .map(std::borrow::Cow::into_owned)
    })
}

fn printable(id: &str) -> bool {
    id.bytes().all(|byte| (0x20..=0x7E).contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &'static str, value: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        of(&headers, "request-id").to_str().unwrap().to_owned()
    }

    /// http_and_ops 35
    #[test]
    fn ids_come_from_baggage_or_are_new() {
        assert_eq!(id("baggage", "request-id=1234567890"), "1234567890");
        assert_eq!(id("baggage", "a=b, request-id = with%20space%21;p=1 ,c=d"), "with space!");
        let long = "x".repeat(201);
        for bad in ["123456789", &long, "12345%0A67890", "12345%0967890", "12345%1B67890", "12345%C3%A967890"]
        {
            let made = id("baggage", &format!("request-id={bad}"));
            assert!(made != bad && made.len() == 20, "{made}");
            assert!(made.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        }
        assert_eq!(id("baggage", "request-id=12345%FF67890").len(), 20);
        assert_eq!(id("x-request-id", "01234567890123456789"), "01234567890123456789");
        assert_ne!(id("x-request-id", "0123456789"), "0123456789");
    }
}
