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
use serde::Deserialize;

use super::{answers::text, openapi::shapes::MetricsAnswers};
use crate::{app::App, metrics};

/// How long Prometheus waits, as it says: seconds.
const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

/// What an answer needs to reach a scraper, of the time that it waits.
const RESERVE: Duration = Duration::from_millis(500);

/// Of whom metrics are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scope {
    /// All nodes.
    #[default]
    Cluster,
    /// The node that is asked.
    Node,
}

/// The query.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    scope: Scope,
}

type Asked = Result<Query<Wanted>, QueryRejection>;

/// All metrics, for who bears a token of `METRICS_JWT_SECRET`.
#[utoipa::path(
    get, path = "/metrics", tag = "Operations", summary = "What operators watch", security(("metrics" = [])),
    params(
        ("scope" = Option<String>, Query, description = "`cluster`: of all nodes, which is the default; `node`: of the node that is asked")
    ),
    responses(MetricsAnswers)
)]
pub(super) async fn metrics(State(app): State<Arc<App>>, asked: Asked, headers: HeaderMap) -> Response {
    answer(&app, None, asked, &headers).await
}

/// Those of the nodes of a region: nothing if there is none.
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
    State(app): State<Arc<App>>,
    Path(region): Path<String>,
    asked: Asked,
    headers: HeaderMap,
) -> Response {
    answer(&app, Some(&region), asked, &headers).await
}

async fn answer(app: &Arc<App>, region: Option<&str>, asked: Asked, headers: &HeaderMap) -> Response {
    if !may_read(app, headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Ok(Query(Wanted { scope })) = asked else {
        return (StatusCode::BAD_REQUEST, "scope must be cluster or node").into_response();
    };
    let parts = match scope {
        Scope::Cluster => metrics::gather(app, region, patience(headers)).await,
        Scope::Node => {
            let here = region.is_none_or(|region| app.region().unwrap_or("nil") == region);
            if here { vec![metrics::of_this_node(app).await] } else { Vec::new() }
        }
    };
    let length: usize = parts.iter().map(Bytes::len).sum();
    let body = Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, Infallible>)));
    let head = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    (head, [(header::CONTENT_LENGTH, length.to_string())], body).into_response()
}

fn may_read(app: &App, headers: &HeaderMap) -> bool {
    let token = text(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    token.is_some_and(|token| app.may_read_metrics(token))
}

/// How long the other nodes may be waited for, by what the scraper says of itself.
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
