//! What `realtime doctor` wants to know.

use realtime_doctor::Facts;

use super::TenantDatabase;
use crate::{ConnectError, doctor};

impl TenantDatabase {
    /// Looks at all that can be wrong with the database. Nothing is changed.
    ///
    /// # Errors
    /// [`ConnectError`] when the database cannot be asked.
    pub async fn examine(&self) -> Result<Facts, ConnectError> {
        let report = self.policies().await?;
        doctor::examine(&self.inner.config, &report).await
    }
}
