//! Answers of the admin API.

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use realtime_codes::ErrorCode;
use realtime_tenants::StoreError;
use serde::Serialize;

use crate::answers::{JSON, message};

/// `{"data": …}`, with keys in the order of the type.
#[derive(Serialize)]
struct Data<T> {
    data: T,
}

/// An answer with data.
pub(super) fn data(status: StatusCode, data: impl Serialize) -> Response {
    match serde_json::to_string(&Data { data }) {
        Ok(body) => (status, [JSON], body).into_response(),
        Err(error) => {
            tracing::error!(code = ErrorCode::UnableToEncodeJson.as_str(), %error, "cannot answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The answer if there is no such tenant.
pub(super) fn no_such_tenant(external_id: &str) -> Response {
    let code = ErrorCode::TenantNotFound.as_str();
    tracing::warn!(code, tenant = external_id, "{code}: Tenant not found");
    message(StatusCode::NOT_FOUND, "not found")
}

/// The answer if the metadata database has failed.
pub(super) fn unavailable(error: &StoreError) -> Response {
    tracing::error!(code = error.code(), %error, "the metadata database failed");
    message(StatusCode::SERVICE_UNAVAILABLE, "The metadata database is not available")
}
