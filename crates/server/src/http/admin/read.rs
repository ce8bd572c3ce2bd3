//! Reading tenants (http_and_ops 1.2).

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use realtime_tenants::Tenants;
use serde::Deserialize;

use super::{
    body::is_name,
    outcomes::{data, no_such_tenant, unavailable},
    shapes,
    view::TenantView,
};
use crate::{answers::bad_request, node::Node};

/// Tenants in a page, unless the client asks for fewer.
const MAX_PAGE: usize = 1000;

/// Which part of the list is wanted; all of it without `limit`.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    /// Tenants at most.
    limit: Option<usize>,
    /// Only tenants whose `external_id` comes after this one.
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
        (status = 200, description = "The tenants", body = shapes::TenantList),
        (status = 400, description = "The query cannot be read", content_type = "text/html", body = String),
        shapes::Refused,
    )
)]
pub(super) async fn list(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    page: Result<Query<Page>, QueryRejection>,
) -> Response {
    let Ok(Query(page)) = page else { return bad_request(&headers) };
    let directory = match node.tenants() {
        Tenants::Stored(directory) => directory,
        Tenants::Configured(registry) => {
            let tenants = page.of(registry.all(), |tenant| &tenant.external_id);
            let views: Vec<_> =
                tenants.iter().map(|tenant| TenantView::of_configuration(&node, tenant)).collect();
            return data(StatusCode::OK, views);
        }
    };
    // What cannot be a name comes after nothing.
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
        (status = 200, description = "The tenant", body = shapes::TenantData),
        shapes::Missing,
        shapes::Refused,
    )
)]
pub(super) async fn show(State(node): State<Arc<Node>>, Path(external_id): Path<String>) -> Response {
    let directory = match node.tenants() {
        Tenants::Stored(directory) => directory,
        Tenants::Configured(registry) => {
            return match registry.get(&external_id) {
                Some(tenant) => data(StatusCode::OK, TenantView::of_configuration(&node, &tenant)),
                None => no_such_tenant(&external_id),
            };
        }
    };
    if !is_name(&external_id) {
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
