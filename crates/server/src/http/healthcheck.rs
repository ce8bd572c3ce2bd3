//! `GET /healthcheck`.

use axum::response::{IntoResponse as _, Response};
use http::header;

/// Shows that the process lives. It checks nothing else (http_and_ops 3).
#[utoipa::path(
    get, path = "/healthcheck", tag = "Operations", summary = "Whether the server runs",
    responses((status = 200, description = "It does", content_type = "text/plain; charset=utf-8", body = String,
               example = json!("ok")))
)]
pub async fn healthcheck() -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "ok").into_response()
}
