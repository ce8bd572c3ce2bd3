//! The process that serves the page.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use super::{
    Page, process,
    view::{
        self, Place,
        parts::{facts, maybe, plain},
        units,
    },
};
use crate::app::App;

/// `GET /admin/dashboard/home`.
pub async fn page(State(app): State<Arc<App>>, page: Page) -> Markup {
    let (figures, runtime) = process::look().await;
    let runtimes = app.runtimes();
    let sockets: usize = runtimes.iter().map(|tenant| tenant.sockets().len()).sum();
    let users: u64 = runtimes.iter().map(|tenant| u64::from(tenant.users().count())).sum();
    let uptime = app.status().uptime();
    let server = facts(&[
        ("Version", plain(env!("CARGO_PKG_VERSION"))),
        ("Node", plain(app.status().node())),
        ("Region", maybe(app.region())),
        ("Up for", plain(units::span(uptime))),
    ]);
    let traffic = facts(&[
        ("Tenants in use", plain(runtimes.len())),
        ("Sockets", plain(units::count(sockets as u64))),
        ("Users (sockets with a channel)", plain(units::count(users))),
        ("Rooms", plain(units::count(app.rooms() as u64))),
    ]);
    let body = html! {
        section { h2 { "Server" } (server) }
        section { h2 { "Traffic" } (traffic) }
        section {
            h2 { "Process" }
            @match &figures {
                Ok(figures) => (facts(&[
                    ("CPU now", html! { (format!("{:.1} %", figures.cpu_now * 100.0)) " of one of " (figures.cpus) }),
                    ("CPU time", html! {
                        (units::span(figures.cpu_total))
                        " (" (format!("{:.1} %", share(figures.cpu_total, uptime))) " since the start)"
                    }),
                    ("Memory", plain(units::bytes(figures.resident))),
                    ("Memory at most", maybe(figures.resident_peak.map(units::bytes))),
                    ("File descriptors", html! {
                        (figures.descriptors) " of "
                        @match figures.descriptor_limit { Some(limit) => (units::count(limit)), None => "any number" }
                    }),
                    ("Threads", plain(figures.threads)),
                ])),
                Err(error) => p.notice.bad { "The operating system does not tell: " (error) },
            }
        }
        section {
            h2 { "Runtime" }
            (facts(&[
                ("Workers", plain(runtime.workers)),
                ("Busy now", plain(format!("{:.1} %", runtime.busy * 100.0))),
                ("Tasks", plain(units::count(runtime.tasks as u64))),
                ("Tasks without a worker", plain(units::count(runtime.queued as u64))),
            ]))
        }
        @if let Ok(figures) = &figures {
            section {
                h2 { "Host" }
                (facts(&[
                    ("Load (1, 5, 15 min)", plain(figures.load.map(|load| format!("{load:.2}")).join(", "))),
                    ("Memory free to use", html! {
                        (units::bytes(figures.host_memory.0)) " of " (units::bytes(figures.host_memory.1))
                    }),
                ]))
            }
        }
    };
    view::followed(&page, Some(Place::Home), "Home", Some("home"), &body)
}

fn share(part: std::time::Duration, whole: std::time::Duration) -> f64 {
    part.as_secs_f64() / whole.as_secs_f64().max(0.001) * 100.0
}
