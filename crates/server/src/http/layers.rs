//! Layers around all routes.

use std::sync::Arc;

use axum::{Router, middleware::from_fn_with_state};
use tower_http::compression::{CompressionLayer, predicate::SizeAbove};

use super::{limits, request_log};
use crate::{answers, node::Node, web::Web};

/// Smallest answer that is compressed, in bytes. A smaller one fits into one packet anyway.
const MIN_COMPRESSED: u64 = 1_024;

/// Adds the layers that all routes have (http_and_ops 0). Layers run from the last to the first.
pub(super) fn for_all(routes: Router<Web>, node: &Arc<Node>) -> Router<Web> {
    // Compression makes small answers larger, and the answer to an upgrade has no body.
    let compression = CompressionLayer::new().gzip(true).compress_when(SizeAbove::new(MIN_COMPRESSED));
    routes
        .fallback(answers::not_found)
        .method_not_allowed_fallback(answers::not_found)
        .layer(from_fn_with_state(Arc::clone(node), limits::check))
        .layer(compression)
        .layer(from_fn_with_state(Arc::clone(node), request_log::layer))
}
