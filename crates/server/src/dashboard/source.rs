//! What the pages take from the rest of the server.

use std::sync::Arc;

use realtime_tenants::{Directory, Tenant, Tenants};

use crate::app::App;

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
