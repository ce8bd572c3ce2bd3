//! Asks the database for verdicts beside the stream.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use realtime_changes::{Party, Table};
use realtime_pgoutput::Lsn;
use tokio::{sync::mpsc, time};
use tracing::Instrument as _;

use super::super::waiting::Waiting;
use crate::{
    pool,
    visibility::{self, Asked, Inquiry, PolicyCache, Row},
};

/// Verdicts that are compared at once, at most. Others that are drawn meanwhile are not compared.
pub(super) const MAX_OPEN: usize = 16;

/// How long a verdict may take, waiting for a connection and for a commit to be visible included.
const LIMIT: Duration = Duration::from_secs(30);

/// How long the policies of one party may take for one row.
const ASKED: Duration = Duration::from_secs(2);

/// Connections that have to be free: one for the question, one that is left for the stream.
const FREE: usize = 2;

/// A verdict to be asked for.
#[derive(Debug)]
pub(in crate::worker::state) struct Job {
    pub(in crate::worker::state) id: u64,
    pub(in crate::worker::state) table: Arc<Table>,
    pub(in crate::worker::state) logged: Box<[i16]>,
    pub(in crate::worker::state) key: Box<[i16]>,
    pub(in crate::worker::state) publication: String,
    pub(in crate::worker::state) shares_plans: bool,
    pub(in crate::worker::state) row: Waiting,
    pub(in crate::worker::state) is_old: bool,
    pub(in crate::worker::state) party: Arc<Party>,
    /// What the compiled policies say.
    pub(in crate::worker::state) shown: bool,
}

/// What the database says.
#[derive(Debug)]
pub(in crate::worker) struct Found {
    pub(in crate::worker::state) id: u64,
    /// Whether the party sees the row. `None`: it could not be told.
    pub(in crate::worker::state) shown: Option<bool>,
    /// Where that differs: a position of the log behind all that the answer has seen.
    pub(in crate::worker::state) position: Option<Lsn>,
}

#[derive(Debug)]
pub(super) struct Asker {
    jobs: mpsc::Sender<Job>,
    answers: mpsc::UnboundedReceiver<Found>,
}

impl Asker {
    pub(super) fn new(pool: Pool) -> Self {
        let (jobs, mut queue) = mpsc::channel::<Job>(MAX_OPEN);
        let (tell, answers) = mpsc::unbounded_channel();
        let work = async move {
            // Its own, so that the stream never waits for it.
            let cache = PolicyCache::default();
            while let Some(job) = queue.recv().await {
                let found = tokio::select! {
                    found = ask(&pool, &cache, &job) => found,
                    () = tell.closed() => return,
                };
                let (shown, position) = found.unzip();
                if tell.send(Found { id: job.id, shown, position: position.flatten() }).is_err() {
                    return;
                }
            }
        };
        tokio::spawn(work.in_current_span());
        Self { jobs, answers }
    }

    /// False if too many wait already.
    pub(super) fn ask(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }

    /// The next answer. Cancel safe.
    pub(super) async fn found(&mut self) -> Found {
        match self.answers.recv().await {
            Some(found) => found,
            // The task lives as long as this does.
            None => std::future::pending().await,
        }
    }
}

/// Whether the party sees the row, and where it differs a position behind the answer. `None`: it cannot be told, or there
/// are too few connections.
async fn ask(pool: &Pool, cache: &PolicyCache, job: &Job) -> Option<(bool, Option<Lsn>)> {
    let status = pool.status();
    if status.max_size.saturating_sub(status.size) + status.available < FREE {
        return None;
    }
    let change = if job.is_old { job.row.old_image()? } else { job.row.image() };
    let inquiry = Inquiry {
        table: &job.table,
        logged: &job.logged,
        key: &job.key,
        publication: &job.publication,
        rows: vec![Row { change, xid: job.row.xid, is_last: false }],
        parties: vec![Asked { party: Arc::clone(&job.party), rows: vec![0] }],
        shares_plans: job.shares_plans,
    };
    let asked = visibility::check(pool, &inquiry, cache, ASKED);
    let answers = time::timeout(LIMIT, asked).await.ok()?.ok()?;
    let verdict = answers.verdicts.into_iter().next()?.ok().filter(|verdict| verdict.failed.is_none())?;
    let shown = !verdict.seen.is_empty();
    let position = if shown == job.shown { None } else { Some(position(pool).await?) };
    Some((shown, position))
}

/// A position behind every commit that can be seen by now. A commit can be seen before it is written.
async fn position(pool: &Pool) -> Option<Lsn> {
    const SQL: &str =
        "select (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8";
    let client = time::timeout(LIMIT, pool::get(pool)).await.ok()?.ok()?;
    let row = client.query_one(SQL, &[]).await.ok()?;
    u64::try_from(row.try_get::<_, i64>(0).ok()?).ok().map(Lsn)
}
