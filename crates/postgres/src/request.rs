//! What a channel asks for.

use std::sync::Arc;

use realtime_changes::{ChannelId, SubscriptionSpec};
use realtime_pgoutput::Oid;

use crate::{Generation, catalog::Published};

/// What a channel wants to watch.
#[derive(Debug, Clone)]
pub struct SubscribeRequest {
    /// The channel.
    pub channel: ChannelId,
    /// Role of its token.
    pub role: Arc<str>,
    /// Claims of its token, as JSON.
    pub claims: Arc<str>,
    /// Subscriptions with the ids that the client knows them by.
    pub subscriptions: Vec<(u32, Arc<SubscriptionSpec>)>,
    /// Which of the channel's requests it is: one that was overtaken leaves nothing behind.
    pub generation: Generation,
}

impl SubscribeRequest {
    /// Whether one of the subscriptions means a table.
    pub(crate) fn names(&self, schema: &str, table: &str) -> bool {
        self.subscriptions.iter().any(|(_, spec)| spec.matches_name(schema, table))
    }

    /// Whether each of the subscriptions says where it goes on.
    pub(crate) fn says_where_it_was(&self) -> bool {
        self.subscriptions.iter().all(|(_, spec)| spec.since.is_some())
    }

    /// The published tables that the subscriptions mean.
    pub(crate) fn tables(&self, published: &[Published]) -> Vec<Oid> {
        let meant = published.iter().filter(|table| self.names(&table.schema, &table.name));
        meant.map(|table| table.oid).collect()
    }
}
