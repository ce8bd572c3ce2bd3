//! Long-poll (protocol 1.11): the protocol for clients that cannot open a WebSocket.
//!
//! A session lives in a task of its own, as long as it is polled. Requests reach it through a queue. Its token
//! is 128 random bits: whoever holds it is the client.

mod lines;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use lines::lines;
use parking_lot::Mutex;
use realtime_hub::{DEFAULT_OUTBOX_BYTES, Outbox};
use realtime_protocol::{Opcode, Vsn, frame};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant},
};

use super::{
    answers::{self, text},
    policy_headers,
    query::Query,
    upgrade::{Admitted, admit},
};
use crate::{
    app::App, driver::Driver, metrics::TransportKind, session::Session, ws::reader::MAX_MESSAGE_BYTES,
};

/// How long a poll waits for something to tell.
const POLL: Duration = Duration::from_secs(10);

/// How long messages may wait to be taken.
const TAKE: Duration = Duration::from_secs(10);

/// A session that is not polled for this long is over.
const ABANDONED: Duration = Duration::from_secs(15);

/// Sessions of a node: each costs memory for [`ABANDONED`] however soon its client is gone.
const MAX_SESSIONS: usize = 10_000;

/// Requests that may wait for a session.
const QUEUE: usize = 16;

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 10_000_000;

/// The sessions of this node.
#[derive(Debug, Default)]
pub struct LongPolls(Mutex<HashMap<[u8; 16], mpsc::Sender<Command>>>);

impl LongPolls {
    fn get(&self, token: &str) -> Option<mpsc::Sender<Command>> {
        let id: [u8; 16] = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
        self.0.lock().get(&id).cloned()
    }
}

/// What a request asks of its session.
#[derive(Debug)]
enum Command {
    /// Take these messages, and say when it is done.
    Take(Vec<(Opcode, Bytes)>, oneshot::Sender<()>),
    /// Tell what there is, as soon as there is something.
    Poll(oneshot::Sender<Vec<Bytes>>),
}

/// Answers any request to the transport.
pub async fn longpoll(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let session = query.token.as_deref().and_then(|token| Some((token, app.long_polls().get(token)?)));
    match (parts.method, session) {
        (Method::OPTIONS, _) => answers::preflight(&parts.headers, "get, post, options"),
        (Method::GET, Some((token, session))) => poll(token, &session).await,
        (Method::GET, None) => connect(&app, &parts.headers, &query).await,
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
async fn connect(app: &Arc<App>, headers: &HeaderMap, query: &Query) -> Response {
    let Ok(vsn) = query.vsn() else { return answer(&json!({"status": 403})) };
    let admitted = admit(app, headers, query, TransportKind::LongPoll, vsn).await;
    let Admitted { runtime, era, token } = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            refusal.delay(app).await;
            return answer(&json!({"status": 403}));
        }
    };
    let (sender, commands) = mpsc::channel(QUEUE);
    let id: [u8; 16] = rand::random();
    {
        let mut sessions = app.long_polls().0.lock();
        if sessions.len() >= MAX_SESSIONS {
            return answer(&json!({"status": 500}));
        }
        sessions.insert(id, sender);
    }
    let vsn = if vsn == Vsn::V2 { Vsn::V2Text } else { vsn };
    let outbox = Arc::new(Outbox::new(DEFAULT_OUTBOX_BYTES));
    let session =
        Session::new(vsn, outbox, Arc::clone(&runtime), token, policy_headers::of_handshake(headers))
            .over(TransportKind::LongPoll);
    let app_of_task = Arc::clone(app);
    app.sockets().spawn(async move {
        serve(Driver::new(session, runtime, era), commands).await;
        app_of_task.long_polls().0.lock().remove(&id);
    });
    answer(&json!({"status": 410, "token": BASE64_URL_SAFE_NO_PAD.encode(id), "messages": []}))
}

async fn poll(token: &str, session: &mpsc::Sender<Command>) -> Response {
    let (sender, told) = oneshot::channel();
    if session.send(Command::Poll(sender)).await.is_err() {
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

async fn publish(session: &mpsc::Sender<Command>, headers: &HeaderMap, body: Body) -> Response {
    let body = match time::timeout(TAKE, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
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
        session.send(Command::Take(messages, done)).await.ok()?;
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
async fn serve(mut driver: Driver, mut commands: mpsc::Receiver<Command>) {
    let outbox = Arc::clone(driver.outbox());
    let mut polled = Instant::now();
    let mut waiting: Option<oneshot::Sender<Vec<Bytes>>> = None;
    let mut frames = VecDeque::new();
    loop {
        driver.flush();
        // A poll that gave up has to come again in time.
        if waiting.as_ref().is_some_and(oneshot::Sender::is_closed) {
            waiting = None;
            polled = Instant::now();
        }
        let mut over = false;
        if let Some(poll) = waiting.take() {
            over = outbox.take(&mut frames).is_some();
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
        if over {
            break;
        }
        let abandoned =
            if waiting.is_some() { Instant::now() + POLL + ABANDONED } else { polled + ABANDONED };
        let wake = driver.wake_at().map_or(abandoned, |at| at.min(abandoned));
        let input = driver.wants_input();
        let stepped = tokio::select! {
            command = commands.recv(), if input => match command {
                Some(Command::Take(messages, done)) => {
                    let mut taken = Ok(());
                    let bytes: usize = messages.iter().map(|(_, message)| message.len()).sum();
                    driver.metrics().input_bytes.add(bytes as u64);
                    for (opcode, message) in messages {
                        taken = taken.and_then(|()| driver.receive(opcode, message));
                    }
                    let _ = done.send(());
                    taken
                }
                Some(Command::Poll(poll)) => {
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
