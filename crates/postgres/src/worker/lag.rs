//! Watches how far a session is behind the log. A slot keeps what was not confirmed yet from being removed, and the
//! database's disk is not ours to fill.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use deadpool_postgres::Pool;
use realtime_pgoutput::Lsn;
use tokio::time::{self, Duration};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{Stats, pool};

/// How often the lag is asked for while there is one. A session that keeps up is asked nothing.
const INTERVAL: Duration = Duration::from_secs(1);

/// Watches a session for as long as it is held.
pub(crate) struct LagWatch {
    progress: Arc<Progress>,
    exceeded: CancellationToken,
    _stop: DropGuard,
}

/// How far a session has come.
#[derive(Debug, Default)]
struct Progress {
    /// Everything before it was handed over.
    confirmed: AtomicU64,
    /// Nothing was waiting when the session was last looked at.
    caught_up: AtomicBool,
}

impl LagWatch {
    /// Starts watching. `limit` in bytes; 0 for none.
    pub(crate) fn start(pool: Pool, stats: Arc<Stats>, limit: u64, tasks: &TaskTracker) -> Self {
        let stop = CancellationToken::new();
        let progress = Arc::new(Progress::default());
        let exceeded = CancellationToken::new();
        let watch = watch(pool, stats, limit, Arc::clone(&progress), exceeded.clone());
        let stopped = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = watch => {}
            }
        });
        Self { progress, exceeded, _stop: stop.drop_guard() }
    }

    /// Cancelled when the limit was exceeded.
    pub(crate) fn exceeded(&self) -> CancellationToken {
        self.exceeded.clone()
    }

    /// Everything before a position was handed over.
    pub(crate) fn confirmed(&self, position: Lsn) {
        self.progress.confirmed.fetch_max(position.0, Ordering::Relaxed);
    }

    /// Everything before this position was handed over.
    pub(super) fn confirmed_position(&self) -> Lsn {
        Lsn(self.progress.confirmed.load(Ordering::Relaxed))
    }

    /// Whether nothing is waiting.
    pub(crate) fn caught_up(&self, caught_up: bool) {
        self.progress.caught_up.store(caught_up, Ordering::Relaxed);
    }
}

async fn watch(
    pool: Pool,
    stats: Arc<Stats>,
    limit: u64,
    progress: Arc<Progress>,
    exceeded: CancellationToken,
) {
    loop {
        time::sleep(INTERVAL).await;
        let confirmed = progress.confirmed.load(Ordering::Relaxed);
        if progress.caught_up.load(Ordering::Relaxed) || confirmed == 0 {
            stats.lag_bytes.store(0, Ordering::Relaxed);
            continue;
        }
        let Ok(lag) = ask(&pool, confirmed).await else { continue };
        stats.lag_bytes.store(lag, Ordering::Relaxed);
        if limit > 0 && lag > limit {
            exceeded.cancel();
            return;
        }
    }
}

/// Bytes of the log after a position.
async fn ask(pool: &Pool, position: u64) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    const SQL: &str = "select pg_catalog.pg_wal_lsn_diff(
            case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_receive_lsn()
                else pg_catalog.pg_current_wal_flush_lsn() end,
            '0/0')::int8";
    let client = pool::get(pool).await?;
    let end: i64 = client.query_one(SQL, &[]).await?.try_get(0)?;
    Ok(u64::try_from(end).unwrap_or(0).saturating_sub(position))
}
