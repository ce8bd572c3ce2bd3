//! Long-poll (protocol 1.11): the protocol for clients that cannot open a WebSocket.
//!
//! A session is a task that lives as long as it is polled. Requests reach it through a queue. Its token is 128 random
//! bits; anyone who has it is the client.

mod lines;
mod messages;
mod serve;
mod sessions;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, StatusCode, header};
use lines::lines;
use messages::Messages;
use realtime_channels::{counters::TransportKind, driver::Driver, session::Session};
use realtime_codes::ErrorCode;
use realtime_hub::{BULK, DEFAULT_OUTBOX_BYTES, Holding, Outbox};
use realtime_protocol::{Opcode, Vsn, frame};
use serde_json::{Value, json};
use serve::{POLL, serve};
pub use sessions::LongPolls;
use sessions::{Handle, Place, Take};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time,
};

use super::{
    Peer,
    admission::{Admitted, admit},
    policy_headers,
    query::Query,
    takeover::Handover,
    ws::reader::MAX_MESSAGE_BYTES,
};
use crate::{
    answers::{self, text},
    node::Node,
};

/// How long messages may wait for the session to take them.
const TAKE: Duration = Duration::from_secs(10);

/// Polls that may wait until the session looks at them.
const POLLS: usize = 4;

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 10_000_000;

/// Handles any request of the transport.
pub async fn longpoll(
    State(node): State<Arc<Node>>,
    State(sessions): State<Arc<LongPolls>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let peer = parts.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0);
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let session = query.token.as_deref().and_then(|token| Some((token, sessions.get(token)?)));
    match (parts.method, session) {
        (Method::OPTIONS, _) => answers::preflight(&parts.headers, "get, post, options"),
        (Method::GET, Some((token, session))) => {
            poll(&node, token, &session, parts.extensions.get().cloned()).await
        }
        (Method::GET, None) => connect(&node, &sessions, peer, &parts.headers, &query).await,
        (Method::POST, Some((_, session))) => publish(&session, &parts.headers, body).await,
        (Method::POST, None) => answer(&json!({"status": 410})),
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}

fn answer(body: &Value) -> Response {
    answer_with(axum::body::Body::from(body.to_string()))
}

fn answer_with(body: axum::body::Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    (StatusCode::OK, headers, body).into_response()
}

/// Opens a session after the checks of a handshake. The client does not get the texts of refusals (protocol 1.11).
async fn connect(
    node: &Arc<Node>,
    sessions: &Arc<LongPolls>,
    peer: IpAddr,
    headers: &HeaderMap,
    query: &Query,
) -> Response {
    let Ok(vsn) = query.vsn() else { return answer(&json!({"status": 403})) };
    let admitted = admit(node, headers, query, TransportKind::LongPoll, vsn).await;
    let Admitted { runtime, era, token } = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            refusal.delay(node).await;
            return answer(&json!({"status": 403}));
        }
    };
    let (takes, messages) = mpsc::channel(1);
    let (polls, asked) = mpsc::channel(POLLS);
    let outbox = Outbox::counted(DEFAULT_OUTBOX_BYTES, None, node.memory());
    let handle = Handle { takes, polls, outbox: Arc::clone(&outbox), turn: Arc::new(Semaphore::new(1)) };
    let Some(place) = Place::take(sessions, runtime.name(), peer, handle) else {
        let tenant = &**runtime.name();
        let code = ErrorCode::TooManyLongPolls.as_str();
        tracing::warn!(tenant, code, %peer, "long-poll session refused: its tenant, its address or the node has too many");
        return answer(&json!({"status": 500}));
    };
    let id = place.id;
    let vsn = if vsn == Vsn::V2 { Vsn::V2Text } else { vsn };
    let session =
        Session::new(vsn, outbox, Arc::clone(&runtime), token, policy_headers::of_handshake(headers))
            .over(TransportKind::LongPoll)
            .at(Some(peer))
            .serving(node.legacy().cloned());
    let (turns, memory) = (node.turns().clone(), Arc::clone(node.memory()));
    node.sockets().spawn(async move {
        serve(Driver::new(session, runtime, era), messages, asked, turns, memory).await;
        drop(place);
    });
    answer(&json!({"status": 410, "token": BASE64_URL_SAFE_NO_PAD.encode(id), "messages": []}))
}

async fn poll(node: &Node, token: &str, session: &Handle, connection: Option<Arc<Handover>>) -> Response {
    let (sender, told) = oneshot::channel();
    if session.polls.send(sender).await.is_err() {
        return answer(&json!({"status": 410}));
    }
    let batch = match time::timeout(POLL, told).await {
        Ok(Ok(batch)) => batch,
        // The session ended.
        Ok(Err(_)) => return answer(&json!({"status": 410})),
        Err(_) => None,
    };
    let Some(batch) = batch else { return told_nothing(token) };
    batch.write(move || connection.iter().for_each(|connection| connection.close()));
    if batch.bytes() > BULK {
        let body = Messages::new(batch, node.turns().line(), token);
        return answer_with(axum::body::Body::new(body));
    }
    let frames = batch.take();
    if frames.is_empty() {
        return told_nothing(token);
    }
    let messages: Vec<String> = frames
        .iter()
        .filter_map(frame::payload)
        .map(|payload| String::from_utf8_lossy(&payload).into_owned())
        .collect();
    let body = json!({"status": 200, "token": token, "messages": messages}).to_string();
    answer_with(batch.piece(body.into()).into())
}

fn told_nothing(token: &str) -> Response {
    answer(&json!({"status": 204, "token": token, "messages": []}))
}

/// The outcome of reading a body.
enum Body {
    Read(Bytes),
    TooLarge,
    /// The session has ended, or its client has disconnected.
    Gone,
}

/// Reads a body. What has arrived counts as memory of the session's client.
async fn read(body: axum::body::Body, holding: &mut Holding) -> Body {
    let mut stream = body.into_data_stream();
    let mut read = BytesMut::new();
    while let Some(part) = stream.next().await {
        let Ok(part) = part else { return Body::Gone };
        if read.len() + part.len() > MAX_BODY {
            return Body::TooLarge;
        }
        read.extend_from_slice(&part);
        holding.set(read.capacity());
        if holding.outbox().is_closed() {
            return Body::Gone;
        }
    }
    Body::Read(read.freeze())
}

async fn publish(session: &Handle, headers: &HeaderMap, body: axum::body::Body) -> Response {
    let mut holding = Holding::new(&session.outbox);
    let reading = async {
        // Bodies of one session are read one after the other. Those that wait stay with the client.
        let turn = session.turn.acquire().await;
        (read(body, &mut holding).await, turn)
    };
    let read = tokio::select! {
        read = time::timeout(TAKE, reading) => read,
        // It was closed, perhaps for what this body takes: that is given back now, not when its client sends on.
        () = session.takes.closed() => return answer(&json!({"status": 410})),
    };
    let (body, _turn) = match read {
        Ok((Body::Read(body), Ok(turn))) => (body, turn),
        Ok((Body::TooLarge, _)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Ok((Body::Gone, _) | (_, Err(_))) => return answer(&json!({"status": 410})),
        Err(_) => return answer(&json!({"status": 408})),
    };
    let ndjson =
        text(headers, header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/x-ndjson"));
    let messages = if ndjson { lines(&body) } else { vec![(Opcode::Text, body)] };
    if messages.iter().any(|(_, message)| message.len() > MAX_MESSAGE_BYTES) {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    let (done, taken) = oneshot::channel();
    let work = async {
        session.takes.send(Take { messages, done }).await.ok()?;
        taken.await.ok()
    };
    let status = match time::timeout(TAKE, work).await {
        Ok(Some(())) => 200,
        Ok(None) => 410,
        Err(_) => 408,
    };
    answer(&json!({ "status": status }))
}
