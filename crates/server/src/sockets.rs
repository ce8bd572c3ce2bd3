//! The sockets of one tenant, to reach them all.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use realtime_hub::{Outbox, Signal};
use tokio::time::{self, Instant};

use crate::metrics::TenantMetrics;

/// Sockets that are closed together when the node goes down, and the pause before the next: their clients all
/// come back at once somewhere (protocol 12).
const BATCH: usize = 10_000;
const BATCH_PAUSE: Duration = Duration::from_secs(2);

/// The sockets of one tenant on this node.
#[derive(Debug)]
pub struct Sockets {
    inner: Mutex<Inner>,
    metrics: Arc<TenantMetrics>,
}

#[derive(Debug, Default)]
struct Inner {
    outboxes: HashMap<u64, Arc<Outbox>>,
    next: u64,
    shutting_down: bool,
    /// When the last one ended, or when it began without any.
    vacant_since: Option<Instant>,
}

impl Default for Sockets {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Sockets {
    /// No sockets yet.
    #[must_use]
    pub fn new(metrics: Arc<TenantMetrics>) -> Self {
        let inner = Inner { vacant_since: Some(Instant::now()), ..Inner::default() };
        Self { inner: Mutex::new(inner), metrics }
    }

    /// Adds a socket until the guard is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, outbox: &Arc<Outbox>) -> SocketGuard {
        let mut inner = self.inner.lock();
        let id = inner.next;
        inner.next += 1;
        inner.outboxes.insert(id, Arc::clone(outbox));
        inner.vacant_since = None;
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

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For how long there has been none.
    #[must_use]
    pub fn vacant_for(&self, now: Instant) -> Option<Duration> {
        self.inner.lock().vacant_since.map(|since| now.saturating_duration_since(since))
    }

    /// Bytes written to the sockets that there are.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.inner.lock().outboxes.values().map(|outbox| outbox.bytes_written()).sum()
    }

    /// Ends the sockets that there are: each joined channel is told, then the socket is closed with code 1012.
    pub fn disconnect(&self) {
        for outbox in self.outboxes() {
            outbox.signal(Signal::Disconnect);
        }
    }

    /// Closes all sockets, also those to come, with code 1012; large numbers in batches.
    pub async fn shut_down(&self) {
        self.inner.lock().shutting_down = true;
        let outboxes = self.outboxes();
        let mut batches = outboxes.chunks(BATCH).peekable();
        while let Some(batch) = batches.next() {
            for outbox in batch {
                outbox.signal(Signal::ShutDown);
            }
            if batches.peek().is_some() {
                time::sleep(BATCH_PAUSE).await;
            }
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
            self.sockets.metrics.output_bytes.add(outbox.bytes_written());
        }
        if inner.outboxes.is_empty() {
            inner.vacant_since = Some(Instant::now());
        }
    }
}
