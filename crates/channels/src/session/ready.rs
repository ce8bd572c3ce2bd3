//! Telling channels whether broadcasts from the database arrive (protocol 7; spec README, decision 2).
//!
//! A channel asks for it with `replication_ready`. It is told once that they arrive; if some may have been missed since,
//! it is told that, and again when they arrive.

use std::time::Duration;

use realtime_postgres::Replication;
use tokio::time::Instant;

use crate::{client::Client, effect::Effect};

/// A channel that wants to know that broadcasts from the database arrive is given up after this long (protocol 7).
const READY_LIMIT: Duration = Duration::from_secs(60);

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

/// What a channel has to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    /// That some may have been missed.
    pub(super) missed: bool,
    /// That they arrive.
    pub(super) arrive: bool,
}

impl Ready {
    /// It asks now.
    pub(super) fn asked() -> Self {
        Self::Waiting(Instant::now() + READY_LIMIT)
    }

    /// When it is given up.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Waiting(by) => Some(by),
            Self::Unasked | Self::Told(_) | Self::Missed => None,
        }
    }

    /// What it does not know yet; it knows then.
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

/// The watch over broadcasts from the database, one for all channels of a socket.
#[derive(Debug, Default)]
pub(super) struct Replicating {
    /// Whether an [`Effect::WatchReplication`] is out.
    watched: bool,
}

impl Replicating {
    /// Has it watched for a channel that asked.
    pub(super) fn watch(&mut self, client: &Client, effects: &mut Vec<Effect>) {
        if !self.watched {
            self.watched = true;
            effects.push(Effect::WatchReplication(client.runtime.database().replication()));
        }
    }

    /// Something has changed: the watch is over.
    pub(super) fn differs(&mut self) {
        self.watched = false;
    }
}
