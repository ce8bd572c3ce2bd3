//! HTTP of a server that serves only the first generation (legacy 1.1).

use std::{
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Router,
    extract::State,
    response::{Html, IntoResponse as _, Response},
    routing::{any, get},
};
use http::header;

use super::{healthcheck::healthcheck, layers::for_all};
use crate::{
    node::Node,
    operators::metrics::{CONTENT_TYPE, Gathered, Part},
    transport::upgrade,
    web::Web,
};

/// The page for people who open the server in a browser.
const PAGE: &str = "<!doctype html>
<html lang=\"en\"><meta charset=\"utf-8\"><title>Realtime</title>
<body><h1>Realtime</h1><p>The server runs. Clients connect to <code>/socket</code>.</p></body></html>
";

/// The routes: sockets, a page, and metrics if they are enabled.
pub(super) fn router(web: Web) -> Router {
    let mut router = Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/healthcheck", get(healthcheck))
        .route("/socket/websocket", any(upgrade::websocket))
        .route("/realtime/v1/websocket", any(upgrade::websocket));
    if web.node.legacy().is_some_and(|legacy| legacy.settings().expose_metrics) {
        router = router.route("/metrics", get(metrics));
    }
    for_all(router, &Arc::clone(&web.node)).with_state(web)
}

/// The metrics of the first generation, then all others; no token is needed.
async fn metrics(State(gathered): State<Arc<Gathered>>) -> Response {
    let text = own(gathered.node()) + &gathered.render(Part::All);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

fn own(node: &Node) -> String {
    let mut text = String::new();
    let mut put = |name: &str, help: &str, value: u64| {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    };
    let sockets: usize = node.runtimes().iter().map(|tenant| tenant.sockets().len()).sum();
    put("realtime_active_websocket_connection_total", "Sockets", sockets as u64);
    let Some(legacy) = node.legacy() else { return text };
    let counters = legacy.counters();
    for (name, help, counter) in [
        ("realtime_active_websocket_topic_total", "Joined channels", &counters.channels),
        ("realtime_stream_changes", "Row changes read from the log", &counters.changes),
        ("realtime_stream_frames", "Frames queued to sockets", &counters.frames),
        ("realtime_webhooks_sent", "Webhooks answered with success", &counters.webhooks_sent),
        ("realtime_webhooks_failed", "Webhooks given up", &counters.webhooks_failed),
    ] {
        put(name, help, counter.load(Ordering::Relaxed));
    }
    if let Some(stats) = legacy.reader_stats() {
        let lag = stats.lag_bytes.load(Ordering::Relaxed);
        put("realtime_stream_lag_bytes", "Bytes of the log that were not handed over yet", lag);
    }
    text
}
