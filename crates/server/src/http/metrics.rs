//! `GET /metrics` (http_and_ops 3).

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, StatusCode, header};

use super::{answers::text, openapi::shapes::MetricsAnswers};
use crate::{
    app::App,
    metrics::{self, Part},
};

/// All metrics, for who bears a token of `METRICS_JWT_SECRET`.
#[utoipa::path(
    get, path = "/metrics", tag = "Operations", summary = "What operators watch", security(("metrics" = [])),
    responses(MetricsAnswers)
)]
pub(super) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if !may_read(&app, &headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    answer(metrics::render(&app, Part::All))
}

/// Those of the nodes of a region: nothing if there is none.
pub(super) async fn of_region(
    State(app): State<Arc<App>>,
    Path(region): Path<String>,
    headers: HeaderMap,
) -> Response {
    if !may_read(&app, &headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let here = app.region().unwrap_or("nil") == region;
    answer(if here { metrics::render(&app, Part::All) } else { String::new() })
}

fn may_read(app: &App, headers: &HeaderMap) -> bool {
    let token = text(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    token.is_some_and(|token| app.may_read_metrics(token))
}

fn answer(text: String) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}
