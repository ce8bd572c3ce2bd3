//! A connection on which code of applications runs.
//!
//! Such code may do what a time limit does not bound: it can catch the cancellation of its statement and go on. So an
//! answer is waited for a little longer than its statements may take. Then the connection is given up and its session is
//! ended, however often that has to be tried. Until it is, the connection keeps its place in the pool: no more sessions go
//! on than the pool may have connections. Code may also leave behind what a rollback does not undo: locks of the session,
//! and prepared statements. A connection whose statements were touched is not used again.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering},
    },
    time::Duration,
};

use deadpool::managed::Manager as _;
use deadpool_postgres::{ClientWrapper, Object, Pool, PoolError, TimeoutType, Timeouts};
use realtime_retry::Backoff;
use tokio::{runtime::Handle, time};
use tokio_postgres::{
    Error, Row, SimpleQueryMessage, Statement,
    types::{ToSql, Type},
};

use super::no_answer::NoAnswer;
use crate::ConnectError;

/// What an answer may take beyond the time limit of its statements: the way there and back, and a busy server.
const GRACE: Duration = Duration::from_secs(1);

/// The last columns of the statement that begins a question, for [`Guest::begun`]: which session it is, and how many
/// statements it knows.
macro_rules! session_columns {
    () => {
        "pg_catalog.pg_backend_pid(),
        (select pg_catalog.count(*) from pg_catalog.pg_prepared_statement())"
    };
}
pub(crate) use session_columns;

/// Ends the transaction, and lets go of locks that functions may have taken and that outlive it. Then tells for each
/// statement that the session knows whether SQL has named it. In one message, without a plan to speak of: this is paid
/// with every private join. It has no name itself: code of applications could have given the name to another statement.
const END: &str = "rollback; select pg_catalog.pg_advisory_unlock_all();
    select (pg_catalog.pg_prepared_statement()).from_sql";

/// The same for a session that knows statements, in one statement less. Should it know none any more, no lock is let go, and
/// the connection is not used again.
const END_WITH_STATEMENTS: &str = "rollback;
    select (pg_catalog.pg_prepared_statement()).from_sql, pg_catalog.pg_advisory_unlock_all()";

/// The column of the last of these.
const FROM_SQL: &str = "from_sql";

/// Ends a session of our own role.
const TERMINATE: &str = "select pg_catalog.pg_terminate_backend($1)";

/// How long an attempt to end a session may take.
const ENDING: Duration = Duration::from_secs(5);

/// Pauses before it is tried again, from the first, doubling, to the second: while the database takes no connections, say.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// No session knows this number of statements.
const UNKNOWN: i64 = -1;

/// A connection of a pool, for one question that runs code of applications. It goes back to the pool when nothing of the
/// question is left on it.
pub(crate) struct Guest(Arc<Session>);

struct Session {
    client: Object,
    /// For the log, where no span names it.
    tenant: Option<Arc<str>>,
    /// How long the statements of the question may take, all together.
    limit: Duration,
    /// Process id of the session; 0 until it is known.
    id: AtomicI32,
    /// Statements that the session knew before the question.
    statements: AtomicI64,
    /// Whether code of applications may be running, or may have left something behind.
    in_use: AtomicBool,
    /// Whether the connection must not be used again.
    spoiled: AtomicBool,
    /// Whether a statement is being prepared. If that is given up, the session knows one that is not kept for it.
    preparing: AtomicBool,
}

impl Deref for Guest {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.0.client
    }
}

impl Guest {
    /// Takes a connection for a question whose statements may take this long.
    pub(crate) fn new(client: Object, limit: Duration) -> Self {
        Self::of(client, limit, None)
    }

    /// The same, with the tenant for the log where no span names it.
    pub(crate) fn of(client: Object, limit: Duration, tenant: Option<Arc<str>>) -> Self {
        Self(Arc::new(Session {
            client,
            tenant,
            limit,
            id: AtomicI32::new(0),
            statements: AtomicI64::new(UNKNOWN),
            in_use: AtomicBool::new(false),
            spoiled: AtomicBool::new(false),
            preparing: AtomicBool::new(false),
        }))
    }

    /// The answer to the question. Its statements travel together: the first to run code of applications comes after
    /// [`enter`](Self::enter), the last is [`leave`](Self::leave).
    ///
    /// Cancel safe: what is under way is ended in a task of its own.
    ///
    /// # Errors
    /// [`NoAnswer::Silent`] when code of an application does not let go; another error when the database cannot be asked.
    pub(crate) async fn answer<T>(self, ask: impl AsyncFnOnce(&Self) -> T) -> Result<T, NoAnswer> {
        if let Ok(answer) = time::timeout(self.0.limit + GRACE, ask(&self)).await {
            return Ok(answer);
        }
        self.give_up();
        Err(NoAnswer::Silent)
    }

    /// Nobody waits for what is under way: the session is ended in a task of its own.
    pub(crate) fn give_up(&self) {
        self.0.in_use.store(false, Ordering::Relaxed);
        self.0.spoiled.store(true, Ordering::Relaxed);
    }

    /// A statement that is kept for the session. All are prepared with this, before [`enter`](Self::enter).
    ///
    /// Cancel safe: the connection is not used again.
    pub(crate) async fn prepared(&self, sql: &str, types: &[Type]) -> Result<Statement, Error> {
        self.0.preparing.store(true, Ordering::Relaxed);
        let statement = self.0.client.prepare_typed_cached(sql, types).await;
        self.0.preparing.store(false, Ordering::Relaxed);
        statement
    }

    /// From now on code of applications may run.
    pub(crate) fn enter(&self) {
        self.0.in_use.store(true, Ordering::Relaxed);
    }

    /// Takes the rows of the statement that began the question, which ends with the [`session_columns`].
    pub(crate) fn begun(&self, rows: &[Row]) -> Result<(), Error> {
        let Some(row) = rows.first() else { return Ok(()) };
        let last = row.len().saturating_sub(1);
        self.0.id.store(row.try_get(last.saturating_sub(1))?, Ordering::Relaxed);
        self.0.statements.store(row.try_get(last)?, Ordering::Relaxed);
        Ok(())
    }

    /// The session knows those statements that are kept for it, and no others: nothing else is prepared on connections of this
    /// pool. Then [`is`](Self::is) takes the rows of the statement that begins the question.
    pub(crate) fn knows_kept_statements(&self) {
        let kept = i64::try_from(self.0.client.statement_cache.size()).unwrap_or(UNKNOWN);
        self.0.statements.store(kept, Ordering::Relaxed);
    }

    /// Takes the rows of a statement whose last column is the process id of the session.
    pub(crate) fn is(&self, rows: &[Row]) -> Result<(), Error> {
        let Some(row) = rows.first() else { return Ok(()) };
        self.0.id.store(row.try_get(row.len().saturating_sub(1))?, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the transaction of the question.
    pub(crate) async fn leave(&self) -> Result<(), Error> {
        self.0.leave().await
    }
}

impl Session {
    async fn leave(&self) -> Result<(), Error> {
        let end = if self.statements.load(Ordering::Relaxed) > 0 { END_WITH_STATEMENTS } else { END };
        let ended = self.client.simple_query(end).await?;
        if self.is_touched(&ended) {
            let (tenant, code) = (self.tenant.as_deref(), "RlsPolicyError");
            tracing::warn!(
                tenant,
                code,
                "a policy or a check changed prepared statements; closing the connection"
            );
            self.spoiled.store(true, Ordering::Relaxed);
        }
        self.in_use.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether statements were prepared or removed. The next question would run what was put in their place, with our
    /// rights.
    fn is_touched(&self, ended: &[SimpleQueryMessage]) -> bool {
        let mut known = 0;
        for message in ended {
            let SimpleQueryMessage::Row(row) = message else { continue };
            match row.try_get(FROM_SQL) {
                Ok(Some("f")) => known += 1,
                Ok(_) => return true,
                // A row of the statement before.
                Err(_) => {}
            }
        }
        known != self.statements.load(Ordering::Relaxed)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.0.preparing.load(Ordering::Relaxed) {
            self.0.spoiled.store(true, Ordering::Relaxed);
        }
        if !self.0.in_use.load(Ordering::Relaxed) && !self.0.spoiled.load(Ordering::Relaxed) {
            return;
        }
        // Without a runtime the pool is gone too.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(settle(Arc::clone(&self.0)));
        }
    }
}

/// Waits for the end of a question that nobody waits for any more. The connection goes back to the pool if it is clean.
async fn settle(session: Arc<Session>) {
    if session.in_use.load(Ordering::Relaxed) {
        let left = time::timeout(session.limit + GRACE, session.leave()).await;
        if matches!(left, Ok(Ok(()))) && !session.spoiled.load(Ordering::Relaxed) {
            return;
        }
    }
    // The guest may still be on its way out: the last to let go of the connection would give it back.
    while Arc::strong_count(&session) > 1 {
        tokio::task::yield_now().await;
    }
    if let Some(session) = Arc::into_inner(session) {
        session.end().await;
    }
}

impl Session {
    /// Ends the session. The connection keeps its place in the pool until that has worked.
    async fn end(self) {
        let Self { client, id, .. } = self;
        let id = id.into_inner();
        let mut pauses = Backoff::new(AGAIN.0, AGAIN.1);
        let mut is_told = false;
        // Before its number is known no code of others has run.
        while id > 0 && !client.is_closed() {
            let Some(pool) = Object::pool(&client) else { break };
            let ended = time::timeout(ENDING, terminate(&pool, id)).await;
            if matches!(ended, Ok(Ok(()))) || pool.is_closed() {
                break;
            }
            if !std::mem::replace(&mut is_told, true) {
                let error = match ended {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no answer in time".to_owned(),
                };
                let code = "UnableToConnectToProject";
                tracing::warn!(code, error, "cannot end a session whose policy does not stop; retrying");
            }
            time::sleep(pauses.failed(1.0)).await;
        }
        drop(Object::take(client));
    }
}

/// Ends a session over another connection of the pool, or over one beside the pool where all are in use.
async fn terminate(pool: &Pool, id: i32) -> Result<(), NoAnswer> {
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&id, Type::INT4)];
    let at_once = Timeouts { wait: Some(Duration::ZERO), ..pool.timeouts() };
    match pool.timeout_get(&at_once).await {
        Ok(other) => drop(other.query_typed(TERMINATE, &parameters).await?),
        Err(PoolError::Closed | PoolError::Timeout(TimeoutType::Wait)) => {
            drop(pool.manager().create().await?.query_typed(TERMINATE, &parameters).await?);
        }
        Err(error) => return Err(ConnectError::Unreachable(error.to_string()).into()),
    }
    Ok(())
}
