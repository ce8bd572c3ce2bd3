//! Webhooks (legacy 6): which transactions concern them, and what waits for their answers.
//!
//! Each webhook has a queue and a task of its own, so that a slow one delays neither the sockets nor other webhooks.
//! What waits is bounded in bytes; beyond it the log is not read. A transaction is handed over when every webhook has
//! answered it or was given up.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use realtime_codes::ErrorCode;
use realtime_legacy::{Change, Webhook};
use realtime_pgoutput::Lsn;
use realtime_postgres::HandOver;
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    hook,
    members::Counters,
    post::{Outstanding, Post, Waiting},
    settings::LegacySettings,
};

/// All webhooks.
#[derive(Debug)]
pub(super) struct Webhooks {
    hooks: Vec<(Webhook, mpsc::UnboundedSender<Post>)>,
    waiting: Arc<Waiting>,
    max_body: usize,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Cancelled when the queued posts are void. A new token takes its place then.
    void: Mutex<CancellationToken>,
}

/// What the current transaction has for webhooks.
#[derive(Debug)]
pub(super) struct Collected {
    /// Whether there are webhooks.
    wanted: bool,
    /// The changes, with commas between them. `None`: they are too large.
    changes: Option<Vec<u8>>,
    /// Whether each webhook fires.
    fires: Vec<bool>,
    hooks: Vec<Webhook>,
    max_body: usize,
}

impl Collected {
    /// Forgets the transaction.
    pub(super) fn clear(&mut self) {
        self.changes = Some(Vec::new());
        self.fires.fill(false);
    }

    /// Adds a change.
    pub(super) fn add(&mut self, change: &Change<'_>) {
        if !self.wanted {
            return;
        }
        let (schema, table) = change.table();
        for (fires, hook) in self.fires.iter_mut().zip(&self.hooks) {
            *fires |= hook.is_for(schema, table, change.event());
        }
        let Some(changes) = &mut self.changes else { return };
        let payload = change.payload();
        if changes.len() + payload.len() > self.max_body {
            self.changes = None;
            return;
        }
        if !changes.is_empty() {
            changes.push(b',');
        }
        changes.extend_from_slice(payload);
    }

    /// The body, if a webhook fires.
    fn body(&mut self, commit_timestamp: &str) -> Option<Bytes> {
        if !self.fires.contains(&true) {
            return None;
        }
        let Some(changes) = &self.changes else {
            tracing::error!(
                code = ErrorCode::WebhookTooLarge.as_str(),
                commit_timestamp,
                "a transaction is not posted to webhooks: its body would be larger than WEBHOOK_MAX_BODY_BYTES"
            );
            return None;
        };
        let mut body = Vec::with_capacity(changes.len() + 64);
        body.extend_from_slice(b"{\"changes\":[");
        body.extend_from_slice(changes);
        body.extend_from_slice(b"],\"commit_timestamp\":\"");
        body.extend_from_slice(commit_timestamp.as_bytes());
        body.extend_from_slice(b"\"}");
        Some(body.into())
    }
}

impl Webhooks {
    /// Starts a task for each webhook.
    ///
    /// # Errors
    /// If the HTTP client cannot be made.
    pub(super) fn start(settings: &LegacySettings, counters: Arc<Counters>) -> Result<Self, String> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut hooks = Vec::new();
        if !settings.file.webhooks.is_empty() {
            let client = hook::Client::new(&settings.webhooks)?;
            for webhook in &settings.file.webhooks {
                let (posts, queue) = mpsc::unbounded_channel();
                let work = hook::run(client.clone(), webhook.endpoint.clone(), queue, Arc::clone(&counters));
                let stop = stop.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = work => {}
                    }
                });
                hooks.push((webhook.clone(), posts));
            }
        }
        let max_body = settings.webhooks.max_body;
        Ok(Self { hooks, waiting: Arc::default(), max_body, tasks, stop, void: Mutex::default() })
    }

    /// An empty collection for the next transaction.
    pub(super) fn collect(&self) -> Collected {
        let hooks: Vec<_> = self.hooks.iter().map(|(hook, _)| hook.clone()).collect();
        Collected {
            wanted: !hooks.is_empty(),
            changes: Some(Vec::new()),
            fires: vec![false; hooks.len()],
            hooks,
            max_body: self.max_body,
        }
    }

    /// Queues the collected transaction to the webhooks that it concerns.
    pub(super) fn post(
        &self,
        collected: &mut Collected,
        end: Lsn,
        commit_timestamp: &str,
    ) -> Option<HandOver> {
        if !collected.wanted {
            return None;
        }
        let body = collected.body(commit_timestamp);
        let fires = collected.fires.clone();
        collected.clear();
        let body = body?;
        let (done, handed_over) = oneshot::channel();
        self.waiting.bytes.fetch_add(body.len(), Ordering::AcqRel);
        let waiting = Arc::clone(&self.waiting);
        let all = Arc::new(Outstanding { bytes: body.len(), waiting, _done: done });
        let id: Arc<str> = end.to_string().into();
        let void = self.void.lock().clone();
        for ((_, posts), _) in self.hooks.iter().zip(fires).filter(|(_, fires)| *fires) {
            // A webhook's task ends only with the server.
            let (id, body, void, all) = (Arc::clone(&id), body.clone(), void.clone(), Arc::clone(&all));
            let _ = posts.send(Post { id, body, void, _all: all });
        }
        Some(Box::pin(async move {
            let _ = handed_over.await;
        }))
    }

    /// A wait for webhooks to answer, if too much waits for them.
    pub(super) fn relieve(&self) -> Option<BoxFuture<'_, ()>> {
        if !self.waiting.is_full() {
            return None;
        }
        Some(Box::pin(async {
            while self.waiting.is_full() {
                self.waiting.less.notified().await;
            }
        }))
    }

    /// Gives up all posts that were not answered, because another node sends them.
    pub(super) fn give_up(&self) {
        std::mem::take(&mut *self.void.lock()).cancel();
    }

    /// Gives up all posts that were not answered. Call it when nothing is read any more.
    pub(super) async fn shut_down(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
