//! `GET /api/openapi` (http_and_ops 3): the OpenAPI document of the HTTP API, made from its handlers.

use axum::{
    extract::{OriginalUri, Request},
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, header};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self, ServerBuilder,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{admin, broadcast, shapes, streams, tenant_api};
use crate::answers;

/// Prefix that gateways put before the API.
const GATEWAY: &str = "/realtime/v1";

/// The document without the server's address, which depends on the request.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Realtime",
        description = "Broadcasts and streams over HTTP, and the administration of tenants. Which tenant a request of clients \
                       means is told by the first label of its host.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        super::healthcheck::healthcheck,
        super::metrics::metrics,
        super::metrics::of_region,
        tenant_api::ping,
        broadcast::batch,
        broadcast::single,
        broadcast::history,
        streams::changes,
        streams::broadcasts,
        super::explain::explain,
    ),
    components(schemas(
        shapes::Explanation, shapes::Message, shapes::PastMessage, shapes::Problems, shapes::UnsupportedMediaType, shapes::WrongSingle
    )),
    tags(
        (name = "Broadcast", description = "Messages to those who have joined a topic"),
        (name = "Streams", description = "Row changes and broadcasts, as they happen"),
        (name = "Operations", description = "For those who run the server"),
    ),
    modifiers(&Security, &Bodies)
)]
struct Document;

/// The ways to authenticate.
struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let bearer = |text: &str| {
            let scheme = HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format("JWT")
                .description(Some(text));
            SecurityScheme::Http(scheme.build())
        };
        let components = document.components.get_or_insert_default();
        for (name, scheme) in [
            (
                "tenant",
                bearer(
                    "A token of the tenant: signed with its secret or a key of its set, with the claims `role` and `exp`.",
                ),
            ),
            (
                "apikey",
                SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
                    "apikey",
                    "The same token, for clients that cannot set `Authorization`.",
                ))),
            ),
            (
                "administrator",
                bearer(
                    "A token signed with `API_JWT_SECRET` or `API_JWT_SECRET_NEXT`, without the role of a client.",
                ),
            ),
            ("metrics", bearer("A token signed with `METRICS_JWT_SECRET`.")),
        ] {
            components.add_security_scheme(name, scheme);
        }
    }
}

/// Marks bodies as optional: the generator marks those of several types as required, but a message may have no
/// payload.
struct Bodies;

impl Modify for Bodies {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let single = document.paths.paths.get_mut("/api/broadcast/{topic}/events/{event}");
        let body = single.and_then(|path| path.post.as_mut()?.request_body.as_mut());
        if let Some(openapi::RefOr::T(body)) = body {
            body.required = Some(openapi::Required::False);
        }
    }
}

/// The document as JSON, with the address that the request came to.
pub async fn document(OriginalUri(uri): OriginalUri, request: Request) -> Response {
    let headers = request.headers();
    let host = answers::text(headers, header::HOST).filter(|host| is_host(host)).unwrap_or("localhost");
    let scheme = match answers::text(headers, "x-forwarded-proto") {
        Some("https") => "https",
        _ => "http",
    };
    let prefix = if uri.path().starts_with(GATEWAY) { GATEWAY } else { "" };
    match render(&format!("{scheme}://{host}{prefix}")) {
        Ok(json) => ([answers::JSON], json).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write the OpenAPI document");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn render(server: &str) -> serde_json::Result<String> {
    let mut document = Document::openapi();
    document.merge(admin::Document::openapi());
    document.servers = Some(vec![ServerBuilder::new().url(server).build()]);
    document.to_pretty_json()
}

/// Whether the text is a host with an optional port. Anything else could change the URL.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// http_and_ops 57: what clients are generated from changes only on purpose
    #[test]
    fn the_document() {
        insta::assert_snapshot!(render("http://localhost:4000").unwrap());
    }

    #[test]
    fn hosts_that_are_none_are_not_repeated() {
        assert!(is_host("abc.example:4000") && is_host("[::1]:4000") && is_host("a_b"));
        for bad in ["", "a/b", "a@b", "a b", "a?b", "é"] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
