//! The HTTP side: listener, routes, the WebSocket upgrade.

mod admin;
pub(crate) mod answers;
mod broadcast;
pub mod listener;
pub mod longpoll;
mod metrics;
mod openapi;
mod pages;
mod policy_headers;
mod request_id;
mod swagger;
mod tenant_api;
mod upgrade;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http::{StatusCode, header};

use crate::{app::App, dashboard};

/// All routes of the server (http_and_ops 0.1). What gateways publish under `/realtime/v1` is there too, but for what
/// they keep to themselves: the administration of tenants.
pub fn router(app: Arc<App>) -> Router {
    let websockets = Router::new()
        .route("/socket/websocket", any(upgrade::websocket))
        .route("/realtime/v1/websocket", any(upgrade::websocket))
        .layer(from_fn(pages::let_pages_read_refusals));
    let sockets = Router::new()
        .merge(websockets)
        .route("/socket/longpoll", any(longpoll::longpoll))
        .route("/realtime/v1/longpoll", any(longpoll::longpoll));
    let api = tenant_api(&app);
    Router::new()
        .route("/healthcheck", get(healthcheck))
        .route("/metrics", get(metrics::metrics))
        .merge(swagger::router())
        .merge(dashboard::router(&app))
        .nest("/api", api.clone().merge(admin::routes(&app)))
        .nest("/realtime/v1/api", api)
        .merge(pages::routes())
        .fallback(answers::not_found)
        .layer(from_fn(request_id::layer))
        .merge(sockets)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), refuse_long_headers))
        .with_state(app)
}

/// The tenant's routes; layers run from the last to the first.
fn tenant_api(app: &Arc<App>) -> Router<Arc<App>> {
    let admit = || from_fn_with_state(Arc::clone(app), tenant_api::admit);
    let batch = Router::new()
        .route("/broadcast", any(broadcast::batch))
        .layer(from_fn(tenant_api::authenticate))
        .layer(admit())
        .layer(from_fn(tenant_api::cors));
    let single = Router::new()
        .route("/broadcast/{topic}/events/{event}", any(broadcast::single))
        .layer(from_fn(tenant_api::authenticate))
        .layer(admit())
        .layer(from_fn(broadcast::check_content_type))
        .layer(from_fn(tenant_api::cors));
    let ping = Router::new().route("/ping", get(tenant_api::ping)).layer(admit());
    let document = Router::new().route("/openapi", get(openapi::document));
    batch.merge(single).merge(ping).merge(document)
}

/// Liveness only: touches nothing (http_and_ops 3).
#[utoipa::path(
    get, path = "/healthcheck", tag = "Operations", summary = "Whether the server runs",
    responses((status = 200, description = "It does", content_type = "text/plain; charset=utf-8", body = String,
               example = json!("ok")))
)]
async fn healthcheck() -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "ok").into_response()
}

/// A header value over `MAX_HEADER_LENGTH` is answered with 431 (http_and_ops 0).
async fn refuse_long_headers(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if request.headers().values().any(|value| value.len() > app.max_header_length()) {
        return StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.into_response();
    }
    next.run(request).await
}
