//! The state that handlers of requests get.

use std::{sync::Arc, time::Duration};

use axum::extract::FromRef;

use crate::{
    explain::Explaining,
    node::Node,
    operators::{metrics::Gathered, status::Status},
    throttle::Throttle,
    transport::longpoll::LongPolls,
};

/// Requests without a valid token that one address may send at once: as many as a page with mistakes sends.
const STRANGERS: u32 = 100;

/// Time after which one more is allowed: ten a second, enough for health checks.
const STRANGER_FORGOTTEN: Duration = Duration::from_millis(100);

/// The state of all routes. A handler takes the part that it needs.
#[derive(Clone)]
pub struct Web {
    /// The node.
    pub node: Arc<Node>,
    /// The sessions of the long-poll transport.
    pub long_polls: Arc<LongPolls>,
    /// The metrics of this node and of others.
    pub gathered: Arc<Gathered>,
    /// The state of this node, for the status page.
    pub status: Arc<Status>,
    /// Counts requests without a valid token by address, so that they do not count for the tenant.
    pub strangers: Arc<Throttle>,
    /// How often clients may ask why they get nothing.
    pub explaining: Arc<Explaining>,
}

impl Web {
    /// The state for a node.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        Self {
            long_polls: Arc::new(LongPolls::new(node.settings().long_polls)),
            gathered: Arc::new(Gathered::new(Arc::clone(&node))),
            status: Arc::new(Status::new(Arc::clone(&node))),
            strangers: Arc::new(Throttle::new(STRANGERS, STRANGER_FORGOTTEN)),
            explaining: Arc::default(),
            node,
        }
    }
}

impl FromRef<Web> for Arc<Node> {
    fn from_ref(web: &Web) -> Self {
        Self::clone(&web.node)
    }
}

impl FromRef<Web> for Arc<LongPolls> {
    fn from_ref(web: &Web) -> Self {
        Self::clone(&web.long_polls)
    }
}

impl FromRef<Web> for Arc<Gathered> {
    fn from_ref(web: &Web) -> Self {
        Self::clone(&web.gathered)
    }
}

impl FromRef<Web> for Arc<Status> {
    fn from_ref(web: &Web) -> Self {
        Self::clone(&web.status)
    }
}

impl FromRef<Web> for Arc<Explaining> {
    fn from_ref(web: &Web) -> Self {
        Self::clone(&web.explaining)
    }
}
