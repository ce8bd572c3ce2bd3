//! Feature flags as this node knows them.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio::time::Instant;

use crate::{FeatureFlag, Store, StoreError};

/// All flags, and when they were asked for. There are few, so all are kept: a flag that is not among them does not exist.
#[derive(Debug, Default)]
pub(super) struct Flags(RwLock<Option<(Instant, Arc<[FeatureFlag]>)>>);

impl Flags {
    /// All flags. Asks the database if what is known is older than `expiry`.
    pub(super) async fn all(
        &self,
        store: &Store,
        expiry: Duration,
    ) -> Result<Arc<[FeatureFlag]>, StoreError> {
        let known = self.0.read().clone();
        if let Some((asked, flags)) = &known
            && asked.elapsed() < expiry
        {
            return Ok(Arc::clone(flags));
        }
        let asked = Instant::now();
        match (store.flags().await, known) {
            (Ok(flags), _) => {
                let flags: Arc<[FeatureFlag]> = flags.into();
                *self.0.write() = Some((asked, Arc::clone(&flags)));
                Ok(flags)
            }
            (Err(_), Some((_, flags))) => Ok(flags),
            (Err(error), None) => Err(error),
        }
    }

    /// Makes the next question ask the database.
    pub(super) fn forget(&self) {
        *self.0.write() = None;
    }
}
