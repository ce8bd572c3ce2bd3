//! The schema `realtime` of a tenant's database: what is there, what is missing, and setting it up.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Extension,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use maud::{Markup, html};
use realtime_codes::ErrorCode;
use realtime_postgres::{Origin, SchemaFacts, SchemaReport, look_at_schema};
use tokio::time;

use super::known::require;
use crate::{
    dashboard::{
        BASE, Page,
        access::{Form, Visitor},
        failure, path_of,
        view::{
            self, Place,
            parts::{facts, form, maybe, notice, plain, table},
        },
    },
    node::{Node, database_config},
};

/// How long a page waits for a database.
const LIMIT: Duration = Duration::from_secs(10);

/// `GET /admin/dashboard/tenants/{external_id}/schema`.
pub async fn show(State(node): State<Arc<Node>>, page: Page, Path(external_id): Path<String>) -> Response {
    looked(&node, &page, &external_id, &html! {}).await
}

/// `POST /admin/dashboard/tenants/{external_id}/schema`: carries out the plan, if it is confirmed.
pub async fn apply(
    State(node): State<Arc<Node>>,
    Extension(visitor): Extension<Visitor>,
    Extension(fields): Extension<Form>,
    page: Page,
    Path(external_id): Path<String>,
) -> Response {
    if !fields.is_ticked("confirm") {
        let text = notice(false, "Nothing was changed: tick the box to confirm.");
        return looked(&node, &page, &external_id, &text).await;
    }
    let tenant = match require(&node, &page, &external_id).await {
        Ok(known) => known.served(&node).await,
        Err(refusal) => return refusal,
    };
    let tenant = match tenant {
        Ok(tenant) => tenant,
        Err(error) => return failure::page(&page, StatusCode::UNPROCESSABLE_ENTITY, "Schema", &error),
    };
    tracing::info!(tenant = external_id, who = visitor.who, "dashboard: schema set-up asked for");
    let outcome =
        match realtime_postgres::set_up_schema(&database_config(&tenant), SystemTime::now(), true).await {
            Ok(report) => reported(&report),
            Err(error) => {
                let code = ErrorCode::MigrationsFailedToRun.as_str();
                tracing::error!(tenant = external_id, code, %error, "dashboard: set-up failed");
                notice(false, format!("Nothing was changed: {error}"))
            }
        };
    looked(&node, &page, &external_id, &outcome).await
}

fn reported(report: &SchemaReport) -> Markup {
    let list = |lines: &[String]| html! { ul.lines { @for line in lines { li { (line) } } } };
    html! {
        @if report.changed.is_empty() { (notice(true, "Nothing had to be changed.")) } @else {
            (notice(true, "Done:")) (list(&report.changed))
        }
        @if !report.failed.is_empty() { (notice(false, "Could not be done:")) (list(&report.failed)) }
    }
}

/// The page, with the outcome of an action above it.
async fn looked(node: &Node, page: &Page, external_id: &str, above: &Markup) -> Response {
    let known = match require(node, page, external_id).await {
        Ok(known) => known,
        Err(refusal) => return refusal,
    };
    let body = match known.served(node).await {
        Ok(tenant) => {
            let config = database_config(&tenant);
            match time::timeout(LIMIT, look_at_schema(&config, SystemTime::now())).await {
                Ok(Ok(found)) => found_body(page, external_id, &found),
                Ok(Err(error)) => notice(false, error.to_string()),
                Err(_) => notice(false, "The database did not answer in time."),
            }
        }
        Err(error) => notice(false, format!("It cannot be served: {error}")),
    };
    let tenant = format!("{BASE}/{}", path_of(external_id));
    let body = html! { p { a href=(tenant) { "Tenant " (external_id) } } (above) (body) };
    let title = format!("Schema of {external_id}");
    view::page(page, Some(Place::Tenants), &title, &body).into_response()
}

fn found_body(page: &Page, external_id: &str, found: &SchemaFacts) -> Markup {
    let origin = match found.origin {
        Origin::Ours => "this server, or nobody yet: it is kept up to date from here",
        Origin::Supabase(_) => {
            "Supabase Realtime, which keeps it up to date: only partitions and the publication \
                                of messages are changed from here"
        }
    };
    html! {
        section {
            h2 { "Schema realtime" }
            (facts(&[("Made by", plain(origin)), ("Missing or different", plain(found.plan.len()))]))
            @if !found.notes.is_empty() {
                h3 { "To know" }
                ul.lines { @for note in &found.notes { li { (note) } } }
            }
        }
        section {
            h2 { "Plan" }
            @if found.plan.is_empty() { p.empty { "Nothing is missing." } } @else {
                p { "Nothing of it destroys anything: objects are made, replaced or granted. All or what is "
                    "essential of it happens in one transaction." }
                ol.steps {
                    @for step in &found.plan {
                        li { details { summary { (step.what) } pre { code { (step.sql) } } } }
                    }
                }
                (form(page, &format!("{}/schema", path_of(external_id)), &html! {
                    label.tick { input type="checkbox" name="confirm" value="yes" required; "Change the database" }
                }, "Apply"))
            }
        }
        section {
            h2 { "Recorded migrations" }
            (migrations(found))
        }
    }
}

fn migrations(found: &SchemaFacts) -> Markup {
    let rows: Vec<Vec<Markup>> =
        found.migrations.iter().map(|(version, at)| vec![plain(version), maybe(at.as_deref())]).collect();
    table(
        "Rows of realtime.schema_migrations",
        &["Version", "At"],
        &rows,
        "realtime.schema_migrations has no rows, or does not exist: this server keeps no record, it looks at the schema.",
    )
}
