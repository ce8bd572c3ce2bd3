//! The common parts of all pages.

pub mod chart;
pub mod parts;
pub mod units;

use maud::{DOCTYPE, Markup, html};

use realtime_pages::files::TAG;

use super::{BASE, Page};

/// The pages that the navigation leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The process.
    Home,
    /// The nodes of the cluster.
    Nodes,
    /// Tenants, and one of them.
    Tenants,
    /// Feature flags.
    Flags,
    /// The SQL inspector.
    Sql,
}

const PLACES: [(Place, &str, &str); 5] = [
    (Place::Home, "home", "Home"),
    (Place::Nodes, "nodes", "Nodes"),
    (Place::Tenants, "tenants", "Tenants"),
    (Place::Flags, "flags", "Feature flags"),
    (Place::Sql, "sql", "SQL inspector"),
];

/// Seconds between two loads of a page that reloads itself.
const REFRESH: u32 = 5;

/// A whole page.
pub fn page(page: &Page, place: Option<Place>, title: &str, body: &Markup) -> Markup {
    followed(page, place, title, None, body)
}

/// A whole page, which reloads itself if the visitor wants that. `path` is its own.
pub fn followed(page: &Page, place: Option<Place>, title: &str, path: Option<&str>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(page, title))
            body.dashboard-page {
                a.skip href="#main" { "Skip to the content" }
                (header(page, place))
                main id="main" tabindex="-1" {
                    div.title-row {
                        h1 { (title) }
                        @if let Some(path) = path { (follow(page, path)) }
                    }
                    (body)
                }
                footer.site-footer {
                    span { "Realtime " span.mono { (env!("CARGO_PKG_VERSION")) } }
                    a href="/status" { "Status" }
                    a href="/" { "Inspector" }
                    a href="/docs" { "Docs" }
                    a href="/swaggerui" { "HTTP API" }
                }
            }
        }
    }
}

fn head(page: &Page, title: &str) -> Markup {
    let assets = format!("/assets/{}", *TAG);
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            @if let Some(seconds) = page.refresh { meta http-equiv="refresh" content=(seconds); }
            title { (title) " - Realtime dashboard" }
            link rel="icon" href="/favicon.svg" type="image/svg+xml";
            link rel="stylesheet" href=(format!("{assets}/css/site.css"));
            link rel="stylesheet" href=(format!("{assets}/css/dashboard.css"));
            script src=(format!("{assets}/js/theme.js")) {}
            script type="module" src=(format!("{assets}/js/dashboard.js")) {}
        }
    }
}

fn header(page: &Page, place: Option<Place>) -> Markup {
    html! {
        header.site-header {
            a.brand href=(format!("{BASE}/home")) aria-label="Realtime dashboard" {
                svg viewBox="0 0 32 32" aria-hidden="true" {
                    rect width="32" height="32" rx="8" {}
                    path d="M6 17h5l3-8 5 15 3-7h4" {}
                }
                span { "Realtime" }
            }
            nav aria-label="Pages" {
                @for (known, path, name) in PLACES {
                    a href=(format!("{BASE}/{path}")) aria-current=[(Some(known) == place).then_some("page")] {
                        (name)
                    }
                }
            }
            span.who { (page.visitor.who) }
            button.icon-button type="button" id="theme" aria-pressed="false" aria-label="Dark mode"
                title="Dark mode" hidden
            {
                svg.sun viewBox="0 0 24 24" aria-hidden="true" {
                    circle cx="12" cy="12" r="4.2" {}
                    path d="M12 2.5v2.2M12 19.3v2.2M2.5 12h2.2M19.3 12h2.2M5.3 5.3l1.5 1.5M17.2 17.2l1.5 1.5M18.7 5.3l-1.5 1.5M6.8 17.2l-1.5 1.5" {}
                }
                svg.moon viewBox="0 0 24 24" aria-hidden="true" {
                    path d="M20 14.2A8.2 8.2 0 0 1 9.8 4a8.2 8.2 0 1 0 10.2 10.2Z" {}
                }
            }
        }
    }
}

/// A link that starts or stops reloading.
fn follow(page: &Page, path: &str) -> Markup {
    html! {
        p.dim {
            @match page.refresh {
                Some(seconds) => {
                    "Loaded anew every " (seconds) " s. "
                    a href=(format!("{BASE}/{path}")) { "Stop" }
                }
                None => a href=(format!("{BASE}/{path}?refresh={REFRESH}")) { "Follow" },
            }
        }
    }
}
