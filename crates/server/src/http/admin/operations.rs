//! `POST /api/tenants/:tenant_id/reload` and `/shutdown` (http_and_ops 1.4).

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use realtime_tenants::StoreError;

use super::{
    body::is_name,
    outcomes::{no_such_tenant, unavailable},
    shapes::{Missing, Refused},
};
use crate::{node::Node, operators::tenants};

/// Whether there is a tenant with this name, usable or not.
pub(super) async fn exists(node: &Node, external_id: &str) -> Result<bool, StoreError> {
    if !is_name(external_id) {
        return Ok(false);
    }
    match (node.tenants().get(external_id).await, node.tenants().directory()) {
        (Ok(Some(_)), _) => Ok(true),
        (_, Some(directory)) => Ok(directory.store().get(external_id).await?.is_some()),
        (_, None) => Ok(false),
    }
}

/// Ends a tenant's connections to its database, and its sockets.
#[utoipa::path(
    post, path = "/api/tenants/{tenant_id}/reload", operation_id = "reload_tenant", tag = "Tenants",
    summary = "End the sockets and the connections to the database", security(("administrator" = [])),
    params(("tenant_id" = String, Path, description = "Its `external_id`")),
    responses((status = 204, description = "Done, or nothing ran"), Missing, Refused)
)]
pub(super) async fn reload(State(node): State<Arc<Node>>, Path(external_id): Path<String>) -> Response {
    match exists(&node, &external_id).await {
        Ok(true) => {}
        Ok(false) => return no_such_tenant(&external_id),
        Err(error) => return unavailable(&error),
    }
    tracing::info!(tenant = external_id, "tenant reloaded");
    tenants::reload(&node, &external_id).await;
    StatusCode::NO_CONTENT.into_response()
}

/// Ends a tenant's connections to its database.
#[utoipa::path(
    post, path = "/api/tenants/{tenant_id}/shutdown", operation_id = "shutdown_tenant", tag = "Tenants",
    summary = "End the connections to the database", security(("administrator" = [])),
    params(("tenant_id" = String, Path, description = "Its `external_id`")),
    responses((status = 204, description = "Done, or nothing ran"), Missing, Refused)
)]
pub(super) async fn shutdown(State(node): State<Arc<Node>>, Path(external_id): Path<String>) -> Response {
    match exists(&node, &external_id).await {
        Ok(true) => {}
        Ok(false) => return no_such_tenant(&external_id),
        Err(error) => return unavailable(&error),
    }
    tracing::info!(tenant = external_id, "tenant's database shut down");
    tenants::end_database(&node, &external_id).await;
    StatusCode::NO_CONTENT.into_response()
}
