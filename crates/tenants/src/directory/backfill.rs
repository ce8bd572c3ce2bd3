//! When secrets are moved to the newer cipher: after a tenant was read from the database.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Directory;
use crate::{GCM_BACKFILL, Store, StoreError, TenantRecord};

/// How long a tenant is left alone once its secrets were moved, or could not be.
const PAUSE: Duration = Duration::from_secs(300);

/// Tenants whose secrets are being moved or were moved lately, and since when.
pub(super) type UnderWay = Arc<Mutex<HashMap<Box<str>, Instant>>>;

impl Directory {
    /// Moves a tenant's secrets in the background, if there are any of the older form, if the newer is written, and
    /// if the feature flag covers the tenant.
    pub(super) fn move_secrets(&self, record: &TenantRecord) {
        let due = record.gcm_migrated_at.is_none() && record.has_legacy_ciphertext();
        if !due || !self.store.ciphers().writes_gcm() || !self.begin(&record.external_id) {
            return;
        }
        let (store, record, turn) = (self.store.clone(), record.clone(), Arc::clone(&self.backfill_turn));
        self.backfill_tasks.spawn(async move {
            // One after the other: others need the connections too.
            let Ok(_turn) = turn.acquire().await else { return };
            if let Err(error) = covered(&store, &record).await {
                let code = "EncryptionReconcileFailed";
                tracing::error!(tenant = record.external_id, code, %error, "secrets were not moved to AES-256-GCM");
            }
        });
    }

    /// Waits until no secrets are being moved.
    pub async fn backfills_done(&self) {
        self.backfill_tasks.close();
        self.backfill_tasks.wait().await;
        self.backfill_tasks.reopen();
    }

    fn begin(&self, external_id: &str) -> bool {
        let now = Instant::now();
        let mut under_way = self.backfills.lock();
        under_way.retain(|_, since| now - *since < PAUSE);
        let begin = !under_way.contains_key(external_id);
        if begin {
            under_way.insert(external_id.into(), now);
        }
        begin
    }
}

async fn covered(store: &Store, record: &TenantRecord) -> Result<(), StoreError> {
    let flag = store.flag(GCM_BACKFILL).await?;
    if flag.is_some_and(|flag| flag.is_on_for(record)) && store.move_secrets(record).await? {
        tracing::info!(tenant = record.external_id, "secrets were moved to AES-256-GCM");
    }
    Ok(())
}
