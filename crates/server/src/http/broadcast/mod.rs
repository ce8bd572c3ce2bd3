//! Broadcasts over HTTP (http_and_ops 2.5 to 2.7).

mod batch;
mod bodies;
mod single;

use std::sync::Arc;

use axum::{body::Body, response::Response};
pub use batch::{__path_batch, batch};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use realtime_hub::{Audience, Congestion, FanOut, RoomKey, Said};
use realtime_postgres::AuthorizeRequest;
pub use single::{__path_single, check_content_type, single};
use tokio::time::{self, Duration};

use super::{
    answers::{bad_request, phrase, text},
    limits::MAX_BODY,
};
use crate::{metrics::MessageType, session::Token, tenant_runtime::TenantRuntime};

/// How long a client may take to send it.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// Answer when there are more events than the tenant may have.
const RATE_EXCEEDED: &str = "You have exceeded your rate limit";

/// Why somebody may not write to a private topic.
struct WriteRefusal {
    status: StatusCode,
    text: &'static str,
}

/// Who wants to write.
struct Writer {
    token: Arc<Token>,
    /// The request's headers, as a JSON object.
    headers: Arc<str>,
}

impl Writer {
    /// Whether they may write to a private topic: the one place where writes over HTTP are authorized. Asked anew
    /// for each request (http_and_ops 2.5, 2.7).
    async fn may_write(&self, runtime: &TenantRuntime, topic: &str) -> Result<(), WriteRefusal> {
        let request = AuthorizeRequest {
            role: Arc::clone(&self.token.role),
            claims: Arc::clone(&self.token.claims),
            topic: topic.into(),
            headers: Arc::clone(&self.headers),
            presence: true,
        };
        let verdict = runtime.ask(|database| {
            let request = request.clone();
            async move { database.authorize_write(request).await }
        });
        match verdict.await {
            Ok(verdict) if verdict.broadcast => Ok(()),
            Ok(_) => Err(WriteRefusal { status: StatusCode::FORBIDDEN, text: "Unauthorized" }),
            Err(error) => {
                tracing::warn!(tenant = &**runtime.name(), code = error.code(), %error, "policies could not be evaluated");
                let (status, text) = error.http();
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Err(WriteRefusal { status, text })
            }
        }
    }
}

/// The room of a topic that was named without its prefix.
fn room(runtime: &TenantRuntime, topic: &str, private: bool) -> RoomKey {
    RoomKey {
        tenant: Arc::clone(runtime.name()),
        audience: if private { Audience::Private } else { Audience::Public },
        topic: format!("realtime:{topic}").into(),
    }
}

/// What a request published.
#[derive(Default)]
struct Published {
    fan_outs: Vec<FanOut>,
    congestions: Vec<Congestion>,
}

impl Published {
    /// Says something in a room.
    fn add(&mut self, runtime: &TenantRuntime, key: &RoomKey, payload_bytes: usize, said: &Said<'_>) {
        runtime.meters().events().add(1);
        runtime.metrics().payload(MessageType::Broadcast, payload_bytes);
        self.fan_outs.extend(runtime.hub().say(key, said));
        self.congestions.extend(runtime.hub().congestion(key));
    }

    /// Gives it to them. The request is answered when rooms that could not keep up have done so.
    async fn deliver(self) {
        self.fan_outs.into_iter().for_each(FanOut::run);
        for congestion in self.congestions {
            congestion.over().await;
        }
    }
}

/// Reads the body of a request with these headers, within its limits.
pub(super) async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Response> {
    match time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            let too_large = std::error::Error::source(&error)
                .is_some_and(|source| source.to_string().contains("length limit"));
            if too_large {
                return Err(phrase(headers, StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large"));
            }
            Err(bad_request(headers))
        }
        Err(_) => Err(phrase(headers, StatusCode::REQUEST_TIMEOUT, "Request Timeout")),
    }
}

/// The media type of a request's body, without parameters, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = text(headers, header::CONTENT_TYPE)?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}
