//! The first generation's stream engine: every change of the database goes to everybody who joined a topic of it.
//!
//! One task reads the log (`realtime_postgres::LogReader`), the [`sink`] looks up who joined what and queues one frame per
//! topic and serializer, made once. Sessions enter and leave topics.

mod hook;
mod signature;
mod sink;
mod webhooks;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::RwLock;
use realtime_cluster::Cluster;
use realtime_legacy::TopicIndex;
use realtime_postgres::{DatabaseConfig, LogReader, LogReaderConfig, Sharing};
use sink::StreamSink;
use webhooks::Webhooks;

use crate::{
    config::{LegacyEngine, LegacySettings},
    patience::Behind,
    routes::Route,
    session::Token,
    sharing::NodeSharing,
};

/// What serves the first generation.
#[derive(Debug)]
pub struct Legacy {
    settings: LegacySettings,
    /// What a client is that nobody asked for a token.
    anonymous: Arc<Token>,
    topics: RwLock<TopicIndex<Arc<Route>>>,
    behind: Behind,
    counters: Counters,
    running: OnceLock<Running>,
}

/// What the stream engine has done since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Changes read.
    pub changes: AtomicU64,
    /// Frames queued to sockets.
    pub frames: AtomicU64,
    /// Channels that are joined.
    pub channels: AtomicU64,
    /// Webhooks that were answered with success.
    pub webhooks_sent: AtomicU64,
    /// Webhooks that were given up.
    pub webhooks_failed: AtomicU64,
}

#[derive(Debug)]
struct Running {
    reader: LogReader,
    webhooks: Arc<Webhooks>,
}

impl Legacy {
    /// An engine that does not read yet.
    #[must_use]
    pub fn new(settings: LegacySettings) -> Arc<Self> {
        Arc::new(Self {
            anonymous: Arc::new(Token::anonymous()),
            topics: RwLock::new(TopicIndex::new(settings.profile.dotted_filter)),
            behind: Behind::default(),
            counters: Counters::default(),
            running: OnceLock::new(),
            settings,
        })
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &LegacySettings {
        &self.settings
    }

    /// Whether joins without `config` are served by the stream engine.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.settings.engine == LegacyEngine::Stream
    }

    /// What a client is that nobody asked for a token.
    #[must_use]
    pub fn anonymous(&self) -> &Arc<Token> {
        &self.anonymous
    }

    /// What was done since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counters of the reader, once it reads.
    #[must_use]
    pub fn reader_stats(&self) -> Option<&realtime_postgres::Stats> {
        self.running.get().map(|running| running.reader.stats())
    }

    /// Begins to read the log of a database, if it is the stream engine's: for all nodes, or from the one that does. Call
    /// it within a runtime.
    pub fn start(self: &Arc<Self>, mut database: DatabaseConfig, cluster: Option<Cluster>) {
        if !self.streams() || self.running.get().is_some() {
            return;
        }
        let (name, durable) = match &self.settings.slot {
            Some(name) => (name.clone(), true),
            None => ("temp_slot".to_owned(), false),
        };
        database.sharing = cluster.map(|cluster| -> Arc<dyn Sharing> {
            Arc::new(NodeSharing::of_first_generation(cluster, &database.tenant, &name))
        });
        database.slot_name = name;
        database.durable_slot = durable;
        database.max_lag_bytes = self.settings.max_lag_bytes;
        let webhooks = match Webhooks::start(&self.settings, Arc::clone(self)) {
            Ok(webhooks) => Arc::new(webhooks),
            Err(error) => {
                tracing::error!(
                    code = "WebhooksUnavailable",
                    error,
                    "the log is not read: webhooks cannot be posted"
                );
                return;
            }
        };
        let sink = StreamSink::new(Arc::clone(self), Arc::clone(&webhooks));
        let config = LogReaderConfig {
            database,
            publications: self.settings.publications.clone(),
            resume_delay: self.settings.resume_delay,
        };
        let reader = LogReader::start(config, sink);
        let _ = self.running.set(Running { reader, webhooks });
    }

    /// Stops reading; then webhooks that were not answered are given up, whose transactions come again with a permanent
    /// slot.
    pub async fn shut_down(&self) {
        if let Some(running) = self.running.get() {
            running.reader.shutdown().await;
            running.webhooks.shut_down().await;
        }
    }

    /// Enters a channel into its topic until the place is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, route: Arc<Route>) -> Place {
        let topic = Arc::clone(&route.topic);
        let id = self.topics.write().insert(&topic, route);
        self.counters.channels.fetch_add(1, Ordering::Relaxed);
        Place { legacy: Arc::clone(self), topic, id }
    }
}

/// A channel's place in its topic.
#[derive(Debug)]
pub struct Place {
    legacy: Arc<Legacy>,
    topic: Arc<str>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.legacy.topics.write().remove(&self.topic, self.id);
        self.legacy.counters.channels.fetch_sub(1, Ordering::Relaxed);
    }
}
