//! Which tenant a request means, and its runtime (protocol 1.4, http_and_ops 2.1).

use std::sync::Arc;

use realtime_channels::tenant_runtime::TenantRuntime;
use realtime_tenants::{Operation, StoreError};
use tokio::sync::broadcast::error::RecvError;

use super::node::Node;

impl Node {
    /// The runtime of the tenant that a host means: the one with the name of the host's first label, or else the
    /// default tenant. `None` if there is none, or if it cannot be served.
    ///
    /// # Errors
    /// [`StoreError`], which is logged, if it is not known whether there is one.
    pub async fn runtime_for_host(&self, host: &str) -> Result<Option<Arc<TenantRuntime>>, StoreError> {
        let tenant = match self.tenants().resolve_cached(host) {
            Some(tenant) => Some(tenant),
            None => self.tenants().resolve(host).await.inspect_err(|error| tell(host, error))?,
        };
        Ok(tenant.and_then(|tenant| self.runtime_of(&tenant.external_id)))
    }

    /// The runtime of a tenant, made if necessary. `None` if there is no tenant with that name, or if it cannot be
    /// served.
    pub async fn runtime(&self, external_id: &str) -> Option<Arc<TenantRuntime>> {
        let answer = self.tenants().get(external_id).await.inspect_err(|error| tell(external_id, error));
        self.runtime_of(&answer.ok().flatten()?.external_id)
    }

    /// Follows changes of tenants in the metadata database, through whichever node they come. Never returns.
    pub async fn follow_changes(&self) {
        let Some(directory) = self.tenants().directory() else { return };
        let mut changes = directory.changes();
        loop {
            match changes.recv().await {
                // The current record counts, not the one at the time of the message. Ends go on by themselves.
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

impl Node {
    /// Carries out what administrators asked of other nodes. Never returns.
    pub async fn follow_operations(&self) {
        let Some(directory) = self.tenants().directory() else { return };
        let mut operations = directory.operations();
        loop {
            match operations.recv().await {
                // Ends go on by themselves.
                Ok((Operation::Reload, external_id)) => drop(self.reload(&external_id)),
                Ok((Operation::Shutdown, external_id)) => drop(self.end_database(&external_id)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }
}

/// Logs that it is not known what a name means. Floods are logged where they are thinned out.
fn tell(name: &str, error: &StoreError) {
    if *error != StoreError::Flooded {
        tracing::error!(tenant = name, code = error.code(), %error, "the tenant cannot be looked up");
    }
}
