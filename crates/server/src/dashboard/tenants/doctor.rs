//! What is wrong with a tenant's database, and what mends it: the findings of `realtime doctor`.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use maud::{Markup, html};
use realtime_doctor::{Finding, Part, Severity};
use tokio::sync::Semaphore;

use super::known::require;
use crate::{
    dashboard::{
        BASE, Page, path_of,
        view::{
            self, Place,
            parts::{notice, plain, table},
        },
    },
    doctor::examine,
    node::Node,
};

/// Databases that are looked at together: each takes a few connections.
static LOOKING: Semaphore = Semaphore::const_new(2);

/// `GET /admin/dashboard/tenants/{external_id}/doctor`.
pub async fn show(State(node): State<Arc<Node>>, page: Page, Path(external_id): Path<String>) -> Response {
    let known = match require(&node, &page, &external_id).await {
        Ok(known) => known,
        Err(refusal) => return refusal,
    };
    let found = match (known.served(&node).await, LOOKING.try_acquire()) {
        (Err(error), _) => notice(false, format!("It cannot be served: {error}")),
        (Ok(_), Err(_)) => notice(false, "Other databases are looked at just now: try again in a moment."),
        (Ok(tenant), Ok(_place)) => part(&examine(&tenant, node.settings()).await),
    };
    let tenant = format!("{BASE}/{}", path_of(&external_id));
    let body = html! { p { a href=(tenant) { "Tenant " (external_id) } } (found) };
    let title = format!("What is wrong with {external_id}");
    view::page(&page, Some(Place::Tenants), &title, &body).into_response()
}

fn part(part: &Part) -> Markup {
    let rows: Vec<Vec<Markup>> = part.findings.iter().map(row).collect();
    html! {
        section {
            p { (part.title) }
            @if !part.right.is_empty() { p.dim { "Right: " (part.right.join(", ")) } }
            (table("Findings", &["Severity", "Code", "What", "What mends it"], &rows, "Nothing is wrong."))
        }
    }
}

fn row(finding: &Finding) -> Vec<Markup> {
    let severity = finding.severity.as_str();
    let severity = match finding.severity {
        Severity::Error | Severity::Warning => html! { span.state.bad { (severity) } },
        Severity::Note => plain(severity),
    };
    let mend = html! { @for step in &finding.mend { code { (step.line()) } br; } };
    vec![severity, plain(finding.code.as_str()), plain(&finding.text), mend]
}
