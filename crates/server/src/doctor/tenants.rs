//! The databases of tenants.

use std::{sync::Arc, time::Duration};

use realtime_channels::{limits::Meters, routes::Routes};
use realtime_doctor::{
    Code, Expected, Facts, Finding, Part, Place, Report, Step, judge as judged, right, unreachable,
};
use realtime_postgres::{ConnectError, DatabaseConfig, TenantDatabase};
use realtime_tenants::{Store, Tenant, TenantRecord, UnusableTenant};
use tokio::time;

use super::secrets;
use crate::{
    config::{MetadataSettings, Settings},
    node::database_config,
};

/// Tenants that are looked at, at most: one page has to do.
pub const MAX_TENANTS: usize = 50;

/// How long looking at a database may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Connections that a server takes beside its pools: replication, set-up, partitions.
const FURTHER: usize = 3;

/// Looks at the tenants' databases, one after the other.
pub(super) async fn judge(settings: &Settings, only: Option<&str>, report: &mut Report) {
    let mut tenants = match &settings.metadata {
        Some(metadata) => match stored(metadata).await {
            Ok(tenants) => tenants,
            Err(finding) => {
                let config = &metadata.config;
                let title = format!("Metadata: database {} at {}:{}", config.name, config.host, config.port);
                report.parts.push(Part { title, right: Vec::new(), findings: vec![finding] });
                return;
            }
        },
        None => settings
            .tenants
            .iter()
            .map(|tenant| (tenant.external_id.to_string(), Ok(tenant.clone())))
            .collect(),
    };
    if let Some(only) = only {
        tenants.retain(|(name, _)| name.eq_ignore_ascii_case(only));
    }
    if tenants.is_empty() {
        let text = only.map_or("There is no tenant".to_owned(), |only| format!("There is no tenant {only}"));
        let mend = vec![Step::Set("SEED_SELF_HOST=true".to_owned())];
        let findings = vec![Finding::new(Code::NoTenant, text, mend)];
        report.parts.push(Part { title: "Tenants".to_owned(), right: Vec::new(), findings });
    }
    for (name, tenant) in tenants.iter().take(MAX_TENANTS) {
        report.parts.push(match tenant {
            Ok(tenant) => examine(tenant, settings).await,
            Err(error) => unusable(name, error),
        });
    }
}

/// A tenant whose record cannot be used.
fn unusable(name: &str, error: &UnusableTenant) -> Part {
    let text = format!("The record of tenant {name} cannot be used: {error}");
    let mend = match error {
        UnusableTenant::Cipher { .. } => {
            "set DB_ENC_KEY and DB_ENC_KEY_GCM to the keys that the record was written with, or write it anew over \
             the admin API"
        }
        UnusableTenant::NoDatabase | UnusableTenant::Setting(_) => {
            "correct the tenant's extension postgres_cdc_rls over the admin API"
        }
    };
    let findings = vec![Finding::new(Code::TenantUnusable, text, vec![Step::Do(mend.to_owned())])];
    Part { title: format!("Tenant {name}"), right: Vec::new(), findings }
}

/// A tenant by its name, or why its record cannot be used.
type Listed = (String, Result<Tenant, UnusableTenant>);

/// The tenants of the metadata database, or why they cannot be read.
async fn stored(metadata: &MetadataSettings) -> Result<Vec<Listed>, Finding> {
    let cannot = |error: String| {
        let mend = vec![Step::Shell("realtime migrate".to_owned())];
        Finding::new(Code::DatabaseUnreachable, format!("The tenants cannot be read: {error}"), mend)
    };
    let store = Store::new(metadata.config.clone()).map_err(|error| cannot(error.to_string()))?;
    let listed = time::timeout(LIMIT, store.list()).await;
    let listed = listed.map_err(|_| cannot("no answer in time".to_owned()))?;
    let records = listed.map_err(|error| cannot(error.to_string()))?;
    let template = &metadata.options.template;
    let listed =
        |record: &TenantRecord| (record.external_id.clone(), record.tenant(store.ciphers(), template));
    Ok(records.iter().map(listed).collect())
}

/// What the settings want of a tenant's database.
#[must_use]
pub fn expected(tenant: &Tenant, settings: &Settings) -> Expected {
    let config = database_config(tenant);
    let connections = config.pool_size + config.policy_pool_size + FURTHER;
    Expected {
        publication: config.publication,
        durable: config.durable_slot,
        max_lag_bytes: config.max_lag_bytes,
        connections: i64::try_from(connections).unwrap_or(i64::MAX),
        prepares: settings.prepare_databases,
        publishes_read: settings.policy_publication,
    }
}

/// Looks at a tenant: its key set, and its database, on connections of its own.
pub async fn examine(tenant: &Tenant, settings: &Settings) -> Part {
    let config = database_config(tenant);
    let title = format!(
        "Tenant {}: database {} at {}:{} as {}",
        tenant.external_id, config.name, config.host, config.port, config.user
    );
    // Those of the settings are judged with the settings.
    let key_set = settings
        .metadata
        .as_ref()
        .and_then(|_| secrets::key_set(tenant, "jwt_jwks of the tenant, over the admin API"));
    let mut part = look(tenant, settings, &config, title).await;
    part.findings.extend(key_set);
    part.findings.sort_by_key(|finding| finding.severity);
    part
}

/// Looks at the database alone.
async fn look(tenant: &Tenant, settings: &Settings, config: &DatabaseConfig, title: String) -> Part {
    let place = Place { host: &config.host, port: config.port, user: &config.user, database: &config.name };
    match time::timeout(LIMIT, facts(tenant)).await {
        Ok(Ok(facts)) => {
            let expected = expected(tenant, settings);
            let findings = judged(&facts, &expected);
            Part { title, right: right(&facts, &expected, &findings), findings }
        }
        Ok(Err(error)) => Part { title, right: Vec::new(), findings: vec![failed(place, &error)] },
        Err(_) => Part { title, right: Vec::new(), findings: vec![unreachable(place, "no answer in time")] },
    }
}

fn failed(place: Place<'_>, error: &ConnectError) -> Finding {
    match error {
        ConnectError::LackOfConnections(text) => {
            let text = format!("PostgreSQL accepts no more connections: {text}");
            let mend = vec![
                Step::Sql("alter system set max_connections = 200".to_owned()),
                Step::Do("restart PostgreSQL: the setting counts from then on".to_owned()),
            ];
            Finding::new(Code::ConnectionsShort, text, mend).of(realtime_doctor::Severity::Error)
        }
        ConnectError::Unreachable(text) => unreachable(place, text),
        ConnectError::RateLimited | ConnectError::Initializing => unreachable(place, &error.to_string()),
    }
}

async fn facts(tenant: &Tenant) -> Result<Facts, ConnectError> {
    let routes = Arc::new(Routes::new(Arc::new(Meters::new(&tenant.limits))));
    let database = TenantDatabase::new(database_config(tenant), routes);
    database.examine().await
}
