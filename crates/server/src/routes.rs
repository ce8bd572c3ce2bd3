//! From a change to the sockets: which channel is where, and the frames it gets.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::RwLock;
use realtime_changes::{ChannelId, Delivery};
use realtime_hub::Outbox;
use realtime_postgres::{ChangeSink, Notice};
use realtime_protocol::{Ref, SystemMessage, Vsn, encode};

use crate::limits::Meters;

/// Where one joined channel's row changes go, and what their frames look like.
#[derive(Debug)]
pub struct Route {
    /// The socket's outbox.
    pub outbox: Arc<Outbox>,
    /// The socket's serializer.
    pub vsn: Vsn,
    /// The topic as the client joined it.
    pub topic: Arc<str>,
    /// The channel's join_ref; `system` frames carry it.
    pub join_ref: Ref,
    /// Joined without `config`: changes come as events INSERT, UPDATE, DELETE (protocol 11.2).
    pub legacy: bool,
}

/// The routes of one tenant's channels that watch the database.
#[derive(Debug)]
pub struct Routes {
    routes: RwLock<HashMap<ChannelId, Arc<Route>>>,
    next: AtomicU64,
    meters: Arc<Meters>,
}

impl Routes {
    /// No routes; what goes through them is counted by `meters`.
    #[must_use]
    pub fn new(meters: Arc<Meters>) -> Self {
        Self { routes: RwLock::default(), next: AtomicU64::new(0), meters }
    }

    /// What counts the tenant's events.
    #[must_use]
    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// A channel id that was never used.
    pub fn next_channel(&self) -> ChannelId {
        ChannelId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Opens the route of a channel.
    pub fn open(&self, channel: ChannelId, route: Arc<Route>) {
        self.routes.write().insert(channel, route);
    }

    /// Closes it: nothing is delivered any more. Idempotent.
    pub fn close(&self, channel: ChannelId) {
        self.routes.write().remove(&channel);
    }
}

impl ChangeSink for Routes {
    /// Queues one frame per recipient; recipients whose frames are equal share one.
    fn deliver(&self, delivery: Delivery) {
        let ids: usize = delivery.recipients.iter().map(|recipient| recipient.ids.len()).sum();
        self.meters.db_events().add(ids as u64);
        let routes = self.routes.read();
        let mut frames: HashMap<FrameKey<'_>, Bytes> = HashMap::new();
        for recipient in &delivery.recipients {
            let Some(route) = routes.get(&recipient.channel) else { continue };
            let key =
                FrameKey { vsn: route.vsn, legacy: route.legacy, topic: &route.topic, ids: &recipient.ids };
            let frame = frames.entry(key).or_insert_with(|| {
                if route.legacy {
                    encode::legacy_change(route.vsn, &route.topic, delivery.action.as_str(), &delivery.data)
                } else {
                    encode::postgres_changes(route.vsn, &route.topic, &recipient.ids, &delivery.data)
                }
            });
            // A closed outbox belongs to a socket that is ending: it will unsubscribe by itself.
            let _ = route.outbox.push(frame.clone());
        }
    }

    fn is_limited(&self) -> bool {
        self.meters.db_events().is_triggered()
    }

    fn notice(&self, channel: ChannelId, notice: Notice) {
        let route = self.routes.read().get(&channel).map(Arc::clone);
        let Some(route) = route else { return };
        let message = match notice {
            Notice::Subscribed => SystemMessage::subscribed(),
            Notice::Error(text) => SystemMessage::postgres_changes_error(text),
        };
        let _ = route.outbox.push(encode::system(route.vsn, &route.join_ref, &route.topic, &message));
    }
}

/// What makes two change frames equal, beside the change itself.
#[derive(PartialEq, Eq, Hash)]
struct FrameKey<'a> {
    vsn: Vsn,
    legacy: bool,
    topic: &'a str,
    ids: &'a [u32],
}
