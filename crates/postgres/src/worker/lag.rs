//! Watches how much of the log a session keeps. A slot keeps what was not confirmed yet from being removed, and what a
//! transaction that is still running has written; the database's disk is not ours to fill.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use deadpool_postgres::Pool;
use parking_lot::Mutex;
use realtime_pgoutput::Lsn;
use tokio::time::{self, Duration};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{Stats, pool};

/// How often the lag is asked for while there is one. A session that keeps up is asked nothing, unless its slot may
/// keep a good part of what it may.
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
    /// How far the server has read its log, as far as is known.
    log_end: AtomicU64,
    /// The slot that the session reads, if it has one of its own.
    slot: Mutex<Option<Arc<str>>>,
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

    /// Which slot the session reads from now on.
    pub(crate) fn reads(&self, slot: Option<&Arc<str>>) {
        let mut known = self.progress.slot.lock();
        if known.as_ref() != slot {
            *known = slot.cloned();
        }
    }

    /// Everything before a position was handed over.
    pub(crate) fn confirmed(&self, position: Lsn) {
        self.progress.confirmed.fetch_max(position.0, Ordering::Relaxed);
        self.grown(position);
    }

    /// The log reaches up to a position at least.
    pub(crate) fn grown(&self, position: Lsn) {
        self.progress.log_end.fetch_max(position.0, Ordering::Relaxed);
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
    let mut kept = Kept::default();
    loop {
        time::sleep(INTERVAL).await;
        let confirmed = progress.confirmed.load(Ordering::Relaxed);
        let slot = progress.slot.lock().clone();
        let log_end = progress.log_end.load(Ordering::Relaxed);
        let behind = confirmed != 0 && !progress.caught_up.load(Ordering::Relaxed);
        if !behind {
            stats.lag_bytes.store(0, Ordering::Relaxed);
            if slot.is_none() || !kept.may_exceed_half(limit, log_end) {
                continue;
            }
        }
        let Ok((end, restart)) = ask(&pool, slot.as_deref()).await else { continue };
        kept = Kept { asked_at: log_end, from: restart.unwrap_or(confirmed) };
        if behind {
            stats.lag_bytes.store(end.saturating_sub(confirmed), Ordering::Relaxed);
        }
        if limit > 0 && end.saturating_sub(confirmed.min(kept.from)) > limit {
            exceeded.cancel();
            return;
        }
    }
}

/// What is known of what a slot keeps.
#[derive(Debug, Default)]
struct Kept {
    /// End of the log when it was asked for.
    asked_at: u64,
    /// The slot keeps the log from here on, or from a later position.
    from: u64,
}

impl Kept {
    /// Whether the slot may keep more than half of the limit, and the log has grown since that was last asked for.
    fn may_exceed_half(&self, limit: u64, log_end: u64) -> bool {
        limit > 0 && log_end > self.asked_at && log_end.saturating_sub(self.from) > limit / 2
    }
}

/// The end of the log, and from where on a slot keeps it.
async fn ask(
    pool: &Pool,
    slot: Option<&str>,
) -> Result<(u64, Option<u64>), Box<dyn std::error::Error + Send + Sync>> {
    const SQL: &str = "select pg_catalog.pg_wal_lsn_diff(
            case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_receive_lsn()
                else pg_catalog.pg_current_wal_flush_lsn() end,
            '0/0')::int8,
            (select pg_catalog.pg_wal_lsn_diff(restart_lsn, '0/0')::int8
             from pg_catalog.pg_replication_slots where slot_name = $1)";
    let client = pool::get(pool).await?;
    let row = client.query_one(SQL, &[&slot]).await?;
    let (end, restart): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    Ok((u64::try_from(end).unwrap_or(0), restart.and_then(|restart| u64::try_from(restart).ok())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_asked_about_when_it_may_keep_much() {
        let kept = Kept { asked_at: 1_000, from: 900 };
        assert!(!kept.may_exceed_half(400, 1_000), "the log stands still");
        assert!(!kept.may_exceed_half(400, 1_100));
        assert!(kept.may_exceed_half(400, 1_101));
        assert!(!kept.may_exceed_half(0, 9_000), "any amount may be kept");
    }
}
