//! The checks of the handshake, for all transports (protocol 1.6).

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, StatusCode, header};
use realtime_channels::{
    counters::TransportKind, first_generation::Legacy, sockets::Era, tenant_runtime::TenantRuntime,
    token::Token,
};
use realtime_codes::ErrorCode;
use realtime_protocol::{HandshakeRefusal, Vsn};
use tokio::time::{self, Instant};

use super::query::Query;
use crate::{node::Node, operators::logging};

/// The answer if the tenant cannot be looked up (http_and_ops 2.8).
pub const NOT_KNOWN: &str = "Error connecting to Realtime";

/// A refused handshake.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: Cow<'static, str>,
    code: ErrorCode,
    /// `external_id` of the tenant, if there is one.
    tenant: Option<Arc<str>>,
    /// The host that names no tenant.
    host: Option<Box<str>>,
}

impl Refusal {
    /// Adds the tenant that it concerns.
    fn of(mut self, runtime: &TenantRuntime) -> Self {
        self.tenant = Some(Arc::clone(runtime.name()));
        self
    }

    /// Logs it, and delays the answer (protocol 1.6).
    pub(super) async fn delay(&self, node: &Node) {
        let (tenant, host) = (self.tenant.as_deref(), self.host.as_deref());
        tracing::warn!(tenant, host, code = self.code.as_str(), "{}", self.text);
        time::sleep(node.settings().connect_error_backoff).await;
    }
}

impl From<HandshakeRefusal> for Refusal {
    fn from(refusal: HandshakeRefusal) -> Self {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, text: refusal.text().into(), code: refusal.code(), tenant: None, host: None }
    }
}

/// Longest host that is logged, in characters: names have at most 253.
const MAX_LOGGED_HOST: usize = 260;

/// A client that passed the checks.
pub(super) struct Admitted {
    pub(super) runtime: Arc<TenantRuntime>,
    /// The era in which it passed them.
    pub(super) era: Era,
    pub(super) token: Arc<Token>,
}

/// Makes the checks of protocol 1.6, and measures them.
pub(super) async fn admit(
    node: &Node,
    headers: &HeaderMap,
    query: &Query,
    transport: TransportKind,
    vsn: Vsn,
) -> Result<Admitted, Refusal> {
    let started = Instant::now();
    let admitted = check(node, headers, query).await;
    node.counters().node().connected(transport, admitted.is_ok(), vsn, started.elapsed());
    admitted
}

/// Makes the checks of protocol 1.6 in their order.
async fn check(node: &Node, headers: &HeaderMap, query: &Query) -> Result<Admitted, Refusal> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let runtime = node.runtime_for_host(host).await.map_err(|_| Refusal {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        text: NOT_KNOWN.into(),
        code: ErrorCode::ErrorConnectingToWebsocket,
        tenant: None,
        host: None,
    })?;
    let Some(runtime) = runtime else {
        let host = host.chars().take(MAX_LOGGED_HOST).collect::<String>();
        return Err(Refusal { host: Some(host.into()), ..HandshakeRefusal::TenantNotFound.into() });
    };
    logging::is_for(runtime.name());
    // Must be taken before anything that may change is read.
    let era = runtime.sockets().era();
    let tenant = runtime.tenant();
    let refuse = |refusal: HandshakeRefusal| Refusal::from(refusal).of(&runtime);
    if tenant.suspend {
        return Err(refuse(HandshakeRefusal::RealtimeDisabledForTenant));
    }
    let token = match node.legacy() {
        Some(legacy) if !legacy.settings().secure => Arc::clone(legacy.anonymous()),
        legacy => Arc::new(token(&runtime, legacy, headers, query)?),
    };
    // If the tenant had nobody on this node so far, other nodes have to tell how many users they have.
    runtime.hear_others().await;
    if runtime.users().total() >= tenant.limits.max_concurrent_users {
        return Err(refuse(HandshakeRefusal::ConnectionRateLimitReached));
    }
    if runtime.meters().joins().is_triggered() {
        return Err(refuse(HandshakeRefusal::JoinsRateLimitReached));
    }
    Ok(Admitted { runtime, era, token })
}

/// The verified token of a client. If the first generation is served, the parameter `token` can hold it, too, and no
/// claim is required (legacy 1.2).
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
                let code = ErrorCode::TokenWithoutExpiry.as_str();
                let (tenant, role) = (&**runtime.name(), &*token.role);
                tracing::info!(tenant, code, role, "a token was accepted that never expires");
            }
        }),
        None => Err(error),
    });
    verified.map_err(|error| {
        let (status, text) = error.handshake();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::UNAUTHORIZED);
        let tenant = Some(Arc::clone(runtime.name()));
        Refusal { status, text, code: error.error_code(), tenant, host: None }
    })
}
