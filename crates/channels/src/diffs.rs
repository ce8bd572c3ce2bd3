//! Diffs of presence wait while joins of their socket do, where the serializer is 1.0.0 (clients 6).

use std::{sync::Arc, time::Duration};

use realtime_hub::{DiffGate, Outbox};
use realtime_protocol::Vsn;
use tokio::time::Instant;

/// How long diffs wait at most.
const LONGEST: Duration = Duration::from_secs(1);

/// What keeps the diffs of a socket back.
#[derive(Debug, Default)]
pub(crate) struct Diffs {
    /// Where they wait. `None`: they never do.
    gate: Option<Arc<DiffGate>>,
    /// Until when they wait at the latest, while they do.
    until: Option<Instant>,
    /// A join was refused and is answered later.
    refused: bool,
}

impl Diffs {
    /// Those of a socket that has no channel yet.
    pub(crate) fn of(vsn: Vsn) -> Self {
        Self { gate: (vsn == Vsn::V1).then(Arc::default), ..Self::default() }
    }

    /// What the socket's channels need to know.
    pub(crate) fn gate(&self) -> Option<Arc<DiffGate>> {
        self.gate.clone()
    }

    /// A join has come.
    pub(crate) fn hold(&mut self) {
        if let Some(gate) = &self.gate
            && self.until.is_none()
        {
            gate.shut();
            self.until = Some(Instant::now() + LONGEST);
        }
    }

    /// A join is refused, and its answer delayed.
    pub(crate) fn refused_later(&mut self) {
        self.refused = true;
    }

    /// When they wait no longer.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// Sends what waits if all joins are answered, or it has waited for long.
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
