//! `GET /socket/websocket`: the checks of the handshake and the upgrade (protocol 1).

use std::{borrow::Cow, sync::Arc};

use axum::{
    Extension,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use realtime_hub::{DEFAULT_OUTBOX_BYTES, Outbox, Sink};
use realtime_protocol::{HandshakeRefusal, Vsn};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::server::TlsStream;

use super::{
    listener::{ConnectionPermit, Peer},
    policy_headers,
    query::Query,
    request_log,
};
use crate::{
    app::App,
    driver::Driver,
    legacy::Legacy,
    metrics::TransportKind,
    session::{Session, Token},
    socket,
    sockets::Era,
    tenant_runtime::TenantRuntime,
    transport::{TlsSocket, Transport},
    ws::{
        handshake::{self, NotAnUpgrade},
        reader::Reader,
    },
};

/// What those are told whose tenant cannot be looked up (http_and_ops 2.8).
pub(super) const NOT_KNOWN: &str = "Error connecting to Realtime";

/// A refused handshake.
pub(super) struct Refusal {
    status: StatusCode,
    text: Cow<'static, str>,
    code: &'static str,
    /// `external_id` of the tenant, if there is one.
    tenant: Option<Arc<str>>,
}

impl Refusal {
    /// Of a tenant.
    fn of(mut self, runtime: &TenantRuntime) -> Self {
        self.tenant = Some(Arc::clone(runtime.name()));
        self
    }

    /// Logs it and lets the client wait for the answer (protocol 1.6).
    pub(super) async fn delay(&self, app: &App) {
        tracing::warn!(tenant = self.tenant.as_deref(), code = self.code, "{}", self.text);
        tokio::time::sleep(app.connect_error_backoff()).await;
    }
}

impl From<HandshakeRefusal> for Refusal {
    fn from(refusal: HandshakeRefusal) -> Self {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, text: refusal.text().into(), code: refusal.code().as_str(), tenant: None }
    }
}

/// Answers an upgrade request.
pub async fn websocket(
    State(app): State<Arc<App>>,
    Extension(permit): Extension<ConnectionPermit>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
) -> Response {
    if request.method() != http::Method::GET {
        return StatusCode::BAD_REQUEST.into_response();
    }
    // Before everything else and without delay (protocol 1.3).
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let Ok(vsn) = query.vsn() else { return StatusCode::FORBIDDEN.into_response() };
    let admitted = match admit(&app, request.headers(), &query, TransportKind::WebSocket, vsn).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            refusal.delay(&app).await;
            if app.legacy().is_some_and(|legacy| legacy.settings().pure) {
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
    let start = Start { app: Arc::clone(&app), vsn, admitted, policy_headers, permit, peer };
    app.sockets().spawn(serve(upgrade, start));
    let headers = [
        (header::CONNECTION, "Upgrade".parse().ok()),
        (header::UPGRADE, "websocket".parse().ok()),
        (header::SEC_WEBSOCKET_ACCEPT, Some(accept)),
        (header::SEC_WEBSOCKET_PROTOCOL, handshake::subprotocol(request.headers())),
    ];
    let headers: HeaderMap = headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// A client that passed the checks.
pub(super) struct Admitted {
    pub(super) runtime: Arc<TenantRuntime>,
    /// When it passed them.
    pub(super) era: Era,
    pub(super) token: Arc<Token>,
}

/// The checks of protocol 1.6, timed.
pub(super) async fn admit(
    app: &App,
    headers: &HeaderMap,
    query: &Query,
    transport: TransportKind,
    vsn: Vsn,
) -> Result<Admitted, Refusal> {
    let started = Instant::now();
    let admitted = check(app, headers, query).await;
    app.metrics().node().connected(transport, admitted.is_ok(), vsn, started.elapsed());
    admitted
}

/// The checks of protocol 1.6 in their order.
async fn check(app: &App, headers: &HeaderMap, query: &Query) -> Result<Admitted, Refusal> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let runtime = app.runtime_for_host(host).await.map_err(|_| Refusal {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        text: NOT_KNOWN.into(),
        code: "ErrorConnectingToWebsocket",
        tenant: None,
    })?;
    let runtime = runtime.ok_or(HandshakeRefusal::TenantNotFound)?;
    request_log::is_for(&runtime);
    // Before anything that may change is looked at.
    let era = runtime.sockets().era();
    let tenant = runtime.tenant();
    let refuse = |refusal: HandshakeRefusal| Refusal::from(refusal).of(&runtime);
    if tenant.suspend {
        return Err(refuse(HandshakeRefusal::RealtimeDisabledForTenant));
    }
    let token = match runtime.legacy() {
        Some(legacy) if !legacy.settings().secure => Arc::clone(legacy.anonymous()),
        legacy => Arc::new(token(&runtime, legacy, headers, query)?),
    };
    // The first on a node that has had nobody of the tenant: how many there are elsewhere is still to be told.
    runtime.hear_others().await;
    if runtime.users().total() >= tenant.limits.max_concurrent_users {
        return Err(refuse(HandshakeRefusal::ConnectionRateLimitReached));
    }
    if runtime.meters().joins().is_triggered() {
        return Err(refuse(HandshakeRefusal::JoinsRateLimitReached));
    }
    Ok(Admitted { runtime, era, token })
}

/// The token that a client brings, verified. Where the first generation is served, `token` is a place for it too, and no
/// claim has to be there (legacy 1.2).
fn token(
    runtime: &TenantRuntime,
    legacy: Option<&Arc<Legacy>>,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Token, Refusal> {
    let header = headers.get("x-api-key").map(|value| String::from_utf8_lossy(value.as_bytes()));
    let apikey = query.apikey.as_deref().map(Cow::Borrowed);
    let param = query.token.as_deref().filter(|_| legacy.is_some()).map(Cow::Borrowed);
    let token_first = legacy.is_some_and(|legacy| legacy.settings().profile.token_first);
    let key = if token_first { param.or(apikey).or(header) } else { header.or(apikey).or(param) };
    let key = key.ok_or_else(|| Refusal::from(HandshakeRefusal::MissingApiKey).of(runtime))?;
    let verified = runtime.verify(&key).or_else(|error| match legacy {
        Some(_) => runtime.verify_first_generation(&key).inspect(|token| {
            if token.exp == i64::MAX {
                tracing::info!(code = "TokenWithoutExpiry", "a token was accepted that never expires");
            }
        }),
        None => Err(error),
    });
    verified.map_err(|error| {
        let (status, text) = error.handshake();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::UNAUTHORIZED);
        Refusal { status, text, code: error.code(), tenant: Some(Arc::clone(runtime.name())) }
    })
}

/// Waits for the upgrade to be complete and starts the socket.
async fn serve(upgrade: OnUpgrade, start: Start) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "upgrade failed");
            return;
        }
    };
    // Off the HTTP server's layers: what stays is the socket and what was read beyond the request.
    let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => return start.socket(parts.io.into_inner(), &parts.read_buf),
        Err(upgraded) => upgraded,
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>() else {
        tracing::error!("upgraded connection is of no known kind");
        return;
    };
    let (tcp, session) = parts.io.into_inner().into_inner();
    start.socket(TlsSocket::new(tcp, session), &parts.read_buf);
}

/// What a socket is started with.
struct Start {
    app: Arc<App>,
    vsn: Vsn,
    admitted: Admitted,
    policy_headers: Arc<str>,
    permit: ConnectionPermit,
    peer: Peer,
}

impl Start {
    /// Starts a socket on a connection.
    fn socket<T: Transport>(self, stream: T, already_read: &[u8]) {
        let Self { app, vsn, admitted, policy_headers, permit, peer } = self;
        let Admitted { runtime, era, token } = admitted;
        let stream = Arc::new(stream);
        let sink: Arc<dyn Sink> = Arc::<T>::clone(&stream);
        let outbox = Outbox::counted(DEFAULT_OUTBOX_BYTES, Some(sink), app.memory());
        let session = Session::new(vsn, outbox, Arc::clone(&runtime), token, policy_headers).at(Some(peer.0));
        let reader = Reader::new(already_read);
        // A task of its own: the one so far is larger than what a socket needs for the rest of its life.
        let driver = Driver::new(session, runtime, era);
        app.sockets().spawn(socket::run(stream, reader, driver, app.idle_limit(), permit));
    }
}
