//! The SQL inspector: questions to the metadata database.
//!
//! Statements are posted, because addresses end up in histories and logs.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use maud::{Markup, html};
use realtime_tenants::{InspectError, Inspected, MAX_STATEMENT, Order, ROWS};
use tokio::time::Instant;

use super::{
    BASE, Page,
    access::{Form, Visitor},
    source,
    tenants::unavailable,
    view::{
        self, Place,
        parts::{notice, seal},
    },
};
use crate::node::Node;

/// The statement in an empty form.
const EXAMPLE: &str =
    "select external_id, max_concurrent_users, suspend, inserted_at\nfrom tenants\norder by inserted_at desc";

/// Name of the form, for the buttons outside of it.
const FORM: &str = "question";

/// `GET /admin/dashboard/sql`.
pub async fn show(State(node): State<Arc<Node>>, page: Page) -> Response {
    whole(&node, &page, EXAMPLE, &html! {}).into_response()
}

/// `POST /admin/dashboard/sql`.
pub async fn ask(
    State(node): State<Arc<Node>>,
    Extension(visitor): Extension<Visitor>,
    Extension(form): Extension<Form>,
    page: Page,
) -> Response {
    let Some(directory) = source::directory(&node) else {
        return (StatusCode::NOT_FOUND, whole(&node, &page, "", &html! {})).into_response();
    };
    let statement = form.get("statement");
    let order = order(form.get("order"));
    // The statement itself is not logged: it may contain a secret.
    tracing::info!(who = visitor.who, bytes = statement.len(), "dashboard: statement asked");
    let began = Instant::now();
    match directory.store().inspect(statement, order).await {
        Ok(found) => {
            let result = result(&found, order, began.elapsed().as_secs_f64());
            whole(&node, &page, statement, &result).into_response()
        }
        Err(InspectError::Store(error)) => unavailable(&page, &error),
        Err(error) => {
            let whole = whole(&node, &page, statement, &notice(false, error.to_string()));
            (StatusCode::UNPROCESSABLE_ENTITY, whole).into_response()
        }
    }
}

/// `3` or `-3`: sorts by the fourth column, ascending or descending. The sign counts before a zero, too.
fn order(text: &str) -> Option<Order> {
    let column = text.strip_prefix('-').unwrap_or(text).parse().ok()?;
    Some(Order { column, descending: text.starts_with('-') })
}

fn whole(node: &Node, page: &Page, statement: &str, result: &Markup) -> Markup {
    let body = if source::directory(node).is_none() {
        html! { p.dim {
            "There is no metadata database that could be asked. Tenants are those of the configuration. "
            code { "DB_ENC_KEY" } " turns the metadata database on. " a href="/docs/metadata" { "The metadata database" }
        } }
    } else {
        html! {
            section {
                form.stacked id=(FORM) method="post" action=(format!("{BASE}/sql")) {
                    (seal(page))
                    label for="statement" { "One SELECT or WITH. Tables: tenants, extensions, feature_flags" }
                    textarea.mono id="statement" name="statement" spellcheck="false" autocapitalize="off"
                        maxlength=(MAX_STATEMENT) required { (statement) }
                    button.button.primary type="submit" { "Ask" }
                }
                p.dim {
                    "Read-only, rolled back, at most " (ROWS) " rows and 30 seconds. Secrets are *** before the "
                    "statement sees them."
                }
            }
            (result)
        }
    };
    view::page(page, Some(Place::Sql), "SQL inspector", &body)
}

fn result(found: &Inspected, order: Option<Order>, seconds: f64) -> Markup {
    html! {
        section {
            h2 {
                (found.rows.len()) @if found.rows.len() == 1 { " row" } @else { " rows" }
                @if found.more { ", and there are more" }
                " in " (format!("{seconds:.2}")) " s"
            }
            @if !found.rows.is_empty() {
                div.scroll tabindex="0" role="region" aria-label="Answer" {
                    table {
                        thead { tr { @for (at, name) in found.columns.iter().enumerate() { (head(at, name, order)) } } }
                        tbody {
                            @for row in &found.rows {
                                tr {
                                    @for value in row {
                                        td.data {
                                            @match value { Some(value) => (value), None => span.dim { "NULL" } }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A column's name as a button that asks again, sorted by that column.
fn head(at: usize, name: &str, order: Option<Order>) -> Markup {
    let current = order.filter(|order| order.column == at);
    let (next, sort) = match current {
        Some(Order { descending: false, .. }) => (format!("-{at}"), "ascending"),
        Some(_) => (at.to_string(), "descending"),
        None => (at.to_string(), "none"),
    };
    html! {
        th scope="col" aria-sort=(sort) {
            button.link type="submit" form=(FORM) name="order" value=(next) {
                (name)
                @match current { Some(order) if order.descending => " ↓", Some(_) => " ↑", None => "" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        assert_eq!(order("3"), Some(Order { column: 3, descending: false }));
        assert_eq!(order("-0"), Some(Order { column: 0, descending: true }));
        assert_eq!([order(""), order("x"), order("--1")], [None; 3]);
    }
}
