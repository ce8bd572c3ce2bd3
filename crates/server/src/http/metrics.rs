//! `GET /metrics` (http_and_ops 3).

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, StatusCode, header};
use realtime_auth::{Keys, Verifier};
use realtime_channels::tenant_runtime::Clock;
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use super::shapes::MetricsAnswers;
use crate::{
    answers::text,
    config::Settings,
    node::{Node, is_of_operator},
    operators::metrics::{CONTENT_TYPE, Gathered},
};

/// Header in which Prometheus says how long it waits, in seconds.
const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

/// Part of the scraper's time that is kept for sending the answer.
const RESERVE: Duration = Duration::from_millis(500);

/// Which nodes' metrics are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scope {
    /// All nodes.
    #[default]
    Cluster,
    /// The node that got the request.
    Node,
}

/// The query.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    scope: Scope,
}

type Asked = Result<Query<Wanted>, QueryRejection>;

/// All metrics. Needs a token of `METRICS_JWT_SECRET`.
#[utoipa::path(
    get, path = "/metrics", tag = "Operations", summary = "What operators watch", security(("metrics" = [])),
    params(
        ("scope" = Option<String>, Query, description = "`cluster`: of all nodes, which is the default; `node`: of the node that is asked")
    ),
    responses(MetricsAnswers)
)]
pub(super) async fn metrics(
    State(gathered): State<Arc<Gathered>>,
    asked: Asked,
    headers: HeaderMap,
) -> Response {
    answer(&gathered, None, asked, &headers).await
}

/// The metrics of a region's nodes; empty if there are none.
#[utoipa::path(
    get, path = "/metrics/{region}", operation_id = "metrics_of_region", tag = "Operations",
    summary = "What operators watch, of a region's nodes", security(("metrics" = [])),
    params(
        ("region" = String, Path, description = "As `REGION` has it; nothing comes of one without nodes"),
        ("scope" = Option<String>, Query, description = "As for all metrics")
    ),
    responses(MetricsAnswers)
)]
pub(super) async fn of_region(
    State(gathered): State<Arc<Gathered>>,
    Path(region): Path<String>,
    asked: Asked,
    headers: HeaderMap,
) -> Response {
    answer(&gathered, Some(&region), asked, &headers).await
}

async fn answer(
    gathered: &Arc<Gathered>,
    region: Option<&str>,
    asked: Asked,
    headers: &HeaderMap,
) -> Response {
    if !may_read(gathered.node(), headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Ok(Query(Wanted { scope })) = asked else {
        return (StatusCode::BAD_REQUEST, "scope must be cluster or node").into_response();
    };
    let parts = match scope {
        Scope::Cluster => gathered.gather(region, patience(headers)).await,
        Scope::Node => {
            let here = region.is_none_or(|region| gathered.node().region().unwrap_or("nil") == region);
            if here { vec![gathered.of_this_node().await] } else { Vec::new() }
        }
    };
    let length: usize = parts.iter().map(Bytes::len).sum();
    let body = Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, Infallible>)));
    let head = [(header::CONTENT_TYPE, CONTENT_TYPE)];
    (head, [(header::CONTENT_LENGTH, length.to_string())], body).into_response()
}

fn may_read(node: &Node, headers: &HeaderMap) -> bool {
    let token = text(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    token.is_some_and(|token| is_good(node.settings(), token))
}

/// Whether a token may read the metrics (http_and_ops 3). Tokens of clients may not, even if the same secret signs
/// them.
fn is_good(settings: &Settings, token: &str) -> bool {
    let Some(secret) = &settings.metrics_secret else { return false };
    if settings.operations.metrics_blocklist.contains(token) {
        return false;
    }
    let keys = Keys::new(Some(secret.expose_secret()), None);
    let verifier = Verifier::new(keys, settings.claim_validators.clone());
    verifier.verify_any(token, Clock::System.unix_seconds()).is_ok_and(|claims| is_of_operator(&claims))
}

/// How long the server may wait for other nodes, from the scraper's header.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(SCRAPE_TIMEOUT)?.to_str().ok()?.parse().ok()?;
    let waits = Duration::try_from_secs_f64(seconds).ok()?;
    Some(waits.saturating_sub(RESERVE.min(waits / 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_says_how_long_it_waits() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(SCRAPE_TIMEOUT, value.parse().unwrap());
            patience(&headers)
        };
        assert_eq!(of("10"), Some(Duration::from_millis(9_500)));
        assert_eq!(of("0.5"), Some(Duration::from_millis(250)));
        assert_eq!(of("soon"), None);
        assert_eq!(of("-1"), None);
        assert_eq!(of("NaN"), None);
        assert_eq!(patience(&HeaderMap::new()), None);
    }
}
