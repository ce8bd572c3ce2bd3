//! Parts of pages.

use maud::{Markup, Render, html};

use crate::dashboard::{BASE, Page};

/// Names and values; empty ones are shown as a dash.
pub fn facts(rows: &[(&str, Markup)]) -> Markup {
    html! {
        dl.facts {
            @for (name, value) in rows {
                div { dt { (name) } dd { @if value.0.is_empty() { "–" } @else { (value) } } }
            }
        }
    }
}

/// A value as it is.
pub fn plain(value: impl Render) -> Markup {
    html! { (value) }
}

/// A value, or nothing.
pub fn maybe<T: Render>(value: Option<T>) -> Markup {
    html! { @if let Some(value) = value { (value) } }
}

/// Good or bad, in words and in colour.
pub fn state(good: bool, yes: &str, no: &str) -> Markup {
    html! { @if good { span.state.good { (yes) } } @else { span.state.bad { (no) } } }
}

/// Yes or no, neither of which is good or bad.
pub fn yes(value: bool) -> Markup {
    html! { @if value { "yes" } @else { "no" } }
}

/// A table with a caption for screen readers. It scrolls by itself if it is too wide.
pub fn table(caption: &str, heads: &[&str], rows: &[Vec<Markup>], empty: &str) -> Markup {
    html! {
        @if rows.is_empty() { p.empty { (empty) } } @else {
            div.scroll tabindex="0" role="region" aria-label=(caption) {
                table {
                    caption.sr-only { (caption) }
                    thead { tr { @for head in heads { th scope="col" { (head) } } } }
                    tbody { @for row in rows { tr { @for cell in row { td { (cell) } } } } }
                }
            }
        }
    }
}

/// A form that changes something, with a seal, its fields and a button.
pub fn form(page: &Page, path: &str, fields: &Markup, button: &str) -> Markup {
    html! {
        form.inline method="post" action=(format!("{BASE}/{path}")) {
            (seal(page))
            (fields)
            button.button.small type="submit" { (button) }
        }
    }
}

/// The hidden field with the seal.
pub fn seal(page: &Page) -> Markup {
    html! { input type="hidden" name="seal" value=(page.visitor.seal); }
}

/// A highlighted sentence.
pub fn notice(good: bool, text: impl Render) -> Markup {
    html! { @if good { p.notice.good role="status" { (text) } } @else { p.notice.bad role="alert" { (text) } } }
}
