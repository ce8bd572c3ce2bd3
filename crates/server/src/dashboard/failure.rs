//! Pages that say what went wrong.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::html;

use super::{Page, view};

/// A page with one sentence.
pub fn page(page: &Page, status: StatusCode, title: &str, text: &str) -> Response {
    let body = html! {
        p.notice.bad role="alert" { (text) }
        p { a href=(format!("{}/home", super::BASE)) { "Home" } }
    };
    (status, view::page(page, None, title, &body)).into_response()
}
