//! What operators want to know of the policies of watched tables, and of live results.

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    time::{self, Duration},
};

use super::TenantDatabase;
use crate::{
    ConnectError, LiveResult, PolicyReport, Recall, policy_publication, pool, publication,
    visibility::compiled::{self, Watching},
    worker::Command,
};

/// How long the worker is waited for: it may wait for the database itself.
const WORKER_LIMIT: Duration = Duration::from_secs(1);

impl TenantDatabase {
    /// What becomes of the policies of the published tables: which are compiled, which are asked about each row, and why.
    /// Nothing is changed.
    ///
    /// # Errors
    /// [`ConnectError`] when the database cannot be asked.
    pub async fn policies(&self) -> Result<PolicyReport, ConnectError> {
        let publication = &self.inner.config.publication;
        let watching = time::timeout(WORKER_LIMIT, self.watching()).await.ok().flatten().unwrap_or_default();
        let client = pool::get(self.pool()?).await?;
        let stats = &self.inner.stats.relations;
        compiled::explain(
            &client,
            publication,
            &[publication, publication::NAME, policy_publication::NAME],
            &watching,
            stats,
        )
        .await
        .map_err(|error| ConnectError::from_code(error.code(), pool::describe(&error)))
    }

    /// The live results that are kept here, those in trouble first; none if nobody has asked for any, or if the worker does
    /// not answer in time.
    pub async fn live_results(&self) -> Vec<LiveResult> {
        let asked = async {
            let worker = self.inner.worker.get()?;
            let (reply, answer) = oneshot::channel();
            worker.send(Command::LiveResults(reply)).await.ok()?;
            answer.await.ok()
        };
        time::timeout(WORKER_LIMIT, asked).await.ok().flatten().unwrap_or_default()
    }

    /// What is kept of the log, for another node that has left it out. `None`: nothing is, or the worker does not answer in
    /// time.
    pub async fn kept_changes(&self, recall: Recall) -> Option<Bytes> {
        let asked = async {
            let worker = self.inner.worker.get()?;
            let (reply, answer) = oneshot::channel();
            worker.send(Command::Recall(recall, reply)).await.ok()?;
            answer.await.ok()
        };
        time::timeout(WORKER_LIMIT, asked).await.ok().flatten()
    }

    /// Which tables are watched. `None`: nobody has watched any.
    async fn watching(&self) -> Option<Watching> {
        let worker = self.inner.worker.get()?;
        let (reply, answer) = oneshot::channel();
        worker.send(Command::Watching(reply)).await.ok()?;
        answer.await.ok()
    }
}
