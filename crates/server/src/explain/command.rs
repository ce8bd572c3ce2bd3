//! `realtime explain`: the database is asked directly, with what operators may know.

use std::{sync::Arc, time::Duration};

use realtime_channels::{limits::Meters, routes::Routes, token::Token};
use realtime_doctor::explain::Explanation;
use realtime_postgres::TenantDatabase;
use realtime_tenants::{Store, Tenant};
use tokio::time;

use super::{
    asked::Asked,
    told::{of_refused, of_token},
};
use crate::{
    config::Settings,
    node::{database_config, verifier},
};

/// How long the database may take for all questions.
const LIMIT: Duration = Duration::from_secs(60);

/// Explains for a token of a tenant of the settings.
///
/// # Errors
/// In words for people, when the tenant is not to be found or the database cannot be asked.
pub async fn run(
    settings: &Settings,
    tenant: Option<&str>,
    token: &str,
    now: u64,
    asked: &Asked,
) -> Result<Explanation, String> {
    let tenant = find(settings, tenant).await?;
    let verifier = verifier(&tenant, settings).map_err(|error| error.to_string())?;
    let token = match verifier.verify(token, now) {
        Ok(claims) => Token::new(token, &claims),
        Err(error) => return Ok(of_refused(error.to_string(), asked)),
    };
    let routes = Arc::new(Routes::new(Arc::new(Meters::new(&tenant.limits))));
    let database = TenantDatabase::new(database_config(&tenant), routes);
    match time::timeout(LIMIT, of_token(&database, &token, now, asked, true)).await {
        Ok(explained) => explained.map_err(|error| error.to_string()),
        Err(_) => Err("The database did not answer in time".to_owned()),
    }
}

/// The tenant that is named, or the only one.
async fn find(settings: &Settings, name: Option<&str>) -> Result<Tenant, String> {
    let tenants: Vec<Tenant> = match &settings.metadata {
        Some(metadata) => {
            let store = Store::new(metadata.config.clone()).map_err(|error| error.to_string())?;
            let records = store.list().await.map_err(|error| error.to_string())?;
            let template = &metadata.options.template;
            records.iter().filter_map(|record| record.tenant(store.ciphers(), template).ok()).collect()
        }
        None => settings.tenants.clone(),
    };
    match (name, &tenants[..]) {
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err("There is no tenant".to_owned()),
        (None, _) => Err("Name one of several tenants with --tenant".to_owned()),
        (Some(name), _) => tenants
            .iter()
            .find(|tenant| tenant.external_id.eq_ignore_ascii_case(name))
            .cloned()
            .ok_or_else(|| format!("There is no tenant {name}")),
    }
}
