//! Which tenant is meant, and what runs of it (protocol 1.4, http_and_ops 2.1).
//!
//! Tenants are those of the metadata database, if there is one, else those of the configuration.

use std::sync::Arc;

use realtime_tenants::{Tenant, host_label};
use tokio::sync::broadcast::error::RecvError;

use crate::{app::App, tenant_runtime::TenantRuntime};

impl App {
    /// The running state of the tenant that a host means: the one named by its first label, else the default one, if
    /// there is one.
    pub async fn runtime_for_host(&self, host: &str) -> Option<Arc<TenantRuntime>> {
        if self.directory().is_none() {
            return self.runtime_of(&self.registry().resolve(host)?, || true).ok()?;
        }
        let label = host_label(host);
        if let Some(runtime) = self.runtime(&label).await {
            return Some(runtime);
        }
        match self.default_tenant() {
            Some(default) if default != label => self.runtime(default).await,
            _ => None,
        }
    }

    /// The running state of a tenant, made if need be. `None` if there is none of that name, or it cannot be served.
    ///
    /// While the metadata database is away, what runs already goes on.
    pub async fn runtime(&self, external_id: &str) -> Option<Arc<TenantRuntime>> {
        let Some(directory) = self.directory() else {
            return self.runtime_of(&self.registry().get(external_id)?, || true).ok()?;
        };
        loop {
            let followed = self.followed();
            let tenant = match directory.get(external_id).await {
                Ok(tenant) => tenant?,
                Err(error) => {
                    let running = self.lock_runtimes().get(external_id).map(Arc::clone);
                    tracing::error!(
                        tenant = external_id, code = error.code(), %error, running = running.is_some(),
                        "the tenant cannot be looked up"
                    );
                    return running;
                }
            };
            if let Ok(runtime) = self.runtime_of(&tenant, || self.followed() == followed) {
                return runtime;
            }
        }
    }

    /// The record of a tenant as sockets are served with it.
    pub async fn tenant(&self, external_id: &str) -> Option<Arc<Tenant>> {
        Some(self.runtime(external_id).await?.tenant())
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
