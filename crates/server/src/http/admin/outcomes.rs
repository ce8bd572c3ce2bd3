//! Answers of the admin API.

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use realtime_tenants::StoreError;
use serde::Serialize;

use crate::answers::{JSON, message};

/// `{"data": …}`, keys in the order of the type.
#[derive(Serialize)]
struct Data<T> {
    data: T,
}

/// An answer that has something to say.
pub(super) fn data(status: StatusCode, data: impl Serialize) -> Response {
    match serde_json::to_string(&Data { data }) {
        Ok(body) => (status, [JSON], body).into_response(),
        Err(error) => {
            tracing::error!(code = "UnableToEncodeJson", %error, "cannot answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// There is no such tenant.
pub(super) fn no_such_tenant(external_id: &str) -> Response {
    tracing::warn!(code = "TenantNotFound", tenant = external_id, "TenantNotFound: Tenant not found");
    message(StatusCode::NOT_FOUND, "not found")
}

/// Of a metadata database that did not do what it was asked to.
pub(super) fn unavailable(error: &StoreError) -> Response {
    tracing::error!(code = error.code(), %error, "the metadata database failed");
    message(StatusCode::SERVICE_UNAVAILABLE, "The metadata database is not available")
}
