//! What the pages take from the rest of the server.

use std::sync::Arc;

use realtime_tenants::{Directory, Tenant, Tenants};

use crate::node::Node;

/// The tenants of the metadata database, if there is one.
pub fn directory(node: &Node) -> Option<&Arc<Directory>> {
    node.tenants().directory()
}

/// The tenants of the configuration, by name; none if there is a metadata database.
pub fn configured(node: &Node) -> Vec<Arc<Tenant>> {
    let mut tenants = match node.tenants() {
        Tenants::Stored(_) => Vec::new(),
        Tenants::Configured(registry) => registry.all(),
    };
    tenants.sort_by(|a, b| a.external_id.cmp(&b.external_id));
    tenants
}

/// A tenant of the metadata database as the server uses it, or why it cannot be used.
pub async fn served(node: &Node, external_id: &str) -> Result<Arc<Tenant>, String> {
    let Some(directory) = directory(node) else { return Err("There is no metadata database".to_owned()) };
    match directory.refresh(external_id).await {
        Ok(Some(tenant)) => Ok(tenant),
        Ok(None) => Err("Its record cannot be used, the log says why".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
