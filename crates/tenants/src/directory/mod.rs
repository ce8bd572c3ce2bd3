//! Which tenant a name means, from the metadata database: asked as seldom as possible.
//!
//! - A tenant that is known and not older than the expiry is answered for without asking or waiting. While
//!   [`run`](Directory::run) runs, known tenants are asked for anew before they expire, all in one question, so that
//!   nobody waits for one of them while the database answers.
//! - Changes made through this node are known to it at once; those made through others by LISTEN and NOTIFY; those
//!   made in SQL within the expiry.
//! - While the database does not answer, tenants that are known are served as they were, for
//!   [`STALE_LIMIT`] at most.
//! - Names that are not known ask the database, one question at a time for each and not too many a second for all,
//!   and it is not remembered that there is no such tenant. Except where there is a default tenant, which such
//!   names mean: there they are remembered, so that its clients do not ask the database at each connection.
//! - The answer to a question never replaces that to a later one.

mod backfill;
mod flags;
mod flight;
mod flood;
mod kept;
mod listen;

use std::{sync::Arc, time::Duration};

use flight::Flights;
use flood::Bucket;
use kept::{Known, Memory};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Semaphore, broadcast},
    time::Instant,
};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{
    Field, Operation, Store, StoreError, Tenant, TenantFields, TenantRecord, TenantTemplate, Updated,
    registry::first_label,
};

/// Changes that a receiver may be behind. One that is further behind is told that it missed some, and must look
/// at every tenant it runs.
const CHANGES: usize = 1024;

/// How long tenants are served as they were while the database does not answer. A tenant that nobody wanted for
/// that long is forgotten.
pub const STALE_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// How long after a question that was not answered known tenants are served as they were without asking again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Longest name that the database is asked for, in bytes. A host's label has 63 at most.
const LONGEST_NAME: usize = 255;

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
    /// What differs, where there is a record before and one after. Empty then only if the tenant was removed and
    /// made again just like before.
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
    flights: Flights,
    unknown: Mutex<Bucket>,
    /// When a question was last not answered.
    failed: Mutex<Option<Instant>>,
    flags: flags::Kept,
    backfills: backfill::UnderWay,
    backfill_tasks: TaskTracker,
    backfill_turn: Arc<Semaphore>,
    changes: broadcast::Sender<TenantChange>,
    operations: broadcast::Sender<(Operation, Box<str>)>,
    /// Which of the nodes this is, among those that listen.
    node: Uuid,
}

impl Directory {
    /// A directory that knows nobody yet.
    #[must_use]
    pub fn new(store: Store, options: DirectoryOptions) -> Arc<Self> {
        let (changes, _) = broadcast::channel(CHANGES);
        let now = Instant::now();
        Arc::new(Self {
            memory: RwLock::new(Memory::new(options.expiry, now)),
            store,
            options,
            flights: Flights::default(),
            unknown: Mutex::new(Bucket::new(now)),
            failed: Mutex::default(),
            flags: flags::Kept::default(),
            backfills: backfill::UnderWay::default(),
            backfill_tasks: TaskTracker::new(),
            backfill_turn: Arc::new(Semaphore::new(1)),
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

    /// The tenant that hosts mean which name none, if there is one.
    #[must_use]
    pub fn default_tenant(&self) -> Option<&str> {
        self.options.template.default_tenant.as_deref()
    }

    /// What happens to tenants from now on. Whoever is slower than that is told that it missed some, and must look
    /// at all tenants that it runs.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<TenantChange> {
        self.changes.subscribe()
    }

    /// What administrators want done with what runs of tenants, as they told other nodes.
    #[must_use]
    pub fn operations(&self) -> broadcast::Receiver<(Operation, Box<str>)> {
        self.operations.subscribe()
    }

    /// Tells all other nodes what an administrator wants done with what runs of a tenant.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tell_operation(&self, operation: Operation, external_id: &str) -> Result<(), StoreError> {
        self.store.tell_operation(self.node, operation, external_id).await
    }

    /// The tenant that a request's host means (protocol 1.4), if that is known without asking: the one named by
    /// its first label, else the default tenant. `host` may carry a port.
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

    /// The tenant that a request's host means; asks the database unless it is known. `None` if there is none, or
    /// its record cannot be used, which is logged.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer and the tenant is not known.
    pub async fn resolve(&self, host: &str) -> Answer {
        let label = first_label(host);
        if let Some(tenant) = self.get(label).await? {
            return Ok(Some(tenant));
        }
        // Names are found as they are written, else in lower case, as hosts are.
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

    /// The tenant of this name as it was when last asked for, however long ago.
    #[must_use]
    pub fn latest(&self, external_id: &str) -> Option<Arc<Tenant>> {
        self.memory.read().tenant(external_id)
    }

    /// The tenant of this name; as [`resolve`](Self::resolve).
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn get(&self, external_id: &str) -> Answer {
        let now = Instant::now();
        let known = self.memory.read().look_up(external_id, now);
        // What is answered if the database does not.
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
            Ok(()) => self.fly(external_id).await,
            Err(refusal) => refusal,
        };
        match (answer, before) {
            (Err(StoreError::Flooded), Some(before)) => Ok(before),
            (Err(error), Some(before)) => {
                tracing::warn!(
                    tenant = external_id,
                    code = error.code(),
                    %error,
                    "tenant is served as it was: the metadata database does not answer"
                );
                Ok(before)
            }
            (answer, _) => answer,
        }
    }

    /// # Errors
    /// What is answered without asking.
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

    /// Asks the database, together with all who ask for the same. Cancel safe: another of them goes on.
    async fn fly(&self, external_id: &str) -> Answer {
        let seat = self.flights.seat(external_id);
        seat.answer.get_or_init(|| self.refresh(external_id)).await.clone()
    }

    /// Asks the database for a tenant, whatever is known of it, and tells of a change.
    ///
    /// # Errors
    /// [`StoreError`]; what was known stays known then.
    pub async fn refresh(&self, external_id: &str) -> Answer {
        let asked = Instant::now();
        match self.store.get(external_id).await {
            Ok(record) => {
                *self.failed.lock() = None;
                if let Some(record) = &record {
                    self.move_secrets(record);
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

    /// As [`learn`](Self::learn), of what was written. It is as old as the beginning of the statement: after the commit,
    /// while this task waited for its turn, others may have written, and their records been read. Where something was read
    /// meanwhile it is not known which is later, and the database is asked.
    async fn learn_written(&self, external_id: &str, record: Option<TenantRecord>, asked: Instant) {
        if self.memory.read().is_later(external_id, asked) {
            // If it does not answer, the others' news are on their way, and what is known expires.
            let _ = self.refresh(external_id).await;
        } else {
            self.learn(external_id, record, asked);
        }
    }

    /// Takes the answer to a question that was asked at a time for the truth, unless a later one was answered, and
    /// tells of the change, if it is one.
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
                let code = "UnableToConnectToTenantDatabase";
                tracing::error!(tenant = external_id, code, %error, "tenant cannot be served");
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
        // Nobody may be listening.
        let _ = self.changes.send(TenantChange { external_id, before, after, tenant, changed });
    }
}
