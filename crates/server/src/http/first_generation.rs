//! The HTTP side of a server that is nothing but of the first generation (legacy 1.1).

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Router,
    extract::State,
    middleware,
    response::{Html, IntoResponse as _, Response},
    routing::{any, get},
};
use http::{StatusCode, header};
use prometheus::{Gauge, Registry, TextEncoder};

use super::{answers, healthcheck, refuse_long_headers, upgrade};
use crate::{app::App, legacy::Legacy, metrics};

/// What is shown to who opens the server in a browser.
const PAGE: &str = "<!doctype html>
<html lang=\"en\"><meta charset=\"utf-8\"><title>Realtime</title>
<body><h1>Realtime</h1><p>The server runs. Clients connect to <code>/socket</code>.</p></body></html>
";

/// Its routes: sockets, a page, and perhaps metrics.
pub(super) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/healthcheck", get(healthcheck))
        .route("/socket/websocket", any(upgrade::websocket))
        .route("/realtime/v1/websocket", any(upgrade::websocket));
    if app.legacy().is_some_and(|legacy| legacy.settings().expose_metrics) {
        router = router.route("/metrics", get(metrics));
    }
    router
        .fallback(answers::not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), refuse_long_headers))
        .with_state(app)
}

/// All metrics, to everybody, and those that the first generation had.
async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = metrics::render(&app).and_then(|text| Ok(text + &own(&app)?));
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot render metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn own(app: &App) -> prometheus::Result<String> {
    let registry = Registry::new();
    let put = |name: &str, help: &str, value: u64| {
        let gauge = Gauge::new(name, help)?;
        gauge.set(value as f64);
        registry.register(Box::new(gauge))
    };
    let sockets: usize = app.runtimes().iter().map(|tenant| tenant.sockets().len()).sum();
    put("realtime_active_websocket_connection_total", "Sockets", sockets as u64)?;
    if let Some(legacy) = app.legacy() {
        let of = |counter: fn(&Legacy) -> u64| counter(legacy);
        let channels = of(|legacy| legacy.counters().channels.load(Ordering::Relaxed));
        put("realtime_active_websocket_topic_total", "Joined channels", channels)?;
        let changes = of(|legacy| legacy.counters().changes.load(Ordering::Relaxed));
        put("realtime_stream_changes", "Row changes read from the log", changes)?;
        let frames = of(|legacy| legacy.counters().frames.load(Ordering::Relaxed));
        put("realtime_stream_frames", "Frames queued to sockets", frames)?;
        let sent = of(|legacy| legacy.counters().webhooks_sent.load(Ordering::Relaxed));
        put("realtime_webhooks_sent", "Webhooks answered with success", sent)?;
        let failed = of(|legacy| legacy.counters().webhooks_failed.load(Ordering::Relaxed));
        put("realtime_webhooks_failed", "Webhooks given up", failed)?;
        if let Some(stats) = legacy.reader_stats() {
            let lag = stats.lag_bytes.load(Ordering::Relaxed);
            put("realtime_stream_lag_bytes", "Bytes of the log that were not handed over yet", lag)?;
        }
    }
    TextEncoder::new().encode_to_string(&registry.gather())
}
