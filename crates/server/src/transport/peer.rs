//! Facts about the connection of a request.

use std::{net::IpAddr, sync::Arc};

use tokio::sync::OwnedSemaphorePermit;

/// Address of the other side: the client, or the proxy before the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Holds a connection's place. It stays with the socket after an upgrade.
#[derive(Debug, Clone)]
pub struct ConnectionPermit(#[expect(dead_code, reason = "held for its drop")] Arc<OwnedSemaphorePermit>);

impl ConnectionPermit {
    /// Holds a place.
    #[must_use]
    pub fn new(place: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(place))
    }
}
