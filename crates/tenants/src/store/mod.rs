//! The metadata database: schema `_realtime` with tenants, their extensions and feature flags (http_and_ops 7).
//!
//! A store only asks and answers. The [`Directory`](crate::Directory) decides which answers are kept, for how long, and who
//! is told of changes.

mod backfill;
mod config;
mod error;
mod flags;
mod listen;
mod pool;
mod rows;
mod schema;
mod seed;

use std::sync::Arc;

pub use config::{APPLICATION, MetadataConfig, SCHEMA, TenantDefaults};
use deadpool_postgres::{GenericClient, Object, Pool};
pub use error::StoreError;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
pub use listen::Operation;
pub(crate) use listen::{Listener, News};
use realtime_webhooks::Webhook;
pub(crate) use rows::Found;
pub use seed::{Seed, SeedPlace, Seeded};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{Ciphers, Field, TenantFields, TenantRecord, fields};

/// Statements of operators that are answered at once: each has a connection beside the pool's.
const INSPECTIONS: usize = 3;

/// Channel of NOTIFY on which nodes tell each other which tenant or flag changed.
pub(crate) const CHANNEL: &str = "realtime_metadata";

/// A connection of a store's pool; given back when dropped.
pub type StoreClient = Object;

/// The metadata database. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    pool: Pool,
    config: MetadataConfig,
    /// One permit for each statement of an operator that is being answered.
    inspections: Arc<Semaphore>,
}

/// What an update did.
#[derive(Debug, Clone)]
pub struct Updated {
    /// The record as it was.
    pub before: TenantRecord,
    /// The record as it is.
    pub after: TenantRecord,
    /// The fields that differ; empty if none does, and then nothing was written.
    pub changed: Vec<Field>,
}

impl Store {
    /// A store on a database. Nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError`] when no pool can be made with these settings.
    pub fn new(config: MetadataConfig) -> Result<Self, StoreError> {
        let pool = pool::make(&config)?;
        let inspections = Arc::new(Semaphore::new(INSPECTIONS));
        Ok(Self(Arc::new(Inner { pool, config, inspections })))
    }

    /// Its keys.
    #[must_use]
    pub fn ciphers(&self) -> &Ciphers {
        &self.0.config.ciphers
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &MetadataConfig {
        &self.0.config
    }

    pub(crate) fn inspections(&self) -> &Arc<Semaphore> {
        &self.0.inspections
    }

    /// A connection, for queries that this type does not offer: pages for operators.
    ///
    /// # Errors
    /// [`StoreError`] when none is free in time.
    pub async fn client(&self) -> Result<StoreClient, StoreError> {
        Ok(self.0.pool.get().await?)
    }

    /// All tenants whose records can be read, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self) -> Result<Vec<TenantRecord>, StoreError> {
        Ok(rows::list(&self.client().await?).await?.records)
    }

    /// The first `limit` tenants whose names come after another, in the order of their bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn page(&self, after: Option<&str>, limit: usize) -> Result<Vec<TenantRecord>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok(rows::page(&self.client().await?, after, limit).await?.records)
    }

    /// The tenant of this name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn get(&self, external_id: &str) -> Result<Option<TenantRecord>, StoreError> {
        rows::get(&self.client().await?, external_id, false).await
    }

    /// The tenants of these names that exist, in any order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn get_many(&self, external_ids: &[Box<str>]) -> Result<Found, StoreError> {
        let names: Vec<&str> = external_ids.iter().map(|name| &**name).collect();
        rows::get_many(&self.client().await?, &names).await
    }

    /// Creates a tenant. Its name for people is always its `external_id` (http_and_ops 1.3); limits that are not given are
    /// those of [`TenantDefaults`].
    ///
    /// # Errors
    /// [`StoreError::Taken`], [`StoreError::KeyRequired`], or anything else; then nothing was written.
    pub async fn create(&self, external_id: &str, fields: &TenantFields) -> Result<TenantRecord, StoreError> {
        let now = now();
        let mut record = self.blank(external_id, now);
        fields.apply(&mut record, self.ciphers(), now)?;
        record.name = Some(external_id.to_owned());
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        rows::insert(&transaction, &record).await?;
        notify(&transaction, external_id).await?;
        transaction.commit().await?;
        Ok(record)
    }

    /// Changes the fields that are given. The name itself never changes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::KeyRequired`], or anything else; then nothing was written.
    pub async fn update(&self, external_id: &str, fields: &TenantFields) -> Result<Updated, StoreError> {
        let now = now();
        self.edit(external_id, now, |record| Ok(fields.apply(record, self.ciphers(), now)?)).await
    }

    /// Changes a tenant's webhooks.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Webhooks`], or anything else; then nothing was written.
    pub async fn edit_webhooks(
        &self,
        external_id: &str,
        edit: impl FnOnce(&mut Vec<Webhook>) + Send,
    ) -> Result<Updated, StoreError> {
        let now = now();
        self.edit(external_id, now, |record| {
            let mut webhooks = record.webhooks(self.ciphers()).map_err(StoreError::Webhooks)?;
            edit(&mut webhooks);
            Ok(fields::set_webhooks(record, &webhooks, self.ciphers(), now)?)
        })
        .await
    }

    /// The names of the tenants that have webhooks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn with_webhooks(&self) -> Result<Vec<String>, StoreError> {
        rows::with_extension(&self.client().await?, crate::WEBHOOKS).await
    }

    /// Changes a record while nobody else can.
    async fn edit(
        &self,
        external_id: &str,
        now: DateTime,
        edit: impl FnOnce(&mut TenantRecord) -> Result<(), StoreError> + Send,
    ) -> Result<Updated, StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let found = rows::get(&transaction, external_id, true).await?;
        let before = found.ok_or(StoreError::NotFound { what: "tenant" })?;
        let mut after = before.clone();
        edit(&mut after)?;
        let changed = Field::differing(&before, &after, self.ciphers());
        if changed.is_empty() {
            return Ok(Updated { after: before.clone(), before, changed });
        }
        after.updated_at = now;
        rows::update(&transaction, &after, changed.contains(&Field::Extensions)).await?;
        notify(&transaction, external_id).await?;
        transaction.commit().await?;
        Ok(Updated { before, after, changed })
    }

    /// Removes a tenant and returns its record; `None` if there was none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete(&self, external_id: &str) -> Result<Option<TenantRecord>, StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let Some(record) = rows::get(&transaction, external_id, true).await? else { return Ok(None) };
        rows::delete(&transaction, external_id).await?;
        notify(&transaction, external_id).await?;
        transaction.commit().await?;
        Ok(Some(record))
    }

    /// A new tenant with no field given.
    fn blank(&self, external_id: &str, now: DateTime) -> TenantRecord {
        let defaults = &self.0.config.defaults;
        TenantRecord {
            id: Uuid::new_v4(),
            external_id: external_id.to_owned(),
            name: None,
            jwt_secret: None,
            jwt_jwks: None,
            postgres_cdc_default: Some(crate::POSTGRES_CDC_RLS.to_owned()),
            max_concurrent_users: defaults.max_concurrent_users,
            max_events_per_second: defaults.max_events_per_second,
            max_bytes_per_second: defaults.max_bytes_per_second,
            max_channels_per_client: defaults.max_channels_per_client,
            max_joins_per_second: defaults.max_joins_per_second,
            max_presence_events_per_second: Some(defaults.max_presence_events_per_second),
            max_payload_size_in_kb: Some(3000),
            max_client_presence_events_per_window: None,
            client_presence_window_ms: None,
            broadcast_history_seconds: None,
            broadcast_history_messages: None,
            suspend: false,
            notify_private_alpha: false,
            private_only: false,
            presence_enabled: false,
            migrations_ran: Some(0),
            broadcast_adapter: Some("gen_rpc".to_owned()),
            feature_flags: serde_json::Map::new(),
            gcm_migrated_at: None,
            inserted_at: now,
            updated_at: now,
            extensions: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.0.config).finish()
    }
}

/// Now in UTC, in whole seconds as the columns keep it.
fn now() -> DateTime {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    TimeZone::UTC.to_datetime(now)
}

/// Tells all nodes that a tenant changed, when the transaction commits.
async fn notify(client: &impl GenericClient, external_id: &str) -> Result<(), StoreError> {
    client
        .execute("select pg_catalog.pg_notify($1, $2)", &[&CHANNEL, &format!("tenant {external_id}")])
        .await?;
    Ok(())
}
