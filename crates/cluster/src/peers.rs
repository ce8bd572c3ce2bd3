//! What is known about the other nodes.

use std::{collections::HashMap, sync::Arc};

use parking_lot::{Mutex, RwLock};

use crate::{incoming::Incoming, members::Members};

/// The other nodes, and the tenants that this node listens for.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) members: Mutex<Members>,
    pub(crate) incoming: RwLock<HashMap<Arc<str>, Arc<Incoming>>>,
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

    /// Other nodes on which a tenant has users, as far as this one listens for it.
    pub(crate) fn populated(&self, tenant: &str) -> Vec<u32> {
        self.tenant(tenant).map(|incoming| incoming.populated()).unwrap_or_default()
    }

    /// A tenant that this node listens for.
    pub(crate) fn tenant(&self, tenant: &str) -> Option<Arc<Incoming>> {
        self.incoming.read().get(tenant).map(Arc::clone)
    }

    /// All tenants that this node listens for.
    pub(crate) fn tenants(&self) -> Vec<Arc<Incoming>> {
        self.incoming.read().values().map(Arc::clone).collect()
    }
}
