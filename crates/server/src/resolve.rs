//! Which tenant is meant, and what runs of it (protocol 1.4, http_and_ops 2.1).

use std::sync::Arc;

use realtime_tenants::{StoreError, Tenant};
use tokio::sync::broadcast::error::RecvError;

use crate::{app::App, tenant_runtime::TenantRuntime};

impl App {
    /// The running state of the tenant that a host means: the one named by its first label, else the default one, if
    /// there is one. `None` if there is none, or it cannot be served.
    pub async fn runtime_for_host(&self, host: &str) -> Option<Arc<TenantRuntime>> {
        let tenant = match self.tenants().resolve_cached(host) {
            Some(tenant) => tenant,
            None => looked_up(host, self.tenants().resolve(host).await)?,
        };
        self.runtime_of(&tenant.external_id)
    }

    /// The running state of a tenant, made if need be. `None` if there is none of that name, or it cannot be served.
    pub async fn runtime(&self, external_id: &str) -> Option<Arc<TenantRuntime>> {
        let tenant = looked_up(external_id, self.tenants().get(external_id).await)?;
        self.runtime_of(&tenant.external_id)
    }

    /// Follows what happens to tenants of the metadata database, through this node or others, for ever.
    pub async fn follow_changes(&self) {
        let Some(directory) = self.tenants().directory() else { return };
        let mut changes = directory.changes();
        loop {
            match changes.recv().await {
                // What is known by now counts, not what was known when this was told. Ends go on by themselves.
                Ok(change) => drop(self.follow(&change.external_id)),
                Err(RecvError::Lagged(_)) => {
                    for runtime in self.runtimes() {
                        if self.tenants().get(runtime.name()).await.is_ok() {
                            drop(self.follow(runtime.name()));
                        }
                    }
                }
                Err(RecvError::Closed) => return,
            }
        }
    }
}

/// What became of a question to the directory, which answers for tenants that it knows while the database does not.
fn looked_up(name: &str, answer: Result<Option<Arc<Tenant>>, StoreError>) -> Option<Arc<Tenant>> {
    answer.unwrap_or_else(|error| {
        tracing::error!(tenant = name, code = error.code(), %error, "the tenant cannot be looked up");
        None
    })
}
