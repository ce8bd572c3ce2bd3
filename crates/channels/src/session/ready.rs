//! Tells channels whether broadcasts from the database arrive (protocol 7; spec README, decision 2).
//!
//! A channel asks for it with `replication_ready`. It is told once that they arrive. If some may have been missed
//! later, it is told so, and told again when they arrive.

use std::time::Duration;

use realtime_postgres::Replication;
use tokio::time::Instant;

use crate::{client::Client, effect::Effect};

/// A channel that asked whether broadcasts from the database arrive is given up after this time (protocol 7).
const READY_LIMIT: Duration = Duration::from_secs(60);

/// What a channel was told about broadcasts from the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// It did not ask.
    Unasked,
    /// Nothing yet. The channel is given up at this time.
    Waiting(Instant),
    /// That they arrive. The number of gaps at that time.
    Told(u64),
    /// That some may have been missed.
    Missed,
}

/// What a channel has to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    /// That some may have been missed.
    pub(super) missed: bool,
    /// That they arrive.
    pub(super) arrive: bool,
}

impl Ready {
    /// The state of a channel that asks now.
    pub(super) fn asked() -> Self {
        Self::Waiting(Instant::now() + READY_LIMIT)
    }

    /// When the channel is given up.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Waiting(by) => Some(by),
            Self::Unasked | Self::Told(_) | Self::Missed => None,
        }
    }

    /// Compares with what the channel was told. Returns the news, of which it is told now.
    pub(super) fn learn(&mut self, now: Replication) -> News {
        let missed = matches!(*self, Self::Told(gaps) if gaps != now.gaps);
        let waits = missed || matches!(*self, Self::Waiting(_) | Self::Missed);
        let arrive = waits && now.arrives;
        if arrive {
            *self = Self::Told(now.gaps);
        } else if missed {
            *self = Self::Missed;
        }
        News { missed, arrive }
    }
}

/// Watches broadcasts from the database for all channels of a socket.
#[derive(Debug, Default)]
pub(super) struct Replicating {
    /// Whether an [`Effect::WatchReplication`] runs.
    watched: bool,
}

impl Replicating {
    /// Begins to watch, if nobody watches yet.
    pub(super) fn watch(&mut self, client: &Client, effects: &mut Vec<Effect>) {
        if !self.watched {
            self.watched = true;
            effects.push(Effect::WatchReplication(client.runtime.database().replication()));
        }
    }

    /// Notes that the watch has ended, because something changed.
    pub(super) fn differs(&mut self) {
        self.watched = false;
    }
}
