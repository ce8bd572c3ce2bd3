//! The dashboard of operators, under `/admin/dashboard` (http_and_ops 3.1).
//!
//! The server writes the pages; they need no script. Figures are collected when a page is opened. Only the samples of the
//! charts are taken in any case.

mod access;
mod address;
mod failure;
mod flags;
mod home;
mod nodes;
mod page;
mod source;
mod sql;
mod tenants;
mod view;

use std::sync::Arc;

use access::{Access, guard};
pub use address::{BASE, path_of};
use axum::{
    Router,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{StatusCode, header};
pub use page::Page;

use crate::{answers, node::Node, web::Web};

/// All pages of the dashboard, behind the layer that guards them.
pub fn router(node: &Arc<Node>) -> Router<Web> {
    let access = Arc::new(Access::new(&node.settings().dashboard));
    let pages = Router::new()
        .route("/", get(to_home))
        .route("/home", get(home::page))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{id}", get(nodes::show))
        .route("/tenants", get(tenants::list))
        .route("/tenants/{external_id}", get(tenants::show))
        .route("/tenants/{external_id}/activity", get(tenants::activity::show))
        .route("/tenants/{external_id}/schema", get(tenants::schema::show).post(tenants::schema::apply))
        .route("/tenants/{external_id}/doctor", get(tenants::doctor::show))
        .route("/tenants/{external_id}/policies", get(tenants::policies::show))
        .route("/tenants/{external_id}/end-database", post(tenants::end_database))
        .route("/tenants/{external_id}/end-replication", post(tenants::end_replication))
        .route("/tenants/{external_id}/flags", post(tenants::override_flag))
        .route("/flags", get(flags::list).post(flags::change))
        .route("/sql", get(sql::show).post(sql::ask))
        .fallback(answers::not_found);
    // The same address with a slash at its end is a path of its own.
    let slash = Router::new().route(&format!("{BASE}/"), get(to_home));
    Router::new().nest(BASE, pages).merge(slash).layer(from_fn_with_state(access, guard))
}

/// Redirects with 302, as the reference does.
async fn to_home() -> Response {
    (StatusCode::FOUND, [(header::LOCATION, format!("{BASE}/home"))]).into_response()
}
