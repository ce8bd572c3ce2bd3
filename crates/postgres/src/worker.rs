//! The task that reads a tenant's row changes and finds who gets them.
//!
//! It owns the replication session, what is known of relations and types, and the match engine. Changes are
//! handled one after the other, in commit order; while one is being handled, perhaps with a question to the
//! database, the connection is not read further and the walsender waits.

mod state;

use std::sync::{Arc, atomic::Ordering};

use deadpool_postgres::Pool;
use rand::Rng as _;
use realtime_changes::{Action, ChannelId, SubscribeRefusal};
use realtime_pgoutput::message::Message;
use state::State;
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Duration, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ChangeSink, DatabaseConfig, Notice, Stats, SubscribeRequest,
    replication::{Event, ReplicationError, Session},
    subscribe::Literals,
    tenant::Contact,
};

/// Pause after a lost or refused session: doubles from the first to the second, with full jitter.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// What channels are told when their stream broke.
const GAP: &str = "The connection to the database was lost: changes may have been missed";

/// A request to the worker.
pub(crate) enum Command {
    /// Subscribe a channel whose parameters were checked.
    Subscribe {
        request: SubscribeRequest,
        literals: Literals,
        reply: oneshot::Sender<Result<(), SubscribeRefusal>>,
    },
    /// End a channel's subscriptions.
    Unsubscribe(ChannelId),
}

/// The worker of one tenant's database.
pub(crate) struct Worker {
    config: DatabaseConfig,
    sink: Arc<dyn ChangeSink>,
    stats: Arc<Stats>,
    contact: Arc<Contact>,
    state: State,
    session: Option<Session>,
    /// Attempts in a row that failed.
    failures: u32,
    retry_at: Instant,
    /// Since when nobody has been subscribed.
    idle_since: Option<Instant>,
}

impl Worker {
    pub(crate) fn new(
        config: DatabaseConfig,
        pool: Pool,
        sink: Arc<dyn ChangeSink>,
        stats: Arc<Stats>,
        contact: Arc<Contact>,
    ) -> Self {
        Self {
            config,
            state: State::new(pool, Arc::clone(&sink), Arc::clone(&stats)),
            sink,
            stats,
            contact,
            session: None,
            failures: 0,
            retry_at: Instant::now(),
            idle_since: None,
        }
    }

    /// Works until stopped, or until nobody can send commands any more.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        loop {
            let wanted = !self.state.is_empty();
            let wake = match (&self.session, self.idle_since) {
                (None, _) if wanted => Some(self.retry_at),
                (Some(_), Some(since)) => Some(since + self.config.idle_stop),
                _ => None,
            };
            let session = self.session.as_mut();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                command = commands.recv() => match command {
                    Some(command) => tokio::select! {
                        () = stop.cancelled() => break,
                        () = self.command(command) => {}
                    },
                    None => break,
                },
                event = next(session) => match event {
                    // An answer of the database may be long in coming.
                    Ok(event) => tokio::select! {
                        () = stop.cancelled() => break,
                        () = self.event(event) => {}
                    },
                    Err(error) => self.lost(&error),
                },
                () = sleep_until(wake) => self.wake().await,
            }
        }
        if let Some(session) = self.session.take() {
            session.stop().await;
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Unsubscribe(channel) => {
                self.state.remove(channel);
                if self.state.is_empty() && self.idle_since.is_none() {
                    self.idle_since = Some(Instant::now());
                }
            }
            Command::Subscribe { request, literals, reply } => {
                let outcome = self.subscribe(request, literals).await;
                let subscribed = outcome.is_ok();
                // Who asked may have gone by now; the channel's end follows as a command of its own.
                if reply.send(outcome).is_err() && subscribed {
                    tracing::debug!("a channel was gone before it was subscribed");
                }
            }
        }
    }

    /// Subscribes when a session runs: only then will every later commit come through it.
    async fn subscribe(
        &mut self,
        request: SubscribeRequest,
        literals: Literals,
    ) -> Result<(), SubscribeRefusal> {
        if self.session.is_none() {
            self.connect().await.map_err(|error| SubscribeRefusal::Unavailable(error.to_string()))?;
        }
        self.idle_since = None;
        self.state.add(request, literals).await
    }

    async fn connect(&mut self) -> Result<(), ReplicationError> {
        match Session::start(&self.config).await {
            Ok(session) => {
                tracing::info!(database = self.config.name, "replication session started");
                self.stats.sessions.fetch_add(1, Ordering::Relaxed);
                self.contact.made();
                self.session = Some(session);
                self.failures = 0;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(code = "StartReplicationFailed", %error, "cannot start a replication session");
                self.back_off();
                Err(error)
            }
        }
    }

    fn back_off(&mut self) {
        let ceiling = RETRY.0.saturating_mul(1 << self.failures.min(16)).min(RETRY.1);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Instant::now() + ceiling.mul_f64(rand::rng().random_range(0.1..1.0));
    }

    /// The session broke: what is known of relations is void, and everybody is told that there is a gap.
    fn lost(&mut self, error: &ReplicationError) {
        tracing::warn!(code = "ReplicationConnectionDown", %error, "replication session lost");
        self.contact.lost();
        self.session = None;
        self.state.forget_relations();
        for channel in self.state.channels() {
            self.sink.notice(channel, Notice::Error(GAP.to_owned()));
        }
        self.back_off();
    }

    /// Time to connect again, or to end a session that nobody needs.
    async fn wake(&mut self) {
        if let Some(session) = self.session.take() {
            if self.state.is_empty() {
                tracing::info!(
                    database = self.config.name,
                    "replication session ended: nobody is subscribed"
                );
                session.stop().await;
                self.state.forget_relations();
            } else {
                self.session = Some(session);
            }
            self.idle_since = None;
            return;
        }
        if self.connect().await.is_ok() {
            for channel in self.state.channels() {
                self.sink.notice(channel, Notice::Subscribed);
            }
        }
    }

    async fn event(&mut self, event: Event) {
        let message = match event {
            Event::Idle(position) => {
                self.confirm(position);
                return;
            }
            Event::Message(message) => message,
        };
        match message {
            Message::Begin { commit_time, .. } => self.state.begin(commit_time),
            Message::Commit { end_lsn, .. } => {
                self.state.flush().await;
                self.confirm(end_lsn);
            }
            Message::Relation { relation, .. } => self.state.relation(relation).await,
            Message::Insert { relation, new, .. } => {
                self.state.change(Action::Insert, relation, Some(new), None).await;
            }
            Message::Update { relation, old, new, .. } => {
                self.state.change(Action::Update, relation, Some(new), old).await;
            }
            Message::Delete { relation, old, .. } => {
                self.state.change(Action::Delete, relation, None, Some(old)).await;
            }
            // Truncation is not delivered (2.8); the others carry nothing for subscribers.
            _ => {}
        }
    }

    fn confirm(&self, position: realtime_pgoutput::Lsn) {
        if let Some(session) = &self.session {
            session.confirm(position);
        }
    }
}

/// The next event of a session; never without one.
async fn next(session: Option<&mut Session>) -> Result<Event, ReplicationError> {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
