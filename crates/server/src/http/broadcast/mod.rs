//! Broadcasts over HTTP (http_and_ops 2.5 to 2.7).

mod batch;
mod bodies;
mod history;
mod single;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::{
    body::{Body, HttpBody as _},
    response::Response,
};
pub use batch::{__path_batch, batch};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
pub use history::{__path_history, history};
use http::{Extensions, HeaderMap, StatusCode, header, request::Parts};
use realtime_channels::{address::network, publish, tenant_runtime::TenantRuntime, token::Token};
use realtime_codes::ErrorCode;
use realtime_hub::{Audience, Congestion, FanOut, HeldBody, Memory, MessageId, RoomKey, Said};
use realtime_postgres::AuthorizeRequest;
pub use single::{__path_single, check_content_type, single};
use tokio::time::{self, Duration};

use crate::{
    answers::{bad_request, phrase, text},
    transport::{Peer, listener::MAX_BODY},
    turns::{Turn, Turns},
};

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// The answer if the tenant has too many events.
const RATE_EXCEEDED: &str = "You have exceeded your rate limit";

/// Why a writer is refused.
struct WriteRefusal {
    status: StatusCode,
    text: &'static str,
}

/// The sender of messages.
struct Writer {
    token: Arc<Token>,
    /// The request's headers, as a JSON object.
    headers: Arc<str>,
}

impl Writer {
    /// Asks the policies whether the sender may write to a private topic. All writes over HTTP are authorized here,
    /// anew for each request (http_and_ops 2.5, 2.7).
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
            async move { database.authorize_write(&request).await }
        });
        match verdict.await {
            Ok(verdict) if verdict.broadcast => Ok(()),
            Ok(_) => Err(WriteRefusal { status: StatusCode::FORBIDDEN, text: "Unauthorized" }),
            Err(error) => {
                let (tenant, role) = (&**runtime.name(), &*request.role);
                tracing::warn!(tenant, code = error.code(), role, %error, "policies of a private topic could not be evaluated");
                let (status, text) = error.http();
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Err(WriteRefusal { status, text })
            }
        }
    }
}

/// The room of a topic. The topic is given without its prefix.
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
    /// Publishes a message in a room.
    fn add(
        &mut self,
        runtime: &TenantRuntime,
        key: &RoomKey,
        payload_bytes: usize,
        said: &Said<'_>,
        id: Option<MessageId>,
    ) {
        let (meters, hub) = (runtime.meters(), runtime.hub());
        let delivery = publish::from_outside(meters, hub, key, said, payload_bytes, id);
        self.fan_outs.extend(delivery.run);
        self.congestions.extend(delivery.congestion);
    }

    /// Delivers the messages. Returns when the rooms that could not keep up have done so.
    async fn deliver(self) {
        self.fan_outs.into_iter().for_each(FanOut::run);
        for congestion in self.congestions {
            congestion.over().await;
        }
    }
}

/// Bodies of this size are counted as memory held for clients. Smaller ones are handled at once.
const LARGE: u64 = 64 * 1024;

/// Reads the body of a request, within its limits. Large bodies share a part of the memory for clients. If that is
/// used up, the answer is 503.
pub(super) async fn read_body(request: &Parts, body: Body) -> Result<Bytes, Response> {
    let headers = &request.headers;
    let memory = request.extensions.get::<Arc<Memory>>();
    let large = body.size_hint().upper().is_none_or(|most| most >= LARGE);
    let reading = async {
        match memory.filter(|_| large) {
            Some(memory) => counted(body, memory.body(address(&request.extensions))).await,
            None => axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| {
                let source = std::error::Error::source(&error);
                let too_large = source.is_some_and(|source| source.to_string().contains("length limit"));
                if too_large { Unread::TooLarge } else { Unread::Broken }
            }),
        }
    };
    match time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(Unread::TooLarge)) => {
            Err(phrase(headers, StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large"))
        }
        Ok(Err(Unread::Crowded)) => {
            let (code, peer) = (ErrorCode::TooManyBodies.as_str(), address(&request.extensions));
            tracing::warn!(code, %peer, "body refused: too many are being read or sent");
            Err(phrase(headers, StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"))
        }
        Ok(Err(Unread::Broken)) => Err(bad_request(headers)),
        Err(_) => Err(phrase(headers, StatusCode::REQUEST_TIMEOUT, "Request Timeout")),
    }
}

/// Whose share of the memory for bodies a request counts against.
fn address(request: &Extensions) -> IpAddr {
    network(request.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0))
}

/// Waits until it may be looked at, if it is large.
pub(super) async fn turn(request: &Parts, body: &Bytes) -> Option<Turn> {
    request.extensions.get::<Turns>()?.of(body.len()).await
}

/// Why a body was not read.
enum Unread {
    TooLarge,
    Crowded,
    Broken,
}

/// A body whose memory is counted as long as somebody holds it.
struct Counted {
    bytes: BytesMut,
    held: HeldBody,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body, and counts its memory meanwhile.
async fn counted(body: Body, held: HeldBody) -> Result<Bytes, Unread> {
    let mut read = Counted { bytes: BytesMut::new(), held };
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| Unread::Broken)?;
        if read.bytes.len() + part.len() > MAX_BODY {
            return Err(Unread::TooLarge);
        }
        read.bytes.extend_from_slice(&part);
        if !read.held.set(read.bytes.capacity()) {
            return Err(Unread::Crowded);
        }
    }
    Ok(Bytes::from_owner(read))
}

/// The media type of a request's body, without parameters, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = text(headers, header::CONTENT_TYPE)?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Whether a media type is JSON. Types with a suffix count, such as `application/vnd.api+json` (RFC 6838).
pub(super) fn is_json(media_type: &str) -> bool {
    media_type == "application/json"
        || media_type.strip_prefix("application/").is_some_and(|name| name.ends_with("+json"))
}
