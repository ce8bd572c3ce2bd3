//! From the log to the sockets and the webhooks.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use realtime_legacy::Stream;
use realtime_pgoutput::{Lsn, message::Message};
use realtime_postgres::{LogSink, Taken};

use super::{
    members::Members,
    settings::LegacySettings,
    webhooks::{Collected, Webhooks},
};

/// State of the reader's task.
pub(super) struct StreamSink {
    members: Arc<Members>,
    stream: Stream,
    webhooks: Arc<Webhooks>,
    /// What the current transaction has for webhooks.
    collected: Collected,
    /// Whether this node posts webhooks.
    acts: bool,
}

impl StreamSink {
    pub(super) fn new(settings: &LegacySettings, members: Arc<Members>, webhooks: Arc<Webhooks>) -> Self {
        let stream = Stream::new(settings.profile, settings.file.restrictions.clone());
        Self { stream, collected: webhooks.collect(), webhooks, members, acts: true }
    }
}

impl LogSink for StreamSink {
    fn session_begins(&mut self) {
        self.stream.restart();
        self.collected.clear();
    }

    fn begins(&mut self, _start: Lsn, resumed: bool) {
        self.webhooks.begins(resumed);
    }

    fn acts(&mut self, acts: bool, void: bool) {
        self.acts = acts;
        if void {
            self.webhooks.give_up();
        }
    }

    fn message(&mut self, message: &Message, again: bool) {
        let Self { members, stream, collected, acts, .. } = self;
        stream.take(message, |mut change| {
            if *acts {
                collected.add(&change);
            }
            if !again {
                members.deliver(&mut change);
            }
        });
    }

    fn committed(&mut self, end: Lsn) -> Taken {
        self.webhooks.post(&mut self.collected, end, self.stream.commit_timestamp())
    }

    fn max_pending(&self) -> usize {
        // Webhooks bound what waits for them, and sockets do not wait for webhooks.
        usize::MAX
    }

    fn relieve(&mut self) -> Option<BoxFuture<'_, ()>> {
        self.members.relieve()
    }
}
