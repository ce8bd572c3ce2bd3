//! `GET /swaggerui` (http_and_ops 0.1): a page to read and try the OpenAPI document. All its files are in the binary.

use std::{
    io::Read as _,
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, header};
use utoipa_swagger_ui::Config;

use crate::{answers, operators::status::Status, web::Web};

/// For the files. They change only with the version of the server.
const CACHE: (header::HeaderName, &str) = (header::CACHE_CONTROL, "public, max-age=3600");

/// Swagger UI sets styles on its elements. Scripts come from here only.
const POLICY: (header::HeaderName, &str) = (
    header::CONTENT_SECURITY_POLICY,
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// `validatorUrl`: the document must not be sent to anyone else.
const START: &str = "SwaggerUIBundle({ url: 'api/openapi', dom_id: '#swagger-ui', deepLinking: true, \
                     validatorUrl: null, tryItOutEnabled: true, persistAuthorization: false });\n";

/// Files are looked up with it. It describes Swagger UI's own start page, which is not served.
static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| Arc::new(Config::from("/api/openapi")));

/// The page and its files.
pub fn router() -> Router<Web> {
    Router::new().route("/swaggerui", get(page)).route("/swaggerui/{file}", get(file))
}

async fn page(State(status): State<Arc<Status>>) -> Response {
    let html = status.site().swagger.html.clone();
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), POLICY], html).into_response()
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    if name == "start.js" {
        return ([(header::CONTENT_TYPE, "text/javascript"), CACHE], START).into_response();
    }
    let found = utoipa_swagger_ui::serve(&name, Arc::clone(&CONFIG)).ok().flatten();
    // Its own pages are not served, nor files that our page does not use.
    let Some(found) = found.filter(|_| !name.ends_with(".html")) else {
        return (StatusCode::NOT_FOUND, "Not Found").into_response();
    };
    let kind = [(header::CONTENT_TYPE, found.content_type), (header::VARY, "accept-encoding".to_owned())];
    if !found.gzpipped {
        return (kind, [CACHE], found.bytes.into_owned()).into_response();
    }
    if answers::text(&headers, header::ACCEPT_ENCODING).is_some_and(|accepted| accepted.contains("gzip")) {
        return (kind, [CACHE, (header::CONTENT_ENCODING, "gzip")], found.bytes.into_owned()).into_response();
    }
    let mut plain = Vec::new();
    match flate2::read::GzDecoder::new(&*found.bytes).read_to_end(&mut plain) {
        Ok(_) => (kind, [CACHE], plain).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
