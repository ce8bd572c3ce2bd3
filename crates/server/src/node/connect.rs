//! Connections to databases at the start.

use std::{sync::Arc, time::Duration};

use realtime_channels::tenant_runtime::TenantRuntime;
use realtime_codes::ErrorCode;
use realtime_retry::Backoff;
use tokio::time;

use super::{databases::database_config, node::Node};

/// Pauses between attempts to reach a database at the start.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// Connects to the databases of the tenants that are known from the start, and retries. So the first client need not
/// wait, and the log tells about problems before anybody connects.
pub(super) fn connect_databases(node: &Arc<Node>) {
    if let (Some(legacy), Some(tenant)) = (node.legacy(), node.settings().tenants.first()) {
        legacy.start(database_config(tenant), node.cluster().cloned());
        if legacy.settings().pure && legacy.streams() {
            // The other connections are for clients of the second generation, which may never come.
            return;
        }
    }
    for tenant in &node.settings().tenants {
        let connecting = Arc::clone(node);
        let external_id = tenant.external_id.clone();
        node.sockets().spawn(async move {
            let work = async {
                let Some(runtime) = connecting.runtime(&external_id).await else { return };
                tokio::select! {
                    () = runtime.retired().cancelled() => {}
                    () = connect(&runtime) => {}
                }
            };
            tokio::select! {
                () = connecting.stopping().cancelled() => {}
                () = work => {}
            }
        });
    }
}

/// Tries to reach a tenant's database until it works. Logs the first failure, and the success.
async fn connect(runtime: &TenantRuntime) {
    let tenant = runtime.tenant();
    let mut backoff = RETRY;
    loop {
        if runtime.tenant().suspend {
            return;
        }
        match runtime.database().try_on().await {
            Ok(()) => {
                tracing::info!(tenant = &*tenant.external_id, "connected to the tenant's database");
                return;
            }
            Err(error) => {
                if backoff.failures() == 0 {
                    let code = ErrorCode::UnableToConnectToTenantDatabase.as_str();
                    tracing::error!(tenant = &*tenant.external_id, code, %error, "cannot reach the tenant's database; retrying");
                }
            }
        }
        time::sleep(backoff.failed(rand::random_range(0.5..1.0))).await;
    }
}
