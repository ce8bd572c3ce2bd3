//! The HTTP side: listener, routes, the WebSocket upgrade.

pub mod listener;
mod upgrade;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http::{StatusCode, header};

use crate::app::App;

/// All routes of the server (http_and_ops 0.1).
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthcheck", get(healthcheck))
        .route("/socket/websocket", any(upgrade::websocket))
        .route("/realtime/v1/websocket", any(upgrade::websocket))
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), refuse_long_headers))
        .with_state(app)
}

/// Liveness only: touches nothing (http_and_ops 3).
async fn healthcheck() -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "ok").into_response()
}

async fn not_found(request: Request) -> Response {
    let wants_json = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json"));
    if wants_json {
        let json = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
        return (StatusCode::NOT_FOUND, json, "\"Not Found\"").into_response();
    }
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], "Not Found").into_response()
}

/// A header value over `MAX_HEADER_LENGTH` is answered with 431 (http_and_ops 0).
async fn refuse_long_headers(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if request.headers().values().any(|value| value.len() > app.max_header_length()) {
        return StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.into_response();
    }
    next.run(request).await
}
