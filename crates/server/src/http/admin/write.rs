//! Making, changing and removing tenants (http_and_ops 1.4).
//!
//! What runs for a tenant follows each write to the metadata database, even if the client does not wait for the
//! answer: each request's work is a task of its own. Tenants are changed one after the other.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use realtime_codes::ErrorCode;
use realtime_tenants::{Directory, Field, FieldErrors, StoreError, TenantFields, TenantRecord};
use serde_json::{Map, Value};

use super::{
    super::shapes::Message,
    body,
    outcomes::{data, unavailable},
    shapes::{NewTenantBody, Refused, TenantBody, Written},
    view::TenantView,
};
use crate::{
    answers::message,
    node::{DATABASE_LIMIT, Node, set_up},
};

/// The answer on a server whose tenants are those of the configuration.
const NO_STORE: &str = "The tenants of this server are those of its configuration. To keep them in a metadata database, \
                        set DB_ENC_KEY or DB_ENC_KEY_GCM";

/// Why a request has no regular answer.
pub(super) enum Refusal {
    Fields(FieldErrors),
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error.field_errors() {
            Some(errors) => Self::Fields(errors),
            None => Self::Store(error),
        }
    }
}

impl From<FieldErrors> for Refusal {
    fn from(errors: FieldErrors) -> Self {
        Self::Fields(errors)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Fields(errors) => body::unprocessable(&errors),
            // Another node has just removed it.
            Self::Store(StoreError::NotFound { .. }) => message(StatusCode::NOT_FOUND, "not found"),
            Self::Store(error) => unavailable(&error),
        }
    }
}

/// `POST /api/tenants`.
#[utoipa::path(
    post, path = "/api/tenants", operation_id = "create_tenant", tag = "Tenants", summary = "Make or change a tenant",
    security(("administrator" = [])), request_body = NewTenantBody, responses(Written, Refused)
)]
pub(super) async fn post(State(node): State<Arc<Node>>, request: Request) -> Response {
    let Some(directory) = node.tenants().directory().map(Arc::clone) else { return no_store() };
    let tenant = match body::tenant(request).await {
        Ok(tenant) => tenant,
        Err(refusal) => return refusal,
    };
    // The form of the body is checked before everything else, even if the tenant exists.
    let external_id = match body::check(&tenant).and_then(|()| TenantFields::cast(&tenant)) {
        Ok(fields) => match fields.external_id {
            Some(external_id) => external_id,
            None => return body::unprocessable(&FieldErrors::of("external_id", "can't be blank")),
        },
        Err(mut errors) => {
            if tenant.get("external_id").is_none() {
                errors.add("external_id", "can't be blank");
            }
            return body::unprocessable(&errors);
        }
    };
    detached(&node, upsert(Arc::clone(&node), directory, external_id, tenant)).await
}

/// `PUT` and `PATCH /api/tenants/:tenant_id`.
#[utoipa::path(
    method(put, patch), path = "/api/tenants/{tenant_id}", operation_id = "update_tenant", tag = "Tenants",
    summary = "Change a tenant, or make it", security(("administrator" = [])),
    params(("tenant_id" = String, Path, description = "Its `external_id`")),
    request_body = TenantBody, responses(Written, Refused)
)]
pub(super) async fn put(
    State(node): State<Arc<Node>>,
    Path(external_id): Path<String>,
    request: Request,
) -> Response {
    let Some(directory) = node.tenants().directory().map(Arc::clone) else { return no_store() };
    let tenant = match body::tenant(request).await {
        Ok(tenant) => tenant,
        Err(refusal) => return refusal,
    };
    if !body::is_name(&external_id) {
        return body::unprocessable(&FieldErrors::of("external_id", "is invalid"));
    }
    if let Err(errors) = body::check(&tenant) {
        return body::unprocessable(&errors);
    }
    detached(&node, upsert(Arc::clone(&node), directory, external_id, tenant)).await
}

/// `DELETE /api/tenants/:tenant_id`.
#[utoipa::path(
    delete, path = "/api/tenants/{tenant_id}", operation_id = "delete_tenant", tag = "Tenants",
    summary = "Remove a tenant",
    description = "Its sockets end, and its replication slots are dropped.",
    security(("administrator" = [])),
    params(("tenant_id" = String, Path, description = "Its `external_id`")),
    responses(
        (status = 204, description = "There is no such tenant now"),
        (status = 501, description = "The tenants are those of the configuration", body = Message),
        Refused,
    )
)]
pub(super) async fn delete(State(node): State<Arc<Node>>, Path(external_id): Path<String>) -> Response {
    let Some(directory) = node.tenants().directory().map(Arc::clone) else { return no_store() };
    if !body::is_name(&external_id) {
        return StatusCode::NO_CONTENT.into_response();
    }
    detached(&node, remove(Arc::clone(&node), directory, external_id)).await
}

pub(super) fn no_store() -> Response {
    message(StatusCode::NOT_IMPLEMENTED, NO_STORE)
}

/// Completes a piece of work even if the client disconnects.
pub(super) async fn detached(
    node: &Node,
    work: impl Future<Output = Result<Response, Refusal>> + Send + 'static,
) -> Response {
    match node.sockets().spawn(work).await {
        Ok(Ok(response)) => response,
        Ok(Err(refusal)) => refusal.into_response(),
        Err(error) => {
            tracing::error!(code = ErrorCode::UnknownErrorOnController.as_str(), %error, "request failed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn upsert(
    node: Arc<Node>,
    directory: Arc<Directory>,
    external_id: String,
    mut tenant: Map<String, Value>,
) -> Result<Response, Refusal> {
    let turn = node.admin().changing().await;
    let exists = directory.store().get(&external_id).await?.is_some();
    if !exists {
        body::drop_incomplete_extensions(&mut tenant);
    }
    let fields = TenantFields::cast(&tenant)?;
    if !exists {
        if fields.extensions.as_ref().is_none_or(Vec::is_empty) {
            return Err(FieldErrors::of("extensions", "can't be blank").into());
        }
        let record = directory.create(&external_id, &fields).await?;
        drop(node.follow(&external_id));
        drop(turn);
        tracing::info!(tenant = external_id, "tenant made");
        return Ok(created(&node, &record).await);
    }
    if fields.external_id.as_ref().is_some_and(|other| *other != external_id) {
        return Err(FieldErrors::of("external_id", "can't be changed").into());
    }
    let updated = directory.update(&external_id, &fields).await?;
    if updated.changed.contains(&Field::Extensions) && fields.migrations_ran.is_none() {
        // It is not known whether the new database is set up.
        let unknown = TenantFields { migrations_ran: Some(Some(0)), ..TenantFields::default() };
        directory.update(&external_id, &unknown).await?;
    }
    let ending = node.follow(&external_id);
    drop(turn);
    if !updated.changed.is_empty() {
        tracing::info!(tenant = external_id, changed = ?updated.changed, "tenant changed");
    }
    ending.wait(&external_id, DATABASE_LIMIT).await;
    Ok(answer(StatusCode::OK, &updated.after))
}

/// A new tenant's database is set up before the answer.
async fn created(node: &Arc<Node>, record: &TenantRecord) -> Response {
    match set_up::of_record(node, record).await {
        Ok(()) => answer(StatusCode::CREATED, record),
        // The tenant stays. It is served as soon as its database can be set up (http_and_ops 1.4).
        Err(()) => message(StatusCode::UNAUTHORIZED, "Unauthorized"),
    }
}

async fn remove(
    node: Arc<Node>,
    directory: Arc<Directory>,
    external_id: String,
) -> Result<Response, Refusal> {
    let turn = node.admin().changing().await;
    let record = directory.delete(&external_id).await?;
    let ending = node.follow(&external_id);
    drop(turn);
    ending.wait(&external_id, DATABASE_LIMIT).await;
    if let Some(record) = record {
        tracing::info!(tenant = external_id, "tenant removed");
        set_up::leave(&node, &record);
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn answer(status: StatusCode, record: &TenantRecord) -> Response {
    let mut response = data(status, TenantView::of_record(record));
    if let Ok(location) = HeaderValue::from_str(&format!("/api/tenants/{}", record.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
