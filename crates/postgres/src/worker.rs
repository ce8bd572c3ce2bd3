//! The task that reads a tenant's row changes and finds who gets them.
//!
//! It owns the replication session, what is known of relations and types, and the match engine. Changes are
//! handled one after the other, in commit order; while one is being handled, perhaps with a question to the
//! database, the connection is not read further and the walsender waits.
//!
//! Changes that row-level security has to be asked about are asked together: those of a transaction, and of the
//! transactions that came in while the last answer was awaited.

mod lag;
mod state;

use std::sync::{Arc, atomic::Ordering};

use deadpool_postgres::Pool;
use lag::LagWatch;
use rand::Rng as _;
use realtime_changes::{Action, ChannelId, SubscribeRefusal};
use realtime_pgoutput::{Lsn, message::Message};
use state::{Refreshed, State};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ChangeSink, DatabaseConfig, Notice, Stats, SubscribeRequest, pool,
    replication::{APPLICATION_NAME, Event, ReplicationError, Session},
    subscribe::Checked,
    tenant::Contact,
};

/// Pause after a lost or refused session: doubles from the first to the second, with full jitter.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// How soon after a commit, at the earliest, the publication and the rights of roles are looked at again.
const REFRESH: Duration = Duration::from_secs(1);

/// How often a publication without tables is looked for while somebody wants it.
const LOOK_FOR_TABLES: Duration = Duration::from_secs(2);

/// How often tables that somebody waits for are looked for while there is no session that would tell of commits.
const LOOK_FOR_VAIN: Duration = Duration::from_secs(30);

/// How often it is looked whether there are few enough changes again.
const RELENT: Duration = Duration::from_secs(1);

/// Attempts at a permanent slot that another connection reads; then that connection is ended, if it is one of ours
/// that the server has not noticed to be dead.
const SLOT_ATTEMPTS: u32 = 3;

/// What channels are told when their stream broke.
const GAP: &str = "The connection to the database was lost: changes may have been missed";

/// What channels are told when the slot was given up.
const TOO_FAR_BEHIND: &str =
    "Too far behind the database, the replication slot was given up: changes have been missed";

/// A request to the worker.
pub(crate) enum Command {
    /// Subscribe a channel whose parameters were checked.
    Subscribe {
        request: SubscribeRequest,
        checked: Checked,
        reply: oneshot::Sender<Result<(), SubscribeRefusal>>,
    },
    /// Remember a channel whose tables are not there.
    Wait(SubscribeRequest),
    /// End a channel's subscriptions.
    Unsubscribe(ChannelId),
}

/// The worker of one tenant's database.
pub(crate) struct Worker {
    config: DatabaseConfig,
    pool: Pool,
    stats: Arc<Stats>,
    contact: Arc<Contact>,
    tasks: TaskTracker,
    state: State,
    running: Option<Running>,
    /// Attempts in a row that failed.
    failures: u32,
    retry_at: Instant,
    /// The permanent slot cannot be read any further: it has to be made anew.
    anew: bool,
    /// The publication had no tables when it was last looked at.
    unpublished: bool,
    /// The channels were told of the gap that the lack of a session makes.
    gap_told: bool,
    /// Since when nobody has been subscribed.
    idle_since: Option<Instant>,
}

/// A session and how far it has come.
struct Running {
    session: Session,
    lag: LagWatch,
    /// End of the last transaction that came whole.
    reached: Lsn,
    /// Up to where commits have been seen to happen, of whatever kind.
    log_end: Lsn,
    /// When the catalog is looked at again, because there were commits since the last time.
    refresh_at: Option<Instant>,
    refreshed: Instant,
}

impl Running {
    fn confirm(&self, position: Lsn) {
        self.session.confirm(position);
        self.lag.confirmed(position);
    }

    /// The log has grown: perhaps by something that it does not tell us.
    fn grown(&mut self, position: Lsn) {
        if position > self.log_end {
            self.log_end = position;
            self.refresh_at.get_or_insert(self.refreshed + REFRESH);
        }
    }
}

impl Worker {
    pub(crate) fn new(
        config: DatabaseConfig,
        pool: Pool,
        sink: Arc<dyn ChangeSink>,
        stats: Arc<Stats>,
        contact: Arc<Contact>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            state: State::new(pool.clone(), sink, Arc::clone(&stats), config.publication.clone()),
            config,
            pool,
            stats,
            contact,
            tasks,
            running: None,
            failures: 0,
            retry_at: Instant::now(),
            anew: false,
            unpublished: false,
            gap_told: false,
            idle_since: None,
        }
    }

    /// Works until stopped, or until nobody can send commands any more.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        loop {
            let wake = self.wake_at();
            let too_far = self.running.as_ref().map(|running| running.lag.exceeded()).unwrap_or_default();
            let due = self.state.is_due();
            let session = self.running.as_mut().map(|running| &mut running.session);
            let work = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = too_far.cancelled() => Work::TooFar,
                command = commands.recv() => match command {
                    Some(command) => Work::Command(command),
                    None => break,
                },
                () = sleep_until(wake) => Work::Wake,
                event = next(session) => Work::Event(event),
                // Only when no event was there: what waits is asked about with as many others as possible.
                () = std::future::ready(()), if due => Work::Flush,
            };
            // An answer of the database may be long in coming.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = too_far.cancelled() => self.too_far_behind().await,
                () = self.work(work) => {}
            }
        }
        if let Some(running) = self.running.take() {
            running.session.stop().await;
        }
    }

    async fn work(&mut self, work: Work) {
        match work {
            Work::TooFar => self.too_far_behind().await,
            Work::Command(command) => self.command(command).await,
            Work::Wake => self.wake().await,
            Work::Event(Ok(event)) => {
                self.event(event).await;
                self.state.relieve().await;
            }
            Work::Event(Err(error)) => self.lost(&error),
            Work::Flush => {
                self.state.flush().await;
                self.confirm_reached();
                // Nothing was there before the question; a lag would show by the next event.
                if let Some(running) = &self.running {
                    running.lag.caught_up(true);
                }
            }
        }
    }

    /// Whether a session is wanted.
    fn wants_session(&self) -> bool {
        !self.state.is_empty() || self.config.durable_slot
    }

    /// The next moment at which something has to be done.
    fn wake_at(&self) -> Option<Instant> {
        let relent = self.state.is_limited().then(|| Instant::now() + RELENT);
        let other = match &self.running {
            Some(running) => {
                let idle = self.idle_since.map(|since| since + self.config.idle_stop);
                [running.refresh_at, idle].into_iter().flatten().min()
            }
            None if self.wants_session() || self.state.has_vain() => Some(self.retry_at),
            None => None,
        };
        [relent, other].into_iter().flatten().min()
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Unsubscribe(channel) => {
                self.state.remove(channel);
                if !self.wants_session() && self.idle_since.is_none() {
                    self.idle_since = Some(Instant::now());
                }
            }
            Command::Wait(request) => {
                self.state.wait(request);
                if let Some(running) = &mut self.running {
                    // The table may have appeared since it was missed.
                    running.refresh_at.get_or_insert(running.refreshed + REFRESH);
                } else if !self.wants_session() {
                    self.look_later();
                }
            }
            Command::Subscribe { request, checked, reply } => {
                let outcome = self.subscribe(request, checked).await;
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
        checked: Checked,
    ) -> Result<(), SubscribeRefusal> {
        if self.running.is_none() {
            self.resume().await.map_err(|error| SubscribeRefusal::Unavailable(error.to_string()))?;
        }
        self.idle_since = None;
        self.state.add(request, checked).await
    }

    async fn connect(&mut self) -> Result<(), ReplicationError> {
        match self.start().await {
            Ok(session) => {
                tracing::info!(
                    database = self.config.name,
                    resumed = session.is_resumed(),
                    "replication session started"
                );
                self.stats.sessions.fetch_add(1, Ordering::Relaxed);
                self.contact.made();
                self.state.start(session.is_resumed());
                let lag = LagWatch::start(
                    self.pool.clone(),
                    Arc::clone(&self.stats),
                    self.config.max_lag_bytes,
                    &self.tasks,
                );
                let now = Instant::now();
                let start = session.start_position();
                lag.confirmed(start);
                self.running = Some(Running {
                    session,
                    lag,
                    reached: start,
                    log_end: Lsn(0),
                    refresh_at: Some(now + REFRESH),
                    refreshed: now,
                });
                (self.failures, self.anew) = (0, false);
                Ok(())
            }
            Err(ReplicationError::NothingPublished) => {
                self.look_later();
                Err(ReplicationError::NothingPublished)
            }
            Err(error) => {
                let code = if error.is_slot_in_use() {
                    "ReplicationSlotBeingUsed"
                } else {
                    "StartReplicationFailed"
                };
                tracing::warn!(code, %error, "cannot start a replication session");
                if error.is_slot_in_use() && self.failures >= SLOT_ATTEMPTS {
                    self.end_other_reader().await;
                }
                self.anew |= self.config.durable_slot && error.is_lasting();
                self.back_off();
                Err(error)
            }
        }
    }

    async fn start(&mut self) -> Result<Session, ReplicationError> {
        let refreshed = self.state.refresh(false).await;
        match refreshed.map_err(|error| ReplicationError::Preparation(error.to_string()))? {
            Refreshed::Published => self.unpublished = false,
            Refreshed::Unpublished => {
                self.unpublished = true;
                return Err(ReplicationError::NothingPublished);
            }
        }
        Session::start(&self.config, self.anew).await
    }

    /// Ends a connection of ours that still holds the slot.
    async fn end_other_reader(&self) {
        const SQL: &str = "select pg_catalog.pg_terminate_backend(a.pid)
            from pg_catalog.pg_replication_slots s
            join pg_catalog.pg_stat_activity a on a.pid = s.active_pid
            where s.slot_name = $1 and a.application_name = $2";
        let ended = async {
            let client = pool::get(&self.pool).await.map_err(|error| error.to_string())?;
            let slot = &self.config.slot_name;
            client.execute(SQL, &[slot, &APPLICATION_NAME]).await.map_err(|error| pool::describe(&error))
        };
        match ended.await {
            Ok(0) => {}
            Ok(_) => {
                tracing::warn!(code = "ReplicationSlotBeingUsed", "ended the connection that held the slot")
            }
            Err(error) => {
                tracing::warn!(code = "PgStatActivityQueryFailed", %error, "cannot end the connection that holds the slot");
            }
        }
    }

    fn back_off(&mut self) {
        let ceiling = RETRY.0.saturating_mul(1 << self.failures.min(16)).min(RETRY.1);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Instant::now() + ceiling.mul_f64(rand::rng().random_range(0.1..1.0));
    }

    /// There is nothing to connect for: looks again in a while.
    fn look_later(&mut self) {
        let pause = if self.unpublished { LOOK_FOR_TABLES } else { LOOK_FOR_VAIN };
        self.retry_at = Instant::now() + pause;
    }

    /// The session broke: what is known of relations is void. Unless a permanent slot is read, which goes on where it
    /// ended, everybody is told that there is a gap.
    fn lost(&mut self, error: &ReplicationError) {
        tracing::warn!(code = "ReplicationConnectionDown", %error, "replication session lost");
        self.contact.lost();
        self.running = None;
        self.state.forget_relations();
        self.anew |= self.config.durable_slot && error.is_lasting();
        if !self.config.durable_slot || self.anew {
            self.state.tell_all(&Notice::Error(GAP.to_owned()));
            self.gap_told = true;
        }
        self.back_off();
    }

    /// The slot keeps more of the log than it may.
    async fn too_far_behind(&mut self) {
        tracing::error!(code = "ReplicationSlotLagTooHigh", "replication slot given up: too far behind");
        if let Some(running) = self.running.take() {
            running.session.stop().await;
        }
        self.state.forget_relations();
        self.state.tell_all(&Notice::Error(TOO_FAR_BEHIND.to_owned()));
        self.gap_told = true;
        self.anew = self.config.durable_slot;
        self.retry_at = Instant::now();
    }

    /// The publication has no tables any more. The channels were told.
    async fn unpublished(&mut self) {
        tracing::warn!(
            code = "RealtimeDisabledForConfiguration",
            "replication session ended: the publication has no tables"
        );
        if let Some(running) = self.running.take() {
            running.session.stop().await;
        }
        self.state.forget_relations();
        self.unpublished = true;
        // A permanent slot could not be read past the time without a publication.
        self.anew = self.config.durable_slot;
        self.look_later();
    }

    /// Does what has become due.
    async fn wake(&mut self) {
        self.state.relent();
        let now = Instant::now();
        let Some(running) = &mut self.running else {
            if self.retry_at <= now {
                self.come_back().await;
            }
            return;
        };
        if self.idle_since.is_some_and(|since| since + self.config.idle_stop <= now) {
            self.idle_since = None;
            if !self.wants_session() {
                self.end_idle().await;
            }
            return;
        }
        if running.refresh_at.is_some_and(|at| at <= now) {
            running.refresh_at = None;
            match self.state.refresh(true).await {
                Ok(Refreshed::Unpublished) => return self.unpublished().await,
                Ok(Refreshed::Published) => {}
                Err(error) => {
                    tracing::warn!(code = "CheckOidsError", %error, "cannot read the publication");
                }
            }
            self.confirm_reached();
            if let Some(running) = &mut self.running {
                running.refreshed = Instant::now();
            }
        }
    }

    /// Tries to start a session, or looks for tables that somebody waits for.
    async fn come_back(&mut self) {
        if !self.wants_session() {
            let refreshed = self.state.refresh(false).await;
            self.unpublished = matches!(refreshed, Ok(Refreshed::Unpublished));
            if !self.state.can_revive() {
                return self.look_later();
            }
        }
        // Refused attempts are logged where they fail.
        let _ = self.resume().await;
    }

    /// Starts a session and tells those who have waited for it what became of their stream.
    async fn resume(&mut self) -> Result<(), ReplicationError> {
        let told = self.gap_told || self.unpublished;
        self.connect().await?;
        let Some(running) = &mut self.running else { return Ok(()) };
        if self.state.has_vain() {
            running.refresh_at = Some(Instant::now());
        }
        let resumed = running.session.is_resumed();
        // Nothing is missing before a publication came to be.
        if !resumed && !told {
            self.state.tell_all(&Notice::Error(GAP.to_owned()));
        }
        if !resumed || told {
            self.state.confirm_all();
        }
        self.gap_told = false;
        Ok(())
    }

    async fn end_idle(&mut self) {
        tracing::info!(database = self.config.name, "replication session ended: nobody is subscribed");
        if let Some(running) = self.running.take() {
            running.session.stop().await;
        }
        self.state.forget_relations();
        self.look_later();
    }

    async fn event(&mut self, event: Event) {
        let message = match event {
            Event::Idle(position) => return self.idle(position),
            Event::Message(message) => message,
        };
        if let Some(running) = &self.running {
            running.lag.caught_up(false);
        }
        match message {
            Message::Begin { commit_time, final_lsn, xid } => self.state.begin(xid, final_lsn, commit_time),
            Message::Commit { end_lsn, .. } => {
                if let Some(running) = &mut self.running {
                    running.reached = end_lsn;
                    running.grown(end_lsn);
                }
                if self.state.commit() {
                    self.confirm_reached();
                }
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

    /// The server has read its log up to a position. In the middle of a transaction that says nothing. It says so after
    /// every transaction when there is no other: what waits goes on waiting for company.
    fn idle(&mut self, position: Lsn) {
        if self.state.is_reading() {
            return;
        }
        let Some(running) = &mut self.running else { return };
        running.reached = running.reached.max(position);
        running.grown(position);
        if !self.state.is_due() {
            running.lag.caught_up(true);
            self.confirm_reached();
        }
    }

    /// Everything up to the last transaction that came whole was handed over.
    fn confirm_reached(&self) {
        if let Some(running) = &self.running {
            running.confirm(running.reached);
        }
    }
}

/// What the worker does next.
enum Work {
    TooFar,
    Command(Command),
    Wake,
    Event(Result<Event, ReplicationError>),
    Flush,
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
