//! Answers that several routes share.

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;

/// Content type of JSON answers (http_and_ops 0).
pub const JSON: (header::HeaderName, &str) = (header::CONTENT_TYPE, "application/json; charset=utf-8");

/// Content type of answers for people.
const HTML: (header::HeaderName, &str) = (header::CONTENT_TYPE, "text/html; charset=utf-8");

/// A JSON answer.
pub fn json(status: StatusCode, body: &Value) -> Response {
    (status, [JSON], body.to_string()).into_response()
}

/// `{"message": …}`.
pub fn message(status: StatusCode, text: &str) -> Response {
    json(status, &serde_json::json!({ "message": text }))
}

/// The phrase of a status; as JSON if the client wants that.
pub fn phrase(headers: &HeaderMap, status: StatusCode, text: &'static str) -> Response {
    let wants_json = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json"));
    if wants_json {
        return json(status, &Value::from(text));
    }
    (status, [HTML], text).into_response()
}

/// The answer to a request that cannot be read: the phrase, as JSON if the client wants that.
pub fn bad_request(headers: &HeaderMap) -> Response {
    phrase(headers, StatusCode::BAD_REQUEST, "Bad Request")
}

/// The answer to a route that does not exist: the phrase, as JSON if the client wants that.
pub async fn not_found(request: Request) -> Response {
    phrase(request.headers(), StatusCode::NOT_FOUND, "Not Found")
}

/// A header as text. One that is not text counts as absent.
pub fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The answer to a browser's preflight: any origin, and the headers that it asked for.
pub fn preflight(headers: &HeaderMap, methods: &'static str) -> Response {
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let allowed =
        asked.unwrap_or(HeaderValue::from_static("authorization, apikey, content-type, x-client-info"));
    let answer = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods)),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, allowed),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600")),
    ];
    (StatusCode::OK, answer).into_response()
}
