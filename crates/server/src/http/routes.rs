//! The routes of the server.

use std::sync::Arc;

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
    routing::{any, get},
};

use super::{
    admin, broadcast, explain, first_generation, healthcheck::healthcheck, layers::for_all, metrics, openapi,
    pages, streams, swagger, tenant_api,
};
use crate::{
    transport::{longpoll, sse, upgrade},
    web::Web,
};

/// All routes of the server (http_and_ops 0.1). Routes that gateways publish under `/realtime/v1` exist under that
/// path, too, except the administration of tenants.
pub fn router(web: Web, dashboard: Router<Web>) -> Router {
    let node = Arc::clone(&web.node);
    if node.legacy().is_some_and(|legacy| legacy.settings().pure) {
        return first_generation::router(web);
    }
    let websockets = Router::new()
        .route("/socket/websocket", any(upgrade::websocket))
        .route("/realtime/v1/websocket", any(upgrade::websocket))
        .layer(from_fn(pages::let_pages_read_refusals));
    let event_streams = |prefix: &str| {
        Router::new()
            .route(&format!("{prefix}/sse/changes"), any(streams::changes))
            .route(&format!("{prefix}/sse/broadcast/{{*topic}}"), any(streams::broadcasts))
            .layer(from_fn(sse::cors))
    };
    let sockets = Router::new()
        .merge(websockets)
        .merge(event_streams(""))
        .merge(event_streams("/realtime/v1"))
        .route("/socket/longpoll", any(longpoll::longpoll))
        .route("/realtime/v1/longpoll", any(longpoll::longpoll));
    let api = tenant_api(&web);
    let routes = Router::new()
        .route("/healthcheck", get(healthcheck))
        .route("/metrics", get(metrics::metrics))
        .route("/metrics/{region}", get(metrics::of_region))
        .merge(swagger::router())
        .merge(dashboard)
        .nest("/api", api.clone().merge(admin::routes(&node)))
        .nest("/realtime/v1/api", api)
        .merge(pages::routes())
        .merge(sockets);
    for_all(routes, &node).with_state(web)
}

/// The tenant's routes; layers run from the last to the first.
fn tenant_api(web: &Web) -> Router<Web> {
    let admit = || from_fn_with_state(Arc::clone(&web.node), tenant_api::admit);
    let authenticate = || from_fn_with_state(Arc::clone(&web.strangers), tenant_api::authenticate);
    let anonymous = from_fn_with_state(Arc::clone(&web.strangers), tenant_api::anonymous);
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
    let history = Router::new()
        .route("/broadcast/{topic}/history", get(broadcast::history))
        .layer(authenticate())
        .layer(admit())
        .layer(from_fn(sse::cors));
    let explain = Router::new()
        .route("/explain", any(explain::explain))
        .layer(authenticate())
        .layer(admit())
        .layer(from_fn(tenant_api::cors));
    let ping = Router::new().route("/ping", get(tenant_api::ping)).layer(anonymous).layer(admit());
    let document = Router::new().route("/openapi", get(openapi::document));
    batch.merge(single).merge(history).merge(explain).merge(ping).merge(document)
}
