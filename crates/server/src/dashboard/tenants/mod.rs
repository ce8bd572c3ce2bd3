//! Tenants: all of them, one of them, and what can be done about it.

mod actions;
pub mod activity;
mod database;
pub mod doctor;
mod fields;
mod flags;
mod known;
pub mod policies;
mod runtime;
pub mod schema;
mod webhooks;

use std::sync::Arc;

pub use actions::{end_database, end_replication, override_flag};
use axum::{
    extract::{Path, Query, State},
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, header};
pub use known::unavailable;
use known::{Known, NOT_FOUND, all, find, require};
use maud::{Markup, html};
use realtime_tenants::WEBHOOKS;
use serde::Deserialize;

use super::{
    BASE, Page, failure, path_of, source,
    view::{
        self, Place,
        parts::{notice, plain, state, table, yes},
    },
};
use crate::node::Node;

/// Tenants that are shown at once. The search finds the others.
const SHOWN: usize = 500;

/// The query of the list.
#[derive(Debug, Default, Deserialize)]
pub struct Search {
    /// Part of a name.
    #[serde(default)]
    search: String,
    /// The whole name of the tenant to open.
    #[serde(default)]
    external_id: String,
}

/// The query of a tenant's page: which action was just done.
#[derive(Debug, Default, Deserialize)]
pub struct Done {
    /// One of a few words; others are ignored.
    #[serde(default)]
    done: String,
}

/// `GET /admin/dashboard/tenants`.
pub async fn list(State(node): State<Arc<Node>>, page: Page, Query(search): Query<Search>) -> Response {
    let wanted = search.external_id.trim();
    if !wanted.is_empty() {
        return match find(&node, wanted).await {
            Ok(Some(known)) => {
                let path = format!("{BASE}/{}", path_of(known.external_id()));
                (StatusCode::SEE_OTHER, [(header::LOCATION, path)]).into_response()
            }
            Ok(None) => failure::page(&page, StatusCode::NOT_FOUND, "Tenant", NOT_FOUND),
            Err(error) => unavailable(&page, &error),
        };
    }
    let tenants = match all(&node).await {
        Ok(tenants) => tenants,
        Err(error) => return unavailable(&page, &error),
    };
    let text = search.search.trim();
    let found: Vec<&Known> = tenants.iter().filter(|tenant| tenant.matches(text)).collect();
    let rows: Vec<Vec<Markup>> = found.iter().take(SHOWN).map(|tenant| row(&node, tenant)).collect();
    let heads = ["Name", "For people", "State", "Private only", "Users here", "Sockets here"];
    let body = html! {
        @if source::directory(&node).is_none() {
            p.dim {
                "There is no metadata database: these are the tenants of the configuration. "
                a href="/docs/metadata" { "Tenants in a database" }
            }
        }
        section {
            div.forms {
                form.inline method="get" action=(format!("{BASE}/tenants")) role="search" {
                    label.field { "Part of a name" input type="search" name="search" value=(text); }
                    button.button type="submit" { "Search" }
                }
                form.inline method="get" action=(format!("{BASE}/tenants")) {
                    label.field { "external_id" input type="text" name="external_id" required; }
                    button.button type="submit" { "Look up" }
                }
            }
        }
        section {
            h2 { (found.len()) " of " (tenants.len()) }
            @if found.len() > SHOWN { p.dim { "The first " (SHOWN) " are shown." } }
            (table("Tenants", &heads, &rows, "No tenant has such a name."))
        }
    };
    view::page(&page, Some(Place::Tenants), "Tenants", &body).into_response()
}

fn row(node: &Node, tenant: &Known) -> Vec<Markup> {
    let id = tenant.external_id();
    let (users, sockets) = match node.running(id) {
        Some(runtime) => (plain(runtime.users().count()), plain(runtime.sockets().len())),
        None => (plain("–"), plain("–")),
    };
    vec![
        html! { a href=(format!("{BASE}/{}", path_of(id))) { (id) } },
        plain(tenant.name().unwrap_or("–")),
        state(!tenant.is_suspended(), "served", "suspended"),
        yes(tenant.is_private()),
        users,
        sockets,
    ]
}

/// `GET /admin/dashboard/tenants/{external_id}`.
pub async fn show(
    State(node): State<Arc<Node>>,
    page: Page,
    Path(external_id): Path<String>,
    Query(done): Query<Done>,
) -> Response {
    let known = match require(&node, &page, &external_id).await {
        Ok(known) => known,
        Err(refusal) => return refusal,
    };
    let served = known.served(&node).await;
    let flags = match flags::section(&node, &page, &known).await {
        Ok(flags) => flags,
        Err(error) => return unavailable(&page, &error),
    };
    let path = path_of(&external_id);
    // A page that reloads itself must not connect to a database every few seconds.
    let database = match &served {
        Ok(_) if page.refresh.is_some() => html! { p.dim { "Not looked at while the page is followed." } },
        Ok(tenant) => database::section(tenant).await,
        Err(error) => notice(false, format!("It cannot be served: {error}")),
    };
    let running = runtime::section(&node, &page, &known).await;
    let body = html! {
        @if let Some(text) = actions::told(&done.done) { (notice(true, text)) }
        p.links {
            a href=(format!("{BASE}/{path}/activity")) { "Activity: charts, channels, live results, notices" }
            a href=(format!("{BASE}/{path}/doctor")) { "What is wrong, and what mends it" }
            a href=(format!("{BASE}/{path}/policies")) { "Policies of published tables" }
            a href=(format!("{BASE}/{path}/schema")) { "Schema and migrations" }
        }
        section { h2 { "Running" } (running) }
        @if let Ok(tenant) = &served {
            section { h2 { "Limits in force" } (fields::limits(tenant)) }
        }
        section { h2 { "Settings" } (fields::settings(&known)) }
        @if let Known::Record(record) = &known {
            @for extension in record.extensions.iter().filter(|extension| extension.kind != WEBHOOKS) {
                section { h2 { "Extension " (extension.kind) } (fields::extension(&node, extension)) }
            }
        }
        section {
            h2 { "Database" }
            (database)
        }
        @if let Ok(tenant) = &served {
            section { h2 { "Webhooks" } (webhooks::section(&node, tenant)) }
        }
        section { h2 { "Feature flags" } (flags) }
    };
    let title = format!("Tenant {external_id}");
    view::followed(&page, Some(Place::Tenants), &title, Some(&path), &body).into_response()
}
