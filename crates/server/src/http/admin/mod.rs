//! The admin API: `/api/tenants` (http_and_ops 1).

mod body;
mod document;
mod health;
mod operations;
mod view;
mod write;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
pub(super) use document::Document;
use http::{HeaderMap, Method, StatusCode, header};
use realtime_tenants::{StoreError, Tenants};
use serde::{Deserialize, Serialize};
use view::TenantView;

use super::answers::{JSON, message, not_found, text};
use crate::{admin::Right, app::App, tenant_runtime::Clock};

/// Tenants in a page, unless less is asked for.
const MAX_PAGE: usize = 1000;

/// The routes under `/api`. Guarded: who is no administrator learns nothing, not even whether a tenant exists.
pub(super) fn routes(app: &Arc<App>) -> Router<Arc<App>> {
    let tenant = get(show).put(write::put).patch(write::put).delete(write::delete).fallback(not_found);
    let administered = Router::new()
        .route("/tenants", get(list).post(write::post).fallback(not_found))
        .route("/tenants/{tenant}", tenant)
        .route("/tenants/{tenant}/reload", post(operations::reload).fallback(not_found))
        .route("/tenants/{tenant}/shutdown", post(operations::shutdown).fallback(not_found))
        .route_layer(from_fn_with_state(Arc::clone(app), administer));
    let probed = Router::new()
        .route("/tenants/{tenant}/health", get(health::health).fallback(not_found))
        .route_layer(from_fn_with_state(Arc::clone(app), probe));
    administered.merge(probed)
}

fn right(app: &App, headers: &HeaderMap) -> Option<Right> {
    let token = text(headers, header::AUTHORIZATION)?.strip_prefix("Bearer ")?;
    app.admin().right(token, Clock::System.unix_seconds())
}

/// Lets administrators through.
async fn administer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match right(&app, request.headers()) {
        Some(Right::Administer) => next.run(request).await,
        _ => StatusCode::FORBIDDEN.into_response(),
    }
}

/// Lets administrators through, and `HEAD` of those who may ask whether a tenant exists.
async fn probe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match right(&app, request.headers()) {
        Some(Right::Administer) => next.run(request).await,
        Some(Right::Probe) if request.method() == Method::HEAD => next.run(request).await,
        _ => StatusCode::FORBIDDEN.into_response(),
    }
}

/// `{"data": …}`, keys in the order of the type.
#[derive(Serialize)]
struct Data<T> {
    data: T,
}

fn data(status: StatusCode, data: impl Serialize) -> Response {
    match serde_json::to_string(&Data { data }) {
        Ok(body) => (status, [JSON], body).into_response(),
        Err(error) => {
            tracing::error!(code = "UnableToEncodeJson", %error, "cannot answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn no_such_tenant(external_id: &str) -> Response {
    tracing::warn!(code = "TenantNotFound", tenant = external_id, "TenantNotFound: Tenant not found");
    message(StatusCode::NOT_FOUND, "not found")
}

/// Of a metadata database that did not do what it was asked to.
fn unavailable(error: &StoreError) -> Response {
    tracing::error!(code = error.code(), %error, "the metadata database failed");
    message(StatusCode::SERVICE_UNAVAILABLE, "The metadata database is not available")
}

/// Which part of the list is wanted; all of it unless `limit` is given.
#[derive(Debug, Deserialize)]
struct Page {
    /// Tenants at most.
    limit: Option<usize>,
    /// Those whose `external_id` comes after this one.
    after: Option<String>,
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.map_or(usize::MAX, |limit| limit.min(MAX_PAGE))
    }

    fn of<T>(&self, all: Vec<T>, external_id: impl Fn(&T) -> &str) -> Vec<T> {
        let after = |tenant: &T| self.after.as_deref().is_none_or(|after| external_id(tenant) > after);
        all.into_iter().filter(after).take(self.limit()).collect()
    }
}

/// `GET /api/tenants`.
#[utoipa::path(
    get, path = "/api/tenants", operation_id = "list_tenants", tag = "Tenants", summary = "All tenants, by name",
    security(("administrator" = [])),
    params(
        ("limit" = Option<u32>, Query, description = "Tenants at most; more than 1000 count as 1000. All, if not given"),
        ("after" = Option<String>, Query, description = "Those whose `external_id` comes after this one"),
    ),
    responses(
        (status = 200, description = "The tenants", body = document::TenantList),
        (status = 400, description = "The query cannot be read", content_type = "text/html", body = String),
        document::Refused,
    )
)]
async fn list(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    page: Result<Query<Page>, QueryRejection>,
) -> Response {
    let Ok(Query(page)) = page else { return super::answers::bad_request(&headers) };
    let directory = match app.tenants() {
        Tenants::Stored(directory) => directory,
        Tenants::Configured(registry) => {
            let tenants = page.of(registry.all(), |tenant| &tenant.external_id);
            let views: Vec<_> =
                tenants.iter().map(|tenant| TenantView::of_configuration(&app, tenant)).collect();
            return data(StatusCode::OK, views);
        }
    };
    // What no name can have comes after nothing.
    let after = page.after.as_deref().filter(|after| !after.contains('\0'));
    match directory.store().page(after, page.limit()).await {
        Ok(records) => data(StatusCode::OK, records.iter().map(TenantView::of_record).collect::<Vec<_>>()),
        Err(error) => unavailable(&error),
    }
}

/// `GET /api/tenants/:tenant_id`.
#[utoipa::path(
    get, path = "/api/tenants/{tenant_id}", operation_id = "show_tenant", tag = "Tenants", summary = "A tenant",
    security(("administrator" = [])),
    params(("tenant_id" = String, Path, description = "Its `external_id`")),
    responses(
        (status = 200, description = "The tenant", body = document::TenantData),
        document::Missing,
        document::Refused,
    )
)]
async fn show(State(app): State<Arc<App>>, Path(external_id): Path<String>) -> Response {
    let directory = match app.tenants() {
        Tenants::Stored(directory) => directory,
        Tenants::Configured(registry) => {
            return match registry.get(&external_id) {
                Some(tenant) => data(StatusCode::OK, TenantView::of_configuration(&app, &tenant)),
                None => no_such_tenant(&external_id),
            };
        }
    };
    if !body::is_name(&external_id) {
        return no_such_tenant(&external_id);
    }
    match directory.store().get(&external_id).await {
        Ok(Some(record)) => data(StatusCode::OK, TenantView::of_record(&record)),
        Ok(None) => no_such_tenant(&external_id),
        Err(error) => unavailable(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another() {
        let page = |limit, after: Option<&str>| {
            let page = Page { limit, after: after.map(str::to_owned) };
            page.of(vec!["a", "b", "c"], |name| name).concat()
        };
        assert_eq!(page(None, None), "abc");
        assert_eq!(page(Some(2), None), "ab");
        assert_eq!(page(Some(2), Some("b")), "c");
        assert_eq!(page(None, Some("aa")), "bc");
        assert_eq!(page(Some(0), None), "");
    }
}
