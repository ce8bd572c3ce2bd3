//! `POST /api/broadcast`: any number of messages on any topics.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Extension,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use realtime_hub::Said;
use realtime_protocol::{has_lone_surrogate, size, write_json_string};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use uuid::Uuid;

use super::{Published, RATE_EXCEEDED, Writer, is_json, media_type, read_body, room};
use crate::{
    http::{
        answers::{bad_request, json as answer, message},
        openapi::shapes::{BatchAnswers, BroadcastBatch},
        policy_headers,
    },
    session::Token,
    tenant_runtime::TenantRuntime,
};

const BLANK: &str = "can't be blank";
const INVALID: &str = "is invalid";
const TOO_LARGE: &str = "Payload size exceeds tenant limit";

/// A message that may be sent.
struct Message<'a> {
    topic: String,
    event: String,
    /// JSON text of an object.
    payload: &'a [u8],
    private: bool,
    id: Option<Uuid>,
}

/// A message as it came, nothing checked.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    topic: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    private: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
}

/// Answers a batch: everything or nothing is delivered, but for private topics without permission.
#[utoipa::path(
    post, path = "/api/broadcast", operation_id = "broadcast_batch", tag = "Broadcast", summary = "Send messages to topics",
    security(("tenant" = []), ("apikey" = [])), request_body = BroadcastBatch, responses(BatchAnswers)
)]
pub async fn batch(
    Extension(runtime): Extension<Arc<TenantRuntime>>,
    Extension(token): Extension<Arc<Token>>,
    request: Request,
) -> Response {
    let tenant = runtime.tenant();
    if tenant.suspend {
        return message(StatusCode::FORBIDDEN, "Tenant is suspended");
    }
    let json = media_type(request.headers()).is_some_and(|kind| is_json(&kind));
    let writer = Writer { token, headers: policy_headers::of_request(request.headers()) };
    let (parts, body) = request.into_parts();
    let body = match read_body(&parts, body).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    // A body of another type is not read at all.
    let body: &[u8] = if json && !body.is_empty() { &body } else { b"{}" };
    let messages = match parse(body, tenant.limits.max_payload_bytes()) {
        Ok(messages) => messages,
        Err(Refusal::NotJson) => return bad_request(&parts.headers),
        Err(Refusal::Errors(errors)) => {
            let errors = json!({ "errors": { "messages": errors } });
            return answer(StatusCode::UNPROCESSABLE_ENTITY, &errors);
        }
    };
    let (mean, max) = (runtime.meters().events().average(), f64::from(runtime.meters().events().limit()));
    if mean > max || runtime.meters().sheds() {
        return message(StatusCode::TOO_MANY_REQUESTS, RATE_EXCEEDED);
    }
    if messages.len() as f64 + mean > max {
        let text = "Too many messages to broadcast, please reduce the batch size";
        return message(StatusCode::TOO_MANY_REQUESTS, text);
    }
    publish_all(&runtime, &writer, &messages).await;
    StatusCode::ACCEPTED.into_response()
}

/// Public messages go first, in order; then private ones, one question per topic.
async fn publish_all(runtime: &TenantRuntime, writer: &Writer, messages: &[Message<'_>]) {
    let mut published = Published::default();
    for message in messages.iter().filter(|message| !message.private) {
        publish(runtime, message, &mut published);
    }
    published.deliver().await;
    let mut topics: Vec<(&str, Vec<&Message<'_>>)> = Vec::new();
    let mut places = HashMap::new();
    for message in messages.iter().filter(|message| message.private) {
        let place = *places.entry(&*message.topic).or_insert_with(|| {
            topics.push((&message.topic, Vec::new()));
            topics.len() - 1
        });
        if let Some((_, of_topic)) = topics.get_mut(place) {
            of_topic.push(message);
        }
    }
    for (topic, messages) in topics {
        if let Err(refusal) = writer.may_write(runtime, topic).await {
            tracing::debug!(reason = refusal.text, "private messages skipped");
            continue;
        }
        let mut published = Published::default();
        for message in messages {
            publish(runtime, message, &mut published);
        }
        published.deliver().await;
    }
}

fn publish(runtime: &TenantRuntime, message: &Message<'_>, published: &mut Published) {
    let mut payload = b"{\"type\":\"broadcast\",\"event\":".to_vec();
    write_json_string(&mut payload, &message.event);
    payload.extend_from_slice(b",\"payload\":");
    payload.extend_from_slice(message.payload);
    if let Some(id) = message.id {
        payload.extend_from_slice(format!(",\"meta\":{{\"id\":\"{id}\"}}").as_bytes());
    }
    payload.push(b'}');
    let key = room(runtime, &message.topic, message.private);
    published.add(runtime, &key, message.payload.len(), &Said::Json(&payload));
}

/// Why nothing is delivered.
enum Refusal {
    NotJson,
    /// Value of `errors.messages`.
    Errors(Value),
}

fn parse(body: &[u8], max_payload: usize) -> Result<Vec<Message<'_>>, Refusal> {
    let whole = |text: &'static str| Refusal::Errors(json!([text]));
    let text = body;
    let body: &RawValue = serde_json::from_slice(text).map_err(|_| Refusal::NotJson)?;
    if has_lone_surrogate(text) {
        return Err(Refusal::NotJson);
    }
    let messages = object::<Body<'_>>(body).and_then(|body| body.messages).ok_or_else(|| whole(BLANK))?;
    let messages: Vec<&RawValue> = serde_json::from_str(messages.get()).map_err(|_| whole(INVALID))?;
    if messages.is_empty() {
        return Err(whole(BLANK));
    }
    let mut parsed = Vec::with_capacity(messages.len());
    let mut errors = Vec::with_capacity(messages.len());
    for raw in messages {
        let raw: Raw<'_> = object(raw).ok_or_else(|| whole(INVALID))?;
        let mut problems = Map::new();
        let message = check(&raw, max_payload, &mut problems);
        errors.push(Value::Object(problems));
        parsed.extend(message);
    }
    if parsed.len() == errors.len() { Ok(parsed) } else { Err(Refusal::Errors(Value::Array(errors))) }
}

/// What an object holds. `None` for anything else: a list would fill the fields by position.
fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    raw.get().starts_with('{').then(|| serde_json::from_str(raw.get()).ok())?
}

/// The message, if there is nothing wrong with it; else what is wrong, by field.
fn check<'a>(raw: &Raw<'a>, max_payload: usize, problems: &mut Map<String, Value>) -> Option<Message<'a>> {
    let topic = keep("topic", name(raw.topic), problems);
    let event = keep("event", name(raw.event), problems);
    let payload = keep("payload", payload(raw.payload, max_payload), problems);
    let private = match raw.private.map(RawValue::get) {
        None | Some("false" | "\"false\"" | "\"0\"") => Ok(false),
        Some("true" | "\"true\"" | "\"1\"") => Ok(true),
        Some(_) => Err(INVALID),
    };
    let private = keep("private", private, problems);
    let id = raw.id.map(|id| serde_json::from_str::<Uuid>(id.get())).transpose();
    let id = keep("id", id.map_err(|_| INVALID), problems);
    Some(Message { topic: topic?, event: event?, payload: payload?, private: private?, id: id? })
}

/// The value of a field; what is wrong with it is noted.
fn keep<T>(field: &str, value: Result<T, &'static str>, problems: &mut Map<String, Value>) -> Option<T> {
    value.map_err(|text| problems.insert(field.to_owned(), json!([text]))).ok()
}

fn payload(raw: Option<&RawValue>, max: usize) -> Result<&[u8], &'static str> {
    let payload = raw.ok_or(BLANK)?.get().as_bytes();
    if payload.first() != Some(&b'{') {
        return Err(INVALID);
    }
    if size::exceeds(payload, max) { Err(TOO_LARGE) } else { Ok(payload) }
}

/// A string that is not blank.
fn name(raw: Option<&RawValue>) -> Result<String, &'static str> {
    let text: String = serde_json::from_str(raw.ok_or(BLANK)?.get()).map_err(|_| INVALID)?;
    if text.trim().is_empty() { Err(BLANK) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(body: &str) -> Value {
        match parse(body.as_bytes(), 100) {
            Err(Refusal::Errors(errors)) => errors,
            Err(Refusal::NotJson) => json!("not JSON"),
            Ok(_) => Value::Null,
        }
    }

    /// http_and_ops 42, 43; recording 15
    #[test]
    fn what_is_wrong_is_told_by_message_and_field() {
        assert_eq!(errors("{bad"), json!("not JSON"));
        let half = r#"{"messages":[{"topic":"x","event":"e","payload":{"a":"\ud800"}}]}"#;
        assert_eq!(errors(half), json!("not JSON"));
        for (body, told) in [
            ("{}", json!([BLANK])),
            ("[1]", json!([BLANK])),
            (r#"{"messages":[]}"#, json!([BLANK])),
            (r#"{"messages":"x"}"#, json!([INVALID])),
            (r#"{"messages":[1]}"#, json!([INVALID])),
            (r#"{"messages":[["x","e",{}]]}"#, json!([INVALID])),
            (r#"{"messages":[{}]}"#, json!([{"event":[BLANK],"payload":[BLANK],"topic":[BLANK]}])),
            (r#"{"messages":[{"topic":"x","event":"e","payload":"str"}]}"#, json!([{"payload":[INVALID]}])),
            (r#"{"messages":[{"topic":5,"event":"e","payload":{}}]}"#, json!([{"topic":[INVALID]}])),
            (
                r#"{"messages":[{"topic":"x","event":"e","payload":{},"private":"yes"}]}"#,
                json!([{"private":[INVALID]}]),
            ),
            (
                r#"{"messages":[{"topic":"x","event":"e","payload":{}},{"topic":" ","event":"e","payload":{},"id":"x"}]}"#,
                json!([{}, {"topic":[BLANK],"id":[INVALID]}]),
            ),
            (r#"{"messages":[{"topic":"x","event":"e","payload":{},"private":null}]}"#, Value::Null),
        ] {
            assert_eq!(errors(body), told, "{body}");
        }
        let large = json!({"messages": [{"topic": "x", "event": "e", "payload": {"x": "y".repeat(100)}}]});
        assert_eq!(errors(&large.to_string()), json!([{"payload":[TOO_LARGE]}]));
    }
}
