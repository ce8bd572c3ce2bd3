//! Which tenant a name means, from the metadata database: asked as seldom as possible.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio::{sync::broadcast, time::Instant};

use crate::{Store, StoreError, Tenant, TenantFields, TenantRecord, TenantTemplate, Updated};

/// Changes that a receiver may be behind. One that is further behind is told that it missed some, and must look
/// at every tenant it runs.
const CHANGES: usize = 1024;

/// How a directory keeps tenants.
#[derive(Debug, Clone)]
pub struct DirectoryOptions {
    /// How long a tenant is taken for what it was (`TENANT_CACHE_EXPIRATION_IN_MS`).
    pub expiry: Duration,
    /// What the server's settings say about every tenant.
    pub template: TenantTemplate,
}

/// A tenant that is not what it was: changed or removed through this node or another, or found to be different.
#[derive(Debug, Clone)]
pub struct TenantChange {
    /// Its name.
    pub external_id: Arc<str>,
    /// The record before; `None` if this node had not kept it.
    pub before: Option<Arc<TenantRecord>>,
    /// The record now; `None` if the tenant is gone.
    pub after: Option<Arc<TenantRecord>>,
    /// What sockets are served with now; `None` if the tenant is gone or its record cannot be used.
    pub tenant: Option<Arc<Tenant>>,
}

/// The tenants of a metadata database as this node knows them.
#[derive(Debug)]
pub struct Directory {
    store: Store,
    options: DirectoryOptions,
    tenants: RwLock<HashMap<Box<str>, Kept>>,
    changes: broadcast::Sender<TenantChange>,
}

#[derive(Debug)]
struct Kept {
    record: Arc<TenantRecord>,
    /// `None` for a record that cannot be used.
    tenant: Option<Arc<Tenant>>,
    read: Instant,
}

impl Directory {
    /// A directory that knows nobody yet.
    #[must_use]
    pub fn new(store: Store, options: DirectoryOptions) -> Arc<Self> {
        let (changes, _) = broadcast::channel(CHANGES);
        Arc::new(Self { store, options, tenants: RwLock::default(), changes })
    }

    /// The database behind it.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What happens to tenants from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<TenantChange> {
        self.changes.subscribe()
    }

    /// The tenant of this name, if it is known without asking.
    #[must_use]
    pub fn cached(&self, external_id: &str) -> Option<Arc<Tenant>> {
        let tenants = self.tenants.read();
        let kept = tenants.get(external_id)?;
        (kept.read.elapsed() < self.options.expiry).then(|| kept.tenant.clone()).flatten()
    }

    /// The tenant of this name; asks the database unless it is known. `None` if there is none, or its record
    /// cannot be used, which is logged.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer and the tenant is not known.
    pub async fn get(&self, external_id: &str) -> Result<Option<Arc<Tenant>>, StoreError> {
        if let Some(tenant) = self.cached(external_id) {
            return Ok(Some(tenant));
        }
        self.refresh(external_id).await
    }

    /// Asks the database for a tenant, whatever is known of it, and tells of a change.
    ///
    /// # Errors
    /// [`StoreError`]; what was known stays known then.
    pub async fn refresh(&self, external_id: &str) -> Result<Option<Arc<Tenant>>, StoreError> {
        let record = self.store.get(external_id).await?;
        Ok(self.learn(external_id, record))
    }

    /// As [`Store::create`]; this node knows the tenant at once, others are told.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub async fn create(&self, external_id: &str, fields: &TenantFields) -> Result<TenantRecord, StoreError> {
        let record = self.store.create(external_id, fields).await?;
        self.learn(external_id, Some(record.clone()));
        Ok(record)
    }

    /// As [`Store::update`]; this node knows of it at once, others are told.
    ///
    /// # Errors
    /// As [`Store::update`].
    pub async fn update(&self, external_id: &str, fields: &TenantFields) -> Result<Updated, StoreError> {
        let updated = self.store.update(external_id, fields).await?;
        self.learn(external_id, Some(updated.after.clone()));
        Ok(updated)
    }

    /// As [`Store::delete`]; this node knows of it at once, others are told.
    ///
    /// # Errors
    /// As [`Store::delete`].
    pub async fn delete(&self, external_id: &str) -> Result<Option<TenantRecord>, StoreError> {
        let record = self.store.delete(external_id).await?;
        self.learn(external_id, None);
        Ok(record)
    }

    /// Takes a record for the truth and tells of the change, if it is one.
    fn learn(&self, external_id: &str, record: Option<TenantRecord>) -> Option<Arc<Tenant>> {
        let Some(record) = record else {
            let before = self.tenants.write().remove(external_id)?;
            self.tell(external_id, Some(before.record), None, None);
            return None;
        };
        let tenant = match record.tenant(self.store.ciphers(), &self.options.template) {
            Ok(tenant) => Some(Arc::new(tenant)),
            Err(error) => {
                tracing::error!(tenant = external_id, %error, "tenant cannot be served");
                None
            }
        };
        let record = Arc::new(record);
        let kept = Kept { record: Arc::clone(&record), tenant: tenant.clone(), read: Instant::now() };
        let before = self.tenants.write().insert(external_id.into(), kept);
        if before.as_ref().is_none_or(|before| before.record != record) {
            self.tell(external_id, before.map(|before| before.record), Some(record), tenant.clone());
        }
        tenant
    }

    fn tell(
        &self,
        external_id: &str,
        before: Option<Arc<TenantRecord>>,
        after: Option<Arc<TenantRecord>>,
        tenant: Option<Arc<Tenant>>,
    ) {
        // Nobody may be listening.
        let _ = self.changes.send(TenantChange { external_id: external_id.into(), before, after, tenant });
    }
}
