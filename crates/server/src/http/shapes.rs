//! Shapes of bodies and answers, for the OpenAPI document only. Handlers read bodies in pieces and write answers as
//! bytes, so no value of these types is ever made.
#![allow(dead_code, reason = "described, never made")]

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::{IntoResponses, ToSchema};
use uuid::Uuid;

/// A sentence about the outcome.
#[derive(ToSchema)]
#[schema(example = json!({"message": "Unauthorized"}))]
pub struct Message {
    /// For people, and stable enough to compare with.
    message: String,
}

/// What is wrong, by field; lists of objects have a list of such objects.
#[derive(ToSchema)]
#[schema(example = json!({"errors": {"payload": ["Payload size exceeds tenant limit"]}}))]
pub struct Problems {
    errors: BTreeMap<String, Value>,
}

/// A content type that is not read.
#[derive(ToSchema)]
#[schema(example = json!({
    "error": "Unsupported Media Type. Use application/json or application/octet-stream"
}))]
pub struct UnsupportedMediaType {
    error: String,
}

/// Any number of messages on any topics.
#[derive(ToSchema)]
pub struct BroadcastBatch {
    /// In the order in which they are delivered; public ones go before private ones.
    #[schema(min_items = 1)]
    messages: Vec<BroadcastMessage>,
}

/// A message.
#[derive(ToSchema)]
#[schema(example = json!({"topic": "room:1", "event": "greet", "payload": {"text": "hello"}, "private": false}))]
pub struct BroadcastMessage {
    /// Name of the channel, without `realtime:` before it.
    #[schema(min_length = 1, pattern = r"\S")]
    topic: String,
    /// The event that receivers listen for.
    #[schema(min_length = 1, pattern = r"\S")]
    event: String,
    /// The payload for the receivers.
    payload: Map<String, Value>,
    /// Whether it is for members of the private channel of that name; the policies on `realtime.messages` decide.
    #[schema(default = false)]
    private: Option<bool>,
    /// Receivers get it as `meta.id`.
    id: Option<Uuid>,
}

/// Unchanged bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Bytes(Vec<u8>);

/// A message of a topic's history.
#[derive(ToSchema)]
#[schema(example = json!({"type": "broadcast", "event": "greet", "payload": {"text": "hello"},
    "meta": {"id": "1f6ac5a0-27a9-4d4c-9d5c-0c1d0c8f6f10", "replayed": true}}))]
pub struct PastMessage {
    /// Always `broadcast`.
    r#type: String,
    /// What receivers listen for.
    event: Option<String>,
    /// The payload, of a message whose payload is JSON.
    payload: Option<Value>,
    /// The payload in base64, of a message whose payload is bytes.
    binary: Option<String>,
    /// With the `id` of the message.
    meta: Map<String, Value>,
}

/// Answers of the history of a topic.
#[derive(IntoResponses)]
pub enum HistoryAnswers {
    /// The messages, oldest first
    #[response(status = 200, headers(
        ("x-history" = String, description = "`whole`, or `gap` if messages since then are not kept any more"),
    ))]
    Messages(Vec<PastMessage>),
    /// No valid token, or the host names no tenant
    #[response(status = 401, example = json!({"message": "Unauthorized"}))]
    Unauthorized(Message),
    /// The policies or the tenant do not allow it
    #[response(status = 403, example = json!({"message": "Unauthorized"}))]
    Forbidden(Message),
    /// The tenant keeps no history
    #[response(status = 404, example = json!({"message": "No history is kept"}))]
    Off(Message),
    /// A parameter that cannot be used
    #[response(status = 422, example = json!({"errors": {"since": ["is invalid"]}}))]
    Invalid(Problems),
    /// More requests than `max_events_per_second`, averaged over a minute
    #[response(status = 429, example = json!({"message": "Too many requests"}))]
    Crowded(Message),
    /// The database does not answer, or too many answers are being sent
    #[response(status = 503, example = json!({"message": "Realtime was unable to read stored messages"}))]
    Unavailable(Message),
}

/// Answers of the tenant's routes before the handler has its turn.
#[derive(IntoResponses)]
pub enum Ping {
    /// The tenant is served
    #[response(status = 200, example = json!({"message": "Success"}))]
    Success(Message),
    /// The host names no tenant
    #[response(status = 401, example = json!({"message": "Tenant not found in database"}))]
    Unknown(Message),
    /// More requests than `max_events_per_second`, averaged over a minute
    #[response(
        status = 429,
        headers(
            ("x-rate-rolling" = i64, description = "Requests per second, averaged over a minute"),
            ("x-rate-limit" = i64, description = "How many there may be"),
            ("x-rate-limit-remaining" = i64, description = "How many more there may be"),
        ),
        example = json!({"message": "Too many requests"})
    )]
    Crowded(Message),
}

/// A binding, as clients join with it, and a row.
#[derive(ToSchema)]
#[schema(example = json!({"schema": "public", "table": "todos", "filter": "room=eq.5", "key": {"id": 17}}))]
pub struct ExplainBody {
    /// Schema of the table.
    #[schema(default = "public")]
    schema: Option<String>,
    /// The table.
    table: String,
    /// The event.
    #[schema(default = "*")]
    event: Option<String>,
    /// The filter.
    filter: Option<String>,
    /// The row, by columns and values. If not set, no row is looked at.
    key: Option<BTreeMap<String, Value>>,
}

/// Whether changes reach the sender of the token, and each step on their way.
#[derive(ToSchema)]
#[schema(example = json!({
    "sent": "no", "answer": "You get nothing: role anon may not SELECT from public.todos.",
    "steps": [{"step": "granted", "outcome": "no", "text": "Role anon may not SELECT from public.todos"}]
}))]
pub struct Explanation {
    /// `yes`, `no`, or `open` if it cannot be told.
    sent: String,
    /// The answer in one sentence.
    answer: String,
    /// The steps, each with `step`, `outcome`, `text` and perhaps `mend`.
    steps: Vec<Map<String, Value>>,
}

/// Answers to the question why nothing arrives.
#[derive(IntoResponses)]
pub enum ExplainAnswers {
    /// The explanation, as far as the token may know it
    #[response(status = 200)]
    Explained(Explanation),
    /// There is no valid token, or the host names no tenant
    #[response(status = 401, example = json!({"message": "Unauthorized"}))]
    Unauthorized(Message),
    /// The tenant is suspended
    #[response(status = 403, example = json!({"message": "Tenant is suspended"}))]
    Suspended(Message),
    /// The body is no binding
    #[response(status = 422, example = json!({"message": "The body must be a JSON object"}))]
    Unreadable(Message),
    /// More than 10 at once or one every 2 seconds from an address, or two others are under way
    #[response(status = 429, example = json!({"message": "Too many requests"}))]
    Crowded(Message),
    /// The database cannot be asked
    #[response(status = 503, example = json!({"message": "The database did not answer in time"}))]
    Unavailable(Message),
}

/// Answers to a batch.
#[derive(IntoResponses)]
pub enum BatchAnswers {
    /// Delivered. Messages to private topics that the token may not write to are left out silently
    #[response(status = 202)]
    Accepted,
    /// The body is not JSON
    #[response(status = 400, content_type = "text/html", example = json!("Bad Request"))]
    Unreadable(String),
    /// There is no valid token, or the host names no tenant
    #[response(status = 401, example = json!({"message": "Unauthorized"}))]
    Unauthorized(Message),
    /// The tenant is suspended
    #[response(status = 403, example = json!({"message": "Tenant is suspended"}))]
    Suspended(Message),
    /// The body did not come in time
    #[response(status = 408, content_type = "text/html", example = json!("Request Timeout"))]
    Late(String),
    /// The body has more than 8,000,000 bytes
    #[response(status = 413, content_type = "text/html", example = json!("Request Entity Too Large"))]
    TooLarge(String),
    /// Something is wrong with a message; nothing was delivered
    #[response(status = 422, example = json!({"errors": {"messages": [{}, {"topic": ["can't be blank"]}]}}))]
    Wrong(Problems),
    /// More requests or messages than `max_events_per_second`
    #[response(
        status = 429,
        example = json!({"message": "Too many messages to broadcast, please reduce the batch size"})
    )]
    Crowded(Message),
}

/// Answers to a single message.
#[derive(IntoResponses)]
pub enum SingleAnswers {
    /// Delivered
    #[response(status = 202)]
    Accepted,
    /// The body is not JSON
    #[response(status = 400, content_type = "text/html", example = json!("Bad Request"))]
    Unreadable(String),
    /// There is no valid token, or the host names no tenant
    #[response(status = 401, example = json!({"message": "Unauthorized"}))]
    Unauthorized(Message),
    /// The token may not write to the private topic, or the tenant is suspended
    #[response(status = 403, example = json!({"message": "Unauthorized"}))]
    Denied(Message),
    /// The body did not come in time
    #[response(status = 408, content_type = "text/html", example = json!("Request Timeout"))]
    Late(String),
    /// The body has more than 8,000,000 bytes
    #[response(status = 413, content_type = "text/html", example = json!("Request Entity Too Large"))]
    TooLarge(String),
    /// The body has another content type
    #[response(status = 415)]
    WrongType(UnsupportedMediaType),
    /// The payload is larger than `max_payload_size_in_kb` allows; or the policies could not be asked, which is told
    /// as `{"message": …}`
    #[response(status = 422)]
    Wrong(WrongSingle),
    /// More requests or messages than `max_events_per_second`; or no connection to ask the policies was free
    #[response(status = 429, example = json!({"message": "You have exceeded your rate limit"}))]
    Crowded(Message),
    /// The policies could not be asked
    #[response(status = 500, example = json!({"message": "Unable to authorize broadcast"}))]
    Failed(Message),
}

/// What is wrong with a single message, or with its private topic.
#[derive(ToSchema)]
#[schema(example = json!({"message": "RLS policy error"}))]
#[serde(untagged)]
pub enum WrongSingle {
    /// The message.
    Problems(Problems),
    /// The topic.
    Message(Message),
}

/// Answers to who asks for metrics.
#[derive(IntoResponses)]
pub enum MetricsAnswers {
    /// Metrics in the text format of Prometheus
    #[response(status = 200, content_type = "text/plain; charset=utf-8")]
    Metrics(String),
    /// The scope is neither cluster nor node
    #[response(status = 400, content_type = "text/plain; charset=utf-8")]
    Malformed(String),
    /// There is no valid token
    #[response(status = 403)]
    Refused,
}
