//! Which tenant is meant, and what runs of it (protocol 1.4, http_and_ops 2.1).
//!
//! Tenants are those of the metadata database, if there is one, else those of the configuration.

use std::sync::Arc;

use realtime_tenants::{StoreError, Tenant};
use tokio::sync::broadcast::error::RecvError;

use crate::{app::App, tenant_runtime::TenantRuntime};

impl App {
    /// The running state of the tenant that a host means: the one named by its first label, else the default one, if
    /// there is one.
    pub async fn runtime_for_host(&self, host: &str) -> Option<Arc<TenantRuntime>> {
        let Some(directory) = self.directory() else {
            return self.runtime_of(&self.registry().resolve(host)?, || true).ok()?;
        };
        loop {
            let followed = self.followed();
            let tenant = match directory.resolve_cached(host) {
                Some(tenant) => tenant,
                None => looked_up(host, directory.resolve(host).await)?,
            };
            if let Ok(runtime) = self.runtime_of(&tenant, || self.followed() == followed) {
                return runtime;
            }
        }
    }

    /// The running state of a tenant, made if need be. `None` if there is none of that name, or it cannot be served.
    pub async fn runtime(&self, external_id: &str) -> Option<Arc<TenantRuntime>> {
        let Some(directory) = self.directory() else {
            return self.runtime_of(&self.registry().get(external_id)?, || true).ok()?;
        };
        loop {
            let followed = self.followed();
            let tenant = looked_up(external_id, directory.get(external_id).await)?;
            if let Ok(runtime) = self.runtime_of(&tenant, || self.followed() == followed) {
                return runtime;
            }
        }
    }

    /// Follows what happens to tenants of the metadata database, through this node or others, for ever.
    pub async fn follow_changes(&self) {
        let Some(directory) = self.directory() else { return };
        let mut changes = directory.changes();
        loop {
            match changes.recv().await {
                // Ends go on by themselves.
                Ok(change) => drop(self.follow(&change.external_id, change.tenant.as_ref())),
                Err(RecvError::Lagged(_)) => {
                    for runtime in self.runtimes() {
                        let name = runtime.name();
                        if let Ok(tenant) = directory.get(name).await {
                            drop(self.follow(name, tenant.as_ref()));
                        }
                    }
                }
                Err(RecvError::Closed) => return,
            }
        }
    }
}

/// What became of a question to the directory. It answers for tenants that it knows while the database does not.
fn looked_up(name: &str, answer: Result<Option<Arc<Tenant>>, StoreError>) -> Option<Arc<Tenant>> {
    answer.unwrap_or_else(|error| {
        tracing::error!(tenant = name, code = error.code(), %error, "the tenant cannot be looked up");
        None
    })
}
