//! A tenant's database as the rest of the server uses it.

mod examine;
mod explain;
mod policies;
mod prepare;
mod private;
mod succession;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use deadpool_postgres::Pool;
use realtime_changes::{ChannelId, SubscribeRefusal};
use tokio::{
    sync::{Mutex, OnceCell, mpsc, oneshot, watch},
    time::{self, Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::{
    Attendance, ChangeSink, ConnectError, DatabaseConfig, Health, Replication, Stats, SubscribeRequest,
    attendance::Attendees,
    breaker::ConnectLimit,
    budget,
    checking::{Checker, Checking, Due},
    contact::Contact,
    failpoints::{self, Point},
    heirloom::Heirloom,
    pool,
    prepare::Preparation,
    private::Private,
    rights,
    sharing::Reader,
    subscribe::{self, Checked},
    worker::{Command, Worker},
};

/// How long a join waits for the database (protocol 4.6), and a check of what clients want to watch: all who want the same
/// wait behind it.
const READY_LIMIT: Duration = Duration::from_secs(15);

/// Subscriptions and their ends that may wait for the worker; those who subscribe wait when it is full.
const COMMANDS: usize = 1024;

/// Handle of a tenant's database. Cheap to clone; nothing is connected until it is used.
#[derive(Clone)]
pub struct TenantDatabase {
    inner: Arc<Inner>,
}

struct Inner {
    config: DatabaseConfig,
    sink: Arc<dyn ChangeSink>,
    pool: Result<Pool, ConnectError>,
    checking: Arc<Checking>,
    contact: Arc<Contact>,
    /// When the last attempt to connect ended, and how. Held during an attempt.
    attempt: Mutex<Option<(Instant, Result<(), ConnectError>)>>,
    /// Attempts for clients that failed lately.
    failures: parking_lot::Mutex<ConnectLimit>,
    /// Whether there was room for all connections since contact was last lost.
    has_room: AtomicBool,
    /// Whether the rights of the server's role were looked at.
    rights_known: AtomicBool,
    private: Private,
    attendees: Arc<Attendees>,
    /// What clients have of live results, from this handle to the next.
    heirloom: Arc<Heirloom>,
    /// Under which number this handle speaks to them.
    reign: u64,
    /// Whether the set-up of the database was tried, if there is to be one.
    prepared: watch::Sender<Preparation>,
    worker: OnceCell<mpsc::Sender<Command>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    stats: Arc<Stats>,
}

/// For whose sake a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    Client,
    Server,
}

impl TenantDatabase {
    /// A handle; spawns nothing.
    #[must_use]
    pub fn new(config: DatabaseConfig, sink: Arc<dyn ChangeSink>) -> Self {
        Self::with_stats(config, sink, Arc::default())
    }

    /// A handle that goes on counting where another one ended.
    #[must_use]
    pub fn with_stats(config: DatabaseConfig, sink: Arc<dyn ChangeSink>, stats: Arc<Stats>) -> Self {
        Self::with(config, sink, stats, (Arc::default(), Arc::default()), 0)
    }

    fn with(
        config: DatabaseConfig,
        sink: Arc<dyn ChangeSink>,
        stats: Arc<Stats>,
        (attendees, heirloom): (Arc<Attendees>, Arc<Heirloom>),
        reign: u64,
    ) -> Self {
        let pool = pool::make(&config);
        let inner = Inner {
            private: Private::new(&config, &stats),
            prepared: watch::Sender::new(Preparation::first(&config)),
            failures: parking_lot::Mutex::default(),
            has_room: AtomicBool::new(false),
            rights_known: AtomicBool::new(false),
            checking: Checking::new(config.pool_size.clamp(2, pool::MAX_SIZE) - 1, config.connect_timeout),
            config,
            sink,
            pool,
            contact: Arc::new(Contact::new()),
            attempt: Mutex::default(),
            attendees,
            heirloom,
            reign,
            worker: OnceCell::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            stats,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether the database answered a short while ago.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.contact.is_fresh() && !self.inner.stop.is_cancelled()
    }

    /// Whether the database answered when it was last needed, however long ago.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.contact.is_made() && !self.inner.stop.is_cancelled()
    }

    /// Whether the set-up on first use is over, or there is to be none.
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        *self.inner.prepared.borrow() == Preparation::Over
    }

    /// Whether it answers.
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner.contact.health()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.inner.stats
    }

    /// Connects if need be, for a client. Those who ask at once share one attempt and its outcome.
    ///
    /// # Errors
    /// [`ConnectError`] after at most 15 seconds; at once if several clients have failed within a few seconds.
    pub async fn ready(&self) -> Result<(), ConnectError> {
        self.connect(Asker::Client).await
    }

    /// Connects for the server itself, at its start or to see whether the database is there: clients are not barred
    /// for it, and it is not barred for them. Callers that retry have to pause in between.
    ///
    /// # Errors
    /// [`ConnectError`] after at most 15 seconds.
    pub async fn try_on(&self) -> Result<(), ConnectError> {
        self.connect(Asker::Server).await
    }

    async fn connect(&self, asker: Asker) -> Result<(), ConnectError> {
        let asked = Instant::now();
        let mut attempt = self.inner.attempt.lock().await;
        if let Some((ended, outcome)) = &*attempt
            && *ended >= asked
        {
            return outcome.clone();
        }
        if asker == Asker::Client && self.inner.failures.lock().is_reached(asked) {
            return Err(ConnectError::RateLimited);
        }
        let probe = async {
            tokio::select! {
                biased;
                () = self.inner.stop.cancelled() => {
                    Err(ConnectError::Unreachable("The connection was ended".to_owned()))
                }
                outcome = self.probe() => outcome,
            }
        };
        let outcome = match time::timeout(READY_LIMIT, probe).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectError::Initializing),
        };
        match outcome {
            Ok(()) => self.inner.contact.made(),
            Err(_) => {
                self.lost();
                if asker == Asker::Client {
                    self.inner.failures.lock().failed(Instant::now());
                }
            }
        }
        if outcome.is_ok() {
            self.prepare();
        }
        // A permanent slot is read whether or not anybody is subscribed: what it keeps must not grow.
        if outcome.is_ok() && self.inner.config.durable_slot {
            self.worker(self.pool()?).await;
        }
        *attempt = Some((Instant::now(), outcome.clone()));
        outcome
    }

    async fn probe(&self) -> Result<(), ConnectError> {
        let client = pool::get(self.pool()?).await?;
        if self.inner.has_room.load(Ordering::Relaxed) {
            client
                .simple_query("select 1")
                .await
                .map_err(|error| ConnectError::from_code(error.code(), pool::describe(&error)))?;
        } else {
            budget::check(&client, &self.inner.config).await?;
            if !self.inner.rights_known.swap(true, Ordering::Relaxed) {
                let unusable = |error: tokio_postgres::Error| {
                    ConnectError::from_code(error.code(), pool::describe(&error))
                };
                rights::warn_of_superuser(&client, &self.inner.config.tenant).await.map_err(unusable)?;
            }
            self.inner.has_room.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The database did not answer: the next caller connects again.
    pub(crate) fn lost(&self) {
        self.inner.contact.lost();
        self.inner.has_room.store(false, Ordering::Relaxed);
    }

    pub(crate) fn attendees(&self) -> &Attendees {
        &self.inner.attendees
    }

    pub(crate) fn preparation(&self) -> &watch::Sender<Preparation> {
        &self.inner.prepared
    }

    pub(crate) fn config(&self) -> &DatabaseConfig {
        &self.inner.config
    }

    fn private(&self) -> &Private {
        &self.inner.private
    }

    /// Runs something until the end of this handle.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.inner.stop.clone();
        let task = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        };
        self.inner.tasks.spawn(task.instrument(self.inner.config.span()));
    }

    fn pool(&self) -> Result<&Pool, ConnectError> {
        self.inner.pool.as_ref().map_err(Clone::clone)
    }

    /// Subscribes a channel to row changes: all of its subscriptions or none. Replaces what it had. When this returns,
    /// every commit that follows will be delivered. On an error the channel keeps what it had; but a channel whose table
    /// is missing only waits for it from then on.
    ///
    /// A request that is overtaken meanwhile fails and leaves nothing behind. Cancel safe, if the channel ends then or
    /// asks anew.
    ///
    /// # Errors
    /// [`SubscribeRefusal`], whose text is for the client.
    pub async fn subscribe(&self, request: SubscribeRequest) -> Result<(), SubscribeRefusal> {
        let unavailable = |error: ConnectError| SubscribeRefusal::Unavailable(error.join_reason().to_owned());
        let pool = self.pool().map_err(unavailable)?;
        match self.check(pool, &request).await {
            Ok(checked) => self.command(pool, |reply| Command::Subscribe { request, checked, reply }).await?,
            Err(refusal) => {
                match &refusal {
                    SubscribeRefusal::Unavailable(_) => {}
                    // The table may come to be published: then the channel is told.
                    SubscribeRefusal::NoTable(_) => {
                        self.refuse(&request).await;
                        self.command(pool, |reply| Command::Wait(request, reply)).await?;
                    }
                    SubscribeRefusal::Database { .. } => self.refuse(&request).await,
                }
                Err(refusal)
            }
        }
    }

    /// Has the rows leave that a channel got with other rights.
    async fn refuse(&self, request: &SubscribeRequest) {
        // Without a worker nobody has rows.
        let Some(worker) = self.inner.worker.get() else { return };
        let (reply, answer) = oneshot::channel();
        if worker.send(Command::Refuse(request.clone(), reply)).await.is_ok() {
            let _ = answer.await;
        }
    }

    /// Checks what a channel wants to watch, together with all who want the same. As many others as there are connections
    /// for it are checked meanwhile.
    async fn check(&self, pool: &Pool, request: &SubscribeRequest) -> Result<Checked, SubscribeRefusal> {
        let begin = |mut checker: Checker| {
            let (database, pool) = (self.clone(), pool.clone());
            self.spawn(async move {
                while let Some(due) = checker.next().await {
                    let outcome = database.make_check(&pool, &due).await;
                    due.tell(outcome);
                }
            });
        };
        self.inner.checking.check(request, begin).await
    }

    async fn make_check(&self, pool: &Pool, due: &Due<'_>) -> Result<Checked, SubscribeRefusal> {
        if due.place.is_none() {
            return Err(SubscribeRefusal::Unavailable("Too many database timeouts".to_owned()));
        }
        self.inner.stats.subscription_checks.fetch_add(1, Ordering::Relaxed);
        let config = &self.inner.config;
        let (bounds, tenant) = (subscribe::bounds(config), Some(&*config.tenant));
        let check = subscribe::check(pool, &config.publication, bounds, &due.request, tenant);
        let checked = time::timeout(READY_LIMIT, check).await.unwrap_or_else(|_| {
            Err(SubscribeRefusal::Unavailable("The database does not answer".to_owned()))
        });
        if let Err(SubscribeRefusal::Unavailable(_)) = &checked {
            self.inner.contact.lost();
        }
        checked
    }

    /// Has the worker do something, and waits until it has.
    async fn command<T>(
        &self,
        pool: &Pool,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, SubscribeRefusal> {
        let (reply, answer) = oneshot::channel();
        let gone = || SubscribeRefusal::Unavailable("Subscriptions are shutting down".to_owned());
        if failpoints::reach(Point::SubscribeHandedOver).await {
            return Err(gone());
        }
        self.worker(pool).await.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Whether row changes and broadcasts are read from the log right now.
    #[must_use]
    pub fn is_replicating(&self) -> bool {
        self.reader().is_some()
    }

    /// The reader of the log for this node right now; `None` if there is none.
    #[must_use]
    pub fn reader(&self) -> Option<Reader> {
        self.inner.contact.reader()
    }

    /// Ends the replication session, if there is one; those who need it get another one, and are told of the gap as when
    /// the connection breaks. False if there was none.
    pub async fn end_replication(&self) -> bool {
        let Some(worker) = self.inner.worker.get().filter(|_| self.is_replicating()) else { return false };
        let (reply, ended) = oneshot::channel();
        worker.send(Command::EndSession(reply)).await.is_ok() && ended.await.is_ok()
    }

    /// Ends a channel's subscriptions. Idempotent. Its generations must have ended before.
    pub fn unsubscribe(&self, channel: ChannelId) {
        drop(self.inner.heirloom.take(channel));
        let Some(worker) = self.inner.worker.get() else { return };
        if let Err(mpsc::error::TrySendError::Full(command)) = worker.try_send(Command::Unsubscribe(channel))
        {
            // The worker is behind; it must not miss the end.
            let worker = worker.clone();
            self.inner.tasks.spawn(async move {
                let _ = worker.send(command).await;
            });
        }
    }

    /// Keeps broadcasts from the database coming to the sink, as long as what is returned lives; they begin to come
    /// as soon as the database can be reached and publishes them. Call it within a runtime.
    #[must_use]
    pub fn attend(&self) -> Attendance {
        let attendance = self.inner.attendees.enter();
        if self.inner.worker.get().is_none() {
            let database = self.clone();
            self.spawn(async move {
                if let Ok(pool) = database.pool() {
                    database.worker(pool).await;
                }
            });
        }
        attendance
    }

    /// Whether broadcasts from the database arrive, and how many gaps there have been.
    #[must_use]
    pub fn replication(&self) -> Replication {
        self.inner.attendees.replication()
    }

    /// Returns when that is no longer so. Cancel safe.
    pub async fn replication_differs(&self, from: Replication) {
        self.inner.attendees.differs(from).await;
    }

    /// The worker, started when first needed.
    async fn worker(&self, pool: &Pool) -> &mpsc::Sender<Command> {
        let start = async || {
            let (commands, queue) = mpsc::channel(COMMANDS);
            let inner = &self.inner;
            let worker = Worker::new(
                inner.config.clone(),
                pool.clone(),
                Arc::clone(&inner.sink),
                Arc::clone(&inner.stats),
                Arc::clone(&inner.contact),
                inner.tasks.clone(),
                Arc::clone(&inner.attendees),
                Arc::clone(&inner.heirloom),
                inner.reign,
                inner.prepared.subscribe(),
            );
            let run = worker.run(queue, inner.stop.clone());
            inner.tasks.spawn(run.instrument(inner.config.span()));
            commands
        };
        self.inner.worker.get_or_init(start).await
    }
}
