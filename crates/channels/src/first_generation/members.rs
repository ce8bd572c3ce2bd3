//! Who joined which topic of the stream engine, and what they are sent.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use realtime_legacy::{Change, TopicIndex};
use realtime_protocol::{Vsn, encode};

use crate::{
    packing::{RowFrame, RowPacking},
    patience::Behind,
    routes::Route,
};

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

/// The channels of the stream engine, by topic.
#[derive(Debug)]
pub struct Members {
    topics: RwLock<TopicIndex<Arc<Route>>>,
    /// Members that read too slowly.
    behind: Behind,
    counters: Arc<Counters>,
}

impl Members {
    /// An empty table. `dotted`: filters may be written with a dot.
    pub(super) fn new(dotted: bool) -> Self {
        let topics = RwLock::new(TopicIndex::new(dotted));
        Self { topics, behind: Behind::default(), counters: Arc::default() }
    }

    /// What was done since the start.
    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Enters a channel into its topic until the place is dropped.
    pub(super) fn enter(self: &Arc<Self>, route: Arc<Route>) -> Place {
        let topic = Arc::clone(&route.topic);
        let id = self.topics.write().insert(&topic, route);
        self.counters.channels.fetch_add(1, Ordering::Relaxed);
        Place { members: Arc::clone(self), topic, id }
    }

    /// A wait for members that read too slowly, if there are any.
    pub(super) fn relieve(&self) -> Option<BoxFuture<'_, ()>> {
        self.behind.relieve()
    }

    /// Queues a change to everyone who joined one of its topics: one frame each, or two if the client needs the event
    /// `*` first.
    pub(super) fn deliver(&self, change: &mut Change<'_>) {
        self.counters.changes.fetch_add(1, Ordering::Relaxed);
        let topics = self.topics.read();
        if topics.is_empty() {
            return;
        }
        let event = change.event().as_str();
        let mut queued = 0;
        let mut packing = RowPacking::default();
        change.publish(&topics, |payload, topic, members| {
            let frame = |vsn, event| RowFrame::new(encode::legacy_change(vsn, topic, event, payload));
            let mut frames = Frames::default();
            for route in members.values() {
                let (star, own) = frames.of(route.vsn);
                if route.star.load(Ordering::Relaxed) {
                    let star = star.get_or_insert_with(|| frame(route.vsn, "*"));
                    let star = star.of(&route.outbox, payload, &mut packing);
                    // A closed outbox belongs to a socket that is ending. It leaves by itself.
                    let _ = route.outbox.push(star);
                    queued += 1;
                }
                let own = own.get_or_insert_with(|| frame(route.vsn, event));
                let own = own.of(&route.outbox, payload, &mut packing);
                if route.outbox.push_gauged(own) == Ok(true) {
                    self.behind.add(&route.outbox, &route.patience);
                }
                queued += 1;
            }
        });
        self.counters.frames.fetch_add(queued, Ordering::Relaxed);
    }
}

/// The frames of one change and one topic, by serializer: with the event `*` and with the change's own event. Made on
/// first use.
#[derive(Default)]
struct Frames([(Option<RowFrame>, Option<RowFrame>); 4]);

impl Frames {
    fn of(&mut self, vsn: Vsn) -> &mut (Option<RowFrame>, Option<RowFrame>) {
        let [v1, v2, v2_text, events] = &mut self.0;
        match vsn {
            Vsn::V1 => v1,
            Vsn::V2 => v2,
            Vsn::V2Text => v2_text,
            Vsn::Events => events,
        }
    }
}

/// A channel's place in its topic.
#[derive(Debug)]
pub struct Place {
    members: Arc<Members>,
    topic: Arc<str>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.members.topics.write().remove(&self.topic, self.id);
        self.members.counters.channels.fetch_sub(1, Ordering::Relaxed);
    }
}
