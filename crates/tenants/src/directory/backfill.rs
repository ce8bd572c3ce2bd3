//! When secrets are moved to the newer cipher: after a tenant was read from the database.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use realtime_codes::ErrorCode;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{GCM_BACKFILL, Store, StoreError, TenantRecord};

/// How long a tenant is left alone once its secrets were moved, or could not be.
const PAUSE: Duration = Duration::from_secs(300);

/// Moves the secrets of tenants in the background.
#[derive(Debug)]
pub(super) struct Backfill {
    store: Store,
    /// Tenants whose secrets are being moved or were moved lately, and since when.
    begun: Mutex<HashMap<Box<str>, Instant>>,
    tasks: TaskTracker,
    /// One tenant at a time: others need the connections too.
    turn: Arc<Semaphore>,
}

impl Backfill {
    /// Nothing is being moved yet.
    pub(super) fn new(store: Store) -> Self {
        Self { store, begun: Mutex::default(), tasks: TaskTracker::new(), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Moves a tenant's secrets in the background, if some have the older form, the newer form is written, and the feature
    /// flag covers the tenant.
    pub(super) fn consider(&self, record: &TenantRecord) {
        let due = record.gcm_migrated_at.is_none() && record.has_legacy_ciphertext();
        if !due || !self.store.ciphers().writes_gcm() || !self.begin(&record.external_id) {
            return;
        }
        let (store, record, turn) = (self.store.clone(), record.clone(), Arc::clone(&self.turn));
        self.tasks.spawn(async move {
            let Ok(_turn) = turn.acquire().await else { return };
            if let Err(error) = move_if_covered(&store, &record).await {
                let code = ErrorCode::EncryptionReconcileFailed.as_str();
                tracing::error!(tenant = record.external_id, code, %error, "secrets were not moved to AES-256-GCM");
            }
        });
    }

    /// Waits until no secrets are being moved.
    pub(super) async fn done(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    /// Whether it is the tenant's turn.
    fn begin(&self, external_id: &str) -> bool {
        let now = Instant::now();
        let mut begun = self.begun.lock();
        begun.retain(|_, since| now - *since < PAUSE);
        let begin = !begun.contains_key(external_id);
        if begin {
            begun.insert(external_id.into(), now);
        }
        begin
    }
}

async fn move_if_covered(store: &Store, record: &TenantRecord) -> Result<(), StoreError> {
    let flag = store.flag(GCM_BACKFILL).await?;
    if flag.is_some_and(|flag| flag.is_on_for(record)) && store.move_secrets(record).await? {
        tracing::info!(tenant = record.external_id, "secrets were moved to AES-256-GCM");
    }
    Ok(())
}
