//! `GET /metrics` (http_and_ops 3).

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, StatusCode, header};

use super::openapi::shapes::MetricsAnswers;
use crate::{app::App, metrics};

/// All metrics, for who bears a token of `METRICS_JWT_SECRET`.
#[utoipa::path(
    get, path = "/metrics", tag = "Operations", summary = "What operators watch", security(("metrics" = [])),
    responses(MetricsAnswers)
)]
pub(super) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    if !token.is_some_and(|token| app.may_read_metrics(token)) {
        return StatusCode::FORBIDDEN.into_response();
    }
    match metrics::render(&app) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot render metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
