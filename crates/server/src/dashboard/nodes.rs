//! The nodes of the cluster.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use super::{
    Page,
    view::{
        self, Place,
        parts::{maybe, plain, table, yes},
        units,
    },
};
use crate::app::App;

/// `GET /admin/dashboard/nodes`.
pub async fn page(State(app): State<Arc<App>>, page: Page) -> Markup {
    let status = app.status();
    let rows: Vec<Vec<Markup>> = status
        .nodes()
        .into_iter()
        .map(|node| {
            vec![
                plain(&node.id),
                maybe(node.region.as_deref()),
                yes(node.id == status.node()),
                plain(&node.version),
                maybe(node.uptime.map(units::span).as_deref()),
            ]
        })
        .collect();
    let heads = ["Id", "Region", "Serves this page", "Version", "Up for"];
    let body = html! {
        section { (table("Nodes", &heads, &rows, "There are no nodes.")) }
        p { a href="/status" { "Latencies between nodes" } }
    };
    view::followed(&page, Some(Place::Nodes), "Nodes", Some("nodes"), &body)
}
