//! Presence diffs wait while joins of their socket wait, if the serializer is 1.0.0 (clients 6).

use std::{sync::Arc, time::Duration};

use realtime_hub::{DiffGate, Outbox};
use realtime_protocol::Vsn;
use tokio::time::Instant;

/// How long diffs wait at most.
const LONGEST: Duration = Duration::from_secs(1);

/// Holds back the presence diffs of a socket.
#[derive(Debug, Default)]
pub(crate) struct Diffs {
    /// Where the diffs wait. `None`: they never wait.
    gate: Option<Arc<DiffGate>>,
    /// Until when the diffs wait at the latest. `None`: they do not wait now.
    until: Option<Instant>,
    /// A join was refused and is answered later.
    refused: bool,
}

impl Diffs {
    /// The state of a socket that has no channel yet.
    pub(crate) fn of(vsn: Vsn) -> Self {
        Self { gate: (vsn == Vsn::V1).then(Arc::default), ..Self::default() }
    }

    /// The gate that the socket's channels send diffs through.
    pub(crate) fn gate(&self) -> Option<Arc<DiffGate>> {
        self.gate.clone()
    }

    /// Begins to hold back diffs, because a join has come.
    pub(crate) fn hold(&mut self) {
        if let Some(gate) = &self.gate
            && self.until.is_none()
        {
            gate.shut();
            self.until = Some(Instant::now() + LONGEST);
        }
    }

    /// Notes that a join was refused and that its answer is delayed.
    pub(crate) fn refused_later(&mut self) {
        self.refused = true;
    }

    /// When the diffs stop waiting at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// Sends the waiting diffs if all joins are answered, or if they have waited too long.
    pub(crate) fn release(&mut self, joining: usize, now: Instant, outbox: &Outbox) {
        let Some(until) = self.until else { return };
        if (joining == 0 && !self.refused) || until <= now {
            self.until = None;
            self.refused = false;
            if let Some(gate) = &self.gate {
                gate.open(outbox);
            }
        }
    }
}
