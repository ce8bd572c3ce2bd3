//! The HTTP side: listener, routes, the WebSocket upgrade.

mod admin;
pub(crate) mod answers;
mod broadcast;
mod first_generation;
mod leftover;
mod limits;
pub mod listener;
pub mod longpoll;
mod metrics;
mod openapi;
mod pages;
mod paths;
mod policy_headers;
mod query;
mod request_id;
mod request_log;
mod swagger;
mod tenant_api;
mod upgrade;

use std::sync::Arc;

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http::header;
use tower_http::compression::{CompressionLayer, predicate::SizeAbove};

use crate::{app::App, dashboard};

/// Smallest answer that is compressed, in bytes: it fits into one packet anyway.
const MIN_COMPRESSED: u64 = 1_024;

/// All routes of the server (http_and_ops 0.1). What gateways publish under `/realtime/v1` is there too, but for what
/// they keep to themselves: the administration of tenants.
pub fn router(app: Arc<App>) -> Router {
    if app.legacy().is_some_and(|legacy| legacy.settings().pure) {
        return first_generation::router(app);
    }
    let websockets = Router::new()
        .route("/socket/websocket", any(upgrade::websocket))
        .route("/realtime/v1/websocket", any(upgrade::websocket))
        .layer(from_fn(pages::let_pages_read_refusals));
    let sockets = Router::new()
        .merge(websockets)
        .route("/socket/longpoll", any(longpoll::longpoll))
        .route("/realtime/v1/longpoll", any(longpoll::longpoll));
    let api = tenant_api(&app);
    let routes = Router::new()
        .route("/healthcheck", get(healthcheck))
        .route("/metrics", get(metrics::metrics))
        .route("/metrics/{region}", get(metrics::of_region))
        .merge(swagger::router())
        .merge(dashboard::router(&app))
        .nest("/api", api.clone().merge(admin::routes(&app)))
        .nest("/realtime/v1/api", api)
        .merge(pages::routes())
        .merge(sockets);
    for_all(routes, &app).with_state(app)
}

/// What holds for every route, whoever made it (http_and_ops 0); layers run from the last to the first.
fn for_all(routes: Router<Arc<App>>, app: &Arc<App>) -> Router<Arc<App>> {
    // Small answers grow by it, and the answer to an upgrade has no body at all.
    let compression = CompressionLayer::new().gzip(true).compress_when(SizeAbove::new(MIN_COMPRESSED));
    routes
        .fallback(answers::not_found)
        .method_not_allowed_fallback(answers::not_found)
        .layer(from_fn_with_state(Arc::clone(app), limits::check))
        .layer(compression)
        .layer(from_fn_with_state(Arc::clone(app), request_log::layer))
}

/// The tenant's routes; layers run from the last to the first.
fn tenant_api(app: &Arc<App>) -> Router<Arc<App>> {
    let admit = || from_fn_with_state(Arc::clone(app), tenant_api::admit);
    let authenticate = || from_fn_with_state(Arc::clone(app), tenant_api::authenticate);
    let anonymous = from_fn_with_state(Arc::clone(app), tenant_api::anonymous);
    let batch = Router::new()
        .route("/broadcast", any(broadcast::batch))
        .layer(authenticate())
        .layer(admit())
        .layer(from_fn(tenant_api::cors));
    let single = Router::new()
        .route("/broadcast/{topic}/events/{event}", any(broadcast::single))
        .layer(authenticate())
        .layer(admit())
        .layer(from_fn(broadcast::check_content_type))
        .layer(from_fn(tenant_api::cors));
    let ping = Router::new().route("/ping", get(tenant_api::ping)).layer(anonymous).layer(admit());
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
