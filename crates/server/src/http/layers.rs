//! What holds for every route.

use std::sync::Arc;

use axum::{Router, middleware::from_fn_with_state};
use tower_http::compression::{CompressionLayer, predicate::SizeAbove};

use super::{limits, request_log};
use crate::{answers, node::Node, web::Web};

/// Smallest answer that is compressed, in bytes: it fits into one packet anyway.
const MIN_COMPRESSED: u64 = 1_024;

/// What holds for every route, whoever made it (http_and_ops 0); layers run from the last to the first.
pub(super) fn for_all(routes: Router<Web>, node: &Arc<Node>) -> Router<Web> {
    // Small answers grow by it, and the answer to an upgrade has no body at all.
    let compression = CompressionLayer::new().gzip(true).compress_when(SizeAbove::new(MIN_COMPRESSED));
    routes
        .fallback(answers::not_found)
        .method_not_allowed_fallback(answers::not_found)
        .layer(from_fn_with_state(Arc::clone(node), limits::check))
        .layer(compression)
        .layer(from_fn_with_state(Arc::clone(node), request_log::layer))
}
