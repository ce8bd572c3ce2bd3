//! `POST /api/broadcast/:topic/events/:event`: one message, whose payload is the body.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::StatusCode;
use realtime_channels::{tenant_runtime::TenantRuntime, token::Token};
use realtime_hub::Said;
use realtime_protocol::{Encoding, UserBroadcast, size};
use serde_json::json;

use super::{Published, RATE_EXCEEDED, Writer, bodies, is_json, media_type, read_body, room, turn};
use crate::{
    answers::{bad_request, json as answer, message},
    http::shapes::{self, SingleAnswers},
    transport::policy_headers,
};

/// Refuses other content types before the tenant is looked for.
pub async fn check_content_type(request: Request, next: Next) -> Response {
    match media_type(request.headers()).as_deref() {
        None | Some("application/octet-stream") => next.run(request).await,
        Some(kind) if is_json(kind) => next.run(request).await,
        Some(_) => {
            let text = "Unsupported Media Type. Use application/json or application/octet-stream";
            answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, &json!({ "error": text }))
        }
    }
}

/// Answers one message.
#[utoipa::path(
    post, path = "/api/broadcast/{topic}/events/{event}", operation_id = "broadcast_single", tag = "Broadcast",
    summary = "Send one message to a topic", security(("tenant" = []), ("apikey" = [])),
    params(
        ("topic" = String, Path, description = "Name of the channel, without `realtime:` before it"),
        ("event" = String, Path, description = "What receivers listen for"),
        ("private" = Option<bool>, Query, description = "Whether it is for members of the private channel of that name"),
    ),
    request_body(description = "The payload, as JSON or as bytes", content(
        (serde_json::Map<String, serde_json::Value> = "application/json", example = json!({"text": "hello"})),
        (shapes::Bytes = "application/octet-stream"),
    )),
    responses(SingleAnswers)
)]
pub async fn single(
    Extension(runtime): Extension<Arc<TenantRuntime>>,
    Extension(token): Extension<Arc<Token>>,
    Path((topic, event)): Path<(String, String)>,
    request: Request,
) -> Response {
    let tenant = runtime.tenant();
    if tenant.suspend {
        return message(StatusCode::FORBIDDEN, "Tenant is suspended");
    }
    let media_type = media_type(request.headers());
    let query = request.uri().query().unwrap_or_default();
    let Some(private) = private(query) else {
        let errors = json!({ "errors": { "private": ["is invalid"] } });
        return answer(StatusCode::UNPROCESSABLE_ENTITY, &errors);
    };
    let writer = Writer { token, headers: policy_headers::of_request(request.headers()) };
    let (parts, body) = request.into_parts();
    let body = match read_body(&parts, body).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let turn = turn(&parts, &body).await;
    let payload = match Payload::read(media_type.as_deref(), &body, tenant.limits.max_payload_bytes()) {
        Ok(payload) => payload,
        Err(Unusable::NotJson) => return bad_request(&parts.headers),
        Err(Unusable::TooLarge) => {
            let errors = json!({ "errors": { "payload": ["Payload size exceeds tenant limit"] } });
            return answer(StatusCode::UNPROCESSABLE_ENTITY, &errors);
        }
    };
    drop(turn);
    let events = runtime.meters().events();
    if events.average() >= f64::from(events.limit()) || runtime.meters().sheds() {
        return message(StatusCode::TOO_MANY_REQUESTS, RATE_EXCEEDED);
    }
    if private && let Err(refusal) = writer.may_write(&runtime, &topic).await {
        return message(refusal.status, refusal.text);
    }
    let user = UserBroadcast { event: event.into(), encoding: payload.encoding, body: payload.bytes };
    let key = room(&runtime, &topic, private);
    let mut published = Published::default();
    published.add(&runtime, &key, user.body.len(), &Said::User(&user), None);
    published.deliver().await;
    StatusCode::ACCEPTED.into_response()
}

/// The payload of a message.
struct Payload {
    encoding: Encoding,
    bytes: Bytes,
}

/// Why a body cannot be a payload.
enum Unusable {
    NotJson,
    TooLarge,
}

impl Payload {
    /// Reads the body as its media type says.
    fn read(media_type: Option<&str>, body: &Bytes, max: usize) -> Result<Self, Unusable> {
        let (encoding, bytes, too_large) = match media_type {
            // The reference counts a binary with one byte of version and five bytes of header.
            Some("application/octet-stream") => (Encoding::Binary, body.clone(), body.len() + 6 > max),
            Some(_) => {
                let payload = bodies::payload(body).ok_or(Unusable::NotJson)?;
                let too_large = size::exceeds(&payload, max);
                (Encoding::Json, payload, too_large)
            }
            // Without a content type the body is not read.
            None => (Encoding::Json, Bytes::from_static(b"{}"), false),
        };
        if too_large { Err(Unusable::TooLarge) } else { Ok(Self { encoding, bytes }) }
    }
}

/// Whether the message is for the private channel. `None` if that is unclear: it must never be sent to the public one
/// by mistake (spec README, decision 21).
pub(super) fn private(query: &str) -> Option<bool> {
    let mut private = false;
    for (_, value) in form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "private") {
        private |= match &*value {
            "true" | "1" => true,
            "false" | "0" | "" => false,
            _ => return None,
        };
    }
    Some(private)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_is_never_taken_for_public() {
        for (query, expected) in [
            ("", Some(false)),
            ("private=true", Some(true)),
            ("apikey=x&private=1", Some(true)),
            ("private=false", Some(false)),
            ("private=0&private=true", Some(true)),
            ("private=", Some(false)),
            ("private=yes", None),
            ("private=True", None),
            ("private=true&private=no", None),
        ] {
            assert_eq!(private(query), expected, "{query}");
        }
    }
}
