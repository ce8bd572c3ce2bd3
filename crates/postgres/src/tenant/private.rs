//! What a tenant's database does for private topics, as the rest of the server uses it.

use std::time::SystemTime;

use tokio::time::Instant;

use super::TenantDatabase;
use crate::{
    AuthorizeError, AuthorizeRequest, ConnectError, JanitorSettings, Maintenance, ReadVerdict, ReplayError,
    ReplayParams, ReplayedMessage, SchemaError, SchemaReport, StoredQuery, WriteVerdict, janitor, replay,
    schema,
};

impl TenantDatabase {
    /// Asks the policies what may be read of a private topic. Those who ask the same at once share the answer.
    ///
    /// Connects if need be. Cancel safe. Takes at most 15 s of connecting, 10 s of waiting for a connection and
    /// 15 s of asking.
    ///
    /// # Errors
    /// [`AuthorizeError`]: nothing may be read then.
    pub async fn authorize_read(&self, request: &AuthorizeRequest) -> Result<ReadVerdict, AuthorizeError> {
        self.connected().await?;
        self.noted(self.private().authorizer.read(request).await)
    }

    /// Asks the policies what may be written to a private topic; otherwise as
    /// [`authorize_read`](Self::authorize_read).
    ///
    /// # Errors
    /// [`AuthorizeError`]: nothing may be written then, and it should be asked again next time.
    pub async fn authorize_write(&self, request: &AuthorizeRequest) -> Result<WriteVerdict, AuthorizeError> {
        self.connected().await?;
        self.noted(self.private().authorizer.write(request).await)
    }

    /// Connects if need be, so that a database that is down is not tried by each question on its own.
    async fn connected(&self) -> Result<(), ConnectError> {
        if !self.is_ready() {
            self.ready().await?;
        }
        self.prepared().await;
        Ok(())
    }

    /// Notes that the database is gone if an answer says so; the next question connects again.
    fn noted<V>(&self, answer: Result<V, AuthorizeError>) -> Result<V, AuthorizeError> {
        if let Err(AuthorizeError::Unavailable(_)) = &answer {
            self.lost();
        }
        answer
    }

    /// The latest private broadcasts of a topic, oldest first. The receiver must be allowed to read the topic.
    ///
    /// # Errors
    /// [`ReplayError::Failed`], after at most 15 s of connecting, 10 s of waiting for a connection and 5 s of
    /// asking.
    pub async fn replay(
        &self,
        topic: &str,
        params: ReplayParams,
    ) -> Result<Vec<ReplayedMessage>, ReplayError> {
        self.stored(topic, params.into()).await
    }

    /// Stored broadcasts of a topic, oldest first. The receiver must be allowed to read the topic.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    pub async fn stored(&self, topic: &str, asked: StoredQuery) -> Result<Vec<ReplayedMessage>, ReplayError> {
        self.connected().await.map_err(|error| ReplayError::Failed(error.to_string()))?;
        let started = Instant::now();
        let answer = replay::replay(&self.private().pool, topic, &asked, SystemTime::now()).await;
        self.stats().replays.record_time(started.elapsed());
        answer
    }

    /// Makes what private topics need in the database, where it is missing. Safe to run at any time and from
    /// several nodes at once. `grant` gives rights also to client roles that have none on what exists: when an
    /// operator asks for it.
    ///
    /// # Errors
    /// [`SchemaError`]: nothing was changed then.
    pub async fn set_up_schema(&self, now: SystemTime, grant: bool) -> Result<SchemaReport, SchemaError> {
        schema::set_up(self.config(), now, grant).await
    }

    /// Makes the partitions that messages need from this time on; with `delete`, drops those that are too old.
    ///
    /// # Errors
    /// [`ConnectError`] when the database cannot be asked at all.
    pub async fn maintain(&self, now: SystemTime, delete: bool) -> Result<Maintenance, ConnectError> {
        janitor::maintain(self.config(), now, delete).await
    }

    /// Starts [`maintain`](Self::maintain) on a timer, until [`shutdown`](Self::shutdown). Call it once.
    pub fn keep_maintained(
        &self,
        settings: JanitorSettings,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) {
        let work = janitor::run(self.config().clone(), settings, clock);
        self.spawn(work);
    }
}
