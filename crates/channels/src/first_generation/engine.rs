//! The stream engine of the first generation: everyone who joined a topic gets every change of it.
//!
//! One task reads the log (`realtime_postgres::LogReader`). The [`sink`] finds the members of each topic and queues
//! one frame per topic and serializer. Sessions enter and leave topics.

use std::sync::{Arc, OnceLock};

use realtime_cluster::Cluster;
use realtime_codes::ErrorCode;
use realtime_postgres::{DatabaseConfig, LogReader, LogReaderConfig, Sharing};

use super::{
    members::{Counters, Members, Place},
    settings::{LegacyEngine, LegacySettings},
    sink::StreamSink,
    webhooks::Webhooks,
};
use crate::{routes::Route, sharing::NodeSharing, token::Token};

/// What serves the first generation.
#[derive(Debug)]
pub struct Legacy {
    settings: LegacySettings,
    /// The token of clients on a server that asks for none.
    anonymous: Arc<Token>,
    members: Arc<Members>,
    running: OnceLock<Running>,
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
            members: Arc::new(Members::new(settings.profile.dotted_filter)),
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

    /// The token of clients on a server that asks for none.
    #[must_use]
    pub fn anonymous(&self) -> &Arc<Token> {
        &self.anonymous
    }

    /// What the engine has done since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        self.members.counters()
    }

    /// Enters a channel into its topic until the place is dropped.
    #[must_use]
    pub fn enter(&self, route: Arc<Route>) -> Place {
        self.members.enter(route)
    }

    /// Counters of the reader, once it reads.
    #[must_use]
    pub fn reader_stats(&self) -> Option<&realtime_postgres::Stats> {
        self.running.get().map(|running| running.reader.stats())
    }

    /// Begins to read the log of a database if the stream engine is used, from the walsender or from the node that
    /// reads it. Call it within a runtime.
    pub fn start(&self, mut database: DatabaseConfig, cluster: Option<Cluster>) {
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
        let tenant: Arc<str> = (*database.tenant).into();
        let webhooks = match Webhooks::start(&self.settings, Arc::clone(self.members.counters()), &tenant) {
            Ok(webhooks) => Arc::new(webhooks),
            Err(error) => {
                tracing::error!(
                    tenant = &*tenant,
                    code = ErrorCode::WebhooksUnavailable.as_str(),
                    error,
                    "the log is not read: webhooks cannot be posted"
                );
                return;
            }
        };
        let sink = StreamSink::new(&self.settings, Arc::clone(&self.members), Arc::clone(&webhooks));
        let config = LogReaderConfig {
            database,
            publications: self.settings.publications.clone(),
            resume_delay: self.settings.resume_delay,
        };
        let reader = LogReader::start(config, sink);
        let _ = self.running.set(Running { reader, webhooks });
    }

    /// Stops reading, then gives up webhooks that were not answered. With a permanent slot their transactions come
    /// again.
    pub async fn shut_down(&self) {
        if let Some(running) = self.running.get() {
            running.reader.shutdown().await;
            running.webhooks.shut_down().await;
        }
    }
}
