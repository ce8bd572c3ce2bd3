//! Server-sent events (resume 5): row changes and broadcasts for whoever speaks HTTP.
//!
//! A request is admitted as a socket is. Its session joins one channel; until that is answered, the request waits, so that
//! a refusal has a status. Then the stream [takes over](super::takeover) the connection: frames of its serializer are
//! finished chunks of the body, so rooms and routes treat it as any socket.

mod begin;
mod query;
mod stream;

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use begin::begin;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts};
use query::{Asked, Unusable};
use realtime_channels::{
    counters::TransportKind, driver::Driver, session::Session, tenant_runtime::TenantRuntime,
};
use realtime_hub::{DEFAULT_OUTBOX_BYTES, Outbox};
use realtime_protocol::{Ref, SystemMessage, Vsn, encode, events, frame};
use stream::Stream;

use super::{
    ConnectionPermit, Peer,
    admission::{Admitted, admit},
    policy_headers,
    query::Query,
    takeover,
};
use crate::{
    answers::{message, not_found, preflight},
    node::Node,
};

/// When who is refused for a passing reason may come again, in seconds.
const COME_AGAIN: u64 = 5;

/// Adds CORS headers to the answers to browsers, and answers their preflights.
pub async fn cors(request: Request, next: Next) -> Response {
    match *request.method() {
        Method::OPTIONS => return preflight(request.headers(), "GET, OPTIONS"),
        Method::GET => {}
        _ => return not_found(request).await,
    }
    let origin = request.headers().contains_key(header::ORIGIN);
    let mut response = next.run(request).await;
    if origin {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    response
}

/// Answers `GET /sse/changes`.
pub async fn changes(
    State(node): State<Arc<Node>>,
    Extension(permit): Extension<ConnectionPermit>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let asked = query::changes(&parts.headers, parts.uri.query().unwrap_or_default());
    serve(node, permit, peer, &parts, |_| asked).await
}

/// Answers `GET /sse/broadcast/TOPIC`.
pub async fn broadcasts(
    State(node): State<Arc<Node>>,
    Extension(permit): Extension<ConnectionPermit>,
    Extension(peer): Extension<Peer>,
    Path(topic): Path<String>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    serve(node, permit, peer, &parts, |runtime| {
        let query = parts.uri.query().unwrap_or_default();
        query::broadcasts(topic, &parts.headers, query, runtime.history().is_some())
    })
    .await
}

async fn serve(
    node: Arc<Node>,
    permit: ConnectionPermit,
    peer: Peer,
    request: &Parts,
    asked: impl FnOnce(&TenantRuntime) -> Result<Asked, Unusable>,
) -> Response {
    if request.version < Version::HTTP_11 {
        return message(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "Streams need HTTP/1.1");
    }
    let (headers, query) = (&request.headers, request.uri.query().unwrap_or_default());
    let admitted = match admit_stream(&node, headers, query).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal,
    };
    let Admitted { runtime, era, token } = admitted;
    let asked = match asked(&runtime) {
        Ok(asked) => asked,
        Err(error) => return message(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let outbox = Outbox::counted(DEFAULT_OUTBOX_BYTES, None, node.memory());
    let policy_headers = policy_headers::of_handshake(headers);
    let session = Session::new(Vsn::Events, outbox, Arc::clone(&runtime), token, policy_headers)
        .over(TransportKind::Events)
        .at(Some(peer.0))
        .only(asked.event.as_deref());
    let mut driver = Driver::new(session, runtime, era);
    match begin(&mut driver, &asked).await {
        Ok(first) => {
            let stream = Stream { node, driver, first, permit, topic: asked.topic };
            takeover::answer(stream_headers(), move |connection, head| stream.start(connection, head))
        }
        Err(refused) => {
            driver.end();
            refuse(headers, refused.status, &refused.text)
        }
    }
}

/// Makes the checks of a handshake.
async fn admit_stream(node: &Node, headers: &HeaderMap, query: &str) -> Result<Admitted, Response> {
    // Whichever way the token came.
    let host = headers.get(header::HOST).cloned().map(|host| (header::HOST, host));
    let only_host: HeaderMap = host.into_iter().collect();
    let query = Query::with_key(query::token(headers, query));
    let admitted = admit(node, &only_host, &query, TransportKind::Events, Vsn::Events).await;
    match admitted {
        Ok(admitted) => Ok(admitted),
        Err(refusal) => {
            refusal.delay(node).await;
            Err(refuse(headers, refusal.status, &refusal.text))
        }
    }
}

/// Answers with the reason why there is no stream. A browser does not come back after an error status: if it may, it gets
/// a stream that ends at once.
fn refuse(headers: &HeaderMap, status: StatusCode, text: &str) -> Response {
    let is_passing = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
    if !is_passing {
        return message(status, text);
    }
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("text/event-stream") {
        return (stream_headers(), ended(text)).into_response();
    }
    let mut response = message(status, text);
    response.headers_mut().insert(header::RETRY_AFTER, COME_AGAIN.into());
    response
}

/// The text of a stream that tells an error alone.
fn ended(text: &str) -> Vec<u8> {
    let error = SystemMessage::error(text.to_owned());
    let error = encode::system(Vsn::Events, &Ref::null(), "", &error);
    let parts = [events::retry(COME_AGAIN * 1_000), error];
    parts.iter().filter_map(|chunk| frame::content(chunk)).flatten().copied().collect()
}

fn stream_headers() -> HeaderMap {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        // Proxies must not wait for more.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ]
    .into_iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Browsers come back after a passing refusal, since it is no status to them.
    #[test]
    fn browsers_are_not_sent_away_for_good() {
        let browser = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("text/event-stream"))]);
        for (status, told) in [(503, 200), (429, 200), (401, 401), (400, 400)] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(refuse(&browser, status, "no").status().as_u16(), told);
            let other = refuse(&HeaderMap::new(), status, "no");
            assert_eq!(other.status(), status);
            assert_eq!(other.headers().contains_key(header::RETRY_AFTER), told == 200);
        }
        let text = String::from_utf8(ended("a\nb")).unwrap();
        let data = r#"{"extension":"system","status":"error","message":"a\nb","channel":""}"#;
        assert_eq!(text, format!("retry: 5000\n\nevent: error\ndata: {data}\n\n"));
    }
}
