//! What runs for a tenant, on all nodes.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use maud::{Markup, html};
use realtime_channels::limits::Meter;

use super::known::Known;
use crate::{
    dashboard::{
        BASE, Page, path_of,
        view::{
            parts::{facts, form, plain, state, table},
            units,
        },
    },
    node::Node,
    operators::tenants::{OnNode, ReaderThere, TenantThere, everywhere},
};

/// Its connections, its users, and the buttons that end connections.
pub async fn section(node: &Node, page: &Page, known: &Known) -> Markup {
    let external_id = known.external_id();
    let nodes = everywhere(node, external_id).await;
    let path = path_of(external_id);
    let unknown = nodes.iter().any(|node| node.there.is_err());
    if !unknown && nodes.iter().all(|node| node.running().is_none()) {
        let place = if nodes.len() > 1 { "any node" } else { "this node" };
        return html! {
            p.dim { "Nothing runs on " (place) ": nobody has used it since the server started." }
        };
    }
    html! {
        (facts(&summary(&nodes)))
        @if nodes.len() > 1 { (by_node(&nodes)) }
        (rates(node, external_id))
        div.forms {
            (form(page, &format!("{path}/end-database"), &html! {}, "Stop database connection"))
            (form(page, &format!("{path}/end-replication"), &html! {}, "Stop replication and changes"))
        }
        p.dim {
            @if nodes.len() > 1 { "Both stop it on all nodes. " }
            "What is stopped starts again when it is next used: at once for those who watch rows."
        }
    }
}

/// Facts about all nodes together.
fn summary(nodes: &[OnNode]) -> Vec<(&'static str, Markup)> {
    let running = || nodes.iter().filter_map(OnNode::running);
    let any = |is: fn(&TenantThere) -> bool| running().any(is);
    let users: u64 = running().map(|there| u64::from(there.users)).sum();
    let connected = any(|there| there.db_connected);
    let replicates = any(|there| there.reader.is_some());
    // If nobody watches or listens, there is no reason to read the log.
    let watched = users > 0;
    let sum = |number: fn(&TenantThere) -> u64| plain(units::count(running().map(number).sum()));
    let names = |is: fn(&OnNode) -> bool| {
        let names: Vec<&str> = nodes.iter().filter(|node| is(node)).map(|node| &*node.id).collect();
        plain(names.join(", "))
    };
    let arrives = any(|there| there.replication_connected);
    let mut rows = Vec::new();
    if let [node] = nodes {
        rows.push(("Node", plain(&node.id)));
    }
    rows.push(("Database connection", state(connected, "up", "down")));
    rows.push(("Replication", needed(replicates, watched, "up", "down")));
    rows.push((
        "Broadcasts from the database",
        needed(arrives, watched && replicates, "arriving", "not arriving"),
    ));
    if nodes.len() > 1 {
        rows.push((
            "Nodes connected to the database",
            names(|node| node.running().is_some_and(|there| there.db_connected)),
        ));
        rows.push(("Node that reads its log", names(OnNode::reads)));
    }
    rows.push(("Users (sockets with a channel)", plain(units::count(users))));
    rows.push(("Sockets", sum(|there| there.sockets)));
    rows.push(("Rooms", sum(|there| there.rooms)));
    rows.push(("Channels that watch row changes", sum(|there| there.watchers)));
    rows
}

/// One row for each node, and the users of each region.
fn by_node(nodes: &[OnNode]) -> Markup {
    let rows: Vec<Vec<Markup>> = nodes.iter().map(row).collect();
    let heads = ["Node", "Name", "Region", "Database", "Log", "Users", "Sockets", "Watch changes"];
    let mut regions: BTreeMap<&str, u64> = BTreeMap::new();
    for node in nodes {
        let users = node.running().map_or(0, |there| u64::from(there.users));
        *regions.entry(node.region.as_deref().unwrap_or("–")).or_default() += users;
    }
    let regions: Vec<Vec<Markup>> =
        regions.into_iter().map(|(region, users)| vec![plain(region), plain(units::count(users))]).collect();
    html! {
        h3 { "By node" }
        (table("By node", &heads, &rows, ""))
        h3 { "Connected users by region" }
        (table("Connected users by region", &["Region", "Users"], &regions, ""))
    }
}

fn row(node: &OnNode) -> Vec<Markup> {
    let name = html! { (node.name) @if node.is_self { " (this one)" } };
    let mut cells = vec![
        html! { a.mono href=(format!("{BASE}/nodes/{}", node.id)) { (node.id) } },
        name,
        plain(node.region.as_deref().unwrap_or("–")),
    ];
    match &node.there {
        Ok(Some(there)) => cells.extend([
            plain(if there.db_connected { "connected" } else { "–" }),
            plain(match there.reader {
                Some(ReaderThere::Owner) => "reads it for all",
                Some(ReaderThere::Alone) => "reads it for itself",
                Some(ReaderThere::Follower) => "follows",
                None => "–",
            }),
            plain(units::count(u64::from(there.users))),
            plain(units::count(there.sockets)),
            plain(units::count(there.watchers)),
        ]),
        Ok(None) => {
            cells.push(plain("nothing runs"));
            cells.extend(std::iter::repeat_n(plain("–"), 4));
        }
        Err(error) => {
            cells.push(state(false, "", &format!("no answer: {error}")));
            cells.extend(std::iter::repeat_n(plain("–"), 4));
        }
    }
    cells
}

/// The tenant's rates on this node.
fn rates(node: &Node, external_id: &str) -> Markup {
    let Some(runtime) = node.running(external_id) else { return html! {} };
    let meters = runtime.meters();
    let stats = &runtime.counters().database;
    html! {
        @if node.cluster().is_some() { h3 { "On this node" } }
        (facts(&[
            ("Joins a second", rate(meters.joins())),
            ("Events a second", rate(meters.events())),
            ("Presence events a second", rate(meters.presence())),
            ("Row changes a second", rate(meters.db_events())),
            ("Rows read from the log", plain(units::count(stats.rows.load(Ordering::Relaxed)))),
            ("Not handed over yet", plain(units::bytes(stats.lag_bytes.load(Ordering::Relaxed)))),
        ]))
    }
}

/// A state that is bad only if somebody needs it.
fn needed(good: bool, needed: bool, yes: &str, no: &str) -> Markup {
    if good || needed {
        state(good, yes, no)
    } else {
        html! { span.tag { (no) ", nobody needs it" } }
    }
}

/// An average over up to a minute, and its limit.
fn rate(meter: &Meter) -> Markup {
    plain(format!("{:.1} of {}", meter.average(), meter.limit()))
}
