//! Requests that are refused because of their form, before a route sees them (http_and_ops 0).

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::broadcast::is_json;
use crate::{
    answers::{phrase, text},
    node::Node,
    transport::listener::{MAX_BODY, is_text},
};

/// Refuses a request that no route can answer: 400 for a path that is not text, 431 for a header value over
/// `MAX_HEADER_LENGTH`, 413 for a body that is too large by its announced length, 415 for a compressed body, 406 if a
/// route answers JSON and the client does not accept that.
pub(super) async fn check(State(node): State<Arc<Node>>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Arc::clone(node.memory()));
    request.extensions_mut().insert(node.turns().clone());
    match fault(&request, node.settings().max_header_length) {
        Some((status, text)) => {
            let mut answer = phrase(request.headers(), status, text);
            if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
                answer.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            answer
        }
        None => next.run(request).await,
    }
}

fn fault(request: &Request, max_header_length: usize) -> Option<(StatusCode, &'static str)> {
    if !is_text(request.uri().path()) {
        return Some((StatusCode::BAD_REQUEST, "Bad Request"));
    }
    let headers = request.headers();
    if headers.values().any(|value| value.len() > max_header_length) {
        return Some((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "Request Header Fields Too Large"));
    }
    // A compressed body would be read as bad JSON, or passed on as a payload.
    let is_plain = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported Media Type"));
    }
    let announced = text(headers, header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    // Long-poll has a limit of its own.
    if announced.is_some_and(|length| length > MAX_BODY) && !request.uri().path().ends_with("/longpoll") {
        return Some((StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large"));
    }
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let api = route.is_some_and(|route| route.starts_with("/api/") || route.starts_with("/realtime/v1/api/"));
    (api && !accepts_json(headers)).then_some((StatusCode::NOT_ACCEPTABLE, "Not Acceptable"))
}

fn accepts_json(headers: &HeaderMap) -> bool {
    if !headers.contains_key(header::ACCEPT) {
        return true;
    }
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        (matches!(&*media, "*/*" | "application/*") || is_json(&media)) && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_json() {
        let accepts = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            accepts_json(&headers)
        };
        assert!(accepts_json(&HeaderMap::new()));
        for accept in [
            "*/*",
            "text/html, */*;q=0.1",
            "application/json; charset=utf-8",
            "Application/JSON",
            "application/*",
            "application/vnd.api+json",
        ] {
            assert!(accepts(accept), "{accept}");
        }
        for accept in ["text/html", "application/xml, text/*", "application/json;q=0", ""] {
            assert!(!accepts(accept), "{accept}");
        }
    }
}
