//! The nodes of the cluster.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use futures_util::future;
use http::StatusCode;
use maud::{Markup, html};
use realtime_cluster::{AskError, Cluster, Contact, NodeStatus};

use super::{
    BASE, Page, failure, home,
    view::{
        self, Place,
        parts::{maybe, notice, plain, state, table},
        units,
    },
};
use crate::{
    node::{Node, short_id},
    operators::{
        ask::{PATIENCE, Question, ask_one, ask_others},
        figures::NodeFigures,
        history::Series,
        metrics::Gathered,
    },
};

/// A node and its figures.
struct Shown {
    id: String,
    name: String,
    region: Option<String>,
    version: String,
    state: Markup,
    uptime: Option<std::time::Duration>,
    latency_ms: Option<f64>,
    /// `None` if the node cannot be asked.
    figures: Option<Result<NodeFigures, AskError>>,
}

/// `GET /admin/dashboard/nodes`.
pub async fn list(State(node): State<Arc<Node>>, page: Page) -> Markup {
    let rows: Vec<Vec<Markup>> = all(&node).await.iter().map(row).collect();
    let heads = [
        "Node",
        "Name",
        "Region",
        "State",
        "Version",
        "Up for",
        "Round trip",
        "Tenants",
        "Sockets",
        "Users",
        "CPU",
        "Memory",
    ];
    let body = html! {
        section { (table("Nodes", &heads, &rows, "There are no nodes.")) }
        @if node.cluster().is_none() {
            p.dim {
                "This node serves alone. Nodes with the same " code { "NATS_URL" } " find each other. "
                a href="/docs/cluster" { "Many nodes" }
            }
        } @else {
            p { a href="/status" { "Latencies between nodes" } }
        }
    };
    view::followed(&page, Some(Place::Nodes), "Nodes", Some("nodes"), &body)
}

async fn all(node: &Node) -> Vec<Shown> {
    let question = ask_others::<NodeFigures>(node, &Question::Figures, PATIENCE);
    let (own, others) = future::join(NodeFigures::of(node), question).await;
    let mut answers: HashMap<u32, _> = others.into_iter().map(|(node, answer)| (node.id, answer)).collect();
    let this = Shown {
        id: node.identity().id.clone(),
        name: own.name.clone(),
        region: own.region.clone(),
        version: own.version.clone(),
        state: state(true, "serves this page", ""),
        uptime: Some(own.uptime),
        latency_ms: None,
        figures: Some(Ok(own)),
    };
    let nodes = node.cluster().map(Cluster::nodes).unwrap_or_default();
    let others = nodes.into_iter().filter(|node| !node.is_self).map(|node| Shown {
        id: short_id(node.id),
        state: contact(&node),
        figures: answers.remove(&node.id),
        name: node.name,
        region: node.region,
        version: node.version,
        uptime: node.uptime,
        latency_ms: node.latency_ms,
    });
    std::iter::once(this).chain(others).collect()
}

/// The state of the connection to a node.
fn contact(node: &NodeStatus) -> Markup {
    match node.contact {
        Contact::Heard => state(true, "connected", ""),
        Contact::Lost => state(false, "", &format!("not heard for {}", units::span(node.heard_ago))),
        Contact::Refused => state(false, "", "another version of the protocol: nothing is exchanged"),
        Contact::Namesake => state(false, "", "drew the same number: start it again"),
    }
}

fn row(node: &Shown) -> Vec<Markup> {
    let link = html! { a.mono href=(format!("{BASE}/nodes/{}", node.id)) { (node.id) } };
    let mut cells = vec![
        link,
        plain(&node.name),
        plain(node.region.as_deref().unwrap_or("–")),
        node.state.clone(),
        plain(&node.version),
        maybe(node.uptime.map(units::span)),
        plain(node.latency_ms.map_or("–".to_owned(), |millis| format!("{millis:.1} ms"))),
    ];
    match &node.figures {
        Some(Ok(figures)) => {
            let process = figures.process.as_ref();
            cells.extend([
                plain(units::count(figures.tenants)),
                plain(units::count(figures.sockets)),
                plain(units::count(figures.users)),
                maybe(process.map(|process| format!("{:.0} %", process.cpu_now * 100.0))),
                maybe(process.map(|process| units::bytes(process.resident))),
            ]);
        }
        unknown => {
            let why = if unknown.is_some() { "no answer" } else { "–" };
            cells.push(plain(why));
            cells.extend(std::iter::repeat_n(plain("–"), 4));
        }
    }
    cells
}

/// `GET /admin/dashboard/nodes/{id}`.
pub async fn show(
    State(node): State<Arc<Node>>,
    State(gathered): State<Arc<Gathered>>,
    page: Page,
    Path(id): Path<String>,
) -> Response {
    let title = format!("Node {id}");
    let path = format!("nodes/{id}");
    let body = if id == node.identity().id {
        home::sections(&id, &NodeFigures::of(&node).await, &gathered.history().node())
    } else {
        match ask_one::<NodeFigures>(&node, &id, &Question::Figures, PATIENCE).await {
            None => return failure::page(&page, StatusCode::NOT_FOUND, "Node", "Node not found"),
            Some((_, Ok(figures))) => {
                // A node of another release may not know the question: it is shown without charts.
                let series = ask_one::<Series>(&node, &id, &Question::History(None), PATIENCE).await;
                let series = series.and_then(|(_, series)| series.ok()).unwrap_or_default();
                home::sections(&id, &figures, &series)
            }
            Some((node, Err(error))) => html! {
                p { (contact(&node)) }
                (notice(false, format!("{} does not answer: {error}", node.name)))
            },
        }
    };
    view::followed(&page, Some(Place::Nodes), &title, Some(&path), &body).into_response()
}
