//! "Why do I get nothing?"

use realtime_doctor::explain::Seen;

use super::TenantDatabase;
use crate::{ConnectError, ExplainRequest, explain};

impl TenantDatabase {
    /// Looks at the way of a row to a token. The token is not judged here. Nothing is changed.
    ///
    /// # Errors
    /// [`ConnectError`] when the database cannot be asked.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<Seen, ConnectError> {
        let stats = &self.inner.stats.relations;
        explain::look(self.pool()?, &self.inner.config, stats, request).await
    }
}
