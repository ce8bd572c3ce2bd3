//! Finds the tenant of a name, with as few questions to the metadata database as possible.
//!
//! - A tenant that is known and not older than the expiry is returned without asking or waiting. While
//!   [`run`](Directory::run) runs, known tenants are read again before they expire, all in one question, so that
//!   nobody waits for one of them while the database answers.
//! - Changes made through this node are known at once, changes made through other nodes by LISTEN and NOTIFY, and changes
//!   made in SQL within the expiry.
//! - While the database does not answer, known tenants are served as last known, for [`STALE_LIMIT`] at most.
//! - For unknown names the database is asked: one question at a time for each name, and not too many a second for all. That
//!   there is no such tenant is remembered only if there is a default tenant, which unknown names then mean: its clients
//!   must not cause a question at each connection.
//! - The answer to a question never replaces that to a later one.

mod backfill;
mod flags;
mod flood;
mod kept;
mod listen;

use std::{sync::Arc, time::Duration};

use backfill::Backfill;
use flags::Flags;
use flood::Bucket;
use kept::{Known, Memory};
use parking_lot::{Mutex, RwLock};
use realtime_codes::ErrorCode;
use realtime_flights::{Flights, Seat};
use realtime_webhooks::Webhook;
use tokio::{sync::broadcast, time::Instant};
use uuid::Uuid;

use crate::{
    Field, Operation, Store, StoreError, Tenant, TenantFields, TenantRecord, TenantTemplate, Updated,
    registry::first_label,
};

/// Changes that a receiver may be behind. A receiver that is further behind is told that it missed some, and must look at
/// all tenants that it runs.
const CHANGES: usize = 1024;

/// How long tenants are served as last known while the database does not answer. A tenant that nobody used for as long is
/// forgotten.
pub const STALE_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// After a question that was not answered, known tenants are served for this long without asking again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Longest name that the database is asked for, in bytes. A label of a host has 63 at most.
const LONGEST_NAME: usize = 255;

/// How a directory keeps tenants.
#[derive(Debug, Clone)]
pub struct DirectoryOptions {
    /// How long a record counts as current (`TENANT_CACHE_EXPIRATION_IN_MS`).
    pub expiry: Duration,
    /// The server's settings that concern every tenant.
    pub template: TenantTemplate,
}

/// A change of a tenant: it was changed or removed through this node or another, or found to be different.
#[derive(Debug, Clone)]
pub struct TenantChange {
    /// Its name.
    pub external_id: Arc<str>,
    /// The record before; `None` if this node had not kept it.
    pub before: Option<Arc<TenantRecord>>,
    /// The record now; `None` if the tenant is gone.
    pub after: Option<Arc<TenantRecord>>,
    /// The tenant that sockets are served with now; `None` if it is gone or its record cannot be used.
    pub tenant: Option<Arc<Tenant>>,
    /// The fields that differ, if there is a record before and after. Empty only if the tenant was removed and created again
    /// with equal fields.
    pub changed: Vec<Field>,
}

type Answer = Result<Option<Arc<Tenant>>, StoreError>;

/// The tenants of a metadata database as this node knows them.
#[derive(Debug)]
pub struct Directory {
    store: Store,
    options: DirectoryOptions,
    memory: RwLock<Memory>,
    /// Questions under way, by name.
    flights: Flights<Box<str>, Answer>,
    unknown: Mutex<Bucket>,
    /// When a question was last not answered.
    failed: Mutex<Option<Instant>>,
    flags: Flags,
    backfill: Backfill,
    changes: broadcast::Sender<TenantChange>,
    operations: broadcast::Sender<(Operation, Box<str>)>,
    /// Identifies this node among those that listen.
    node: Uuid,
}

impl Directory {
    /// A directory that knows no tenant yet.
    #[must_use]
    pub fn new(store: Store, options: DirectoryOptions) -> Arc<Self> {
        let (changes, _) = broadcast::channel(CHANGES);
        let now = Instant::now();
        Arc::new(Self {
            memory: RwLock::new(Memory::new(options.expiry, now)),
            backfill: Backfill::new(store.clone()),
            store,
            options,
            flights: Flights::default(),
            unknown: Mutex::new(Bucket::new(now)),
            failed: Mutex::default(),
            flags: Flags::default(),
            changes,
            operations: broadcast::channel(CHANGES).0,
            node: Uuid::new_v4(),
        })
    }

    /// The database behind it.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The tenant for hosts that name none, if there is one.
    #[must_use]
    pub fn default_tenant(&self) -> Option<&str> {
        self.options.template.default_tenant.as_deref()
    }

    /// Changes of tenants from now on. A receiver that is too slow is told that it missed some, and must look at all tenants
    /// that it runs.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<TenantChange> {
        self.changes.subscribe()
    }

    /// Operations on tenants that administrators asked other nodes for.
    #[must_use]
    pub fn operations(&self) -> broadcast::Receiver<(Operation, Box<str>)> {
        self.operations.subscribe()
    }

    /// Tells all other nodes of an operation on a tenant that an administrator asked for.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tell_operation(&self, operation: Operation, external_id: &str) -> Result<(), StoreError> {
        self.store.tell_operation(self.node, operation, external_id).await
    }

    /// The tenant of a request's host (protocol 1.4), if it is known without asking: the one named by the first label, else
    /// the default tenant. `host` may carry a port.
    #[must_use]
    pub fn resolve_cached(&self, host: &str) -> Option<Arc<Tenant>> {
        let label = first_label(host);
        let memory = self.memory.read();
        let now = Instant::now();
        let name = match (memory.look_up(label, now), &self.options.template.default_tenant) {
            (Known::Fresh(tenant), _) => return tenant,
            (Known::Nobody, Some(default)) => default,
            _ => return None,
        };
        match memory.look_up(name, now) {
            Known::Fresh(tenant) => tenant,
            _ => None,
        }
    }

    /// The tenant of a request's host; asks the database unless it is known. `None` if there is none, or if its record cannot
    /// be used, which is logged.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer and the tenant is not known.
    pub async fn resolve(&self, host: &str) -> Answer {
        let label = first_label(host);
        if let Some(tenant) = self.get(label).await? {
            return Ok(Some(tenant));
        }
        // Names are looked up as written, then in lower case, like hosts.
        let lower = label.to_ascii_lowercase();
        if lower != label
            && let Some(tenant) = self.get(&lower).await?
        {
            return Ok(Some(tenant));
        }
        match &self.options.template.default_tenant {
            Some(default) if !self.memory.read().knows(label) => self.get(default).await,
            _ => Ok(None),
        }
    }

    /// The tenant of this name as last known, however long ago.
    #[must_use]
    pub fn latest(&self, external_id: &str) -> Option<Arc<Tenant>> {
        self.memory.read().tenant(external_id)
    }

    /// The tenant of this name. Asks the database unless it is known.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn get(&self, external_id: &str) -> Answer {
        let now = Instant::now();
        let known = self.memory.read().look_up(external_id, now);
        // The answer if the database gives none.
        let before = match known {
            Known::Fresh(tenant) => return Ok(tenant),
            Known::Nobody => return Ok(None),
            Known::Stale(tenant, age) => Some(tenant).filter(|_| age < STALE_LIMIT),
            Known::WasNobody => Some(None),
            Known::Unknown => None,
        };
        if let Some(before) = &before
            && self.failed.lock().is_some_and(|at| now - at < PAUSE_AFTER_FAILURE)
        {
            return Ok(before.clone());
        }
        let known = before.as_ref().is_some_and(Option::is_some);
        let may_ask = if known { Ok(()) } else { self.may_ask_for_unknown(external_id, now) };
        let answer = match may_ask {
            Ok(()) => self.ask(external_id).await,
            Err(refusal) => refusal,
        };
        match (answer, before) {
            (Err(StoreError::Flooded), Some(before)) => Ok(before),
            (Err(error), Some(before)) => {
                tracing::warn!(
                    tenant = external_id,
                    code = error.code(),
                    %error,
                    "serving the tenant as last known: the metadata database does not answer"
                );
                Ok(before)
            }
            (answer, _) => answer,
        }
    }

    /// Whether the database may be asked for an unknown name.
    ///
    /// # Errors
    /// The answer without asking.
    fn may_ask_for_unknown(&self, external_id: &str, now: Instant) -> Result<(), Answer> {
        if external_id.is_empty() || external_id.len() > LONGEST_NAME || external_id.contains('\0') {
            return Err(Ok(None));
        }
        let mut bucket = self.unknown.lock();
        if bucket.take(now) {
            return Ok(());
        }
        if bucket.warn(now) {
            tracing::warn!(code = StoreError::Flooded.code(), "too many unknown tenants are asked for");
        }
        Err(Err(StoreError::Flooded))
    }

    /// Asks the database, together with all who ask for the same tenant. Cancel safe: another of them goes on.
    async fn ask(&self, external_id: &str) -> Answer {
        let put = async |_: &Seat<'_, _, _>| self.refresh(external_id).await;
        self.flights.ask(&external_id.into(), put).await
    }

    /// Whether a feature flag is on for a tenant: by the tenant's own setting, else by the rollout. Unknown flags are off,
    /// and all flags are off for unknown tenants. Asks the database if what is known is older than the expiry.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer and nothing is known.
    pub async fn is_flag_on(&self, name: &str, external_id: &str) -> Result<bool, StoreError> {
        let flags = self.flags.all(&self.store, self.options.expiry).await?;
        let Some(flag) = flags.iter().find(|flag| flag.name == name) else { return Ok(false) };
        self.get(external_id).await?;
        let record = self.memory.read().record(external_id);
        Ok(record.is_some_and(|record| flag.is_on_for(&record)))
    }

    /// Waits until no secrets are being moved to the newer cipher.
    pub async fn backfills_done(&self) {
        self.backfill.done().await;
    }

    /// Asks the database for a tenant, even if it is known, and tells of a change.
    ///
    /// # Errors
    /// [`StoreError`]; then what was known stays known.
    pub async fn refresh(&self, external_id: &str) -> Answer {
        let asked = Instant::now();
        match self.store.get(external_id).await {
            Ok(record) => {
                *self.failed.lock() = None;
                if let Some(record) = &record {
                    self.backfill.consider(record);
                }
                Ok(self.learn(external_id, record, asked))
            }
            Err(error) => {
                *self.failed.lock() = Some(Instant::now());
                Err(error)
            }
        }
    }

    /// As [`Store::create`]; this node knows the tenant at once, others are told.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub async fn create(&self, external_id: &str, fields: &TenantFields) -> Result<TenantRecord, StoreError> {
        let asked = Instant::now();
        let record = self.store.create(external_id, fields).await?;
        self.learn_written(external_id, Some(record.clone()), asked).await;
        Ok(record)
    }

    /// As [`Store::update`]; this node knows of it at once, others are told.
    ///
    /// # Errors
    /// As [`Store::update`].
    pub async fn update(&self, external_id: &str, fields: &TenantFields) -> Result<Updated, StoreError> {
        let asked = Instant::now();
        let updated = self.store.update(external_id, fields).await?;
        if !updated.changed.is_empty() {
            self.learn_written(external_id, Some(updated.after.clone()), asked).await;
        }
        Ok(updated)
    }

    /// As [`Store::edit_webhooks`]; this node knows of it at once, others are told.
    ///
    /// # Errors
    /// As [`Store::edit_webhooks`].
    pub async fn edit_webhooks(
        &self,
        external_id: &str,
        edit: impl FnOnce(&mut Vec<Webhook>) + Send,
    ) -> Result<Updated, StoreError> {
        let asked = Instant::now();
        let updated = self.store.edit_webhooks(external_id, edit).await?;
        if !updated.changed.is_empty() {
            self.learn_written(external_id, Some(updated.after.clone()), asked).await;
        }
        Ok(updated)
    }

    /// As [`Store::delete`]; this node knows of it at once, others are told.
    ///
    /// # Errors
    /// As [`Store::delete`].
    pub async fn delete(&self, external_id: &str) -> Result<Option<TenantRecord>, StoreError> {
        let asked = Instant::now();
        let record = self.store.delete(external_id).await?;
        self.memory.write().removed(external_id, asked);
        self.learn_written(external_id, None, asked).await;
        Ok(record)
    }

    /// Learns a record that was written. It is only as new as the beginning of the statement: after the commit, while this
    /// task waited for its turn, others may have written, and their records may have been read. If a record was read
    /// meanwhile nobody knows which is newer, so the database is asked.
    async fn learn_written(&self, external_id: &str, record: Option<TenantRecord>, asked: Instant) {
        if self.memory.read().is_later(external_id, asked) {
            // If it does not answer: the others' notifications are on their way, and the record expires.
            let _ = self.refresh(external_id).await;
        } else {
            self.learn(external_id, record, asked);
        }
    }

    /// Learns the answer to a question that was asked at this time, unless a later one was answered, and tells of a change.
    fn learn(&self, external_id: &str, record: Option<TenantRecord>, asked: Instant) -> Option<Arc<Tenant>> {
        let Some(record) = record else {
            let mut memory = self.memory.write();
            if self.options.template.default_tenant.is_some() {
                memory.put_nobody(external_id, asked);
            }
            return match memory.remove(external_id, asked) {
                Ok(before) => {
                    drop(memory);
                    if let Some(before) = before {
                        self.tell(external_id, Some(before), None, None, Vec::new());
                    }
                    None
                }
                Err(kept::Outdated) => memory.tenant(external_id),
            };
        };
        if let Some(tenant) = self.memory.write().confirm(&record, asked) {
            return tenant;
        }
        let record = Arc::new(record);
        let tenant = match record.tenant(self.store.ciphers(), &self.options.template) {
            Ok(tenant) => Some(Arc::new(tenant)),
            Err(error) => {
                let code = ErrorCode::UnableToConnectToTenantDatabase.as_str();
                tracing::error!(tenant = external_id, code, %error, "cannot serve the tenant: its record is not usable");
                None
            }
        };
        let put = self.memory.write().put(&record, tenant.as_ref(), asked);
        match put {
            Err(kept::Outdated) => return self.latest(external_id),
            Ok(None) => self.tell(external_id, None, Some(record), tenant.clone(), Vec::new()),
            Ok(Some(before)) => {
                let changed = Field::differing(&before, &record, self.store.ciphers());
                if !changed.is_empty() || before.id != record.id {
                    self.tell(external_id, Some(before), Some(record), tenant.clone(), changed);
                }
            }
        }
        tenant
    }

    fn tell(
        &self,
        external_id: &str,
        before: Option<Arc<TenantRecord>>,
        after: Option<Arc<TenantRecord>>,
        tenant: Option<Arc<Tenant>>,
        changed: Vec<Field>,
    ) {
        let external_id = external_id.into();
        // Fails if nobody listens.
        let _ = self.changes.send(TenantChange { external_id, before, after, tenant, changed });
    }
}
