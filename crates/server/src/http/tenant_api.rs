//! The common part of the tenant's HTTP routes: which tenant, how often, who (http_and_ops 2.1 to 2.4).

use std::{net::Ipv4Addr, sync::Arc};

use axum::{
    Extension,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use realtime_channels::{tenant_runtime::TenantRuntime, token::Token};
use tokio::time::Instant;

use super::shapes::Ping;
use crate::{
    answers::{message, not_found, preflight, text},
    node::Node,
    operators::logging,
    throttle::Throttle,
    transport::{NOT_KNOWN, Peer},
};

/// The answer if the tenant's clients, or an address, have sent too many requests.
const TOO_MANY: &str = "Too many requests";

/// Adds CORS headers to the answers to browsers, and answers their preflights.
pub async fn cors(request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        return preflight(request.headers(), "POST, OPTIONS");
    }
    if request.method() != Method::POST {
        return not_found(request).await;
    }
    let origin = request.headers().contains_key(header::ORIGIN);
    let mut response = next.run(request).await;
    if origin {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    response
}

/// Finds the tenant and hands it on as an extension. Refuses the request if there are too many. A request counts only
/// after its token was verified, so that strangers cannot use up the limit of the tenant's clients.
pub async fn admit(State(node): State<Arc<Node>>, mut request: Request, next: Next) -> Response {
    let host = text(request.headers(), header::HOST).unwrap_or_default();
    let runtime = match node.runtime_for_host(host).await {
        Ok(Some(runtime)) => runtime,
        Ok(None) => return message(StatusCode::UNAUTHORIZED, "Tenant not found in database"),
        Err(_) => return message(StatusCode::INTERNAL_SERVER_ERROR, NOT_KNOWN),
    };
    logging::is_for(runtime.name());
    let requests = runtime.meters().requests();
    let mean = requests.average() as u64;
    let max = u64::from(requests.limit());
    let mut response = if mean >= max {
        message(StatusCode::TOO_MANY_REQUESTS, TOO_MANY)
    } else {
        request.extensions_mut().insert(runtime);
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert("x-rate-rolling", mean.into());
    headers.insert("x-rate-limit", max.into());
    headers.insert("x-rate-limit-remaining", max.saturating_sub(mean).into());
    response
}

/// Verifies the caller's token, from `Authorization: Bearer` or else `apikey`, and hands it on as an extension. A
/// valid token is always accepted: the address may be that of a proxy that everyone is behind.
pub async fn authenticate(
    State(strangers): State<Arc<Throttle>>,
    Extension(runtime): Extension<Arc<TenantRuntime>>,
    mut request: Request,
    next: Next,
) -> Response {
    let verified = token(request.headers()).map(|token| runtime.verify(token));
    match verified {
        Some(Ok(token)) => {
            runtime.meters().requests().add(1);
            request.extensions_mut().insert(Arc::<Token>::new(token));
            next.run(request).await
        }
        _ if !is_bearable(&strangers, &request) => message(StatusCode::TOO_MANY_REQUESTS, TOO_MANY),
        refused => {
            if let Some(Err(error)) = refused {
                tracing::warn!(tenant = &**runtime.name(), code = error.code(), %error, "request refused");
            }
            message(StatusCode::UNAUTHORIZED, "Unauthorized").into_response()
        }
    }
}

/// Lets requests through that need no token, unless too many come from one address.
pub async fn anonymous(State(strangers): State<Arc<Throttle>>, request: Request, next: Next) -> Response {
    if is_bearable(&strangers, &request) {
        return next.run(request).await;
    }
    message(StatusCode::TOO_MANY_REQUESTS, TOO_MANY)
}

/// Counts a request without a valid token against its address. False if there are too many.
fn is_bearable(strangers: &Throttle, request: &Request) -> bool {
    // The listener sets it.
    let peer = request.extensions().get().map_or(Ipv4Addr::UNSPECIFIED.into(), |Peer(address)| *address);
    strangers.fail(peer, Instant::now())
}

fn token(headers: &HeaderMap) -> Option<&str> {
    let bearer = text(headers, header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    });
    bearer.or_else(|| text(headers, "apikey"))
}

/// `GET /api/ping`.
#[utoipa::path(
    get,
    path = "/api/ping",
    tag = "Operations",
    summary = "Whether the tenant is served",
    responses(Ping)
)]
pub async fn ping() -> Response {
    message(StatusCode::OK, "Success")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// http_and_ops 36, 37
    #[test]
    fn where_tokens_come_from() {
        let found = |pairs: &[(&'static str, &'static str)]| {
            let headers: HeaderMap = pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
                .collect();
            token(&headers).map(str::to_owned)
        };
        assert_eq!(found(&[("authorization", "Bearer a"), ("apikey", "b")]).as_deref(), Some("a"));
        assert_eq!(found(&[("authorization", "bearer a")]).as_deref(), Some("a"));
        assert_eq!(found(&[("authorization", "Basic a"), ("apikey", "b")]).as_deref(), Some("b"));
        assert_eq!(found(&[("authorization", "a"), ("apikey", "b")]).as_deref(), Some("b"));
        assert_eq!(found(&[("authorization", ""), ("apikey", "b")]).as_deref(), Some("b"));
        assert_eq!(found(&[("x-api-key", "a")]), None);
        assert_eq!(found(&[("authorization", "malformed")]), None);
    }
}
