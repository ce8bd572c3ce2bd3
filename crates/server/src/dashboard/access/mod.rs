//! Who may see the dashboard and act in it (http_and_ops 3.1). One layer guards all routes, so that no route can
//! forget to ask.

mod basic;
mod seal;
mod zta;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use basic::Basic;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use seal::Seals;
use tokio::time::Instant;
use zta::{Refusal, Zta};

use super::BASE;
use crate::{
    answers::text,
    config::{DashboardAccess, DashboardSettings},
    throttle::Throttle,
    transport::Peer,
};

/// Logins of one address that may fail in a row.
const FAILURES: u32 = 10;

/// Time after which one failed login is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(6);

/// What somebody sees who gives up logging in. It does not tell whether the settings are set.
const UNAUTHORIZED: &str = "Unauthorized\n\nThe name and the password are those of the settings DASHBOARD_USER and \
    DASHBOARD_PASSWORD of the server.\nWhere one of them is not set it is drawn at each start, so nobody gets in.\n";

/// Largest form, in bytes: a statement for the SQL inspector.
const MAX_FORM: usize = 128 * 1024;

/// Headers of every answer. Pages can hold operators' secrets, so no cache keeps them and no other page can frame
/// them. They load and submit only to this server. `same-origin`, because without it browsers send no origin with
/// forms.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
    ),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Who may come in.
pub struct Access {
    kind: Kind,
    /// Limits failed logins.
    throttle: Throttle,
    seals: Seals,
}

enum Kind {
    Basic(Basic),
    Zta(Box<Zta>),
    /// The access could not be set up, so nobody may see the dashboard.
    Closed,
}

/// Why a login failed.
enum Failure {
    /// The name or password is wrong or missing.
    Unknown,
    /// The address has failed too often, and has to wait for this long.
    Barred(Duration),
}

impl Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown => {
                let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"Application\"")];
                (StatusCode::UNAUTHORIZED, challenge, UNAUTHORIZED).into_response()
            }
            Self::Barred(wait) => {
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                let retry = [(header::RETRY_AFTER, seconds.to_string())];
                (StatusCode::TOO_MANY_REQUESTS, retry, "Too Many Requests").into_response()
            }
        }
    }
}

/// The person who looks at a page.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// Name of the person, for the log.
    pub who: String,
    /// The seal that this person's forms have to carry.
    pub seal: String,
}

/// The fields of a form whose seal was right.
#[derive(Debug, Clone, Default)]
pub struct Form(Arc<Vec<(String, String)>>);

impl Form {
    /// A field's value without white space around it; empty if it is missing.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.trim())
    }

    /// Whether a box is ticked.
    #[must_use]
    pub fn is_ticked(&self, name: &str) -> bool {
        !self.get(name).is_empty()
    }
}

impl Access {
    /// Access as the settings demand.
    #[must_use]
    pub fn new(settings: &DashboardSettings) -> Self {
        let kind = match &settings.access {
            DashboardAccess::Basic { user, password } => Kind::Basic(Basic::new(user, password)),
            DashboardAccess::Zta { team, audience } => match Zta::new(team.clone(), audience.clone()) {
                Ok(zta) => Kind::Zta(Box::new(zta)),
                Err(error) => {
                    tracing::error!(%error, "the dashboard cannot verify anybody and stays closed");
                    Kind::Closed
                }
            },
        };
        Self { kind, throttle: Throttle::new(FAILURES, FORGOTTEN), seals: Seals::new(&settings.secret) }
    }

    /// The person who asks, or the answer that refuses them.
    async fn admit(&self, request: &http::HeaderMap, peer: IpAddr) -> Result<String, Response> {
        match &self.kind {
            Kind::Basic(basic) => self.log_in(basic, request, peer).map_err(Failure::into_response),
            Kind::Zta(zta) => zta.admit(request).await.map_err(|refusal| match refusal {
                Refusal::Denied(reason) => {
                    tracing::warn!(%peer, reason, "dashboard: refused");
                    (StatusCode::FORBIDDEN, "Forbidden").into_response()
                }
                Refusal::Unavailable => {
                    (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable").into_response()
                }
            }),
            Kind::Closed => Err((StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable").into_response()),
        }
    }

    /// Logs in with a name and a password. A request without them is no failure, because browsers first ask without.
    fn log_in(&self, basic: &Basic, headers: &http::HeaderMap, peer: IpAddr) -> Result<String, Failure> {
        if !headers.contains_key(header::AUTHORIZATION) {
            return Err(Failure::Unknown);
        }
        match self.throttle.attempt(peer, Instant::now(), || basic.admit(headers)) {
            Ok(Some(who)) => Ok(who),
            Ok(None) => {
                tracing::warn!(%peer, "dashboard: refused: wrong name or password");
                Err(Failure::Unknown)
            }
            Err(wait) => {
                tracing::warn!(%peer, "dashboard: refused: too many failed logins");
                Err(Failure::Barred(wait))
            }
        }
    }

    /// The form of a request that changes something, if it comes from one of our pages.
    async fn form(&self, request: Request, cookie: &str, who: &str) -> Result<(Request, Form), Response> {
        let refuse = |reason: &str| {
            tracing::warn!(who, reason, "dashboard: refused a form");
            let text = "This form did not come from the dashboard, or is too old. Go back, reload the page, try again.";
            (StatusCode::FORBIDDEN, text).into_response()
        };
        if !seal::is_same_origin(request.headers()) {
            return Err(refuse("of another origin"));
        }
        let (parts, body) = request.into_parts();
        let kind = text(&parts.headers, header::CONTENT_TYPE).unwrap_or_default();
        if !kind.starts_with("application/x-www-form-urlencoded") {
            return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response());
        }
        let Ok(body) = axum::body::to_bytes(body, MAX_FORM).await else {
            return Err(StatusCode::PAYLOAD_TOO_LARGE.into_response());
        };
        let form = Form(Arc::new(form_urlencoded::parse(&body).into_owned().collect()));
        if !self.seals.is_right(cookie, who, form.get("seal")) {
            return Err(refuse("without its seal"));
        }
        Ok((Request::from_parts(parts, Body::empty()), form))
    }
}

/// Guards all routes: refuses strangers, hands on who asks, and takes forms only from our own pages.
pub async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let mut response = admitted(&access, request, next).await;
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

async fn admitted(access: &Access, request: Request, next: Next) -> Response {
    // The listener sets it.
    let peer = request.extensions().get().map_or(Ipv4Addr::UNSPECIFIED.into(), |Peer(address)| *address);
    let who = match access.admit(request.headers(), peer).await {
        Ok(who) => who,
        Err(refusal) => return refusal,
    };
    let secure = text(request.headers(), "x-forwarded-proto") == Some("https");
    let (cookie, set) = match seal::cookie(request.headers()) {
        Some(cookie) => (cookie.to_owned(), None),
        None => seal::new_cookie(BASE, secure),
    };
    let mut request = request;
    if request.method() == Method::POST {
        match access.form(request, &cookie, &who).await {
            Ok((rest, form)) => {
                request = rest;
                request.extensions_mut().insert(form);
            }
            Err(refusal) => return refusal,
        }
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let visitor = Visitor { seal: access.seals.seal(&cookie, &who), who };
    request.extensions_mut().insert(visitor);
    let mut response = next.run(request).await;
    if let Some(set) = set {
        response.headers_mut().append(header::SET_COOKIE, set);
    }
    response
}
