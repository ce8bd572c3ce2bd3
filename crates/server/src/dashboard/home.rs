//! The page of a process: of this one, or of another node.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use super::{
    Page, path_of,
    view::{
        self, Place,
        chart::charts,
        parts::{facts, maybe, plain, table},
        units,
    },
};
use crate::{
    dashboard::BASE,
    node::Node,
    operators::{
        figures::{NodeFigures, Process, TenantFigures},
        history::{self, Measure, Series},
        metrics::Gathered,
    },
};

/// `GET /admin/dashboard/home`.
pub async fn page(
    State(node): State<Arc<Node>>,
    State(gathered): State<Arc<Gathered>>,
    page: Page,
) -> Markup {
    let figures = NodeFigures::of(&node).await;
    let body = sections(&node.identity().id, &figures, &gathered.history().node());
    view::followed(&page, Some(Place::Home), "Home", Some("home"), &body)
}

/// The figures of a node, and its last hour.
pub fn sections(id: &str, figures: &NodeFigures, series: &Series) -> Markup {
    let server = facts(&[
        ("Version", plain(&figures.version)),
        ("Node", plain(id)),
        ("Name", plain(&figures.name)),
        ("Region", maybe(figures.region.as_deref())),
        ("Up for", plain(units::span(figures.uptime))),
    ]);
    let traffic = facts(&[
        ("Tenants in use", plain(figures.tenants)),
        ("Sockets", plain(units::count(figures.sockets))),
        ("Users (sockets with a channel)", plain(units::count(figures.users))),
        ("Rooms", plain(units::count(figures.rooms))),
    ]);
    let runtime = &figures.runtime;
    html! {
        section { h2 { "Server" } (server) }
        section { h2 { "The last hour" } (charts(series, history::moment(), Measure::ALL.into_iter())) }
        section { h2 { "Traffic" } (traffic) }
        section {
            h2 { "Process" }
            @match &figures.process {
                Some(process) => (usage(process, figures)),
                None => p.notice.bad { "The operating system does not tell." },
            }
        }
        section {
            h2 { "Runtime" }
            (facts(&[
                ("Workers", plain(runtime.workers)),
                ("Busy now", plain(format!("{:.1} %", runtime.busy * 100.0))),
                ("Tasks", plain(units::count(runtime.tasks as u64))),
                ("Queued tasks", plain(units::count(runtime.queued as u64))),
            ]))
        }
        @if let Some(process) = &figures.process {
            section {
                h2 { "Host" }
                (facts(&[
                    ("Load (1, 5, 15 min)", plain(process.load.map(|load| format!("{load:.2}")).join(", "))),
                    ("Available memory", html! {
                        (units::bytes(process.host_memory.0)) " of " (units::bytes(process.host_memory.1))
                    }),
                ]))
            }
        }
        section {
            h2 { "Tenants with most sockets" }
            (table("Tenants", &["Tenant", "Users", "Sockets"], &busiest(figures), "No tenant is in use."))
        }
    }
}

/// What the process uses.
fn usage(process: &Process, figures: &NodeFigures) -> Markup {
    facts(&[
        (
            "CPU now",
            html! {
                (format!("{:.0} %", process.cpu_now * 100.0)) " of one core ("
                (process.cpus) @if process.cpus == 1 { " core)" } @else { " cores)" }
            },
        ),
        (
            "CPU time",
            html! {
                (units::span(process.cpu_total))
                " (" (format!("{:.1} %", share(process.cpu_total, figures.uptime))) " since the start)"
            },
        ),
        ("Memory", plain(units::bytes(process.resident))),
        ("Peak memory", maybe(process.resident_peak.map(units::bytes))),
        (
            "File descriptors",
            html! {
                (process.descriptors) " of "
                @match process.descriptor_limit { Some(limit) => (units::count(limit)), None => "any number" }
            },
        ),
        ("Threads", plain(process.threads)),
    ])
}

/// Tenants with most sockets.
fn busiest(figures: &NodeFigures) -> Vec<Vec<Markup>> {
    let row = |tenant: &TenantFigures| {
        let path = format!("{BASE}/{}", path_of(&tenant.external_id));
        vec![
            html! { a href=(path) { (tenant.external_id) } },
            plain(units::count(tenant.users)),
            plain(units::count(tenant.sockets)),
        ]
    };
    figures.busiest.iter().map(row).collect()
}

fn share(part: std::time::Duration, whole: std::time::Duration) -> f64 {
    part.as_secs_f64() / whole.as_secs_f64().max(0.001) * 100.0
}
