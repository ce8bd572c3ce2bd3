//! Sets up tenants' databases when administrators ask, and cleans up when a tenant leaves (http_and_ops 1.4).

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use realtime_channels::{limits::Meters, routes::Routes, tenant_runtime::TenantRuntime};
use realtime_codes::ErrorCode;
use realtime_postgres::{Origin, SchemaReport, TenantDatabase};
use realtime_tenants::{Limits, Tenant, TenantFields, TenantRecord};
use tokio::time;

use super::{databases::database_config, node::Node};

/// How long the set-up of a new tenant's database may take.
const LIMIT: Duration = Duration::from_secs(50);

/// Number of migrations that is stored for our own schema, which has none.
const OURS: i32 = 1;

/// Sets up the database of a new tenant. Failures are logged.
///
/// # Errors
/// If it could not be done.
pub async fn of_record(node: &Node, record: &TenantRecord) -> Result<(), ()> {
    let tenant = match tenant(node, record) {
        Ok(tenant) => tenant,
        Err(error) => {
            let code = ErrorCode::MigrationsFailedToRun.as_str();
            tracing::error!(tenant = record.external_id, code, error, "the tenant has no usable database");
            return Err(());
        }
    };
    if !node.settings().prepare_databases {
        return Ok(());
    }
    let report = run(&tenant).await.ok_or(())?;
    note(node, &tenant.external_id, &report).await;
    Ok(())
}

/// Whether a tenant's database was set up. If not, the set-up begins, and a later call will see that it is done.
pub async fn is_done(node: &Arc<Node>, runtime: &Arc<TenantRuntime>) -> bool {
    if !node.settings().prepare_databases || runtime.is_set_up() || runtime.database().is_prepared() {
        return true;
    }
    if let Some(directory) = node.tenants().directory()
        && let Ok(Some(record)) = directory.store().get(runtime.name()).await
        && record.migrations_ran.is_some_and(|count| count > 0)
    {
        runtime.set_up();
        return true;
    }
    if !runtime.setting_up().swap(true, Ordering::AcqRel) {
        let (node, runtime) = (Arc::clone(node), Arc::clone(runtime));
        node.sockets().spawn({
            let node = Arc::clone(&node);
            async move {
                if let Some(report) = run(&runtime.tenant()).await {
                    note(&node, runtime.name(), &report).await;
                    runtime.set_up();
                }
                runtime.setting_up().store(false, Ordering::Release);
            }
        });
    }
    false
}

/// Drops a removed tenant's slots in its database, which would keep the log from being removed.
pub fn leave(node: &Node, record: &TenantRecord) {
    let Ok(tenant) = tenant(node, record) else { return };
    node.endings().spawn(async move {
        let external_id = &*tenant.external_id;
        match handle(&tenant).drop_slots().await {
            Ok(slots) if slots.is_empty() => {}
            Ok(slots) => tracing::info!(tenant = external_id, slots = slots.join(", "), "replication slots dropped"),
            Err(error) => {
                let code = ErrorCode::DropReplicationSlotFailed.as_str();
                tracing::error!(tenant = external_id, code, %error, "the tenant's slots could not be dropped");
            }
        }
    });
}

/// The tenant of a record, or why it cannot be used.
fn tenant(node: &Node, record: &TenantRecord) -> Result<Tenant, String> {
    let metadata = node.settings().metadata.as_ref().zip(node.tenants().directory());
    let (metadata, directory) = metadata.ok_or("There is no metadata database")?;
    let tenant = record.tenant(directory.store().ciphers(), &metadata.options.template);
    tenant.map_err(|error| error.to_string())
}

/// A handle for one piece of work, on a connection of its own.
fn handle(tenant: &Tenant) -> TenantDatabase {
    let meters = Arc::new(Meters::new(&Limits::default()));
    TenantDatabase::new(database_config(tenant), Arc::new(Routes::new(meters)))
}

async fn run(tenant: &Tenant) -> Option<SchemaReport> {
    let external_id = &*tenant.external_id;
    let code = ErrorCode::MigrationsFailedToRun.as_str();
    let report = match time::timeout(LIMIT, handle(tenant).set_up_schema(SystemTime::now(), false)).await {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => {
            tracing::error!(tenant = external_id, code, %error, "the tenant's database could not be set up");
            return None;
        }
        Err(_) => {
            tracing::error!(
                tenant = external_id,
                code,
                limit = ?LIMIT,
                "the tenant's database was not set up in time"
            );
            return None;
        }
    };
    for failure in &report.failed {
        tracing::warn!(tenant = external_id, code, "set-up: {failure}");
    }
    Some(report)
}

/// Stores the number of migrations in the tenant's record.
async fn note(node: &Node, external_id: &str, report: &SchemaReport) {
    let Some(directory) = node.tenants().directory() else { return };
    let count = match report.origin {
        Origin::Supabase(Some(migrations)) => i32::try_from(migrations).unwrap_or(i32::MAX),
        Origin::Ours | Origin::Supabase(None) => OURS,
    };
    let fields = TenantFields { migrations_ran: Some(Some(count)), ..TenantFields::default() };
    if let Err(error) = directory.update(external_id, &fields).await {
        let code = ErrorCode::MigrationCountMismatchReconcileFailed.as_str();
        tracing::warn!(tenant = external_id, code, %error, "the set-up could not be written down");
    }
}
