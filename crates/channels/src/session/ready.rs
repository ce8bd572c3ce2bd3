//! Telling channels whether broadcasts from the database arrive (protocol 7; spec README, decision 2).
//!
//! A channel asks for it with `replication_ready`. It is told once that they arrive; if some may have been missed since,
//! it is told that, and again when they arrive.

use std::{sync::Arc, time::Duration};

use realtime_protocol::{Extension, SystemMessage};
use tokio::time::Instant;

use super::{Effect, Session, Topic};

/// A channel that wants to know that broadcasts from the database arrive is given up after this long (protocol 7).
const READY_LIMIT: Duration = Duration::from_secs(60);

/// What a channel is told of a gap.
const GAP: &str = "The connection to the database was lost: broadcasts from it may have been missed";

/// What a channel was told of broadcasts from the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// It did not ask.
    Unasked,
    /// Nothing yet; it is given up at this time.
    Waiting(Instant),
    /// That they arrive, when there had been this many gaps.
    Told(u64),
    /// That some may have been missed.
    Missed,
}

impl Ready {
    /// When something has to be done.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Waiting(by) => Some(by),
            Self::Unasked | Self::Told(_) | Self::Missed => None,
        }
    }
}

impl Session {
    /// A channel that has just joined wants to be told.
    pub(super) fn ask_replication(&mut self, topic: &str, effects: &mut Vec<Effect>) {
        if let Some(channel) = self.channel_mut(topic) {
            channel.ready = Ready::Waiting(Instant::now() + READY_LIMIT);
            // Before it is told: what changes meanwhile is seen by the watch.
            self.watch_replication(effects);
            self.tell_replication(topic);
        }
    }

    /// Tells a channel what it does not know yet.
    fn tell_replication(&mut self, topic: &str) {
        let now = self.runtime.database().replication();
        let Some(channel) = self.channel_mut(topic) else { return };
        let before = channel.ready;
        let missed = matches!(before, Ready::Told(gaps) if gaps != now.gaps);
        let waits = missed || matches!(before, Ready::Waiting(_) | Ready::Missed);
        if waits && now.arrives {
            channel.ready = Ready::Told(now.gaps);
        } else if missed {
            channel.ready = Ready::Missed;
        }
        if missed {
            self.system(topic, &SystemMessage::gap(Extension::System, "BroadcastsMissed", GAP));
        }
        if waits && now.arrives {
            self.system(topic, &SystemMessage::replication_established());
        }
    }

    /// Has it watched, once for all channels of the socket.
    fn watch_replication(&mut self, effects: &mut Vec<Effect>) {
        let asked =
            |topic: &Topic| matches!(topic, Topic::Joined(channel) if channel.ready != Ready::Unasked);
        if !self.watching_replication && self.topics.values().any(asked) {
            self.watching_replication = true;
            effects.push(Effect::WatchReplication(self.runtime.database().replication()));
        }
    }

    /// Something has changed: tells the channels that asked.
    pub(super) fn replication_differs(&mut self, effects: &mut Vec<Effect>) {
        self.watching_replication = false;
        self.watch_replication(effects);
        let topics: Vec<Arc<str>> = self.topics.keys().map(Arc::clone).collect();
        for topic in topics {
            self.tell_replication(&topic);
        }
    }

    /// Closes a channel that has waited too long for broadcasts from the database.
    pub(super) fn give_up_replication(&mut self, topic: &str, now: Instant) {
        if self.channel_mut(topic).is_some_and(|channel| channel.ready.deadline().is_some_and(|by| by <= now))
        {
            self.stop_channel(topic, "Replication connection was not established in time");
        }
    }
}
