//! Webhooks run whether or not anybody is connected: their tenants are kept running, and files with webhooks are read
//! again when they change.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use realtime_channels::tenant_runtime::TenantRuntime;
use realtime_codes::ErrorCode;
use realtime_tenants::{Tenant, Tenants};
use tokio::time::{self, Duration};

use super::node::Node;
use crate::config::read_webhooks;

/// How often it is looked which tenants of the metadata database have webhooks.
const LOOK: Duration = Duration::from_secs(30);

/// How often it is looked whether a file has changed.
const LOOK_AT_FILES: Duration = Duration::from_secs(2);

/// When a file was changed last, and its size.
type Version = Option<(SystemTime, u64)>;

impl Node {
    /// Makes the webhooks of a tenant follow its settings. Call it within a runtime.
    pub(super) fn apply_webhooks(&self, runtime: &TenantRuntime) {
        let tenant = runtime.tenant();
        if !tenant.webhooks.is_empty() || runtime.webhooks().is_any() || tenant.database.durable_slot {
            runtime.webhooks().apply(&tenant, &self.prepared(&tenant), self.settings().webhooks_reach);
        }
    }

    /// Runs the tenants of the metadata database that have webhooks. Never returns.
    pub(super) async fn keep_webhooks(&self) {
        let Some(directory) = self.tenants().directory() else { return };
        loop {
            match directory.store().with_webhooks().await {
                Ok(names) => {
                    for name in names {
                        // What is wrong with a tenant is logged where it is looked up.
                        let _ = self.runtime(&name).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(code = error.code(), %error, "cannot look for webhooks; retrying")
                }
            }
            time::sleep(LOOK).await;
        }
    }
}

/// Runs the tenants of the configuration that have webhooks, and reads their files again when they change.
pub(super) fn begin(node: &Arc<Node>) {
    for tenant in &node.settings().tenants {
        if !tenant.webhooks.is_empty() && node.tenants().directory().is_none() {
            let _ = node.runtime_of(&tenant.external_id);
        }
    }
    for (external_id, path) in &node.settings().webhook_files {
        let work = follow(Arc::clone(node), external_id.clone(), path.clone());
        let stopping = node.stopping().clone();
        node.sockets().spawn(async move { stopping.run_until_cancelled(work).await });
    }
}

async fn version(path: &PathBuf) -> Version {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Reads a file again when it changes. While it cannot be used, what was read before stays in force.
async fn follow(node: Arc<Node>, external_id: Box<str>, path: PathBuf) {
    // What was changed since the start of the server is read once more.
    let mut known: Version = None;
    loop {
        let now = version(&path).await;
        if now != known {
            known = now;
            let reading = path.clone();
            match tokio::task::spawn_blocking(move || read_webhooks(&reading)).await {
                Ok(Ok(webhooks)) => node.set_webhooks(&external_id, webhooks.into()),
                Ok(Err(error)) => {
                    let code = ErrorCode::WebhooksUnavailable.as_str();
                    tracing::error!(
                        tenant = &*external_id,
                        code,
                        error,
                        "the file with webhooks is not used"
                    );
                }
                Err(_) => return,
            }
        }
        time::sleep(LOOK_AT_FILES).await;
    }
}

impl Node {
    /// Replaces the webhooks of a tenant of the configuration.
    fn set_webhooks(&self, external_id: &str, webhooks: Arc<[realtime_webhooks::Webhook]>) {
        let Tenants::Configured(registry) = self.tenants() else { return };
        let Some(tenant) = registry.get(external_id).filter(|tenant| tenant.webhooks != webhooks) else {
            return;
        };
        tracing::info!(tenant = external_id, webhooks = webhooks.len(), "webhooks have changed");
        registry.put(Tenant { webhooks, ..(*tenant).clone() });
        drop(self.follow(external_id));
        // There may have been none before.
        let _ = self.runtime_of(external_id);
    }
}
