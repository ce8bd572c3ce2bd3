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
    response::Response,
};
use begin::{Refused, begin};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts};
use query::{Asked, Unusable};
use realtime_channels::{counters::TransportKind, driver::Driver, session::Session};
use realtime_hub::{DEFAULT_OUTBOX_BYTES, Outbox};
use realtime_protocol::Vsn;
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
const COME_AGAIN: HeaderValue = HeaderValue::from_static("5");

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
    serve(node, permit, peer, &parts, asked).await
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
    let asked = query::broadcasts(topic, parts.uri.query().unwrap_or_default());
    serve(node, permit, peer, &parts, asked).await
}

async fn serve(
    node: Arc<Node>,
    permit: ConnectionPermit,
    peer: Peer,
    request: &Parts,
    asked: Result<Asked, Unusable>,
) -> Response {
    if request.version < Version::HTTP_11 {
        return message(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "Streams need HTTP/1.1");
    }
    let (headers, query) = (&request.headers, request.uri.query().unwrap_or_default());
    let admitted = match admit_stream(&node, headers, query).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal,
    };
    let asked = match asked {
        Ok(asked) => asked,
        Err(error) => return message(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let Admitted { runtime, era, token } = admitted;
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
            answer(&refused)
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
            Err(message(refusal.status, &refusal.text))
        }
    }
}

fn answer(refused: &Refused) -> Response {
    let mut response = message(refused.status, &refused.text);
    if matches!(refused.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, COME_AGAIN);
    }
    response
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
