//! What the pages take from the rest of the server.

use std::sync::Arc;

use realtime_tenants::{Directory, Tenant, Tenants};

use crate::{app::App, life::DATABASE_LIMIT, tenant_runtime::TenantRuntime};

/// The tenants of the metadata database, if there is one.
pub fn directory(app: &App) -> Option<&Arc<Directory>> {
    app.tenants().directory()
}

/// The tenants of the configuration, by name; none if there is a metadata database.
pub fn configured(app: &App) -> Vec<Arc<Tenant>> {
    let mut tenants = match app.tenants() {
        Tenants::Stored(_) => Vec::new(),
        Tenants::Configured(registry) => registry.all(),
    };
    tenants.sort_by(|a, b| a.external_id.cmp(&b.external_id));
    tenants
}

/// A tenant of the metadata database as it is served; why it cannot be, if so.
pub async fn served(app: &App, external_id: &str) -> Result<Arc<Tenant>, String> {
    let Some(directory) = directory(app) else { return Err("There is no metadata database".to_owned()) };
    match directory.refresh(external_id).await {
        Ok(Some(tenant)) => Ok(tenant),
        Ok(None) => Err("Its record cannot be used, the log says why".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What runs of a tenant on this node.
pub fn running(app: &App, external_id: &str) -> Option<Arc<TenantRuntime>> {
    app.runtimes().into_iter().find(|runtime| **runtime.name() == *external_id)
}

/// Ends a tenant's connections to its database; sockets stay. False if there is nothing to end.
pub async fn end_database(app: &App, external_id: &str) -> bool {
    let Some(ending) = app.end_database(external_id) else { return false };
    ending.wait(external_id, DATABASE_LIMIT).await;
    true
}

/// Ends a tenant's replication session, which comes again when it is needed. False if there is nothing to end.
pub async fn end_replication(app: &App, external_id: &str) -> bool {
    match running(app, external_id) {
        Some(runtime) => runtime.database().end_replication().await,
        None => false,
    }
}
