//! Streams of events as the document describes them. The transport serves them.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Request, State},
    response::Response,
};

use super::shapes::Message;
use crate::{
    node::Node,
    transport::{ConnectionPermit, Peer, sse},
};

/// Answers `GET /sse/changes`.
#[utoipa::path(
    get, path = "/sse/changes", operation_id = "stream_changes", tag = "Streams",
    summary = "Row changes, or live rows, as server-sent events", security(("tenant" = []), ("apikey" = [])),
    params(
        ("schema" = Option<String>, Query, description = "Schema of the table"),
        ("table" = Option<String>, Query, description = "Table or view; `schema` or `table` is needed"),
        ("event" = Option<String>, Query, description = "`*`, `INSERT`, `UPDATE` or `DELETE`"),
        ("filter" = Option<String>, Query, description = "Conditions, for example `id=eq.1`"),
        ("select" = Option<String>, Query, description = "Columns, joined by commas"),
        ("live" = Option<bool>, Query, description = "Whether to keep a result: first all rows, then what changes in it"),
        ("order" = Option<String>, Query, description = "Order of live rows, for example `id.desc`"),
        ("limit" = Option<u32>, Query, description = "Number of live rows"),
        ("key" = Option<String>, Query, description = "Columns that tell live rows apart, joined by commas"),
        ("since" = Option<String>, Query, description = "The place to go on from: an id or a `commit_timestamp`"),
        ("Last-Event-ID" = Option<String>, Header, description = "The same, as browsers send it; it wins"),
    ),
    responses(
        (status = 200, description = "Events without end", body = String, content_type = "text/event-stream"),
        (status = 400, description = "A parameter, a filter or a table that cannot be had", body = Message),
        (status = 401, description = "No valid token", body = Message),
        (status = 403, description = "The tenant does not allow it", body = Message),
        (status = 404, description = "The host names no tenant", body = Message),
        (status = 429, description = "A limit is reached", body = Message),
        (status = 503, description = "The database does not answer, or the server is stopping", body = Message),
    )
)]
pub async fn changes(
    state: State<Arc<Node>>,
    permit: Extension<ConnectionPermit>,
    peer: Extension<Peer>,
    request: Request,
) -> Response {
    sse::changes(state, permit, peer, request).await
}

/// Answers `GET /sse/broadcast/TOPIC`.
#[utoipa::path(
    get, path = "/sse/broadcast/{topic}", operation_id = "stream_broadcasts", tag = "Streams",
    summary = "Broadcasts on a topic as server-sent events", security(("tenant" = []), ("apikey" = [])),
    params(
        ("topic" = String, Path, description = "Name of the channel, without `realtime:` before it"),
        ("event" = Option<String>, Query, description = "The only event that is wanted"),
        ("private" = Option<bool>, Query, description = "Whether it is the private channel of that name"),
        ("since" = Option<String>, Query, description = "From where on: the id of a message, or milliseconds of Unix time"),
        ("Last-Event-ID" = Option<String>, Header, description = "The same, as browsers send it; it wins"),
    ),
    responses(
        (status = 200, description = "Events without end", body = String, content_type = "text/event-stream"),
        (status = 400, description = "A parameter that cannot be had", body = Message),
        (status = 401, description = "No valid token", body = Message),
        (status = 403, description = "The policies or the tenant do not allow it", body = Message),
        (status = 404, description = "The host names no tenant", body = Message),
        (status = 429, description = "A limit is reached", body = Message),
        (status = 503, description = "The database does not answer, or the server is stopping", body = Message),
    )
)]
pub async fn broadcasts(
    state: State<Arc<Node>>,
    permit: Extension<ConnectionPermit>,
    peer: Extension<Peer>,
    topic: Path<String>,
    request: Request,
) -> Response {
    sse::broadcasts(state, permit, peer, topic, request).await
}
