//! From the log to the sockets and the webhooks.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use realtime_legacy::{Change, Stream};
use realtime_pgoutput::{Lsn, message::Message};
use realtime_postgres::{HandOver, LogSink};
use realtime_protocol::{Vsn, encode};

use super::{
    Legacy,
    webhooks::{Collected, Webhooks},
};

/// What the reader's task owns.
pub(super) struct StreamSink {
    legacy: Arc<Legacy>,
    stream: Stream,
    webhooks: Arc<Webhooks>,
    /// What webhooks are told of the transaction that is being read.
    collected: Collected,
    /// Whether this node posts them.
    acts: bool,
}

impl StreamSink {
    pub(super) fn new(legacy: Arc<Legacy>, webhooks: Arc<Webhooks>) -> Self {
        let settings = legacy.settings();
        let stream = Stream::new(settings.profile, settings.file.restrictions.clone());
        Self { stream, collected: webhooks.collect(), webhooks, legacy, acts: true }
    }
}

impl LogSink for StreamSink {
    fn session_begins(&mut self) {
        self.stream.restart();
        self.collected.clear();
    }

    fn acts(&mut self, acts: bool, void: bool) {
        self.acts = acts;
        if void {
            self.webhooks.give_up();
        }
    }

    fn message(&mut self, message: &Message, again: bool) {
        let Self { legacy, stream, collected, acts, .. } = self;
        stream.take(message, |mut change| {
            if *acts {
                collected.add(&change);
            }
            if !again {
                legacy.deliver(&mut change);
            }
        });
    }

    fn committed(&mut self, end: Lsn) -> Option<HandOver> {
        self.webhooks.post(&mut self.collected, end, self.stream.commit_timestamp())
    }

    fn relieve(&mut self) -> Option<BoxFuture<'_, ()>> {
        let sockets = self.legacy.behind.relieve();
        let webhooks = self.webhooks.relieve();
        if sockets.is_none() && webhooks.is_none() {
            return None;
        }
        Some(Box::pin(async move {
            if let Some(sockets) = sockets {
                sockets.await;
            }
            if let Some(webhooks) = webhooks {
                webhooks.await;
            }
        }))
    }
}

impl Legacy {
    /// Queues a change to everybody who joined one of its topics: one frame for each of them, and before it perhaps one with
    /// the event `*`.
    fn deliver(&self, change: &mut Change<'_>) {
        self.counters.changes.fetch_add(1, Ordering::Relaxed);
        let topics = self.topics.read();
        if topics.is_empty() {
            return;
        }
        let event = change.event().as_str();
        let mut queued = 0;
        change.publish(&topics, |payload, topic, members| {
            let frame = |vsn, event| encode::legacy_change(vsn, topic, event, payload);
            let mut frames = Frames::default();
            for route in members.values() {
                let (star, own) = frames.of(route.vsn);
                if route.star.load(Ordering::Relaxed) {
                    let star = star.get_or_insert_with(|| frame(route.vsn, "*"));
                    // Closed outboxes belong to sockets that are ending: they leave by themselves.
                    let _ = route.outbox.push(star.clone());
                    queued += 1;
                }
                let own = own.get_or_insert_with(|| frame(route.vsn, event));
                if route.outbox.push_gauged(own.clone()) == Ok(true) {
                    self.behind.add(&route.outbox, &route.patience);
                }
                queued += 1;
            }
        });
        self.counters.frames.fetch_add(queued, Ordering::Relaxed);
    }
}

/// The frames of one change and topic, by serializer: one of the event `*`, and one of the change's own. Made when somebody
/// gets them.
#[derive(Default)]
struct Frames([(Option<Bytes>, Option<Bytes>); 3]);

impl Frames {
    fn of(&mut self, vsn: Vsn) -> &mut (Option<Bytes>, Option<Bytes>) {
        let [v1, v2, v2_text] = &mut self.0;
        match vsn {
            Vsn::V1 => v1,
            Vsn::V2 => v2,
            Vsn::V2Text => v2_text,
        }
    }
}
