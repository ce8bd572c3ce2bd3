//! What a channel asks for.

use std::sync::Arc;

use realtime_changes::{ChannelId, SubscriptionSpec};
use realtime_pgoutput::Oid;

use crate::{Generation, catalog::Published, live::Source};

/// A live binding that was found to be in order.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Which of the request's subscriptions it is.
    pub(crate) at: usize,
    /// The id that the client knows it by.
    pub(crate) id: u32,
    /// What it asks for.
    pub(crate) spec: Arc<SubscriptionSpec>,
    /// Where its rows come from.
    pub(crate) source: Arc<Source>,
}

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
    /// The same request for what is not live.
    pub(crate) fn without(&self, live: &[Found]) -> Self {
        let is_live = |id: u32| live.iter().any(|found| found.id == id);
        let plain = self.subscriptions.iter().filter(|(id, _)| !is_live(*id));
        Self { subscriptions: plain.cloned().collect(), ..self.clone() }
    }

    /// The same request for what does not ask to be live.
    pub(crate) fn plain(&self) -> Self {
        let plain = self.subscriptions.iter().filter(|(_, spec)| spec.live.is_none());
        Self { subscriptions: plain.cloned().collect(), ..self.clone() }
    }

    /// Whether one of the subscriptions means a table.
    pub(crate) fn names(&self, schema: &str, table: &str) -> bool {
        self.subscriptions.iter().any(|(_, spec)| spec.matches_name(schema, table))
    }

    /// Whether a subscription of events says where it goes on.
    pub(crate) fn comes_back(&self) -> bool {
        self.subscriptions.iter().any(|(_, spec)| spec.since.is_some() && spec.live.is_none())
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
