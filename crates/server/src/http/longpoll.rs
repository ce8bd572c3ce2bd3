//! Long-poll (protocol 1.11): the protocol for clients that cannot open a WebSocket.
//!
//! A session lives in a task of its own, as long as it is polled. Requests reach it through a queue. Its token
//! is 128 random bits: whoever holds it is the client.

mod lines;

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
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
use parking_lot::Mutex;
use realtime_hub::{DEFAULT_OUTBOX_BYTES, Holding, Outbox};
use realtime_protocol::{Opcode, Vsn, frame};
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{self, Instant},
};

use super::{
    answers::{self, text},
    listener::Peer,
    policy_headers,
    query::Query,
    upgrade::{Admitted, admit},
};
use crate::{
    app::App,
    driver::{Driver, Ending},
    metrics::TransportKind,
    patience,
    session::Session,
    ws::reader::MAX_MESSAGE_BYTES,
};

/// How long a poll waits for something to tell.
const POLL: Duration = Duration::from_secs(10);

/// How long messages may wait to be taken.
const TAKE: Duration = Duration::from_secs(10);

/// A session that is not polled for this long is over.
const ABANDONED: Duration = Duration::from_secs(15);

/// Sessions of a node: each costs memory for [`ABANDONED`] however soon its client is gone.
const MAX_SESSIONS: usize = 10_000;

/// Polls that may wait for a session to look at them; it always does.
const POLLS: usize = 4;

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 10_000_000;

/// The sessions of this node.
#[derive(Debug, Default)]
pub struct LongPolls(Mutex<Sessions>);

#[derive(Debug, Default)]
struct Sessions {
    open: HashMap<[u8; 16], Handle>,
    /// How many each tenant has, and each address: nobody takes the places of others.
    of_tenants: HashMap<Arc<str>, usize>,
    of_addresses: HashMap<IpAddr, usize>,
}

/// How requests reach a session.
#[derive(Debug, Clone)]
struct Handle {
    takes: mpsc::Sender<Take>,
    polls: mpsc::Sender<oneshot::Sender<Vec<Bytes>>>,
    outbox: Arc<Outbox>,
    /// Held while a body is read and taken: others are not read meanwhile.
    turn: Arc<Semaphore>,
}

/// Take these messages, and say when it is done.
#[derive(Debug)]
struct Take {
    messages: Vec<(Opcode, Bytes)>,
    done: oneshot::Sender<()>,
}

/// The place of a session among those of its node, its tenant and its address.
struct Place {
    app: Arc<App>,
    id: [u8; 16],
    tenant: Arc<str>,
    address: IpAddr,
}

impl LongPolls {
    fn get(&self, token: &str) -> Option<Handle> {
        let id: [u8; 16] = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
        self.0.lock().open.get(&id).cloned()
    }
}

impl Place {
    /// A place, if there is one.
    fn take(app: &Arc<App>, tenant: &Arc<str>, address: IpAddr, handle: Handle) -> Option<Self> {
        let (per_tenant, per_address) = app.settings().long_polls;
        let address = patience::network(address);
        let mut sessions = app.long_polls().0.lock();
        let has = |count: Option<&usize>| count.copied().unwrap_or(0);
        if sessions.open.len() >= MAX_SESSIONS
            || has(sessions.of_tenants.get(tenant)) >= per_tenant
            || has(sessions.of_addresses.get(&address)) >= per_address
        {
            return None;
        }
        let id = rand::random();
        sessions.open.insert(id, handle);
        *sessions.of_tenants.entry(Arc::clone(tenant)).or_default() += 1;
        *sessions.of_addresses.entry(address).or_default() += 1;
        Some(Self { app: Arc::clone(app), id, tenant: Arc::clone(tenant), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sessions = self.app.long_polls().0.lock();
        sessions.open.remove(&self.id);
        one_less(&mut sessions.of_tenants, &self.tenant);
        one_less(&mut sessions.of_addresses, &self.address);
    }
}

fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Answers any request to the transport.
pub async fn longpoll(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let peer = parts.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0);
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let session = query.token.as_deref().and_then(|token| Some((token, app.long_polls().get(token)?)));
    match (parts.method, session) {
        (Method::OPTIONS, _) => answers::preflight(&parts.headers, "get, post, options"),
        (Method::GET, Some((token, session))) => poll(token, &session).await,
        (Method::GET, None) => connect(&app, peer, &parts.headers, &query).await,
        (Method::POST, Some((_, session))) => publish(&session, &parts.headers, body).await,
        (Method::POST, None) => answer(&json!({"status": 410})),
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}

fn answer(body: &Value) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    (StatusCode::OK, headers, body.to_string()).into_response()
}

/// Opens a session, with the checks of a handshake; their texts are lost on the way (protocol 1.11).
async fn connect(app: &Arc<App>, peer: IpAddr, headers: &HeaderMap, query: &Query) -> Response {
    let Ok(vsn) = query.vsn() else { return answer(&json!({"status": 403})) };
    let admitted = admit(app, headers, query, TransportKind::LongPoll, vsn).await;
    let Admitted { runtime, era, token } = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            refusal.delay(app).await;
            return answer(&json!({"status": 403}));
        }
    };
    let (takes, messages) = mpsc::channel(1);
    let (polls, asked) = mpsc::channel(POLLS);
    let outbox = Outbox::counted(DEFAULT_OUTBOX_BYTES, None, app.memory());
    let handle = Handle { takes, polls, outbox: Arc::clone(&outbox), turn: Arc::new(Semaphore::new(1)) };
    let Some(place) = Place::take(app, runtime.name(), peer, handle) else {
        let tenant = &**runtime.name();
        tracing::warn!(tenant, code = "TooManyLongPolls", "long-poll session refused: too many");
        return answer(&json!({"status": 500}));
    };
    let id = place.id;
    let vsn = if vsn == Vsn::V2 { Vsn::V2Text } else { vsn };
    let session =
        Session::new(vsn, outbox, Arc::clone(&runtime), token, policy_headers::of_handshake(headers))
            .over(TransportKind::LongPoll)
            .at(Some(peer));
    app.sockets().spawn(async move {
        serve(Driver::new(session, runtime, era), messages, asked).await;
        drop(place);
    });
    answer(&json!({"status": 410, "token": BASE64_URL_SAFE_NO_PAD.encode(id), "messages": []}))
}

async fn poll(token: &str, session: &Handle) -> Response {
    let (sender, told) = oneshot::channel();
    if session.polls.send(sender).await.is_err() {
        return answer(&json!({"status": 410}));
    }
    let frames = match time::timeout(POLL, told).await {
        Ok(Ok(frames)) => frames,
        // The session ended.
        Ok(Err(_)) => return answer(&json!({"status": 410})),
        Err(_) => Vec::new(),
    };
    let status = if frames.is_empty() { 204 } else { 200 };
    let messages: Vec<String> = frames
        .iter()
        .filter_map(frame::payload)
        .map(|payload| String::from_utf8_lossy(&payload).into_owned())
        .collect();
    answer(&json!({"status": status, "token": token, "messages": messages}))
}

/// What became of a body.
enum Body {
    Read(Bytes),
    TooLarge,
    /// The session ended, or its client went.
    Gone,
}

/// Reads a body; what is there of it counts as memory of the session's client.
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
        // One body after the other: what waits for its turn stays with its client.
        let turn = session.turn.acquire().await;
        (read(body, &mut holding).await, turn)
    };
    let (body, _turn) = match time::timeout(TAKE, reading).await {
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

/// Runs a session until it ends or nobody polls it any more.
async fn serve(
    mut driver: Driver,
    mut messages: mpsc::Receiver<Take>,
    mut polls: mpsc::Receiver<oneshot::Sender<Vec<Bytes>>>,
) {
    let outbox = Arc::clone(driver.outbox());
    let mut holding = Holding::new(&outbox);
    let mut polled = Instant::now();
    let mut waiting: Option<oneshot::Sender<Vec<Bytes>>> = None;
    let mut frames = VecDeque::new();
    loop {
        driver.flush();
        holding.set(driver.waiting_bytes());
        // A poll that gave up has to come again in time.
        if waiting.as_ref().is_some_and(oneshot::Sender::is_closed) {
            waiting = None;
            polled = Instant::now();
        }
        if let Some(poll) = waiting.take() {
            outbox.take(&mut frames);
            if frames.is_empty() {
                waiting = Some(poll);
            } else {
                polled = Instant::now();
                // What a poll that just gave up was told is told to the next.
                if let Err(untold) = poll.send(frames.drain(..).collect()) {
                    frames = untold.into();
                }
            }
        }
        if outbox.is_closed() {
            break;
        }
        let abandoned =
            if waiting.is_some() { Instant::now() + POLL + ABANDONED } else { polled + ABANDONED };
        let wake = driver.wake_at().map_or(abandoned, |at| at.min(abandoned));
        let input = driver.wants_input();
        let stepped = tokio::select! {
            take = messages.recv(), if input => match take {
                Some(take) => receive(&mut driver, take),
                None => break,
            },
            // However much waits for joins: a client that polls is there, and is told what there is.
            poll = polls.recv() => match poll {
                Some(poll) => {
                    // A second poll takes the place of the first, which is told nothing.
                    if let Some(first) = waiting.replace(poll) {
                        let _ = first.send(Vec::new());
                    }
                    Ok(())
                }
                None => break,
            },
            () = outbox.ready() => driver.signals(),
            event = driver.event() => event,
            () = time::sleep_until(wake) => {
                if Instant::now() >= abandoned {
                    break;
                }
                driver.on_time()
            }
        };
        if stepped.is_err() {
            break;
        }
    }
    driver.end();
    // The last words, to whoever waits for them.
    outbox.take(&mut frames);
    if let Some(poll) = waiting.filter(|_| !frames.is_empty()) {
        let _ = poll.send(frames.into());
    }
}

fn receive(driver: &mut Driver, take: Take) -> Result<(), Ending> {
    let bytes: usize = take.messages.iter().map(|(_, message)| message.len()).sum();
    driver.metrics().input_bytes.add(bytes as u64);
    let mut taken = Ok(());
    for (opcode, message) in take.messages {
        taken = taken.and_then(|()| driver.receive(opcode, message));
    }
    let _ = take.done.send(());
    taken
}
