//! Tenants: all of them, one of them, and what can be done about it.

mod actions;
mod database;
mod fields;
mod flags;
mod runtime;
pub mod schema;

use std::sync::Arc;

pub use actions::{end_database, end_replication, override_flag};
use axum::{
    extract::{Path, Query, State},
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, header};
use maud::{Markup, html};
use realtime_tenants::{StoreError, Tenant, TenantRecord};
use serde::Deserialize;

use super::{
    BASE, Page, failure, source,
    view::{
        self, Place,
        parts::{notice, plain, state, table, yes},
    },
};
use crate::app::App;

/// What is said of an unknown tenant.
const NOT_FOUND: &str = "Tenant not found";

/// Tenants that are shown at once; to find one among more is what the search is for.
const SHOWN: usize = 500;

/// What one looks for.
#[derive(Debug, Default, Deserialize)]
pub struct Search {
    /// Part of a name.
    #[serde(default)]
    search: String,
    /// The whole name of the one that is wanted.
    #[serde(default)]
    external_id: String,
}

/// What has just been done.
#[derive(Debug, Default, Deserialize)]
pub struct Done {
    /// One of a few words; any other says nothing.
    #[serde(default)]
    done: String,
}

/// A tenant, from wherever tenants are kept.
pub enum Known {
    /// The metadata database.
    Record(Box<TenantRecord>),
    /// The configuration.
    Configured(Arc<Tenant>),
}

impl Known {
    fn external_id(&self) -> &str {
        match self {
            Self::Record(record) => &record.external_id,
            Self::Configured(tenant) => &tenant.external_id,
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Record(record) => record.name.as_deref(),
            Self::Configured(_) => None,
        }
    }

    fn is_suspended(&self) -> bool {
        match self {
            Self::Record(record) => record.suspend,
            Self::Configured(tenant) => tenant.suspend,
        }
    }

    fn is_private(&self) -> bool {
        match self {
            Self::Record(record) => record.private_only,
            Self::Configured(tenant) => tenant.private_only,
        }
    }

    /// Whether it is what somebody looks for, who may have typed in any case.
    fn matches(&self, search: &str) -> bool {
        let search = search.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&search);
        has(self.external_id()) || self.name().is_some_and(has)
    }

    /// What the server works with; why it cannot, if so.
    async fn served(&self, app: &App) -> Result<Arc<Tenant>, String> {
        match self {
            Self::Configured(tenant) => Ok(Arc::clone(tenant)),
            Self::Record(record) => source::served(app, &record.external_id).await,
        }
    }
}

/// All tenants, by name.
async fn all(app: &App) -> Result<Vec<Known>, StoreError> {
    match source::directory(app) {
        Some(directory) => {
            let records = directory.store().list().await?;
            Ok(records.into_iter().map(|record| Known::Record(Box::new(record))).collect())
        }
        None => Ok(source::configured(app).into_iter().map(Known::Configured).collect()),
    }
}

/// The tenant of a name.
async fn find(app: &App, external_id: &str) -> Result<Option<Known>, StoreError> {
    match source::directory(app) {
        Some(directory) => {
            let record = directory.store().get(external_id).await?;
            Ok(record.map(|record| Known::Record(Box::new(record))))
        }
        None => {
            let mut configured = source::configured(app).into_iter();
            Ok(configured.find(|tenant| *tenant.external_id == *external_id).map(Known::Configured))
        }
    }
}

/// The tenant of a name, or the page that is shown instead.
async fn require(app: &App, page: &Page, external_id: &str) -> Result<Known, Response> {
    match find(app, external_id).await {
        Ok(Some(known)) => Ok(known),
        Ok(None) => Err(failure::page(page, StatusCode::NOT_FOUND, "Tenant", NOT_FOUND)),
        Err(error) => Err(unavailable(page, &error)),
    }
}

/// The metadata database does not answer.
pub fn unavailable(page: &Page, error: &StoreError) -> Response {
    tracing::error!(code = error.code(), %error, "dashboard: the metadata database did not answer");
    failure::page(page, StatusCode::SERVICE_UNAVAILABLE, "Metadata database", &error.to_string())
}

/// A name as part of a path.
pub fn path_of(external_id: &str) -> String {
    let name = percent_encoding::utf8_percent_encode(external_id, percent_encoding::NON_ALPHANUMERIC);
    format!("tenants/{name}")
}

/// `GET /admin/dashboard/tenants`.
pub async fn list(State(app): State<Arc<App>>, page: Page, Query(search): Query<Search>) -> Response {
    let wanted = search.external_id.trim();
    if !wanted.is_empty() {
        return match find(&app, wanted).await {
            Ok(Some(known)) => {
                let path = format!("{BASE}/{}", path_of(known.external_id()));
                (StatusCode::SEE_OTHER, [(header::LOCATION, path)]).into_response()
            }
            Ok(None) => failure::page(&page, StatusCode::NOT_FOUND, "Tenant", NOT_FOUND),
            Err(error) => unavailable(&page, &error),
        };
    }
    let tenants = match all(&app).await {
        Ok(tenants) => tenants,
        Err(error) => return unavailable(&page, &error),
    };
    let text = search.search.trim();
    let found: Vec<&Known> = tenants.iter().filter(|tenant| tenant.matches(text)).collect();
    let rows: Vec<Vec<Markup>> = found.iter().take(SHOWN).map(|tenant| row(&app, tenant)).collect();
    let heads = ["Name", "For people", "State", "Private only", "Users here", "Sockets here"];
    let body = html! {
        @if source::directory(&app).is_none() {
            p.dim { "There is no metadata database: these are the tenants of the configuration." }
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

fn row(app: &App, tenant: &Known) -> Vec<Markup> {
    let id = tenant.external_id();
    let (users, sockets) = match app.running(id) {
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
    State(app): State<Arc<App>>,
    page: Page,
    Path(external_id): Path<String>,
    Query(done): Query<Done>,
) -> Response {
    let known = match require(&app, &page, &external_id).await {
        Ok(known) => known,
        Err(refusal) => return refusal,
    };
    let served = known.served(&app).await;
    let flags = match flags::section(&app, &page, &known).await {
        Ok(flags) => flags,
        Err(error) => return unavailable(&page, &error),
    };
    let path = path_of(&external_id);
    // Following a page is no reason to connect to a database every few seconds.
    let database = match &served {
        Ok(_) if page.refresh.is_some() => html! { p.dim { "Not looked at while the page is followed." } },
        Ok(tenant) => database::section(tenant).await,
        Err(error) => notice(false, format!("It cannot be served: {error}")),
    };
    let running = runtime::section(&app, &page, &known).await;
    let body = html! {
        @if let Some(text) = actions::told(&done.done) { (notice(true, text)) }
        section { h2 { "Running" } (running) }
        section { h2 { "Settings" } (fields::settings(&known)) }
        @if let Known::Record(record) = &known {
            @for extension in &record.extensions {
                section { h2 { "Extension " (extension.kind) } (fields::extension(&app, extension)) }
            }
        }
        section {
            h2 { "Database" }
            (database)
            p { a href=(format!("{BASE}/{path}/schema")) { "Schema and migrations" } }
        }
        section { h2 { "Feature flags" } (flags) }
    };
    let title = format!("Tenant {external_id}");
    view::followed(&page, Some(Place::Tenants), &title, Some(&path), &body).into_response()
}
