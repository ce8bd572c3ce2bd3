//! Reading a result: its query under the role and the claims of a party, in one snapshot.
//!
//! A cursor gives the rows in portions, so that memory is bounded by a portion, and so that a receiver that is slow does
//! not count against the time that the database may take.

use std::{ops::ControlFlow, pin::pin, time::Duration};

use bytes::BytesMut;
use deadpool_postgres::Pool;
use futures_util::TryStreamExt as _;
use realtime_changes::Party;
use realtime_pgoutput::message::{Tuple, UnixMicros, Value};
use tokio::time::{self, Instant};
use tokio_postgres::{
    Error, Row, SimpleQueryMessage, SimpleQueryRow, SimpleQueryStream,
    error::SqlState,
    types::{ToSql, Type},
};

use super::source::Source;
use crate::{
    claims,
    foreign::{Guest, NoAnswer, session_columns},
    pool, sqlstate,
    visibility::{NO_ROLE, Passed, Snapshot, is_passing, pauses},
};

/// Rows of the first portion: it travels with the statements that begin, and most results end with it.
const FIRST_PORTION: usize = 128;

/// Rows of a portion at most.
const MAX_PORTION: usize = 2_000;

/// About how many bytes a portion should have: enough to be worth a round trip.
const PORTION_BYTES: usize = 256 * 1024;

/// What an answer may take beyond the time limit of the statements: the way there and back, and a busy server.
const GRACE: Duration = Duration::from_secs(1);

/// Begins a transaction that sees one snapshot. Code of applications finds its names where it is used to.
const BEGIN: &str = "begin isolation level repeatable read read only; set local search_path to default";

/// The snapshot, the time, and the settings of the query. The role comes last: from then on nothing runs as our own.
const SETTINGS: &str = concat!(
    "select pg_catalog.pg_current_snapshot()::pg_catalog.text,
        (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())
            operator(pg_catalog.*) 1000000::pg_catalog.float8)::pg_catalog.int8,
        pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('row_security', 'on', true),
        pg_catalog.set_config('cursor_tuple_fraction', '1.0', true), pg_catalog.set_config('jit', 'off', true),
        pg_catalog.set_config('request.jwt.claims', $2, true), pg_catalog.set_config('request.jwt.claim.sub', $3, true),
        pg_catalog.set_config('request.jwt.claim.role', $4, true), pg_catalog.set_config('role', $4, true), ",
    session_columns!()
);

/// What a run may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Time in the database, all portions together. What the receiver takes does not count.
    pub(crate) time: Duration,
    /// Rows.
    pub(crate) rows: usize,
}

/// When a result was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadAt {
    /// What the run saw: all transactions that had passed, and perhaps some that have not.
    pub(crate) snapshot: Snapshot,
    /// The database's clock when the snapshot was taken.
    pub(crate) taken_at: UnixMicros,
    /// How many rows there were.
    pub(crate) rows: usize,
}

/// Why a result was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It takes longer than it may.
    #[error("the query takes longer than it may")]
    Slow,
    /// It has more rows than this.
    #[error("the result has more than {0} rows")]
    TooMany(usize),
    /// The database refuses the query, or something that it runs raises. Holds code and condition.
    #[error("{0}")]
    Failed(String),
    /// The party lacks a right that the query needs. Holds code and condition.
    #[error("{0}")]
    Denied(String),
    /// The receiver wanted no more.
    #[error("the receiver is gone")]
    Stopped,
    /// The database cannot be asked at the moment.
    #[error(transparent)]
    Unavailable(NoAnswer),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        match error.as_db_error() {
            Some(db) if *db.code() == SqlState::QUERY_CANCELED => Self::Slow,
            Some(db) if *db.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
                Self::Denied(sqlstate::brief(db.code().code()))
            }
            Some(db) if !is_passing(db) => Self::Failed(sqlstate::brief(db.code().code())),
            _ => Self::Unavailable(error.into()),
        }
    }
}

/// Takes the rows of a result, a portion at a time. The query stands still meanwhile, and so does its connection.
pub(crate) trait Receive: Send {
    /// The snapshot was taken that all rows come from. Called once, before the first of them.
    fn begins(&mut self, _taken_at: UnixMicros) {}

    /// Takes some rows, in their order. `Break` ends the run with [`ReadError::Stopped`].
    fn take(&mut self, rows: Vec<Tuple>) -> impl Future<Output = ControlFlow<()>> + Send;
}

impl<F: FnMut(Tuple) + Send> Receive for F {
    async fn take(&mut self, rows: Vec<Tuple>) -> ControlFlow<()> {
        rows.into_iter().for_each(self);
        ControlFlow::Continue(())
    }
}

/// Reads a result as a party sees it, in a snapshot that has all of `passed`. Tuples are those of the source's relation.
///
/// Cancel safe: what is under way in the database is ended in a task of its own.
///
/// # Errors
/// [`ReadError`]. Some rows may have been received by then; none if the snapshot had to be taken again.
pub(crate) async fn read(
    pool: &Pool,
    source: &Source,
    party: &Party,
    passed: &Passed,
    limits: Limits,
    receiver: &mut impl Receive,
) -> Result<ReadAt, ReadError> {
    if &*party.role == NO_ROLE {
        return Err(ReadError::Failed(sqlstate::brief("22023")));
    }
    let mut pauses = pauses();
    loop {
        let client = pool::get(pool).await.map_err(|error| ReadError::Unavailable(error.into()))?;
        let mut run =
            Run { guest: Guest::new(client, limits.time), source, limits, spent: Duration::ZERO, rows: 0 };
        let (snapshot, taken_at, first) = run.begin(party).await?;
        if passed.are_in(&snapshot) {
            receiver.begins(taken_at);
            run.rest(first, receiver).await?;
            let rows = run.rows;
            run.end().await?;
            return Ok(ReadAt { snapshot, taken_at, rows });
        }
        run.end().await?;
        // The query can be expensive: it runs again when it sees what it has to see.
        while !sees(pool, passed).await? {
            time::sleep(pauses.failed(1.0)).await;
        }
    }
}

/// Whether a snapshot that is taken now has all of these.
async fn sees(pool: &Pool, passed: &Passed) -> Result<bool, ReadError> {
    let client = pool::get(pool).await.map_err(|error| ReadError::Unavailable(error.into()))?;
    let row = client.query_one("select pg_catalog.pg_current_snapshot()::pg_catalog.text", &[]).await?;
    Ok(passed.are_in(&Snapshot::parse(row.try_get(0)?).unwrap_or_default()))
}

/// A run of a query.
struct Run<'a> {
    guest: Guest,
    source: &'a Source,
    limits: Limits,
    /// Time that the database has taken.
    spent: Duration,
    rows: usize,
}

/// Some rows.
struct Portion {
    rows: Vec<Tuple>,
    bytes: usize,
    /// How many were asked for. Fewer came: there are no more.
    asked: usize,
}

impl Portion {
    const fn is_last(&self) -> bool {
        self.rows.len() < self.asked
    }

    /// How many rows the next one should have.
    fn next(&self) -> usize {
        let of_bytes = PORTION_BYTES * self.rows.len() / self.bytes.max(1);
        of_bytes.clamp(1, MAX_PORTION)
    }
}

impl Run<'_> {
    /// The statements travel together, up to the first rows.
    async fn begin(&mut self, party: &Party) -> Result<(Snapshot, UnixMicros, Portion), ReadError> {
        let (limit, sub) = (self.limits.time.as_millis().to_string(), claims::subject(&party.claims));
        let (claims, role) = (&*party.claims, &*party.role);
        let settings: [(&(dyn ToSql + Sync), Type); 4] =
            [(&limit, Type::TEXT), (&claims, Type::TEXT), (&sub, Type::TEXT), (&role, Type::TEXT)];
        let declare = format!("declare live_rows no scroll cursor without hold for {}", self.source.sql);
        let fetch = fetch(FIRST_PORTION);
        let begun = Instant::now();
        let guest = &self.guest;
        guest.enter();
        let asked = async {
            let (begun, given, declared, rows) = tokio::join!(
                biased;
                guest.batch_execute(BEGIN),
                async {
                    let rows = guest.query_typed(SETTINGS, &settings).await?;
                    guest.begun(&rows)?;
                    Ok::<_, Error>(rows)
                },
                guest.batch_execute(&declare),
                guest.simple_query_raw(&fetch),
            );
            begun?;
            let given = given?;
            declared?;
            let portion = portion(rows?, self.source, FIRST_PORTION).await?;
            Ok::<_, Error>((given, portion))
        };
        let (given, portion) = within(guest, self.limits.time, asked).await?;
        self.spent += begun.elapsed();
        let (snapshot, taken_at) = seen(&given)?;
        Ok((snapshot, taken_at, portion))
    }

    /// Hands over a portion and those that follow.
    async fn rest(&mut self, first: Portion, receiver: &mut impl Receive) -> Result<(), ReadError> {
        let mut portion = first;
        loop {
            self.rows += portion.rows.len();
            if self.rows > self.limits.rows {
                return Err(ReadError::TooMany(self.limits.rows));
            }
            let (is_last, next) = (portion.is_last(), portion.next());
            if !portion.rows.is_empty() && receiver.take(portion.rows).await.is_break() {
                return Err(ReadError::Stopped);
            }
            if is_last {
                return Ok(());
            }
            // One more than a result may have says that it has too many.
            let next = next.min(self.limits.rows + 1 - self.rows);
            portion = self.fetch(next).await?;
        }
    }

    async fn fetch(&mut self, rows: usize) -> Result<Portion, ReadError> {
        let left = self.limits.time.checked_sub(self.spent).ok_or(ReadError::Slow)?;
        let begun = Instant::now();
        let fetch = fetch(rows);
        let asked = async { portion(self.guest.simple_query_raw(&fetch).await?, self.source, rows).await };
        let portion = within(&self.guest, left, asked).await?;
        self.spent += begun.elapsed();
        Ok(portion)
    }

    async fn end(self) -> Result<(), ReadError> {
        within(&self.guest, self.limits.time, self.guest.leave()).await
    }
}

fn fetch(rows: usize) -> String {
    format!("fetch forward {rows} from live_rows")
}

/// Waits a little longer than statements may take. What goes on all the same is ended, and its connection given up.
async fn within<T>(
    guest: &Guest,
    limit: Duration,
    asked: impl Future<Output = Result<T, Error>>,
) -> Result<T, ReadError> {
    let Ok(answer) = time::timeout(limit + GRACE, asked).await else {
        guest.give_up();
        return Err(ReadError::Slow);
    };
    Ok(answer?)
}

/// The snapshot, and its time.
fn seen(given: &[Row]) -> Result<(Snapshot, UnixMicros), Error> {
    let Some(row) = given.first() else { return Ok(Default::default()) };
    let snapshot = Snapshot::parse(row.try_get(0)?).unwrap_or_default();
    Ok((snapshot, UnixMicros(row.try_get(1)?)))
}

async fn portion(rows: SimpleQueryStream, source: &Source, asked: usize) -> Result<Portion, Error> {
    let mut rows = pin!(rows);
    let mut portion = Portion { rows: Vec::new(), bytes: 0, asked };
    while let Some(message) = rows.try_next().await? {
        if let SimpleQueryMessage::Row(row) = message {
            let (tuple, bytes) = tuple(&row, source)?;
            portion.rows.push(tuple);
            portion.bytes += bytes;
        }
    }
    Ok(portion)
}

/// A row as the log would have it: its texts share one piece of memory. Gives its bytes too.
fn tuple(row: &SimpleQueryRow, source: &Source) -> Result<(Tuple, usize), Error> {
    let mut tuple = vec![Value::Unchanged; source.relation.columns.len()];
    let mut texts = BytesMut::new();
    let mut ends = Vec::with_capacity(source.columns.len());
    for at in 0..source.columns.len() {
        let text = row.try_get(at)?;
        texts.extend_from_slice(text.unwrap_or_default().as_bytes());
        ends.push((text.is_some(), texts.len()));
    }
    let (texts, mut start) = (texts.freeze(), 0);
    for (place, (is_some, end)) in source.columns.iter().zip(ends) {
        if let Some(slot) = tuple.get_mut(*place) {
            *slot = if is_some { Value::Text(texts.slice(start..end)) } else { Value::Null };
        }
        start = end;
    }
    Ok((tuple, texts.len()))
}
