//! What every request gets: an id, a span, a line in the log (http_and_ops 0).

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::StatusCode;
use tokio::time::Instant;
use tracing::{Instrument as _, field};

use super::request_id::{self, HEADER};
use crate::{node::Node, operators::logging::traces};

/// Gives the answer the request's id, or a new one; logs the request. What happens within is logged with the id, and is
/// part of the request's trace.
pub async fn layer(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let id = request_id::of(request.headers(), &node.settings().operations.request_id_baggage_key);
    let method = request.method().clone();
    let uri = request.uri().clone();
    let path = uri.path();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map(MatchedPath::as_str);
    // What only traces want is written by them alone.
    let span = tracing::error_span!(
        "request",
        otel.name = %format_args!("{method} {}", route.unwrap_or("unknown")),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = %method,
        http.route = route,
        http.response.status_code = field::Empty,
        url.path = path,
        request_id = id.to_str().unwrap_or_default(),
        external_id = field::Empty,
    );
    traces::follow(&span, request.headers());
    let started = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    response.headers_mut().insert(HEADER, id);
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    let health = is_about_health(path, route);
    if !health || node.settings().operations.log_healthchecks {
        let millis = started.elapsed().as_secs_f64() * 1e3;
        span.in_scope(|| log(&method, path, status, millis, health));
    }
    response
}

/// Whether it is asked how a node or a tenant is, by machines and all the time.
fn is_about_health(path: &str, route: Option<&str>) -> bool {
    path == "/healthcheck" || route.is_some_and(|route| route.ends_with("/health"))
}

/// One line. The path is logged without the query, which may hold a key.
fn log(method: &http::Method, path: &str, status: StatusCode, millis: f64, health: bool) {
    let status_code = status.as_u16();
    let duration_ms = (millis * 1e3).round() / 1e3;
    if health {
        tracing::info!(status = status_code, duration_ms, "{method} {path}");
    } else if status.is_server_error() {
        tracing::error!(code = "HttpServerError", status = status_code, duration_ms, "{method} {path}");
    } else if is_fault_of_form(status) {
        tracing::warn!(code = "HttpClientError", status = status_code, duration_ms, "{method} {path}");
    } else if status.is_client_error() {
        tracing::warn!(status = status_code, duration_ms, "{method} {path}");
    } else {
        tracing::info!(status = status_code, duration_ms, "{method} {path}");
    }
}

/// Whether a request was refused for its form, before anybody looked at what it asks.
fn is_fault_of_form(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_ACCEPTABLE
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    )
}
