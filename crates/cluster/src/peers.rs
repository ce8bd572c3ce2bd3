//! What is known about the other nodes.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::time::{Duration, Instant};

use crate::{
    chance::Map,
    incoming::Incoming,
    members::Members,
    scope::{Part, Scope},
};

/// The other nodes, and what this node listens to.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) members: Mutex<Members>,
    pub(crate) incoming: RwLock<Map<Scope, Arc<Incoming>>>,
}

impl Peers {
    /// No node is known yet.
    pub(crate) fn new(members: Members) -> Self {
        Self { members: Mutex::new(members), incoming: RwLock::default() }
    }

    /// Whether a node is heard.
    pub(crate) fn hears(&self, node: u32) -> bool {
        self.members.lock().contains(node)
    }

    /// The other nodes.
    pub(crate) fn others(&self) -> Vec<u32> {
        self.members.lock().nodes().keys().copied().collect()
    }

    /// When a node was started, at the earliest; as far as that is known.
    pub(crate) fn began(&self, node: u32) -> Option<Instant> {
        let members = self.members.lock();
        let member = members.nodes().get(&node)?;
        // It tells whole seconds.
        member.heard.checked_sub(Duration::from_secs(member.beat.up? + 1))
    }

    /// Other nodes on which a tenant has users, as far as this one listens for it.
    pub(crate) fn populated(&self, tenant: &Arc<str>) -> Vec<u32> {
        self.listened(&Scope::whole(tenant)).map(|incoming| incoming.populated()).unwrap_or_default()
    }

    /// A part of a tenant that this node listens to.
    pub(crate) fn listened(&self, scope: &Scope) -> Option<Arc<Incoming>> {
        self.incoming.read().get(scope).map(Arc::clone)
    }

    /// All parts of tenants that this node listens to.
    pub(crate) fn all_listened(&self) -> Vec<Arc<Incoming>> {
        self.incoming.read().values().map(Arc::clone).collect()
    }

    /// All tenants that this node listens for.
    pub(crate) fn tenants(&self) -> Vec<Arc<Incoming>> {
        let incoming = self.incoming.read();
        incoming.values().filter(|incoming| incoming.scope.part == Part::Whole).map(Arc::clone).collect()
    }
}
