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
use tokio::net::TcpStream;

use super::{listener::ConnectionPermit, policy_headers};
use crate::{
    app::App,
    driver::Driver,
    session::{Session, Token},
    socket,
    sockets::Era,
    tenant_runtime::TenantRuntime,
    ws::{
        handshake::{self, NotAnUpgrade},
        reader::Reader,
    },
};

/// A refused handshake.
pub(super) struct Refusal {
    status: StatusCode,
    text: Cow<'static, str>,
    code: &'static str,
}

impl Refusal {
    /// Logs it and lets the client wait for the answer (protocol 1.6).
    pub(super) async fn delay(&self, app: &App) {
        tracing::warn!(code = self.code, "{}", self.text);
        tokio::time::sleep(app.connect_error_backoff()).await;
    }
}

impl From<HandshakeRefusal> for Refusal {
    fn from(refusal: HandshakeRefusal) -> Self {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, text: refusal.text().into(), code: refusal.code().as_str() }
    }
}

/// Answers an upgrade request.
pub async fn websocket(
    State(app): State<Arc<App>>,
    Extension(permit): Extension<ConnectionPermit>,
    mut request: Request,
) -> Response {
    if request.method() != http::Method::GET {
        return StatusCode::BAD_REQUEST.into_response();
    }
    // Before everything else and without delay (protocol 1.3).
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let Ok(vsn) = query.vsn() else { return StatusCode::FORBIDDEN.into_response() };
    let admitted = match admit(&app, request.headers(), &query).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            refusal.delay(&app).await;
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
    app.sockets().spawn(serve(Arc::clone(&app), upgrade, vsn, admitted, policy_headers, permit));
    let headers = [
        (header::CONNECTION, "Upgrade".parse().ok()),
        (header::UPGRADE, "websocket".parse().ok()),
        (header::SEC_WEBSOCKET_ACCEPT, Some(accept)),
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

/// The checks of protocol 1.6 in their order.
pub(super) async fn admit(app: &App, headers: &HeaderMap, query: &Query) -> Result<Admitted, Refusal> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let runtime = app.runtime_for_host(host).await.ok_or(HandshakeRefusal::TenantNotFound)?;
    // Before anything that may change is looked at.
    let era = runtime.sockets().era();
    let tenant = runtime.tenant();
    if tenant.suspend {
        return Err(HandshakeRefusal::RealtimeDisabledForTenant.into());
    }
    let header = headers.get("x-api-key").map(|value| String::from_utf8_lossy(value.as_bytes()));
    let key = header.or(query.apikey.as_deref().map(Cow::Borrowed)).ok_or(HandshakeRefusal::MissingApiKey)?;
    let token = runtime.verify(&key).map_err(|error| {
        let (status, text) = error.handshake();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::UNAUTHORIZED);
        Refusal { status, text, code: error.code() }
    })?;
    if runtime.users().total() >= tenant.limits.max_concurrent_users {
        return Err(HandshakeRefusal::ConnectionRateLimitReached.into());
    }
    if runtime.meters().joins().is_triggered() {
        return Err(HandshakeRefusal::JoinsRateLimitReached.into());
    }
    Ok(Admitted { runtime, era, token: Arc::new(token) })
}

/// Waits for the upgrade to be complete and starts the socket.
async fn serve(
    app: Arc<App>,
    upgrade: OnUpgrade,
    vsn: Vsn,
    admitted: Admitted,
    policy_headers: Arc<str>,
    permit: ConnectionPermit,
) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "upgrade failed");
            return;
        }
    };
    // Off the HTTP server's layers: what stays is the socket and what was read beyond the request.
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        tracing::error!("upgraded connection is not a TCP stream");
        return;
    };
    let stream = Arc::new(parts.io.into_inner());
    let sink: Arc<dyn Sink> = Arc::<TcpStream>::clone(&stream);
    let outbox = Arc::new(Outbox::with_sink(DEFAULT_OUTBOX_BYTES, sink));
    let Admitted { runtime, era, token } = admitted;
    let session = Session::new(vsn, outbox, Arc::clone(&runtime), token, policy_headers);
    let reader = Reader::new(&parts.read_buf);
    // A task of its own: this one is larger than what a socket needs for the rest of its life.
    app.sockets().spawn(socket::run(stream, reader, Driver::new(session, runtime, era), permit));
}

/// The parameters of an upgrade request that mean something (protocol 1.2).
pub(super) struct Query {
    vsn: Option<String>,
    vsn_repeated: bool,
    apikey: Option<String>,
    /// Session of the long-poll transport.
    pub(super) token: Option<String>,
}

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let mut parsed = Self { vsn: None, vsn_repeated: false, apikey: None, token: None };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "vsn" => {
                    parsed.vsn_repeated |= parsed.vsn.is_some();
                    parsed.vsn = Some(value.into_owned());
                }
                "vsn[]" => parsed.vsn_repeated = true,
                "token" => parsed.token = Some(value.into_owned()),
                "apikey" => parsed.apikey = Some(value.into_owned()),
                _ => {}
            }
        }
        parsed
    }

    pub(super) fn vsn(&self) -> Result<Vsn, realtime_protocol::UnsupportedVsn> {
        // A repeated parameter is no version at all.
        Vsn::negotiate(if self.vsn_repeated { Some("") } else { self.vsn.as_deref() })
    }
}
