//! `GET /api/tenants/:tenant_id/health` (http_and_ops 1.4).

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::{Method, StatusCode};
use realtime_channels::tenant_runtime::TenantRuntime;

use super::{
    operations::exists,
    outcomes::{data, no_such_tenant, unavailable},
    shapes::{HealthData, Missing, Refused},
    view::Health,
};
use crate::{
    node::{Node, set_up},
    operators::tenants::{self, OnNode},
};

/// Whether a tenant could be served: always 200 if there is one. All nodes are asked; one that does not answer is left
/// out. A connection that has not been used for a while is looked at; none is made.
#[utoipa::path(
    get, path = "/api/tenants/{tenant_id}/health", operation_id = "tenant_health", tag = "Tenants",
    summary = "How a tenant is",
    description = "200 whether or not it is well. Tokens of clients may ask with HEAD.",
    security(("administrator" = [])),
    params(("tenant_id" = String, Path, description = "Its `external_id`")),
    responses((status = 200, description = "How it is", body = HealthData), Missing, Refused)
)]
pub(super) async fn health(
    State(node): State<Arc<Node>>,
    method: Method,
    Path(external_id): Path<String>,
) -> Response {
    match exists(&node, &external_id).await {
        Ok(true) => {}
        Ok(false) => return no_such_tenant(&external_id),
        Err(error) => return unavailable(&error),
    }
    // Made if necessary, because its set-up is asked for below. `None` if its record cannot be used; the log says why.
    let runtime = node.runtime(&external_id).await;
    // Tokens of clients may ask with HEAD, as often as they like. That must not make work for all nodes.
    let nodes = if method == Method::HEAD {
        vec![tenants::on_this_node(&node, &external_id).await]
    } else {
        tenants::everywhere(&node, &external_id).await
    };
    let clients = users(&nodes, runtime.as_deref());
    let place = place(&nodes);
    let there = place.and_then(OnNode::running);
    let db_connected = there.is_some_and(|there| there.db_connected);
    let healthy = match &runtime {
        None => db_connected,
        Some(runtime) => db_connected || (clients == 0 && set_up::is_done(&node, runtime).await),
    };
    let health = Health {
        healthy,
        db_connected,
        replication_connected: nodes
            .iter()
            .filter_map(OnNode::running)
            .any(|there| there.db_connected && there.replication_connected),
        connected_cluster: clients,
        region: place.map_or(node.region(), |node| node.region.as_deref()),
        node: place.map_or(&node.settings().node, |node| &node.name),
    };
    data(StatusCode::OK, health)
}

/// Users on all nodes: as the nodes say now, or as they said before if some do not answer.
fn users(nodes: &[OnNode], runtime: Option<&TenantRuntime>) -> u32 {
    let told = nodes.iter().filter_map(OnNode::running).map(|there| there.users).fold(0, u32::saturating_add);
    let unknown = nodes.iter().any(|node| node.there.is_err());
    match runtime {
        Some(runtime) if unknown => told.max(runtime.users().total()),
        _ => told,
    }
}

/// The node whose figures are shown: the one that reads the tenant's database for all, or else this one if it is
/// connected, or else any that is.
fn place(nodes: &[OnNode]) -> Option<&OnNode> {
    let connected = |node: &&OnNode| node.running().is_some_and(|there| there.db_connected);
    nodes.iter().filter(connected).find(|node| node.reads()).or_else(|| nodes.iter().find(connected))
}
