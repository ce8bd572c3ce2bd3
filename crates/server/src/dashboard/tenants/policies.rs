//! The policies of a tenant's published tables: which are compiled, which the database is asked about, and why.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use maud::{Markup, html};
use realtime_postgres::{Counted, Decided, PolicyFacts, PolicyReport, RolePolicies, TablePolicies};
use tokio::time;

use super::known::require;
use crate::{
    dashboard::{
        BASE, Page, path_of,
        view::{
            self, Place,
            parts::{facts, notice, plain},
            units,
        },
    },
    node::Node,
};

/// How long a page waits for a database.
const LIMIT: Duration = Duration::from_secs(10);

/// `GET /admin/dashboard/tenants/{external_id}/policies`.
pub async fn show(State(node): State<Arc<Node>>, page: Page, Path(external_id): Path<String>) -> Response {
    let known = match require(&node, &page, &external_id).await {
        Ok(known) => known,
        Err(refusal) => return refusal,
    };
    // Made if need be; nothing is connected but for this question.
    let runtime = node.runtime(known.external_id()).await;
    let found = match runtime {
        None => notice(false, "It cannot be served: the log says why."),
        Some(runtime) => match time::timeout(LIMIT, runtime.database().policies()).await {
            Ok(Ok(report)) => report_body(&report),
            Ok(Err(error)) => notice(false, error.to_string()),
            Err(_) => notice(false, "The database did not answer in time."),
        },
    };
    let tenant = format!("{BASE}/{}", path_of(&external_id));
    let body = html! { p { a href=(tenant) { "Tenant " (external_id) } } (found) };
    let title = format!("Policies of {external_id}");
    view::page(&page, Some(Place::Tenants), &title, &body).into_response()
}

fn report_body(report: &PolicyReport) -> Markup {
    html! {
        section {
            p {
                "A compiled policy is decided in the server: its users are asked once, and no row costs a question. "
                "What is not compiled, the database is asked about each row. Both are right; the second is slower."
            }
            @if report.is_cut { p.dim { "Only the first " (report.tables.len()) " tables are shown." } }
            @if report.tables.is_empty() { p.empty { "The publication " (report.publication) " has no tables." } }
        }
        @for table in &report.tables { (of_table(table)) }
    }
}

fn of_table(table: &TablePolicies) -> Markup {
    html! {
        section {
            h2 { (table.schema) "." (table.name) }
            (facts(&summary(table)))
            @if !table.row_security {
                p.dim { "Row-level security is off: every role that may select its rows receives them." }
            }
            @for of_roles in &table.roles { (of_role(of_roles)) }
        }
    }
}

fn summary(table: &TablePolicies) -> Vec<(&'static str, Markup)> {
    let watchers: Vec<String> =
        table.watchers.iter().map(|(role, channels)| format!("{role}: {channels}")).collect();
    let watchers = if watchers.is_empty() { "nobody".to_owned() } else { watchers.join(", ") };
    let mut rows = vec![("Channels that watch it here", plain(watchers))];
    if let Some(Counted { compiled, asked, withheld, mismatch }) = table.counted {
        rows.extend([
            ("Verdicts compiled", plain(units::count(compiled))),
            ("Verdicts asked", plain(units::count(asked))),
            ("Rows withheld", plain(units::count(withheld))),
            (
                "Contradicted",
                html! {
                    @if mismatch == 0 { "none" } @else { span.state.bad { (units::count(mismatch)) } }
                },
            ),
        ]);
    }
    rows
}

fn of_role(of_roles: &RolePolicies) -> Markup {
    html! {
        h3 { (of_roles.roles.join(", ")) }
        @if of_roles.bypasses {
            p.dim { "Policies do not count: every row is seen." }
        } @else if of_roles.policies.is_empty() {
            p.dim { "No policy for SELECT: no row is seen." }
        } @else {
            ul.policies { @for policy in &of_roles.policies { (of_policy(policy)) } }
        }
    }
}

fn of_policy(policy: &PolicyFacts) -> Markup {
    html! {
        li {
            p {
                strong { (policy.name) } " "
                @if !policy.permissive { span.tag { "restrictive" } " " }
                (decided(policy.decided))
            }
            pre tabindex="0" aria-label=(format!("Condition of {}", policy.name)) { code { (policy.using) } }
            @if !policy.reads.is_empty() {
                p {
                    "Reads "
                    @for (at, table) in policy.reads.iter().enumerate() {
                        @if at > 0 { ", " }
                        (table.name) @if table.in_stream { " (in the stream)" } @else { " (not in the stream)" }
                    }
                    "."
                }
            }
            @if !policy.asked.is_empty() {
                p { "Why it is asked:" }
                ul.lines {
                    @for part in &policy.asked {
                        li {
                            @if part.text != policy.using && !part.text.is_empty() { code { (part.text) } ": " }
                            (part.why) "."
                        }
                    }
                }
            }
        }
    }
}

fn decided(decided: Decided) -> Markup {
    match decided {
        Decided::Compiled => html! { span.state.good { "compiled" } },
        Decided::InPart => html! { span.state.slow { "compiled in part" } },
        Decided::Asked => html! { span.state.slow { "asked about each row" } },
    }
}
