//! The webhooks of a tenant, and what they have done on this node.

use jiff::Timestamp;
use maud::{Markup, html};
use realtime_channels::webhooks::HookView;
use realtime_tenants::Tenant;

use crate::{
    dashboard::view::{
        parts::{maybe, plain, table},
        units,
    },
    node::Node,
};

/// Heads of the table.
const HEADS: [&str; 12] = [
    "Name",
    "Endpoint",
    "Table",
    "Event",
    "State here",
    "Position",
    "Waiting",
    "Delivered",
    "Failed attempts",
    "Dead letters",
    "Gaps",
    "Last error",
];

/// One row for each webhook, and the last changes that were given up.
pub fn section(node: &Node, tenant: &Tenant) -> Markup {
    let hooks =
        node.running(&tenant.external_id).map(|runtime| runtime.webhooks().views(tenant)).unwrap_or_default();
    let rows: Vec<Vec<Markup>> = hooks.iter().map(row).collect();
    let letters: Vec<Vec<Markup>> = hooks.iter().flat_map(letters).collect();
    html! {
        (table("Webhooks", &HEADS, &rows, "The tenant has no webhooks, or they do not run on this node."))
        @if !letters.is_empty() {
            h3 { "Last dead letters" }
            (table("Last dead letters", &["Webhook", "Position", "Why", "When"], &letters, ""))
        }
    }
}

fn row(hook: &HookView) -> Vec<Markup> {
    let webhook = &hook.webhook;
    let last = hook.last_error.as_ref().map(|(code, at)| format!("{code}, {}", when(*at)));
    vec![
        plain(&webhook.name),
        html! { span.mono { (webhook.shown_url()) } },
        plain(webhook.spec.place()),
        plain(webhook.event()),
        html! {
            @if let Some(code) = hook.reading.waits_for() { (hook.reading.as_str()) ": " (code) }
            @else { (hook.reading.as_str()) }
        },
        maybe(hook.position.map(|position| position.to_string())),
        plain(units::count(hook.waiting)),
        plain(units::count(hook.delivered)),
        plain(units::count(hook.failed)),
        plain(units::count(hook.dead_letters)),
        plain(units::count(hook.gaps)),
        maybe(last),
    ]
}

fn letters(hook: &HookView) -> Vec<Vec<Markup>> {
    let row = |letter: &realtime_channels::webhooks::DeadLetter| {
        vec![
            plain(&hook.webhook.name),
            plain(letter.position.to_string()),
            plain(&letter.code),
            plain(when(letter.at)),
        ]
    };
    hook.letters.iter().rev().map(row).collect()
}

fn when(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map(|time| time.to_string()).unwrap_or_default()
}
