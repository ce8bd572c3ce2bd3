//! An id, a span and a log line for every request (http_and_ops 0).

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::StatusCode;
use realtime_codes::ErrorCode;
use tokio::time::Instant;
use tracing::{Instrument as _, field};

use super::request_id::{self, HEADER};
use crate::{node::Node, operators::logging::traces};

/// Sets the request's id on its answer, and logs the request. Log lines in between carry the id and are part of the
/// request's trace.
pub async fn layer(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let id = request_id::of(request.headers(), &node.settings().operations.request_id_baggage_key);
    let method = request.method().clone();
    let uri = request.uri().clone();
    let path = uri.path();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map(MatchedPath::as_str);
    // These fields appear in traces only.
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

/// Whether the request asks for the health of a node or a tenant. Machines do so all the time.
fn is_about_health(path: &str, route: Option<&str>) -> bool {
    path == "/healthcheck" || route.is_some_and(|route| route.ends_with("/health"))
}

/// Logs a request. The query is left out, because it may contain a key.
fn log(method: &http::Method, path: &str, status: StatusCode, millis: f64, health: bool) {
    let status_code = status.as_u16();
    let duration_ms = (millis * 1e3).round() / 1e3;
    if health {
        tracing::info!(status = status_code, duration_ms, "{method} {path}");
    } else if status.is_server_error() {
        let code = ErrorCode::HttpServerError.as_str();
        tracing::error!(code, status = status_code, duration_ms, "{method} {path}");
    } else if is_fault_of_form(status) {
        let code = ErrorCode::HttpClientError.as_str();
        tracing::warn!(code, status = status_code, duration_ms, "{method} {path}");
    } else if status.is_client_error() {
        tracing::warn!(status = status_code, duration_ms, "{method} {path}");
    } else {
        tracing::info!(status = status_code, duration_ms, "{method} {path}");
    }
}

/// Whether the request was refused because of its form, before its contents mattered.
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
