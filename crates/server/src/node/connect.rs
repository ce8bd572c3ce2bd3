//! Connections to databases at the start.

use std::{sync::Arc, time::Duration};

use rand::Rng as _;
use realtime_channels::tenant_runtime::TenantRuntime;
use tokio::time;

use super::{databases::database_config, node::Node};

/// Pause between attempts to reach a database at start: doubles up to the second value, with jitter.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Connects to the databases of the tenants known from the start and goes on trying, so that the first client need
/// not wait and the log tells what is wrong before anybody asks.
pub(super) fn connect_databases(node: &Arc<Node>) {
    if let (Some(legacy), Some(tenant)) = (node.legacy(), node.settings().tenants.first()) {
        legacy.start(database_config(tenant), node.cluster().cloned());
        if legacy.settings().pure && legacy.streams() {
            // The rest is for clients of the second generation, should there be any.
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

/// Tries to reach a tenant's database until it works; says so once, and again when it works.
async fn connect(runtime: &TenantRuntime) {
    let tenant = runtime.tenant();
    let mut pause = RETRY.0;
    let mut failed = false;
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
                if !failed {
                    let code = "UnableToConnectToTenantDatabase";
                    tracing::error!(tenant = &*tenant.external_id, code, %error, "cannot reach the tenant's database; retrying");
                }
                failed = true;
            }
        }
        let jitter = rand::rng().random_range(0.5..1.0);
        time::sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(RETRY.1);
    }
}
