//! Telling channels that broadcasts from the database arrive (protocol 7).

use std::{sync::Arc, time::Duration};

use realtime_protocol::SystemMessage;
use tokio::time::Instant;

use super::{Effect, Session, Topic};

/// A channel that wants to know that broadcasts from the database arrive is given up after this long (protocol 7).
const READY_LIMIT: Duration = Duration::from_secs(60);

impl Session {
    /// Tells a channel that broadcasts from the database arrive, now or when they do (protocol 7).
    pub(super) fn await_replication(&mut self, topic: &str, effects: &mut Vec<Effect>) {
        if self.runtime.database().is_replicating() {
            return self.system(topic, &SystemMessage::replication_established());
        }
        let Some(channel) = self.channel_mut(topic) else { return };
        channel.ready_by = Some(Instant::now() + READY_LIMIT);
        if !std::mem::replace(&mut self.awaiting_replication, true) {
            effects.push(Effect::AwaitReplication);
        }
    }

    /// Broadcasts from the database arrive: tells the channels that wait for that.
    pub(super) fn replication_answered(&mut self, effects: &mut Vec<Effect>) {
        self.awaiting_replication = false;
        let waiting: Vec<Arc<str>> = self
            .topics
            .values()
            .filter_map(|topic| match topic {
                Topic::Joined(channel) if channel.ready_by.is_some() => Some(Arc::clone(&channel.topic)),
                _ => None,
            })
            .collect();
        for topic in waiting {
            if let Some(channel) = self.channel_mut(&topic) {
                channel.ready_by = None;
            }
            self.await_replication(&topic, effects);
        }
    }

    /// Closes a channel that has waited too long for broadcasts from the database.
    pub(super) fn give_up_replication(&mut self, topic: &str, now: Instant) {
        if self.channel_mut(topic).is_some_and(|channel| channel.ready_by.is_some_and(|by| by <= now)) {
            self.stop_channel(topic, "Replication connection was not established in time");
        }
    }
}
