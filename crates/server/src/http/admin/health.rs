//! `GET /api/tenants/:tenant_id/health` (http_and_ops 1.4).

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;

use super::{
    data,
    document::{HealthData, Missing, Refused},
    no_such_tenant,
    operations::exists,
    unavailable,
};
use crate::{app::App, set_up, tenant_runtime::TenantRuntime};

/// How a tenant is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Health<'a> {
    healthy: bool,
    db_connected: bool,
    replication_connected: bool,
    connected_cluster: u32,
    region: Option<&'a str>,
    node: &'a str,
}

/// Whether a tenant could be served: always 200 if there is one. A connection that has not been used for a while is
/// looked at; none is made.
#[utoipa::path(
    get, path = "/api/tenants/{tenant_id}/health", operation_id = "tenant_health", tag = "Tenants",
    summary = "How a tenant is",
    description = "200 whether or not it is well. Tokens of clients may ask with HEAD.",
    security(("administrator" = [])),
    params(("tenant_id" = String, Path, description = "Its `external_id`")),
    responses((status = 200, description = "How it is", body = HealthData), Missing, Refused)
)]
pub(super) async fn health(State(app): State<Arc<App>>, Path(external_id): Path<String>) -> Response {
    match exists(&app, &external_id).await {
        Ok(true) => {}
        Ok(false) => return no_such_tenant(&external_id),
        Err(error) => return unavailable(&error),
    }
    let runtime = app.runtime(&external_id).await;
    let (healthy, db_connected, replication_connected, connected_cluster) = match &runtime {
        // Its record cannot be used, as the log says.
        None => (false, false, false, 0),
        Some(runtime) => {
            let connected = is_connected(runtime).await;
            let clients = runtime.users().total();
            let replication = connected && runtime.database().replication().arrives;
            let healthy = connected || (clients == 0 && set_up::is_done(&app, runtime).await);
            (healthy, connected, replication, clients)
        }
    };
    let health = Health {
        healthy,
        db_connected,
        replication_connected,
        connected_cluster,
        region: app.region(),
        node: &app.settings().node,
    };
    data(StatusCode::OK, health)
}

async fn is_connected(runtime: &TenantRuntime) -> bool {
    let database = runtime.database();
    if database.is_connected() && !database.is_ready() {
        // What comes of it is told by the handle itself.
        let _ = database.try_on().await;
    }
    database.is_connected()
}
