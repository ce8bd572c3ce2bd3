//! The Inspector, the status page (http_and_ops 4) and the documentation.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, RawQuery, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use realtime_pages::{CONTENT_SECURITY_POLICY, DOCS_SECURITY_POLICY, Page, docs, files};
use serde::Deserialize;

use crate::{
    answers::{JSON, not_found, text},
    operators::status::Status,
    web::Web,
};

/// Browsers ask each time whether their copy is current.
const ASK: &str = "no-cache";

/// Browsers never ask again, because the address changes with the files.
const KEEP: &str = "public, max-age=31536000, immutable";

/// The pages' routes.
pub fn routes() -> Router<Web> {
    Router::new()
        .route("/", get(inspector))
        .route("/inspector", get(moved))
        .route("/inspector/new", get(moved))
        .route("/status", get(status_page))
        .route("/status.json", get(status_report))
        .merge(documentation())
        .route("/assets/{tag}/{*path}", get(asset))
        .route("/favicon.svg", get(|headers: HeaderMap| async move { root_file("favicon.svg", &headers) }))
        .route("/robots.txt", get(|headers: HeaderMap| async move { root_file("robots.txt", &headers) }))
        .route("/worker.js", get(|headers: HeaderMap| async move { root_file("worker.js", &headers) }))
        .layer(middleware::map_response(protect))
}

/// The routes of the documentation.
fn documentation() -> Router<Web> {
    Router::new()
        .route("/docs", get(index))
        .route("/docs/", get(index))
        .route("/docs/search", get(search))
        .route("/docs/images/{name}", get(picture))
        .route("/docs/{*address}", get(document))
        .layer(middleware::map_response(let_search))
}

/// What the documentation may do in a browser.
async fn let_search(mut response: Response) -> Response {
    let policy = HeaderValue::from_static(DOCS_SECURITY_POLICY);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

/// Lets pages of other servers read why a handshake was refused. Browsers tell them nothing else.
pub async fn let_pages_read_refusals(request: Request, next: Next) -> Response {
    let from_page = request.headers().contains_key(header::ORIGIN);
    let mut response = next.run(request).await;
    if from_page && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    response
}

/// Keeps other sites from learning the Inspector's address, which contains a token, and from framing the page.
async fn protect(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

async fn inspector(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    html(&headers, status.site().inspector.clone())
}

async fn status_page(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    html(&headers, status.site().status.clone())
}

async fn index(State(status): State<Arc<Status>>, request: Request) -> Response {
    match status.site().document("") {
        Some(page) => html(request.headers(), page),
        None => not_found(request).await,
    }
}

async fn document(
    State(status): State<Arc<Status>>,
    Path(address): Path<String>,
    request: Request,
) -> Response {
    match status.site().document(&address) {
        Some(page) => html(request.headers(), page),
        None => not_found(request).await,
    }
}

/// The query of a search.
#[derive(Debug, Default, Deserialize)]
struct Sought {
    #[serde(default)]
    q: String,
}

async fn search(
    State(status): State<Arc<Status>>,
    Query(sought): Query<Sought>,
    headers: HeaderMap,
) -> Response {
    html(&headers, status.site().search(&sought.q))
}

/// A picture of the documentation.
async fn picture(Path(name): Path<String>, request: Request) -> Response {
    let Some(bytes) = docs::image(&name) else { return not_found(request).await };
    let kind = if name.ends_with(".svg") { "image/svg+xml" } else { "image/png" };
    cached(request.headers(), &files::etag(bytes), ASK, kind, || bytes.into())
}

fn html(headers: &HeaderMap, page: Page) -> Response {
    cached(headers, &page.etag, ASK, "text/html; charset=utf-8", || page.html.into())
}

/// The report of the status page. Anyone may read it; it names no tenant.
async fn status_report(State(status): State<Arc<Status>>) -> Response {
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")];
    ([JSON], headers, status.report()).into_response()
}

/// Old addresses of the Inspector.
async fn moved(RawQuery(query): RawQuery) -> Response {
    let target = query.map_or_else(|| "/".to_owned(), |query| format!("/?{query}"));
    (StatusCode::FOUND, [(header::LOCATION, target)]).into_response()
}

/// A file, at an address with the files' tag. A different tag is that of a node with other files: the answer is our
/// file, which must not be cached.
async fn asset(Path((tag, path)): Path<(String, String)>, request: Request) -> Response {
    let Some(file) = files::find(&path) else { return not_found(request).await };
    let caching = if tag == *files::TAG { KEEP } else { ASK };
    cached(request.headers(), &file.etag(), caching, file.media_type(), || file.bytes.into())
}

fn root_file(path: &str, headers: &HeaderMap) -> Response {
    let Some(file) = files::find(path) else { return StatusCode::NOT_FOUND.into_response() };
    cached(headers, &file.etag(), ASK, file.media_type(), || file.bytes.into())
}

/// The body, or 304 if the browser has it.
fn cached(
    headers: &HeaderMap,
    etag: &str,
    caching: &'static str,
    media_type: &'static str,
    body: impl FnOnce() -> Body,
) -> Response {
    let known = text(headers, header::IF_NONE_MATCH).is_some_and(|known| {
        known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag || tag.trim() == "*")
    });
    let validators = [(header::ETAG, etag.to_owned()), (header::CACHE_CONTROL, caching.to_owned())];
    if known {
        return (StatusCode::NOT_MODIFIED, validators).into_response();
    }
    (validators, [(header::CONTENT_TYPE, media_type)], body()).into_response()
}
