//! The tenant's database, behind a trait.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use realtime_changes::{ChannelId, SubscribeRefusal};
use realtime_postgres::{
    Attendance, AuthorizeError, AuthorizeRequest, ConnectError, DatabaseConfig, Health, ReadVerdict, Reader,
    ReplayError, ReplayParams, ReplayedMessage, Replication, SubscribeRequest, TenantDatabase, WriteVerdict,
};

/// The tenant's database as sessions see it; a trait so that the state machine can be driven without one.
pub trait Database: Send + Sync {
    /// Whether it answered last time it was needed, so that joins need not wait.
    fn is_ready(&self) -> bool;
    /// See [`TenantDatabase::ready`].
    fn ready(&self) -> BoxFuture<'_, Result<(), ConnectError>>;
    /// See [`TenantDatabase::try_on`].
    fn try_on(&self) -> BoxFuture<'_, Result<(), ConnectError>> {
        self.ready()
    }
    /// See [`TenantDatabase::subscribe`].
    fn subscribe(&self, request: SubscribeRequest) -> BoxFuture<'_, Result<(), SubscribeRefusal>>;
    /// See [`TenantDatabase::unsubscribe`].
    fn unsubscribe(&self, channel: ChannelId);
    /// See [`TenantDatabase::authorize_read`].
    fn authorize_read(&self, request: AuthorizeRequest)
    -> BoxFuture<'_, Result<ReadVerdict, AuthorizeError>>;
    /// See [`TenantDatabase::authorize_write`].
    fn authorize_write(
        &self,
        request: AuthorizeRequest,
    ) -> BoxFuture<'_, Result<WriteVerdict, AuthorizeError>>;
    /// See [`TenantDatabase::replay`].
    fn replay(
        &self,
        topic: Box<str>,
        params: ReplayParams,
    ) -> BoxFuture<'_, Result<Vec<ReplayedMessage>, ReplayError>>;
    /// See [`TenantDatabase::attend`].
    fn attend(&self) -> Option<Attendance>;
    /// See [`TenantDatabase::replication`].
    fn replication(&self) -> Replication;
    /// See [`TenantDatabase::replication_differs`].
    fn replication_differs(&self, from: Replication) -> BoxFuture<'_, ()>;
    /// See [`TenantDatabase::health`].
    fn health(&self) -> Health {
        Health::Idle
    }
    /// See [`TenantDatabase::reader`].
    fn reader(&self) -> Option<Reader> {
        None
    }
    /// See [`TenantDatabase::end_replication`].
    fn end_replication(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }
    /// See [`TenantDatabase::is_connected`].
    fn is_connected(&self) -> bool {
        self.is_ready()
    }
    /// See [`TenantDatabase::is_prepared`].
    fn is_prepared(&self) -> bool {
        true
    }
    /// See [`TenantDatabase::succeed`].
    fn succeed(&self, config: DatabaseConfig, come_back: bool) -> Arc<dyn Database>;
    /// See [`TenantDatabase::shutdown`].
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

impl Database for TenantDatabase {
    fn is_ready(&self) -> bool {
        Self::is_ready(self)
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), ConnectError>> {
        Box::pin(Self::ready(self))
    }

    fn try_on(&self) -> BoxFuture<'_, Result<(), ConnectError>> {
        Box::pin(Self::try_on(self))
    }

    fn subscribe(&self, request: SubscribeRequest) -> BoxFuture<'_, Result<(), SubscribeRefusal>> {
        Box::pin(Self::subscribe(self, request))
    }

    fn unsubscribe(&self, channel: ChannelId) {
        Self::unsubscribe(self, channel);
    }

    fn authorize_read(
        &self,
        request: AuthorizeRequest,
    ) -> BoxFuture<'_, Result<ReadVerdict, AuthorizeError>> {
        Box::pin(async move { Self::authorize_read(self, &request).await })
    }

    fn authorize_write(
        &self,
        request: AuthorizeRequest,
    ) -> BoxFuture<'_, Result<WriteVerdict, AuthorizeError>> {
        Box::pin(async move { Self::authorize_write(self, &request).await })
    }

    fn replay(
        &self,
        topic: Box<str>,
        params: ReplayParams,
    ) -> BoxFuture<'_, Result<Vec<ReplayedMessage>, ReplayError>> {
        Box::pin(async move { Self::replay(self, &topic, params).await })
    }

    fn attend(&self) -> Option<Attendance> {
        Some(Self::attend(self))
    }

    fn replication(&self) -> Replication {
        Self::replication(self)
    }

    fn replication_differs(&self, from: Replication) -> BoxFuture<'_, ()> {
        Box::pin(Self::replication_differs(self, from))
    }

    fn health(&self) -> Health {
        Self::health(self)
    }

    fn reader(&self) -> Option<Reader> {
        Self::reader(self)
    }

    fn end_replication(&self) -> BoxFuture<'_, bool> {
        Box::pin(Self::end_replication(self))
    }

    fn is_connected(&self) -> bool {
        Self::is_connected(self)
    }

    fn is_prepared(&self) -> bool {
        Self::is_prepared(self)
    }

    fn succeed(&self, config: DatabaseConfig, come_back: bool) -> Arc<dyn Database> {
        Arc::new(Self::succeed(self, config, come_back))
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(Self::shutdown(self))
    }
}
