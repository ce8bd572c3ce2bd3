//! What is known of the connection that a request came by.

use std::{net::IpAddr, sync::Arc};

use tokio::sync::OwnedSemaphorePermit;

/// Where a request's connection comes from: the client, or the proxy before the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Holds a connection's place among those allowed; travels with the socket after an upgrade.
#[derive(Debug, Clone)]
pub struct ConnectionPermit(#[expect(dead_code, reason = "held for its drop")] Arc<OwnedSemaphorePermit>);

impl ConnectionPermit {
    /// Holds a place.
    #[must_use]
    pub fn new(place: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(place))
    }
}
