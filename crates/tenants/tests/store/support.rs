//! Stores on databases of their own.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use realtime_tenants::{
    Ciphers, DatabaseSettings, Directory, DirectoryOptions, Limits, MetadataConfig, Store, TenantFields,
    TenantTemplate,
};
use realtime_testkit::{PATIENCE, TestDb};
use serde_json::{Value, json};
use tokio::time;

pub const LEGACY_KEY: &str = "supabaserealtime";
pub const GCM_KEY: &str = "0123456789abcdef0123456789abcdef";

/// Both keys; which is written with.
pub fn ciphers(write_gcm: bool) -> Ciphers {
    Ciphers::new(Some(&LEGACY_KEY.into()), Some(&GCM_KEY.into()), write_gcm).unwrap()
}

/// How to reach a test's database.
pub async fn config(db: &TestDb, ciphers: Ciphers) -> Result<MetadataConfig> {
    let env = db.env().await?;
    let get = |name: &str| {
        env.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()).context(name.to_owned())
    };
    Ok(MetadataConfig {
        host: get("DB_HOST")?,
        port: get("DB_PORT")?.parse()?,
        name: get("DB_NAME")?,
        user: get("DB_USER")?,
        password: get("DB_PASSWORD")?.into(),
        ciphers,
        ..MetadataConfig::default()
    })
}

/// A store that is not set up.
pub async fn bare(db: &TestDb, ciphers: Ciphers) -> Result<Store> {
    Ok(Store::new(config(db, ciphers).await?)?)
}

/// A store that is set up.
pub async fn store(db: &TestDb) -> Result<Store> {
    let store = bare(db, ciphers(false)).await?;
    store.set_up().await?;
    Ok(store)
}

pub fn fields(tenant: Value) -> TenantFields {
    TenantFields::cast(tenant.as_object().unwrap()).unwrap()
}

/// A tenant whose database is nowhere.
pub fn complete(secret: &str) -> TenantFields {
    fields(json!({"jwt_secret": secret, "extensions": [{"type": "postgres_cdc_rls", "settings": {
        "region": "us-east-1", "db_host": "db.internal", "db_port": "5432", "db_name": "app",
        "db_user": "me", "db_password": "pa55word",
    }}]}))
}

pub fn template(default_tenant: Option<&str>) -> TenantTemplate {
    TenantTemplate {
        limits: Limits::default(),
        database: DatabaseSettings {
            host: String::new(),
            port: 0,
            route: realtime_tls::Route::default(),
            name: String::new(),
            user: String::new(),
            password: "".into(),
            publication: String::new(),
            slot_name: String::new(),
            durable_slot: false,
            max_lag_bytes: 0,
            idle_stop: Duration::ZERO,
            pool_size: 5,
            policy_pool_size: None,
            queue_target: None,
        },
        slot_name_suffix: None,
        default_tenant: default_tenant.map(Into::into),
    }
}

pub fn directory(store: &Store, expiry: Duration, default_tenant: Option<&str>) -> Arc<Directory> {
    let template = template(default_tenant);
    Directory::new(store.clone(), DirectoryOptions { expiry, template })
}

/// Waits until it is so.
pub async fn until<F: Future<Output = Result<bool>>>(what: &str, mut is: impl FnMut() -> F) -> Result<()> {
    let wait = async {
        while !is().await? {
            time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    };
    time::timeout(PATIENCE, wait).await.with_context(|| what.to_owned())?
}
