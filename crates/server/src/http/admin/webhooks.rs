//! `/api/tenants/:tenant_id/webhooks`: the webhooks of a tenant.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use realtime_channels::webhooks::{HookView, Webhooks};
use realtime_codes::ErrorCode;
use realtime_tenants::{StoreError, Tenant};
use realtime_webhooks::{MAX_WEBHOOKS, Webhook, slot_suffix};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};

use super::{
    super::broadcast::{is_json, media_type, read_body},
    body::is_name,
    outcomes::{data, no_such_tenant, unavailable},
    shapes::{Missing, Refused, WebhookBody, WebhookData, WebhookList, WebhookWritten},
    webhook_view::WebhookView,
    write::{detached, no_store},
};
use crate::{
    answers::{bad_request, json as answer, message},
    node::Node,
};

/// The views of a tenant's webhooks, whether or not it runs here.
fn views(node: &Node, tenant: &Tenant) -> Vec<HookView> {
    match node.running(&tenant.external_id) {
        Some(runtime) => runtime.webhooks().views(tenant),
        None => Webhooks::new((&*tenant.external_id).into()).views(tenant),
    }
}

/// `GET /api/tenants/:tenant_id/webhooks`.
#[utoipa::path(
    get, path = "/api/tenants/{tenant_id}/webhooks", operation_id = "list_webhooks", tag = "Tenants",
    summary = "The webhooks of a tenant, and what they have done",
    description = "Secrets are not shown, and of addresses neither user, password nor query.",
    security(("administrator" = [])),
    params(("tenant_id" = String, Path, description = "Its `external_id`")),
    responses((status = 200, description = "The webhooks, in the order in which they were made", body = WebhookList),
        Missing, Refused)
)]
pub(super) async fn list(State(node): State<Arc<Node>>, Path(external_id): Path<String>) -> Response {
    match find(&node, &external_id).await {
        Ok(Some(tenant)) => {
            let views = views(&node, &tenant);
            data(StatusCode::OK, views.iter().map(WebhookView::of).collect::<Vec<_>>())
        }
        Ok(None) => no_such_tenant(&external_id),
        Err(error) => unavailable(&error),
    }
}

async fn find(node: &Node, external_id: &str) -> Result<Option<Arc<Tenant>>, StoreError> {
    if !is_name(external_id) {
        return Ok(None);
    }
    node.tenants().get(external_id).await
}

/// `PUT /api/tenants/:tenant_id/webhooks/:name`.
#[utoipa::path(
    put, path = "/api/tenants/{tenant_id}/webhooks/{name}", operation_id = "put_webhook", tag = "Tenants",
    summary = "Make or change a webhook",
    description = "It takes effect at once, on all nodes. A webhook that is there is replaced; its secret stays if none is \
        given. Its position stays too.",
    security(("administrator" = [])),
    params(
        ("tenant_id" = String, Path, description = "The tenant's `external_id`"),
        ("name" = String, Path, description = "Its name: 1 to 40 lower-case letters, digits, `-` and `_`")
    ),
    request_body = WebhookBody,
    responses((status = 200, description = "Set", body = WebhookData), WebhookWritten, Missing, Refused)
)]
pub(super) async fn put(
    State(node): State<Arc<Node>>,
    Path((external_id, name)): Path<(String, String)>,
    request: Request,
) -> Response {
    if node.tenants().directory().is_none() {
        return no_store();
    }
    let is_json = media_type(request.headers()).is_some_and(|kind| is_json(&kind));
    let (parts, body) = request.into_parts();
    let body = match read_body(&parts, body).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let written = serde_json::from_slice(&body).ok().filter(|_| is_json);
    let Some(Value::Object(mut written)) = written else { return bad_request(&parts.headers) };
    if !is_name(&external_id) {
        return no_such_tenant(&external_id);
    }
    written.insert("name".to_owned(), name.into());
    let work = write(Arc::clone(&node), external_id, written);
    detached(&node, async move { Ok(work.await) }).await
}

fn unprocessable(problem: &str) -> Response {
    // Without the problem in the log: it may quote what was sent.
    let (code, reason) =
        (ErrorCode::UnprocessableEntity.as_str(), "what was sent cannot be used; the answer says why");
    tracing::warn!(code, reason, "a webhook was refused");
    answer(StatusCode::UNPROCESSABLE_ENTITY, &json!({"errors": {"webhook": [problem]}}))
}

async fn write(node: Arc<Node>, external_id: String, mut written: Map<String, Value>) -> Response {
    let Some(directory) = node.tenants().directory() else { return no_store() };
    let name = written.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let turn = node.admin().changing().await;
    // The edit is made while nobody else can change the record.
    let mut outcome = Ok(());
    let edited = directory
        .edit_webhooks(&external_id, |webhooks| {
            let known = webhooks.iter().position(|webhook| *webhook.name == name);
            let old = known.and_then(|at| webhooks.get(at));
            if let Some(old) = old.filter(|_| !written.contains_key("secret")) {
                let secret = old.secret.expose_secret().into();
                written.insert("secret".to_owned(), secret);
            }
            outcome = realtime_webhooks::parse_one(&Value::Object(written))
                .and_then(|webhook| place(webhooks, known, webhook));
        })
        .await;
    drop(turn);
    match (edited, outcome) {
        (Err(StoreError::NotFound { .. }), _) => no_such_tenant(&external_id),
        (Err(error), _) => unavailable(&error),
        (Ok(_), Err(problem)) => unprocessable(&problem),
        (Ok(updated), Ok(())) => {
            drop(node.follow(&external_id));
            // It runs from now on, whether or not anybody is connected.
            let tenant = node.runtime(&external_id).await.map(|runtime| runtime.tenant());
            if !updated.changed.is_empty() {
                tracing::info!(tenant = external_id, "webhook set");
            }
            let views = tenant.map(|tenant| views(&node, &tenant)).unwrap_or_default();
            match views.iter().find(|view| *view.webhook.name == *name) {
                Some(view) => data(StatusCode::OK, WebhookView::of(view)),
                // The log says why.
                None => message(StatusCode::SERVICE_UNAVAILABLE, "The tenant cannot be served"),
            }
        }
    }
}

/// Puts a webhook in the place of the one that has its name, or adds it.
fn place(webhooks: &mut Vec<Webhook>, known: Option<usize>, webhook: Webhook) -> Result<(), String> {
    if let Some(old) = known.and_then(|at| webhooks.get_mut(at)) {
        *old = webhook;
        return Ok(());
    }
    if webhooks.len() >= MAX_WEBHOOKS {
        return Err(format!("there may be {MAX_WEBHOOKS} webhooks at most"));
    }
    let suffix = slot_suffix(&webhook.name);
    if webhooks.iter().any(|other| slot_suffix(&other.name) == suffix) {
        return Err("its slot would have the name of another one's; rename it".to_owned());
    }
    webhooks.push(webhook);
    Ok(())
}

/// `DELETE /api/tenants/:tenant_id/webhooks/:name`.
#[utoipa::path(
    delete, path = "/api/tenants/{tenant_id}/webhooks/{name}", operation_id = "delete_webhook", tag = "Tenants",
    summary = "Remove a webhook",
    description = "What waits is not posted any more, and its replication slot is dropped.",
    security(("administrator" = [])),
    params(
        ("tenant_id" = String, Path, description = "The tenant's `external_id`"),
        ("name" = String, Path, description = "Its name")
    ),
    responses(
        (status = 204, description = "There is no such webhook now"),
        (status = 501, description = "The tenants are those of the configuration", body = crate::http::shapes::Message),
        Missing, Refused
    )
)]
pub(super) async fn delete(
    State(node): State<Arc<Node>>,
    Path((external_id, name)): Path<(String, String)>,
) -> Response {
    if node.tenants().directory().is_none() {
        return no_store();
    }
    if !is_name(&external_id) {
        return no_such_tenant(&external_id);
    }
    let work = remove(Arc::clone(&node), external_id, name);
    detached(&node, async move { Ok(work.await) }).await
}

async fn remove(node: Arc<Node>, external_id: String, name: String) -> Response {
    let Some(directory) = node.tenants().directory() else { return no_store() };
    let turn = node.admin().changing().await;
    let edited = directory
        .edit_webhooks(&external_id, |webhooks| webhooks.retain(|webhook| *webhook.name != *name))
        .await;
    drop(turn);
    match edited {
        Err(StoreError::NotFound { .. }) => no_such_tenant(&external_id),
        Err(error) => unavailable(&error),
        Ok(_) => {
            drop(node.follow(&external_id));
            StatusCode::NO_CONTENT.into_response()
        }
    }
}
