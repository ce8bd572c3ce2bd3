//! `POST /api/explain`: why the sender of a token gets nothing, as far as that token may know it.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::to_bytes,
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use realtime_channels::{tenant_runtime::TenantRuntime, token::Token};
use serde_json::{Map, Value, json};
use tokio::time;

use super::shapes::{self, ExplainAnswers};
use crate::{
    answers::{json as answer, message},
    explain::{Asked, Explaining, of_token},
    transport::Peer,
};

/// Largest body, in bytes: a binding and a key.
const MAX_BODY: usize = 64 * 1024;

/// How long an explanation may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Answers one question. Everything is asked of the database under the rights of the token.
#[utoipa::path(
    post, path = "/api/explain", operation_id = "explain", tag = "Operations",
    summary = "Why row changes do not reach the sender of the token",
    security(("tenant" = []), ("apikey" = [])),
    request_body = shapes::ExplainBody,
    responses(ExplainAnswers)
)]
pub async fn explain(
    State(explaining): State<Arc<Explaining>>,
    Extension(runtime): Extension<Arc<TenantRuntime>>,
    Extension(token): Extension<Arc<Token>>,
    request: Request,
) -> Response {
    let peer = request.extensions().get().map_or(Ipv4Addr::UNSPECIFIED.into(), |Peer(address)| *address);
    if !explaining.may(peer) {
        return message(StatusCode::TOO_MANY_REQUESTS, "Too many requests");
    }
    if runtime.tenant().suspend {
        return message(StatusCode::FORBIDDEN, "Tenant is suspended");
    }
    let asked = match read(request).await {
        Ok(asked) => asked,
        Err(problem) => return answer(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "message": problem })),
    };
    let Some(_place) = explaining.place() else {
        return message(StatusCode::TOO_MANY_REQUESTS, "Too many requests");
    };
    let now = runtime.clock().unix_seconds();
    let database = runtime.database();
    match time::timeout(LIMIT, of_token(&database, &token, now, &asked, false)).await {
        Ok(Ok(explanation)) => match serde_json::to_value(&explanation) {
            Ok(json) => answer(StatusCode::OK, &json),
            Err(_) => message(StatusCode::INTERNAL_SERVER_ERROR, "The explanation cannot be written"),
        },
        Ok(Err(error)) => message(StatusCode::SERVICE_UNAVAILABLE, error.join_reason()),
        Err(_) => message(StatusCode::SERVICE_UNAVAILABLE, "The database did not answer in time"),
    }
}

async fn read(request: Request) -> Result<Asked, String> {
    let body =
        to_bytes(request.into_body(), MAX_BODY).await.map_err(|_| "The body is too large".to_owned())?;
    let params: Map<String, Value> =
        serde_json::from_slice(&body).map_err(|_| "The body must be a JSON object".to_owned())?;
    Asked::read(&params)
}
