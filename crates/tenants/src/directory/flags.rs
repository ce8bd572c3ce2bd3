//! Feature flags as this node knows them.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::time::Instant;

use super::Directory;
use crate::{FeatureFlag, StoreError};

/// All flags, and when they were asked for. There are few, so a miss is known too.
pub(super) type Kept = RwLock<Option<(Instant, Arc<[FeatureFlag]>)>>;

impl Directory {
    /// Whether a feature flag is on for a tenant: unknown flags and tenants have none; else what the tenant has of
    /// its own, else by the rollout. Asks the database if what is known is older than the expiry.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer and nothing is known.
    pub async fn is_flag_on(&self, name: &str, external_id: &str) -> Result<bool, StoreError> {
        let flags = self.flags().await?;
        let Some(flag) = flags.iter().find(|flag| flag.name == name) else { return Ok(false) };
        self.get(external_id).await?;
        let record = self.memory.read().record(external_id);
        Ok(record.is_some_and(|record| flag.is_on_for(&record)))
    }

    async fn flags(&self) -> Result<Arc<[FeatureFlag]>, StoreError> {
        let kept = self.flags.read().clone();
        if let Some((asked, flags)) = &kept
            && asked.elapsed() < self.options.expiry
        {
            return Ok(Arc::clone(flags));
        }
        let asked = Instant::now();
        match (self.store.flags().await, kept) {
            (Ok(flags), _) => {
                let flags: Arc<[FeatureFlag]> = flags.into();
                *self.flags.write() = Some((asked, Arc::clone(&flags)));
                Ok(flags)
            }
            (Err(_), Some((_, flags))) => Ok(flags),
            (Err(error), None) => Err(error),
        }
    }

    /// Makes the next question ask the database.
    pub(super) fn forget_flags(&self) {
        *self.flags.write() = None;
    }
}
