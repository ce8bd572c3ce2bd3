//! Parsing of broadcasts' bodies. Pure, and without other modules: `crates/server/fuzz` includes this file.

use bytes::Bytes;
use realtime_protocol::{has_lone_surrogate, size};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use uuid::Uuid;

const BLANK: &str = "can't be blank";
const INVALID: &str = "is invalid";
const TOO_LARGE: &str = "Payload size exceeds tenant limit";

/// A message that may be sent.
pub(super) struct Message<'a> {
    pub(super) topic: String,
    pub(super) event: String,
    /// JSON text of an object.
    pub(super) payload: &'a [u8],
    pub(super) private: bool,
    pub(super) id: Option<Uuid>,
}

/// A message before any check.
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

/// Why a body is refused as a whole.
pub(super) enum Refusal {
    /// It is not JSON.
    NotJson,
    /// Value of `errors.messages`.
    Errors(Value),
}

/// The messages of a body, if all of them are valid.
///
/// # Errors
/// What is wrong with them.
pub(super) fn messages(body: &[u8], max_payload: usize) -> Result<Vec<Message<'_>>, Refusal> {
    let whole = |text: &'static str| Refusal::Errors(json!([text]));
    if has_lone_surrogate(body) {
        return Err(Refusal::NotJson);
    }
    let body: &RawValue = serde_json::from_slice(body).map_err(|_| Refusal::NotJson)?;
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

/// Reads an object. `None` for anything else, because a list would fill the fields by position.
fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    raw.get().starts_with('{').then(|| serde_json::from_str(raw.get()).ok())?
}

/// The message, if it is valid. Otherwise its problems are noted by field.
fn check<'a>(raw: &Raw<'a>, max_payload: usize, problems: &mut Map<String, Value>) -> Option<Message<'a>> {
    let topic = keep("topic", name(raw.topic), problems);
    let event = keep("event", name(raw.event), problems);
    let payload = keep("payload", object_within(raw.payload, max_payload), problems);
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

/// The value of a field. If it is not valid, the problem is noted.
fn keep<T>(field: &str, value: Result<T, &'static str>, problems: &mut Map<String, Value>) -> Option<T> {
    value.map_err(|text| problems.insert(field.to_owned(), json!([text]))).ok()
}

/// The text of an object that is not too large.
fn object_within(raw: Option<&RawValue>, max: usize) -> Result<&[u8], &'static str> {
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

/// The payload of a JSON body: the body itself if it is an object, otherwise an object around it. `None` if it is not
/// JSON.
pub(super) fn payload(body: &Bytes) -> Option<Bytes> {
    if body.is_empty() {
        return Some(Bytes::from_static(b"{}"));
    }
    let json: &RawValue = serde_json::from_slice(body).ok().filter(|_| !has_lone_surrogate(body))?;
    if json.get().starts_with('{') {
        return Some(body.slice_ref(json.get().as_bytes()));
    }
    Some(format!("{{\"_json\":{}}}", json.get()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(body: &str) -> Value {
        match messages(body.as_bytes(), 100) {
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

    #[test]
    fn bodies_that_are_no_objects_are_wrapped() {
        let payload = |text: &'static str| payload(&Bytes::from_static(text.as_bytes()));
        assert_eq!(payload(" {\"a\": 1}\n").unwrap(), "{\"a\": 1}");
        assert_eq!(payload("").unwrap(), "{}");
        assert_eq!(payload("[1]").unwrap(), "{\"_json\":[1]}");
        assert_eq!(payload("{bad"), None);
        assert_eq!(payload(r#"{"a":"\ud800"}"#), None, "half a character");
    }
}
