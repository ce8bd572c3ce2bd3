//! A database for tests that holds every question until the test answers it.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use realtime_changes::{ChannelId, SubscribeRefusal};
use realtime_postgres::{
    AuthorizeError, AuthorizeRequest, ConnectError, DatabaseConfig, Generation, ReadVerdict, ReplayError,
    ReplayParams, ReplayedMessage, Replication, StoredQuery, SubscribeRequest, WriteVerdict,
};
use tokio::sync::oneshot;

/// A subscription that is held, and how to answer it.
type Held = (Generation, oneshot::Sender<Result<(), SubscribeRefusal>>);

/// What the database does. Where there is no driver, tests give the answers as completions.
#[derive(Debug, Default)]
pub struct Script {
    pub ready: AtomicBool,
    pub replicating: AtomicBool,
    pub gaps: AtomicU64,
    /// How many channels have ended what they watched.
    pub unsubscribed: AtomicU64,
    /// The subscriptions that are held, in order.
    held: Mutex<Vec<Held>>,
}

impl Script {
    /// The subscriptions that are held.
    pub fn held_subscriptions(&self) -> Vec<Generation> {
        self.held.lock().iter().map(|(generation, _)| generation.clone()).collect()
    }

    /// Answers all subscriptions that are held.
    pub fn answer_subscriptions(&self, answer: Result<(), SubscribeRefusal>) -> Vec<Generation> {
        let held = std::mem::take(&mut *self.held.lock());
        let mut generations = Vec::new();
        for (generation, reply) in held {
            // The caller may already be gone.
            let _ = reply.send(answer.clone());
            generations.push(generation);
        }
        generations
    }
}

/// A handle of a database that follows a script. The handles that replace it follow the same script.
#[derive(Debug, Clone, Default)]
pub struct Database(Arc<Script>);

/// Keeps nothing going: the script reads no log.
#[derive(Debug)]
pub struct Attendance;

impl Deref for Database {
    type Target = Arc<Script>;

    fn deref(&self) -> &Arc<Script> {
        &self.0
    }
}

impl Database {
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    pub async fn ready(&self) -> Result<(), ConnectError> {
        std::future::pending().await
    }

    pub async fn subscribe(&self, request: SubscribeRequest) -> Result<(), SubscribeRefusal> {
        let (reply, answer) = oneshot::channel();
        self.held.lock().push((request.generation, reply));
        match answer.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }

    pub fn unsubscribe(&self, _: ChannelId) {
        self.unsubscribed.fetch_add(1, Ordering::Relaxed);
    }

    pub async fn authorize_read(&self, _: &AuthorizeRequest) -> Result<ReadVerdict, AuthorizeError> {
        std::future::pending().await
    }

    pub async fn authorize_write(&self, _: &AuthorizeRequest) -> Result<WriteVerdict, AuthorizeError> {
        std::future::pending().await
    }

    pub async fn stored(&self, _: &str, _: StoredQuery) -> Result<Vec<ReplayedMessage>, ReplayError> {
        std::future::pending().await
    }

    pub async fn replay(&self, _: &str, _: ReplayParams) -> Result<Vec<ReplayedMessage>, ReplayError> {
        std::future::pending().await
    }

    pub fn attend(&self) -> Attendance {
        Attendance
    }

    pub fn replication(&self) -> Replication {
        Replication::new(self.replicating.load(Ordering::Relaxed), self.gaps.load(Ordering::Relaxed))
    }

    pub async fn replication_differs(&self, _: Replication) {
        std::future::pending().await
    }

    pub fn succeed(&self, _: DatabaseConfig, _: bool) -> Self {
        self.clone()
    }
}
