//! `GET /api/tenants/:tenant_id/policies`: what becomes of the policies of a tenant's published tables.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use realtime_codes::ErrorCode;
use tokio::time;

use super::{
    operations::exists,
    outcomes::{data, no_such_tenant, unavailable},
    shapes::{Missing, PoliciesData, Refused},
};
use crate::{answers::message, node::Node};

/// How long the database may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Which policies are compiled, which the database is asked about, and why. The database is asked now; nothing is changed.
#[utoipa::path(
    get, path = "/api/tenants/{tenant_id}/policies", operation_id = "tenant_policies", tag = "Tenants",
    summary = "Which policies are compiled, and why others are not",
    description = "For each published table of the tenant's database. Counts are those of the node that answers.",
    security(("administrator" = [])),
    params(("tenant_id" = String, Path, description = "Its `external_id`")),
    responses((status = 200, description = "The published tables", body = PoliciesData), Missing, Refused)
)]
pub(super) async fn show(State(node): State<Arc<Node>>, Path(external_id): Path<String>) -> Response {
    match exists(&node, &external_id).await {
        Ok(true) => {}
        Ok(false) => return no_such_tenant(&external_id),
        Err(error) => return unavailable(&error),
    }
    // The log says why a record cannot be used.
    let Some(runtime) = node.runtime(&external_id).await else {
        return message(StatusCode::SERVICE_UNAVAILABLE, "The tenant cannot be served");
    };
    match time::timeout(LIMIT, runtime.database().policies()).await {
        Ok(Ok(report)) => data(StatusCode::OK, report),
        Ok(Err(error)) => {
            tracing::warn!(code = error.code(), tenant = external_id, %error, "cannot look at policies");
            message(StatusCode::SERVICE_UNAVAILABLE, "The tenant's database is not available")
        }
        Err(_) => {
            let code = ErrorCode::InitializingProjectConnection.as_str();
            tracing::warn!(code, tenant = external_id, "the database did not show policies in time");
            message(StatusCode::SERVICE_UNAVAILABLE, "The tenant's database is not available")
        }
    }
}
