//! The sockets of one tenant, and signals to all of them.
//!
//! A socket is first admitted, with the tenant's settings and keys at that time. It gets its place later, after its
//! upgrade. A signal that ends the tenant's sockets must not miss a socket in between. So an [`Era`] is taken before
//! the settings are read, and [`Sockets::disconnect`] begins a new era after they were changed. A socket whose era is
//! over when it gets its place is ended like the others. So no socket outlives a change of keys that it was not
//! checked against.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use realtime_hub::{Outbox, Signal};
use tokio::time::{self, Instant};

use crate::counters::TenantCounters;

/// Sockets that are closed together when the node stops, and the pause before the next batch. Their clients all
/// reconnect somewhere at once (protocol 12).
const BATCH: usize = 10_000;
const BATCH_PAUSE: Duration = Duration::from_secs(2);

/// The sockets of one tenant on this node.
#[derive(Debug)]
pub struct Sockets {
    inner: Mutex<Inner>,
    counters: Arc<TenantCounters>,
}

#[derive(Debug, Default)]
struct Inner {
    outboxes: HashMap<u64, Arc<Outbox>>,
    next: u64,
    era: u64,
    shutting_down: bool,
    /// When the last socket ended, or when the node began to serve the tenant.
    vacant_since: Option<Instant>,
}

impl Default for Sockets {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

/// The time between two signals that end all sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Era(u64);

/// Closes the sockets of all tenants with code 1012, including sockets that come later. Large numbers are closed in
/// batches. The pauses between them are shortened so that all are closed `within` a time.
pub async fn shut_down(all: &[Arc<Sockets>], within: Duration) {
    let mut outboxes = Vec::new();
    for sockets in all {
        let mut inner = sockets.inner.lock();
        inner.shutting_down = true;
        outboxes.extend(inner.outboxes.values().map(Arc::clone));
    }
    let mut batches = outboxes.chunks(BATCH).peekable();
    let pauses = u32::try_from(batches.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let pause = within.checked_div(pauses).unwrap_or_default().min(BATCH_PAUSE);
    while let Some(batch) = batches.next() {
        for outbox in batch {
            outbox.signal(Signal::ShutDown);
        }
        if batches.peek().is_some() {
            time::sleep(pause).await;
        }
    }
}

impl Sockets {
    /// A tenant without sockets.
    #[must_use]
    pub fn new(counters: Arc<TenantCounters>) -> Self {
        let inner = Inner { vacant_since: Some(Instant::now()), ..Inner::default() };
        Self { inner: Mutex::new(inner), counters }
    }

    /// The current era, for a socket that is to be admitted. Take it before you read what admits the socket.
    #[must_use]
    pub fn era(&self) -> Era {
        Era(self.inner.lock().era)
    }

    /// Adds a socket that was admitted in an era, until the guard is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, outbox: &Arc<Outbox>, era: Era) -> SocketGuard {
        let mut inner = self.inner.lock();
        let id = inner.next;
        inner.next += 1;
        inner.outboxes.insert(id, Arc::clone(outbox));
        inner.vacant_since = None;
        if era.0 != inner.era {
            outbox.signal(Signal::Disconnect);
        }
        if inner.shutting_down {
            outbox.signal(Signal::ShutDown);
        }
        drop(inner);
        SocketGuard { sockets: Arc::clone(self), id }
    }

    /// Number of sockets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.lock().outboxes.len()
    }

    /// Whether there are no sockets.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How long there have been no sockets.
    #[must_use]
    pub fn vacant_for(&self, now: Instant) -> Option<Duration> {
        self.inner.lock().vacant_since.map(|since| now.saturating_duration_since(since))
    }

    /// Bytes written to the sockets that are there.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.inner.lock().outboxes.values().map(|outbox| outbox.bytes_written()).sum()
    }

    /// Ends the sockets that are there and those that were admitted before: each joined channel is told, then the
    /// socket is closed with code 1012. Call it after you changed what admits sockets.
    pub fn disconnect(&self) {
        let outboxes: Vec<_> = {
            let mut inner = self.inner.lock();
            inner.era += 1;
            inner.outboxes.values().map(Arc::clone).collect()
        };
        for outbox in outboxes {
            outbox.signal(Signal::Disconnect);
        }
    }

    /// Tells all sockets that the tenant's database has a new handle. Call it after the handle was replaced; sockets
    /// that come later use the new one by themselves.
    pub fn database_replaced(&self, elsewhere: bool) {
        for outbox in self.outboxes() {
            outbox.signal(Signal::DatabaseReplaced { elsewhere });
        }
    }

    fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.inner.lock().outboxes.values().map(Arc::clone).collect()
    }
}

/// A socket's place among those of its tenant.
#[derive(Debug)]
pub struct SocketGuard {
    sockets: Arc<Sockets>,
    id: u64,
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        let mut inner = self.sockets.inner.lock();
        if let Some(outbox) = inner.outboxes.remove(&self.id) {
            self.sockets.counters.output_bytes.add(outbox.bytes_written());
        }
        if inner.outboxes.is_empty() {
            inner.vacant_since = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_admitted_before_the_end_is_ended_too() {
        let sockets = Arc::new(Sockets::default());
        let outbox = || Arc::new(Outbox::new(1000));
        let (there, late, next) = (outbox(), outbox(), outbox());
        let _first = sockets.enter(&there, sockets.era());
        let era = sockets.era();
        sockets.disconnect();
        let _second = sockets.enter(&late, era);
        let _third = sockets.enter(&next, sockets.era());
        let signals = [there, late, next].map(|outbox| outbox.take_signals());
        assert_eq!(signals, [vec![Signal::Disconnect], vec![Signal::Disconnect], vec![]]);
    }

    /// protocol 12: in batches, and all of them within the time that there is.
    #[tokio::test(start_paused = true)]
    async fn all_are_told_of_the_end_in_time() {
        let limit = Duration::from_secs(4);
        for (count, takes) in [(1, 0), (25_000, 4), (90_000, 4)] {
            let tenants: [_; 2] = std::array::from_fn(|_| Arc::new(Sockets::default()));
            let enter = |n: usize| {
                let outbox = Arc::new(Outbox::new(1000));
                let sockets = &tenants[n % 2];
                (sockets.enter(&outbox, sockets.era()), outbox)
            };
            let there: Vec<_> = (0..count).map(enter).collect();
            let begun = Instant::now();
            shut_down(&tenants, limit).await;
            assert_eq!(begun.elapsed().as_secs_f64().round() as u64, takes, "{count}");
            assert!(there.iter().all(|(_, outbox)| outbox.take_signals() == [Signal::ShutDown]));
            assert_eq!(enter(0).1.take_signals(), [Signal::ShutDown]);
        }
    }
}
