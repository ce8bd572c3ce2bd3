//! `GET /api/broadcast/:topic/history`: what was said on a topic (resume 4).

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Request},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use realtime_channels::{
    history::{Asked, Missed, look},
    tenant_runtime::TenantRuntime,
    token::Token,
};
use realtime_codes::ErrorCode;
use realtime_hub::{HeldBody, HistoryBounds, Memory, MessageId, Shown, Since, id_text};
use realtime_postgres::{AuthorizeRequest, moment};
use serde_json::json;

use super::{room, single};
use crate::{
    answers::{json as answer, message},
    http::shapes::HistoryAnswers,
    transport::policy_headers,
};

/// The header that tells whether nothing is missing: `whole` or `gap`.
const COMPLETENESS: &str = "x-history";

/// Bytes of an answer. What does not fit is missing: the oldest.
const MOST_BYTES: usize = 4_000_000;

/// Answers with what was said on a topic.
#[utoipa::path(
    get, path = "/api/broadcast/{topic}/history", operation_id = "broadcast_history", tag = "Broadcast",
    summary = "What was said on a topic", security(("tenant" = []), ("apikey" = [])),
    params(
        ("topic" = String, Path, description = "Name of the channel, without `realtime:` before it"),
        ("since" = Option<String>, Query, description = "From when on, in milliseconds of Unix time; or the id of the last message that is known"),
        ("limit" = Option<u32>, Query, description = "How many messages at most: the newest"),
        ("private" = Option<bool>, Query, description = "Whether it is the private channel of that name"),
    ),
    responses(HistoryAnswers)
)]
pub async fn history(
    Extension(runtime): Extension<Arc<TenantRuntime>>,
    Extension(token): Extension<Arc<Token>>,
    Path(topic): Path<String>,
    request: Request,
) -> Response {
    let tenant = runtime.tenant();
    if tenant.suspend {
        return message(StatusCode::FORBIDDEN, "Tenant is suspended");
    }
    let Some(bounds) = runtime.history() else {
        return message(StatusCode::NOT_FOUND, "No history is kept");
    };
    let query = request.uri().query().unwrap_or_default();
    let (asked, private) = match asked(query, bounds) {
        Ok(asked) => asked,
        Err(field) => {
            let errors = json!({ "errors": { field: ["is invalid"] } });
            return answer(StatusCode::UNPROCESSABLE_ENTITY, &errors);
        }
    };
    if private {
        if let Err((status, text)) = may_read(&runtime, &token, &topic, request.headers()).await {
            return message(status, text);
        }
    } else if tenant.private_only {
        return message(StatusCode::FORBIDDEN, "This project only allows private channels");
    }
    let room = room(&runtime, &topic, private);
    // What is found elsewhere is kept here too, so it is looked for first.
    let found = match look(&runtime, &room, asked).await {
        Ok(found) => found,
        Err(error) => {
            let (tenant, code) = (&**runtime.name(), error.code());
            tracing::warn!(tenant, code, error = ?error, "cannot read stored messages");
            return message(StatusCode::SERVICE_UNAVAILABLE, "Realtime was unable to read stored messages");
        }
    };
    let recalled = runtime.hub().recall(&room, asked.since).unwrap_or_default();
    let missed = Missed::of(recalled, found, asked);
    let memory = request.extensions().get::<Arc<Memory>>();
    let (body, fits) = body(missed.shown());
    let peer = super::address(request.extensions());
    let Some(body) = counted(body, memory.map(|memory| memory.body(peer))) else {
        let (tenant, code) = (&**runtime.name(), ErrorCode::TooManyBodies.as_str());
        tracing::warn!(tenant, code, %peer, "history refused: too many bodies are being read or sent");
        return message(StatusCode::SERVICE_UNAVAILABLE, "Too many answers are being sent");
    };
    let completeness = if missed.is_whole() && fits { "whole" } else { "gap" };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(COMPLETENESS)),
        (HeaderName::from_static(COMPLETENESS), HeaderValue::from_static(completeness)),
    ];
    (headers, body).into_response()
}

/// What is asked for, and whether of the private channel.
///
/// # Errors
/// The parameter that cannot be used.
fn asked(query: &str, bounds: HistoryBounds) -> Result<(Asked, bool), &'static str> {
    let private = single::private(query).ok_or("private")?;
    let (mut since, mut limit) = (Since::Beginning, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.is_empty()) {
        match &*name {
            "since" => {
                let is_moment = |time: &i64| *time >= 0 && moment(*time).is_some();
                let time = value.parse().ok().filter(is_moment).map(Since::Time);
                let id = || uuid::Uuid::try_parse(&value).ok().map(|id| Since::Message(id.as_u128()));
                since = time.or_else(id).ok_or("since")?;
            }
            "limit" => limit = Some(value.parse().map_err(|_| "limit")?),
            _ => {}
        }
    }
    Ok((Asked::new(since, limit, bounds), private))
}

/// Asks the policies whether the sender of a token may read a private topic, as for a join.
async fn may_read(
    runtime: &TenantRuntime,
    token: &Token,
    topic: &str,
    headers: &HeaderMap,
) -> Result<(), (StatusCode, &'static str)> {
    let request = AuthorizeRequest {
        role: Arc::clone(&token.role),
        claims: Arc::clone(&token.claims),
        topic: topic.into(),
        headers: policy_headers::of_request(headers),
        presence: false,
    };
    let verdict = runtime.ask(|database| {
        let request = request.clone();
        async move { database.authorize_read(&request).await }
    });
    match verdict.await {
        Ok(verdict) if verdict.broadcast => Ok(()),
        Ok(_) => Err((StatusCode::FORBIDDEN, "Unauthorized")),
        Err(error) => {
            let (tenant, code, role) = (&**runtime.name(), error.code(), &*request.role);
            tracing::warn!(tenant, code, role, %error, "policies of a private topic could not be evaluated");
            let (status, text) = error.http();
            Err((StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), text))
        }
    }
}

/// The messages as a JSON array, and whether all of them are in it.
fn body<M>(messages: M) -> (Vec<u8>, bool)
where
    M: IntoIterator<Item = (MessageId, Shown), IntoIter: DoubleEndedIterator>,
{
    let (mut size, mut newest, mut fits) = (2, Vec::new(), true);
    // From the newest on, so that no more is written than is sent.
    for (id, shown) in messages.into_iter().rev() {
        let text = text(id, shown);
        size += text.len() + 1;
        if size > MOST_BYTES {
            fits = false;
            break;
        }
        newest.push(text);
    }
    let mut body = Vec::with_capacity(size.min(MOST_BYTES));
    body.push(b'[');
    for (n, text) in newest.iter().rev().enumerate() {
        if n > 0 {
            body.push(b',');
        }
        body.extend_from_slice(text);
    }
    body.push(b']');
    (body, fits)
}

/// An answer, whose memory is counted as long as somebody holds it.
struct Counted {
    bytes: Vec<u8>,
    _held: Option<HeldBody>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Counts an answer until it is sent: a client may take its time. `None` if bodies of requests and answers, or those of its
/// address, have their share of the memory already.
fn counted(bytes: Vec<u8>, mut held: Option<HeldBody>) -> Option<Bytes> {
    let fits = held.as_mut().is_none_or(|held| held.set(bytes.capacity()));
    fits.then(|| Bytes::from_owner(Counted { bytes, _held: held }))
}

/// A message as JSON text. Bytes are in base64.
fn text(id: MessageId, shown: Shown) -> Vec<u8> {
    match shown {
        Shown::Json(text) => text,
        Shown::Binary(event, bytes) => json!({
            "type": "broadcast", "event": event, "binary": STANDARD.encode(bytes),
            "meta": {"id": id_text(id), "replayed": true},
        })
        .to_string()
        .into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: HistoryBounds = HistoryBounds { age_ms: 1, messages: 100, bytes: 1 };

    #[test]
    fn parameters() {
        let read =
            |query: &str| asked(query, BOUNDS).map(|(asked, private)| (asked.since, asked.limit, private));
        assert_eq!(read("apikey=k"), Ok((Since::Beginning, 100, false)));
        assert_eq!(read("since=5&limit=2&private=true"), Ok((Since::Time(5), 2, true)));
        assert_eq!(read("since=&limit=900"), Ok((Since::Beginning, 100, false)));
        let id = "since=00000000-0000-0000-0000-000000000009";
        assert_eq!(read(id), Ok((Since::Message(9), 100, false)));
        for (query, field) in
            [("since=x", "since"), ("since=-1", "since"), ("limit=x", "limit"), ("private=maybe", "private")]
        {
            assert_eq!(read(query), Err(field), "{query}");
        }
        assert_eq!(read("since=253402300799999"), Ok((Since::Time(253_402_300_799_999), 100, false)));
        for since in [253_402_300_800_000, i64::MAX] {
            assert_eq!(read(&format!("since={since}")), Err("since"), "no database knows it");
        }
    }

    /// Whoever asks for many answers and reads none is refused, and harms no other memory.
    #[test]
    fn answers_count_as_memory_until_they_are_sent() {
        let memory = Memory::new(4_000);
        let counted = |from, bytes| counted(vec![b'x'; bytes], Some(memory.body([127, 0, 0, from].into())));
        let first = counted(1, 700).unwrap();
        assert!(counted(2, 700).is_none(), "a quarter is for bodies");
        assert!(counted(2, 300).is_some(), "what was refused does not count");
        assert!(counted(1, 300).is_none(), "it leaves something to others");
        let sent = first.slice(..10);
        drop(first);
        assert!(counted(2, 700).is_none(), "a part is still to be sent");
        drop(sent);
        assert!(counted(2, 700).is_some());
    }

    #[test]
    fn bodies_are_arrays_of_bounded_size() {
        let json = |text: &str| (1, Shown::Json(text.as_bytes().to_vec()));
        assert_eq!(body(Vec::new()), (b"[]".to_vec(), true));
        assert_eq!(body(vec![json("{}"), json("{}")]), (b"[{},{}]".to_vec(), true));
        let (text, _) = body(vec![(1, Shown::Binary("e".into(), vec![0, 255].into()))]);
        let expected = json!([{"type": "broadcast", "event": "e", "binary": "AP8=",
            "meta": {"id": "00000000-0000-0000-0000-000000000001", "replayed": true}}]);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&text).unwrap(), expected);
        let large = || json(&format!("\"{}\"", "x".repeat(2_500_000)));
        let (text, fits) = body(vec![large(), json("1"), large()]);
        assert_eq!((text.len(), fits), (2_500_002 + 4, false), "the newest two");
    }
}
