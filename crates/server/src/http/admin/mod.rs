//! The admin API: `/api/tenants` (http_and_ops 1).

mod body;
mod document;
mod health;
mod operations;
mod outcomes;
mod policies;
mod read;
mod shapes;
mod view;
mod webhook_view;
mod webhooks;
mod write;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
pub(super) use document::Document;
use http::{HeaderMap, Method, StatusCode, header};
use realtime_channels::tenant_runtime::Clock;

use crate::{
    answers::{not_found, text},
    node::{Node, Right},
    web::Web,
};

/// The routes under `/api`. Only administrators learn anything, even whether a tenant exists.
pub(super) fn routes(node: &Arc<Node>) -> Router<Web> {
    let tenant = get(read::show).put(write::put).patch(write::put).delete(write::delete).fallback(not_found);
    let webhook = put(webhooks::put).delete(webhooks::delete).fallback(not_found);
    let administered = Router::new()
        .route("/tenants", get(read::list).post(write::post).fallback(not_found))
        .route("/tenants/{tenant}", tenant)
        .route("/tenants/{tenant}/policies", get(policies::show).fallback(not_found))
        .route("/tenants/{tenant}/webhooks", get(webhooks::list).fallback(not_found))
        .route("/tenants/{tenant}/webhooks/{name}", webhook)
        .route("/tenants/{tenant}/reload", post(operations::reload).fallback(not_found))
        .route("/tenants/{tenant}/shutdown", post(operations::shutdown).fallback(not_found))
        .route_layer(from_fn_with_state(Arc::clone(node), administer));
    let probed = Router::new()
        .route("/tenants/{tenant}/health", get(health::health).fallback(not_found))
        .route_layer(from_fn_with_state(Arc::clone(node), probe));
    administered.merge(probed)
}

fn right(node: &Node, headers: &HeaderMap) -> Option<Right> {
    let token = text(headers, header::AUTHORIZATION)?.strip_prefix("Bearer ")?;
    node.admin().right(token, Clock::System.unix_seconds())
}

/// Lets administrators through.
async fn administer(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    match right(&node, request.headers()) {
        Some(Right::Administer) => next.run(request).await,
        _ => StatusCode::FORBIDDEN.into_response(),
    }
}

/// Lets administrators through, and also `HEAD` requests of those who may ask whether a tenant exists.
async fn probe(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    match right(&node, request.headers()) {
        Some(Right::Administer) => next.run(request).await,
        Some(Right::Probe) if request.method() == Method::HEAD => next.run(request).await,
        _ => StatusCode::FORBIDDEN.into_response(),
    }
}
