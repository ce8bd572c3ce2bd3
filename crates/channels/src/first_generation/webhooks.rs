//! Webhooks (legacy 6): which transactions concern them, and what waits for their answers.
//!
//! Each webhook has a queue and a task of its own, so that a slow one delays neither the sockets nor other webhooks.
//! What waits is bounded in bytes. For a webhook whose share is used up a transaction is left, and those behind it: it is
//! read again from the permanent slot when nothing waits for the webhook any more. Without a permanent slot it is given
//! up. A transaction is handed over when every webhook has answered it or was given up.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use futures_util::future;
use parking_lot::Mutex;
use realtime_codes::ErrorCode;
use realtime_legacy::{Change, Webhook};
use realtime_pgoutput::Lsn;
use realtime_postgres::Taken;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    hook::{self, Name},
    members::Counters,
    post::{Line, Outstanding, Post},
    settings::LegacySettings,
};

/// All webhooks.
#[derive(Debug)]
pub(super) struct Webhooks {
    tenant: Arc<str>,
    hooks: Vec<Hook>,
    /// Whether what is left comes again.
    durable: bool,
    counters: Arc<Counters>,
    max_body: usize,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Cancelled when the queued posts are void. A new token takes its place then.
    void: Mutex<CancellationToken>,
}

/// A webhook.
#[derive(Debug)]
struct Hook {
    webhook: Webhook,
    name: Name,
    posts: mpsc::UnboundedSender<Post>,
    line: Arc<Line>,
    reached: Mutex<Reached>,
}

/// How far a webhook has come in the log.
#[derive(Debug, Default)]
struct Reached {
    /// Where the last transaction ends that was queued.
    end: Lsn,
    /// Cancelled when that is handed over, and so all before it.
    done: CancellationToken,
    /// Whether a transaction was left. Then the next ones are too: they come in order.
    behind: bool,
}

/// What became of a transaction for one webhook.
enum Queued {
    /// It is handed over when this is cancelled.
    Waits(CancellationToken),
    /// It was left, or given up.
    NoRoom,
}

impl Hook {
    /// Queues a transaction, unless it is queued already.
    fn queue(&self, end: Lsn, body: &Bytes, void: &CancellationToken, all: &Arc<Outstanding>) -> Queued {
        let mut reached = self.reached.lock();
        if end <= reached.end {
            return Queued::Waits(reached.done.clone());
        }
        if reached.behind {
            return Queued::NoRoom;
        }
        let Some(place) = self.line.place(body) else { return Queued::NoRoom };
        (reached.end, reached.done) = (end, all.done.clone());
        let (id, body, void, all) = (end.to_string().into(), body.clone(), void.clone(), Arc::clone(all));
        // A webhook's task ends only with the server.
        let _ = self.posts.send(Post { id, body, void, _place: place, _all: all });
        Queued::Waits(reached.done.clone())
    }

    /// Takes note that a transaction was left.
    fn falls_behind(&self) {
        if !std::mem::replace(&mut self.reached.lock().behind, true) {
            tracing::warn!(
                tenant = &*self.name.tenant,
                webhook = self.name.number,
                endpoint = &*self.name.endpoint,
                reason = "it answers more slowly than transactions come",
                "a webhook is behind: what is committed now is read again for it later; make its endpoint faster"
            );
        }
    }
}

/// What the current transaction has for webhooks.
#[derive(Debug)]
pub(super) struct Collected {
    tenant: Arc<str>,
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
                tenant = &*self.tenant,
                code = ErrorCode::WebhookTooLarge.as_str(),
                commit_timestamp,
                max_bytes = self.max_body,
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
    pub(super) fn start(
        settings: &LegacySettings,
        counters: Arc<Counters>,
        tenant: &Arc<str>,
    ) -> Result<Self, String> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut hooks = Vec::new();
        let all = &settings.file.webhooks;
        if !all.is_empty() {
            let client = hook::Client::new(&settings.webhooks)?;
            for (number, webhook) in (1..).zip(all) {
                let (posts, queue) = mpsc::unbounded_channel();
                let name = Name::new(tenant, number, &webhook.endpoint);
                let endpoint = webhook.endpoint.clone();
                let work = hook::run(client.clone(), endpoint, name.clone(), queue, Arc::clone(&counters));
                let stop = stop.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = work => {}
                    }
                });
                let (webhook, line) = (webhook.clone(), Line::new(all.len()));
                hooks.push(Hook { webhook, name, posts, line, reached: Mutex::default() });
            }
        }
        let (durable, max_body) = (settings.slot.is_some(), settings.webhooks.max_body);
        let (tenant, void) = (Arc::clone(tenant), Mutex::default());
        Ok(Self { tenant, hooks, durable, counters, max_body, tasks, stop, void })
    }

    /// An empty collection for the next transaction.
    pub(super) fn collect(&self) -> Collected {
        let hooks: Vec<_> = self.hooks.iter().map(|hook| hook.webhook.clone()).collect();
        Collected {
            tenant: Arc::clone(&self.tenant),
            wanted: !hooks.is_empty(),
            changes: Some(Vec::new()),
            fires: vec![false; hooks.len()],
            hooks,
            max_body: self.max_body,
        }
    }

    /// Queues the collected transaction to the webhooks that it concerns.
    pub(super) fn post(&self, collected: &mut Collected, end: Lsn, commit_timestamp: &str) -> Taken {
        if !collected.wanted {
            return Taken::Over;
        }
        let body = collected.body(commit_timestamp);
        let fires = collected.fires.clone();
        collected.clear();
        let Some(body) = body else { return Taken::Over };
        let all = Arc::new(Outstanding { done: CancellationToken::new() });
        let void = self.void.lock().clone();
        let (mut waits, mut left) = (Vec::new(), Vec::new());
        for (hook, _) in self.hooks.iter().zip(fires).filter(|(_, fires)| *fires) {
            match hook.queue(end, &body, &void, &all) {
                Queued::Waits(done) => waits.push(done.cancelled_owned()),
                Queued::NoRoom if self.durable => {
                    hook.falls_behind();
                    left.push(Arc::clone(&hook.line).emptied());
                }
                Queued::NoRoom => {
                    self.counters.webhooks_failed.fetch_add(1, Ordering::Relaxed);
                    hook.name.given_up(&end.to_string(), 0, "too much waits for it");
                }
            }
        }
        if !left.is_empty() {
            return Taken::Left(Box::pin(async { drop(future::join_all(left).await) }));
        }
        if waits.is_empty() {
            return Taken::Over;
        }
        Taken::Waits(Box::pin(async { drop(future::join_all(waits).await) }))
    }

    /// The log is read anew, from where the first transaction was left or before it. `resumed`: all that was not
    /// confirmed comes again. Else positions may be those of another database.
    pub(super) fn begins(&self, resumed: bool) {
        for hook in &self.hooks {
            let mut reached = hook.reached.lock();
            reached.behind = false;
            if !resumed {
                *reached = Reached::default();
            }
        }
    }

    /// Gives up all posts that were not answered, because another node sends them.
    pub(super) fn give_up(&self) {
        std::mem::take(&mut *self.void.lock()).cancel();
        for hook in &self.hooks {
            *hook.reached.lock() = Reached::default();
        }
    }

    /// Gives up all posts that were not answered. Call it when nothing is read any more.
    pub(super) async fn shut_down(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
