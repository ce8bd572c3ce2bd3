//! Reads a database's log for somebody who wants all of it: every published change, in commit order, whoever listens.
//!
//! Unlike [`TenantDatabase`](crate::TenantDatabase) it asks nobody's rights and knows no subscriptions. A position is
//! confirmed when everything before it was handed over, which may take longer than the reading; of a permanent slot,
//! what was handed over does not come again while this reader lives, whatever becomes of its connections.

mod seen;
mod slot;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use deadpool_postgres::Pool;
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use rand::Rng as _;
use realtime_pgoutput::{Lsn, message::Message};
use realtime_retry::Backoff;
use seen::{Seen, Sight, is_row};
use tokio::time::{self, Duration, Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::{
    DatabaseConfig, Stats,
    failpoints::{self, Point},
    pool,
    replication::{Event, ReplicationError, Unfinished},
    session::{self, Begin, Session},
    worker::{lag::LagWatch, stuck::Stuck},
};

/// Pause after a lost or refused connection: doubles from the first to the second, with jitter.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Longest pause between looks for publications that are missing.
const LOOK: Duration = Duration::from_secs(5);

/// Transactions that may wait to be handed over, unless the sink bounds them itself. Then the log is not read further.
const MAX_PENDING: usize = 1024;

/// What the reader's connections for queries are called in `pg_stat_activity`.
const APPLICATION_NAME: &str = "realtime_log_reader";

/// What a transaction waits for after it was read: its position is confirmed when this is done.
pub type HandOver = BoxFuture<'static, ()>;

/// What becomes of a transaction that was read.
pub enum Taken {
    /// Everything of it is handed over.
    Over,
    /// It is handed over when this is done.
    Waits(HandOver),
    /// There was no room for all of it. When this is done it is read again from the permanent slot, with what is behind
    /// it; until then nothing from there on is confirmed.
    Left(HandOver),
}

impl From<Option<HandOver>> for Taken {
    fn from(hand_over: Option<HandOver>) -> Self {
        hand_over.map_or(Self::Over, Self::Waits)
    }
}

/// Where the log goes.
pub trait LogSink: Send + 'static {
    /// A connection begins. It describes tables and types anew; a transaction that the last one broke off in comes
    /// again, or never.
    fn session_begins(&mut self);
    /// The log is read from this position on. `resumed`: where an earlier reader of the slot ended. Else what was committed
    /// before it does not come. Told after `session_begins`.
    fn begins(&mut self, _start: Lsn, _resumed: bool) {}
    /// The log cannot be read now, for a reason of this code.
    fn waits(&mut self, _code: &'static str) {}
    /// Everything before a position was handed over, and was confirmed to the server.
    fn confirmed(&mut self, _position: Lsn) {}
    /// Whether this node does what is to be done once for all nodes, from the next transaction on. Told before each
    /// connection's first message. `void`: it does not any more, and the one that does will do all that was not confirmed.
    fn acts(&mut self, _acts: bool, _void: bool) {}
    /// A message, in the order of the log. `again`: a row that was handed over already: by a connection that broke off in
    /// the middle of its transaction, or before this node began to act.
    fn message(&mut self, message: &Message, again: bool);
    /// A transaction is complete that ends at this position.
    fn committed(&mut self, end: Lsn) -> Taken;
    /// Transactions that may wait to be handed over.
    fn max_pending(&self) -> usize {
        MAX_PENDING
    }
    /// A wait for receivers that have fallen behind, if there are any. Asked for after every message.
    fn relieve(&mut self) -> Option<BoxFuture<'_, ()>> {
        None
    }
}

/// What is read, and how.
#[derive(Debug, Clone)]
pub struct LogReaderConfig {
    /// The database; its slot, and whether that is permanent.
    pub database: DatabaseConfig,
    /// The publications. All of them must exist: the reader waits until they do.
    pub publications: Vec<String>,
    /// When a permanent slot is found at the start, it is read this long after: clients that the last server lost come
    /// back before what was committed meanwhile is past. A node that follows another one does so at once.
    pub resume_delay: Duration,
}

/// A reader of a database's log. It goes on until it is shut down.
#[derive(Debug)]
pub struct LogReader {
    stop: CancellationToken,
    tasks: TaskTracker,
    stats: Arc<Stats>,
}

impl LogReader {
    /// Starts reading. Call it within a runtime.
    #[must_use]
    pub fn start(config: LogReaderConfig, sink: impl LogSink) -> Self {
        let reader =
            Self { stop: CancellationToken::new(), tasks: TaskTracker::new(), stats: Arc::default() };
        let span = config.database.span();
        let work = Reader {
            resume_at: Instant::now() + config.resume_delay,
            config,
            sink,
            stats: Arc::clone(&reader.stats),
            tasks: reader.tasks.clone(),
            seen: Seen::default(),
            since: None,
            pending: FuturesOrdered::new(),
            last: Arc::default(),
            left: None,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            anew: false,
            missing_told: false,
            unfinished: Unfinished::default(),
            stuck: Stuck::default(),
        };
        reader.tasks.spawn(work.run(reader.stop.clone()).instrument(span));
        reader
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Ends the reading; what was handed over is confirmed.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The task's state.
struct Reader<S> {
    config: LogReaderConfig,
    sink: S,
    stats: Arc<Stats>,
    tasks: TaskTracker,
    seen: Seen,
    /// Up to where everything was read, if anything was.
    since: Option<Lsn>,
    /// Transactions that were read and are not handed over, with the positions at which they end.
    pending: FuturesOrdered<BoxFuture<'static, Lsn>>,
    /// Up to where everything is handed over with the last of them.
    last: Arc<AtomicU64>,
    /// The sink has left a transaction, and when it is read again.
    left: Option<HandOver>,
    /// Pauses after attempts in a row that came to nothing.
    backoff: Backoff,
    /// Whether the permanent slot cannot be read any further and has to be made anew.
    anew: bool,
    /// When a permanent slot that is there may be read.
    resume_at: Instant,
    /// Whether it was logged that publications are missing.
    missing_told: bool,
    unfinished: Unfinished,
    /// Where the server failed with what was to be read.
    stuck: Stuck,
}

/// Why a connection ended that the server did not end.
enum End {
    /// The reader is being shut down.
    Stopped,
    /// The slot keeps more of the log than it may.
    TooFar,
    /// What the sink has left can be read again.
    Again,
}

/// A session that runs.
struct Reading {
    session: Session,
    lag: LagWatch,
    /// Whether this node does what is to be done once for all nodes.
    acts: bool,
    /// Everything before it was read, and is handed over unless something is pending.
    reached: Lsn,
}

impl Reading {
    async fn confirm(&self, position: Lsn) {
        if !failpoints::reach(Point::PositionConfirmed).await {
            self.session.confirm(position);
            self.lag.confirmed(position);
        }
    }
}

/// What comes next while a session runs.
enum Next {
    End(End),
    HandedOver(Lsn),
    Event(Result<Event, ReplicationError>),
}

impl<S: LogSink> Reader<S> {
    async fn run(mut self, stop: CancellationToken) {
        let pool = match pool::make_named(
            &self.config.database,
            APPLICATION_NAME,
            2,
            self.config.database.connect_timeout,
            pool::Use::Reading,
        ) {
            Ok(pool) => pool,
            Err(error) => {
                tracing::error!(code = error.code(), %error, "cannot read the log");
                return;
            }
        };
        loop {
            let session = tokio::select! {
                () = stop.cancelled() => break,
                session = self.connect(&pool) => session,
            };
            let ended = match session {
                Ok(session) => self.read(session, &pool, &stop).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(End::Stopped) => break,
                Ok(End::TooFar) => {
                    tracing::error!(
                        code = "ReplicationSlotLagTooHigh",
                        slot = &*self.config.database.slot_name,
                        "replication slot given up: too far behind"
                    );
                    self.anew = self.config.database.durable_slot;
                }
                Ok(End::Again) => {}
                Err(error) => {
                    let pause = self.failed(&error);
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = time::sleep(pause) => {}
                    }
                }
            }
        }
        if let Err(error) = self.unfinished.end(&self.config.database).await {
            tracing::warn!(code = error.code(), %error, "an unfinished replication slot may remain");
        }
        pool.close();
    }

    /// A session, as soon as there is something to read.
    async fn connect(&mut self, pool: &Pool) -> Result<Session, ReplicationError> {
        self.config.database.old_server = slot::is_old(pool).await?;
        let database = &self.config.database;
        let missing = slot::missing_publications(pool, &self.config.publications).await?;
        if !missing.is_empty() {
            if !std::mem::replace(&mut self.missing_told, true) {
                let code = "RealtimeDisabledForConfiguration";
                tracing::warn!(
                    code,
                    missing = missing.join(", "),
                    "publications do not exist; waiting for them"
                );
            }
            return Err(ReplicationError::NothingPublished);
        }
        self.missing_told = false;
        // Of this attempt: another node may hold the slot, and make it anew itself.
        let mut too_far = false;
        if database.durable_slot
            && !self.anew
            && let Some(kept) = slot::kept_bytes(pool, &database.slot_name).await?
        {
            if database.max_lag_bytes > 0 && kept > database.max_lag_bytes {
                tracing::error!(
                    code = "ReplicationSlotLagTooHigh",
                    slot = &*database.slot_name,
                    kept,
                    "replication slot given up: too far behind"
                );
                too_far = true;
            } else if database.sharing.is_none()
                && let Some(at) = self.resume_at()
            {
                time::sleep_until(at).await;
            }
        }
        let begin = Begin { anew: self.anew || too_far, since: self.since, not_before: self.resume_at() };
        let started = Session::start(database, &self.config.publications, begin, &self.unfinished).await;
        started.map(|(session, _)| session)
    }

    /// When a permanent slot that is there may be read. `None`: it was read, so it goes on at once.
    fn resume_at(&self) -> Option<Instant> {
        self.since.is_none().then_some(self.resume_at)
    }

    /// Logs why there is no session; returns how long to wait before the next attempt.
    fn failed(&mut self, error: &ReplicationError) -> Duration {
        self.sink.waits(error.code());
        let waits_its_turn = self.config.database.exclusive.is_some() && error.is_taken();
        let longest = if matches!(error, ReplicationError::NothingPublished) || waits_its_turn {
            tracing::debug!(code = error.code(), %error, "cannot read the log; retrying");
            LOOK
        } else {
            let slot = &*self.config.database.slot_name;
            tracing::warn!(code = error.code(), %error, slot, "cannot read the log; retrying");
            session::longest_pause(&self.config.database, RETRY.1)
        };
        let durable = self.config.database.durable_slot;
        let stuck = durable && self.stuck.failed(error, self.since.unwrap_or_default());
        self.anew |= stuck || (durable && error.is_lasting());
        self.backoff.failed_within(longest, rand::rng().random_range(0.5..1.0))
    }

    /// Reads until the session ends.
    async fn read(
        &mut self,
        session: Session,
        pool: &Pool,
        stop: &CancellationToken,
    ) -> Result<End, ReplicationError> {
        let mut reading = self.begin(session, pool);
        let too_far = reading.lag.exceeded();
        loop {
            let may_read = self.pending.len() < self.sink.max_pending();
            let left = &mut self.left;
            let is_left = left.is_some();
            let room = async {
                match left {
                    Some(room) => room.await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => Next::End(End::Stopped),
                () = too_far.cancelled() => Next::End(End::TooFar),
                () = room, if is_left => Next::End(End::Again),
                Some(end) = self.pending.next() => Next::HandedOver(end),
                event = reading.session.next(), if may_read => Next::Event(event),
            };
            let handed = match next {
                Next::End(end) => {
                    reading.session.stop().await;
                    return Ok(end);
                }
                Next::HandedOver(end) => Some(end),
                Next::Event(event) => {
                    self.event(event?, &mut reading);
                    None
                }
            };
            let all = self.pending.is_empty() && self.left.is_none();
            let confirmed = if all { Some(reading.reached) } else { handed };
            if let Some(confirmed) = confirmed {
                reading.confirm(confirmed).await;
                self.sink.confirmed(confirmed);
            }
            if let Some(relief) = self.sink.relieve() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = too_far.cancelled() => {}
                    () = relief => {}
                }
            }
        }
    }

    /// A session begins: what comes again is known, and what does not come is logged.
    fn begin(&mut self, session: Session, pool: &Pool) -> Reading {
        self.anew = false;
        self.stats.sessions.fetch_add(1, Ordering::Relaxed);
        let database = &self.config.database;
        let (resumed, start, reader) =
            (session.is_resumed(), session.start_position(), session.reader().as_str());
        tracing::info!(database = database.name, resumed, position = %start, reader, "reading the log");
        if !resumed {
            if self.since.is_some_and(|since| since < start) {
                let code = "ReplicationConnectionDown";
                let slot = &*database.slot_name;
                tracing::warn!(code, slot, since = ?self.since, position = %start, "changes may have been missed");
            }
            self.seen = Seen::default();
            self.since = Some(start);
        }
        self.left = None;
        self.seen.begins();
        self.sink.session_begins();
        self.sink.begins(start, resumed);
        let acts = session.acts();
        let void = !acts && database.durable_slot;
        if void {
            // The node that reads the slot begins with the first of them.
            self.pending = FuturesOrdered::new();
            self.seen.is_void();
        }
        self.sink.acts(acts, void);
        self.seen.acts(acts);
        let lag = LagWatch::start(pool.clone(), Arc::clone(&self.stats), database.max_lag_bytes, &self.tasks);
        lag.confirmed(start);
        lag.reads(session.slot());
        Reading { session, lag, acts, reached: start }
    }

    /// Takes what the session brings.
    fn event(&mut self, event: Event, reading: &mut Reading) {
        let message = match event {
            Event::Message(message, _) => message,
            // This node wants everything.
            Event::Skipped(..) | Event::Granted => return,
            // In the middle of a transaction it says nothing.
            Event::Idle(_) if self.seen.is_reading() => return,
            Event::Idle(position) => {
                reading.lag.reads(reading.session.slot());
                self.backoff.succeeded();
                reading.reached = reading.reached.max(position);
                self.since = self.since.max(Some(reading.reached));
                reading.lag.caught_up(self.pending.is_empty() && self.left.is_none());
                return;
            }
        };
        if matches!(message, Message::Begin { .. }) && reading.session.acts() != reading.acts {
            reading.acts = !reading.acts;
            self.sink.acts(reading.acts, false);
            self.seen.acts(reading.acts);
        }
        reading.lag.caught_up(false);
        reading.reached = self.take(&message).unwrap_or(reading.reached);
        self.since = self.since.max(Some(reading.reached));
    }

    /// Hands a message over. Returns the position at which a transaction ends, if one does.
    fn take(&mut self, message: &Message) -> Option<Lsn> {
        match (self.seen.see(message), message) {
            (Sight::New, Message::Commit { end_lsn, .. }) => {
                self.backoff.succeeded();
                let end = *end_lsn;
                let taken = self.sink.committed(end);
                self.keep(end, taken);
                Some(end)
            }
            (Sight::Passed, Message::Commit { end_lsn, .. }) => Some(*end_lsn),
            (Sight::Passed, _) => None,
            (sight, message) => {
                if is_row(message) {
                    self.stats.rows.fetch_add(1, Ordering::Relaxed);
                }
                self.sink.message(message, sight == Sight::Again);
                None
            }
        }
    }
    /// Takes note of what becomes of the transaction that ends here.
    fn keep(&mut self, end: Lsn, taken: Taken) {
        match taken {
            Taken::Left(room) if self.left.is_none() => {
                self.seen.leave();
                self.left = Some(room);
            }
            // It is read again.
            _ if self.left.is_some() => {}
            Taken::Over | Taken::Left(_) => self.last.store(end.0, Ordering::Relaxed),
            Taken::Waits(hand_over) => {
                let last = Arc::new(AtomicU64::new(end.0));
                self.last = Arc::clone(&last);
                self.pending.push_back(Box::pin(async move {
                    hand_over.await;
                    Lsn(last.load(Ordering::Relaxed))
                }));
            }
        }
    }
}
