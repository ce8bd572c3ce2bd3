//! `POST /api/broadcast`: any number of messages on any topics.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Extension,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use realtime_channels::{tenant_runtime::TenantRuntime, token::Token};
use realtime_hub::Said;
use realtime_protocol::write_json_string;
use serde_json::json;

use super::{
    Published, RATE_EXCEEDED, Writer,
    bodies::{Message, Refusal, messages},
    is_json, media_type, read_body, room, turn,
};
use crate::{
    answers::{bad_request, json as answer, message},
    http::shapes::{BatchAnswers, BroadcastBatch},
    transport::policy_headers,
};

/// Answers a batch. All of it is delivered or nothing, except for private topics without permission.
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
    let turn = turn(&parts, &body).await;
    // A body of another type is not read.
    let body: &[u8] = if json && !body.is_empty() { &body } else { b"{}" };
    let messages = match messages(body, tenant.limits.max_payload_bytes()) {
        Ok(messages) => messages,
        Err(Refusal::NotJson) => return bad_request(&parts.headers),
        Err(Refusal::Errors(errors)) => {
            let errors = json!({ "errors": { "messages": errors } });
            return answer(StatusCode::UNPROCESSABLE_ENTITY, &errors);
        }
    };
    drop(turn);
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

/// Publishes public messages first, in order; then private ones, with one question to the policies per topic.
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
    // Where a history is kept each message gets the `meta` of its id there, which is this.
    if let Some(id) = message.id.filter(|_| runtime.history().is_none()) {
        payload.extend_from_slice(format!(",\"meta\":{{\"id\":\"{id}\"}}").as_bytes());
    }
    payload.push(b'}');
    let key = room(runtime, &message.topic, message.private);
    let id = message.id.map(|id| id.as_u128());
    published.add(runtime, &key, message.payload.len(), &Said::Json(&payload), id);
}
