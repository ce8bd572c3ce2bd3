//! `GET /socket/websocket`: the upgrade (protocol 1).

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use realtime_channels::{counters::TransportKind, driver::Driver, session::Session};
use realtime_hub::{DEFAULT_OUTBOX_BYTES, Outbox, Sink};
use realtime_protocol::Vsn;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{
    ConnectionPermit, Peer, TlsSocket, Transport,
    admission::{Admitted, admit},
    listener::Patient,
    policy_headers,
    query::Query,
    socket,
    ws::{
        deflate,
        handshake::{self, NotAnUpgrade},
        reader::Reader,
    },
};
use crate::node::Node;

/// Answers an upgrade request.
pub async fn websocket(
    State(node): State<Arc<Node>>,
    Extension(permit): Extension<ConnectionPermit>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
) -> Response {
    if request.method() != http::Method::GET {
        return StatusCode::BAD_REQUEST.into_response();
    }
    // Comes first, and is refused without delay (protocol 1.3).
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let Ok(vsn) = query.vsn() else { return StatusCode::FORBIDDEN.into_response() };
    let admitted = match admit(&node, request.headers(), &query, TransportKind::WebSocket, vsn).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            refusal.delay(&node).await;
            if node.legacy().is_some_and(|legacy| legacy.settings().pure) {
                return StatusCode::FORBIDDEN.into_response();
            }
            let json = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
            let body = serde_json::json!({ "error": refusal.text }).to_string();
            return (refusal.status, json, body).into_response();
        }
    };
    let accept = match handshake::accept(request.method(), request.headers()) {
        Ok(accept) => accept,
        Err(NotAnUpgrade::Method) => return StatusCode::BAD_REQUEST.into_response(),
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let policy_headers = policy_headers::of_handshake(request.headers());
    let compression = node.settings().compression;
    let deflate = compression.and_then(|_| deflate::Agreed::with(request.headers()));
    let start = Start { node: Arc::clone(&node), vsn, admitted, policy_headers, deflate, permit, peer };
    node.sockets().spawn(serve(upgrade, start));
    let headers = [
        (header::CONNECTION, "Upgrade".parse().ok()),
        (header::UPGRADE, "websocket".parse().ok()),
        (header::SEC_WEBSOCKET_ACCEPT, Some(accept)),
        (header::SEC_WEBSOCKET_PROTOCOL, handshake::subprotocol(request.headers())),
        (header::SEC_WEBSOCKET_EXTENSIONS, deflate.and_then(deflate::Agreed::answer)),
    ];
    let headers: HeaderMap = headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Waits for the upgrade to be complete, and starts the socket.
async fn serve(upgrade: OnUpgrade, start: Start) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "upgrade failed");
            return;
        }
    };
    // Unwraps the HTTP server's layers. The socket and the bytes that were read beyond the request stay.
    let upgraded = match upgraded.downcast::<TokioIo<Patient<TcpStream>>>() {
        Ok(parts) => return start.socket(parts.io.into_inner().into_inner(), &parts.read_buf),
        Err(upgraded) => upgraded,
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<Patient<TlsStream<TcpStream>>>>() else {
        tracing::error!("upgraded connection is of no known kind");
        return;
    };
    let (tcp, session) = parts.io.into_inner().into_inner().into_inner();
    start.socket(TlsSocket::new(tcp, session), &parts.read_buf);
}

/// What a socket is started with.
struct Start {
    node: Arc<Node>,
    vsn: Vsn,
    admitted: Admitted,
    policy_headers: Arc<str>,
    /// What was agreed on compressed messages.
    deflate: Option<deflate::Agreed>,
    permit: ConnectionPermit,
    peer: Peer,
}

impl Start {
    /// Starts a socket on a connection.
    fn socket<T: Transport>(self, stream: T, already_read: &[u8]) {
        let Self { node, vsn, admitted, policy_headers, deflate, permit, peer } = self;
        let Admitted { runtime, era, token } = admitted;
        let stream = Arc::new(stream);
        let sink: Arc<dyn Sink> = Arc::<T>::clone(&stream);
        let outbox = Outbox::counted(DEFAULT_OUTBOX_BYTES, Some(sink), node.memory());
        if let Some(bytes) =
            node.settings().compression.filter(|_| deflate.is_some_and(deflate::Agreed::packs))
        {
            outbox.pack_from(bytes);
        }
        let session = Session::new(vsn, outbox, Arc::clone(&runtime), token, policy_headers).at(Some(peer.0));
        let session = session.serving(node.legacy().cloned());
        let reader = Reader::new(already_read).inflating(deflate.is_some());
        // A task of its own: the current one is larger than a socket needs for the rest of its life.
        let driver = Driver::new(session, runtime, era);
        let line = node.turns().line();
        node.sockets().spawn(socket::run(stream, reader, driver, line, node.settings().idle_limit, permit));
    }
}
