//! Actions of operators on a tenant.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, header};
use realtime_tenants::StoreError;

use super::known::{NOT_FOUND, require, unavailable};
use crate::{
    dashboard::{
        BASE, Page,
        access::{Form, Visitor},
        failure, path_of, source,
    },
    node::Node,
    operators,
};

/// The sentence about an action that was done.
pub fn told(done: &str) -> Option<&'static str> {
    Some(match done {
        "database" => "The connections to the database were stopped.",
        "replication" => "Replication was stopped.",
        "nothing" => "There was nothing to stop.",
        "flag" => "The feature flag was set for this tenant.",
        _ => return None,
    })
}

/// Redirects to the tenant's page.
fn back(external_id: &str, done: &str) -> Response {
    let path = format!("{BASE}/{}?done={done}", path_of(external_id));
    (StatusCode::SEE_OTHER, [(header::LOCATION, path)]).into_response()
}

/// `POST …/end-database`: ends the connections to the database; sockets stay.
pub async fn end_database(
    State(node): State<Arc<Node>>,
    Extension(visitor): Extension<Visitor>,
    page: Page,
    Path(external_id): Path<String>,
) -> Response {
    if let Err(refusal) = require(&node, &page, &external_id).await {
        return refusal;
    }
    tracing::info!(tenant = external_id, who = visitor.who, "dashboard: database connection stopped");
    let ended = operators::tenants::end_database(&node, &external_id).await;
    back(&external_id, if ended { "database" } else { "nothing" })
}

/// `POST …/end-replication`: ends the replication session, and so row changes and broadcasts from the database.
pub async fn end_replication(
    State(node): State<Arc<Node>>,
    Extension(visitor): Extension<Visitor>,
    page: Page,
    Path(external_id): Path<String>,
) -> Response {
    if let Err(refusal) = require(&node, &page, &external_id).await {
        return refusal;
    }
    let ended = operators::tenants::end_replication(&node, &external_id).await;
    tracing::info!(tenant = external_id, who = visitor.who, ended, "dashboard: replication stopped");
    back(&external_id, if ended { "replication" } else { "nothing" })
}

/// `POST …/flags`: sets a flag for the tenant, or removes its own value.
pub async fn override_flag(
    State(node): State<Arc<Node>>,
    Extension(visitor): Extension<Visitor>,
    Extension(form): Extension<Form>,
    page: Page,
    Path(external_id): Path<String>,
) -> Response {
    let Some(directory) = source::directory(&node) else {
        return failure::page(&page, StatusCode::NOT_FOUND, "Feature flags", "There is no metadata database");
    };
    let flag = form.get("flag");
    let value = match form.get("value") {
        "on" => Some(true),
        "off" => Some(false),
        "clear" => None,
        _ => return failure::page(&page, StatusCode::BAD_REQUEST, "Feature flags", "On, off, or clear"),
    };
    tracing::info!(
        tenant = external_id,
        who = visitor.who,
        flag,
        ?value,
        "dashboard: feature flag set for a tenant"
    );
    match directory.store().override_flag(&external_id, flag, value).await {
        Ok(_) => back(&external_id, "flag"),
        Err(StoreError::NotFound { .. }) => failure::page(&page, StatusCode::NOT_FOUND, "Tenant", NOT_FOUND),
        Err(error) => unavailable(&page, &error),
    }
}
