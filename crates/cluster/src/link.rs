//! The link to NATS: the client, the subjects, and what is published and received.
//!
//! Everything else in this crate is above it: it knows neither nodes nor tenants.

mod client;
mod connect;
#[cfg(test)]
pub(crate) mod simulated;

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use parking_lot::Mutex;
use realtime_protocol::ErrorCode;
use realtime_retry::Backoff;
use tokio::{
    sync::{Notify, watch},
    time::{self, Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use client::{Client, Received, Subscriber};
pub use connect::{ConnectError, ProbeError, probe};

use crate::{config::NatsConfig, subjects::Subjects, wire::Malformed};

/// Bytes that NATS needs of the largest message beside ours.
pub(crate) const MARGIN: usize = 64;

/// How long other nodes have to answer the first heartbeat of a connection. Until then there may be nodes that are not known.
const SETTLE: Duration = Duration::from_millis(200);

/// Pauses between attempts to connect.
const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// The link to NATS.
pub(crate) struct Link {
    pub(crate) config: NatsConfig,
    pub(crate) subjects: Subjects,
    /// The number of this node.
    pub(crate) id: u32,
    client: OnceLock<Client>,
    connected: watch::Sender<bool>,
    /// Pauses between attempts to connect.
    retry: Mutex<Backoff>,
    /// Reasons why there is no connection that were logged since the last one.
    refusals: Mutex<Vec<String>>,
    /// What the server has complained of last, such as a subject that this node may not use.
    complaint: watch::Sender<Option<String>>,
    /// When the connection was lost; nothing before the first.
    lost_at: Mutex<Option<Instant>>,
    /// Since when there is a connection.
    connected_at: Mutex<Option<Instant>>,
    /// Told when there is a connection again.
    pub(crate) resumed: Notify,
    pub(crate) tasks: TaskTracker,
    /// Holds the tasks while the simulation lets this node stand still.
    #[cfg(test)]
    pub(crate) gate: std::sync::Arc<simulated::Gate>,
    pub(crate) stop: CancellationToken,
    pub(crate) counts: Counts,
}

/// What is counted, since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sent: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) malformed: AtomicU64,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Link {
    /// A link that is not connected yet.
    pub(crate) fn new(config: NatsConfig, id: u32) -> Self {
        Self {
            subjects: Subjects::new(&config.prefix),
            config,
            id,
            client: OnceLock::new(),
            connected: watch::Sender::new(false),
            retry: Mutex::new(RETRY),
            refusals: Mutex::default(),
            complaint: watch::Sender::new(None),
            lost_at: Mutex::default(),
            connected_at: Mutex::default(),
            resumed: Notify::new(),
            tasks: TaskTracker::new(),
            #[cfg(test)]
            gate: std::sync::Arc::default(),
            stop: CancellationToken::new(),
            counts: Counts::default(),
        }
    }

    /// Whether there is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Returns when there is a connection, or after `limit`. Cancel safe.
    pub(crate) async fn connected(&self, limit: Duration) {
        let mut connected = self.connected.subscribe();
        // The sender lives as long as this does.
        let _ = time::timeout(limit, connected.wait_for(|connected| *connected)).await;
    }

    /// Returns when there is no connection. Cancel safe.
    pub(crate) async fn lost(&self) {
        // The sender lives as long as this does.
        let _ = self.connected.subscribe().wait_for(|connected| !connected).await;
    }

    /// When the connection was lost, if there is none or nobody has taken note yet.
    pub(crate) fn lost_at(&self) -> Option<Instant> {
        *self.lost_at.lock()
    }

    /// Takes note that there is a connection again; returns when the last one was lost.
    pub(crate) fn take_lost_at(&self) -> Option<Instant> {
        self.lost_at.lock().take()
    }

    /// How long it takes until the other nodes are known; `None` without a connection.
    pub(crate) fn settles_in(&self) -> Option<Duration> {
        let since = self.connected_at.lock().filter(|_| self.is_connected())?;
        Some(SETTLE.min(self.config.heartbeat).saturating_sub(since.elapsed()))
    }

    /// Returns when the other nodes are known, as far as they can be. Cancel safe.
    pub(crate) async fn settled(&self) {
        let mut connected = self.connected.subscribe();
        loop {
            // The sender lives as long as this does.
            let _ = connected.wait_for(|connected| *connected).await;
            match self.settles_in() {
                Some(rest) if rest.is_zero() => return,
                Some(rest) => time::sleep(rest).await,
                None => {}
            }
        }
    }

    /// The client, while there is a connection.
    pub(crate) fn client(&self) -> Option<&Client> {
        self.client.get().filter(|_| self.is_connected())
    }

    /// Publishes, if there is a connection. Those who miss a message see a gap. Waits while NATS takes nothing, but not
    /// beyond the loss of the connection: the client's queue stays full until there is another.
    pub(crate) async fn publish(&self, subject: String, message: Bytes) {
        let Some(client) = self.client() else { return };
        let length = message.len() as u64;
        let sent = tokio::select! {
            biased;
            sent = client.publish(subject, message) => sent,
            () = self.lost() => return,
        };
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        self.counts.sent_bytes.fetch_add(length, Ordering::Relaxed);
        if let Err(error) = sent {
            let code = ErrorCode::RpcError.as_str();
            tracing::warn!(code, %error, "message to other nodes not sent");
        }
    }

    /// Subscribes, as soon as the client has started. `None`: the node ends, or the subject is refused.
    pub(crate) async fn subscribe(&self, subject: String) -> Option<Subscriber> {
        let client = loop {
            match self.client.get() {
                Some(client) => break client,
                // The server is still starting.
                None => {
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return None,
                        () = time::sleep(Duration::from_millis(10)) => {}
                    }
                }
            }
        };
        let subscribed = tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            subscribed = client.subscribe(subject) => subscribed,
        };
        match subscribed {
            Ok(subscriber) => Some(subscriber),
            Err(error) => {
                let code = ErrorCode::RpcError.as_str();
                tracing::error!(code, %error, "cannot listen to other nodes");
                None
            }
        }
    }

    /// The next message of a subscription; `None` when the node ends. Cancel safe.
    pub(crate) async fn next(&self, messages: &mut Subscriber) -> Option<Bytes> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            message = messages.next() => message.map(|message| message.payload),
        }
    }

    /// Returns when the server has read all that was sent to it. False if it does not say so in time.
    pub(crate) async fn barrier(&self) -> bool {
        let Some(client) = self.client() else { return false };
        let answer = client.request(self.subjects.nobody(self.id), Bytes::new(), None).await;
        matches!(answer, Err(RequestErrorKind::NoResponders))
    }

    /// Begins a task of this node. It is waited for when the node ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        #[cfg(test)]
        let task = simulated::Gate::hold(&self.gate, task);
        self.tasks.spawn(task);
    }

    /// Counts a message that was received.
    pub(crate) fn received(&self, message: &Bytes) {
        self.counts.received.fetch_add(1, Ordering::Relaxed);
        self.counts.received_bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
    }

    /// Counts a message that cannot be read, and logs the first.
    pub(crate) fn malformed(&self, error: Malformed) {
        if self.counts.malformed.fetch_add(1, Ordering::Relaxed) == 0 {
            let code = ErrorCode::RpcError.as_str();
            tracing::error!(code, %error, "message from another node dropped; further ones are only counted");
        }
    }

    /// Largest message that NATS takes; 0 before the first connection.
    pub(crate) fn max_payload(&self) -> usize {
        self.client.get().map_or(0, |client| client.max_payload())
    }
}
