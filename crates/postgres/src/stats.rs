//! Counters of one tenant's database. They outlive its connections: whoever owns the tenant hands them on.

mod relations;

use std::sync::atomic::{AtomicU64, Ordering};

use realtime_metrics::{Bounds, Counter, Histogram, milliseconds};
pub use relations::{MAX_RELATIONS, OTHER_RELATIONS, RelationCounters, RelationStats};

/// Buckets of questions to policies and of replays, in microseconds (http_and_ops 11.1).
const POLICY_TIMES: Bounds = &milliseconds([10, 250, 5_000, 15_000]);

/// Buckets of the time from the database to this server.
const LATENCIES: Bounds = &milliseconds([10, 250, 5_000]);

/// Buckets of questions about rows.
const CHECK_TIMES: Bounds = &milliseconds([1, 5, 10, 50, 100, 250, 1_000, 5_000, 30_000]);

/// Buckets of the set-up of a database.
const SET_UP_TIMES: Bounds = &milliseconds([100, 500, 1_000, 5_000, 10_000, 30_000, 60_000, 120_000]);

/// Buckets of readings of live results.
const LIVE_TIMES: Bounds = &milliseconds([1, 5, 10, 50, 100, 250, 1_000, 5_000, 30_000]);

/// Counters of a tenant's row changes, broadcasts and policies since the server started.
#[derive(Debug)]
pub struct Stats {
    /// Row changes read from the log.
    pub rows: AtomicU64,
    /// Rows that the node which reads the database has left out, because nobody here watches their tables.
    pub skipped: AtomicU64,
    /// Tables whose rows it leaves out.
    pub left_out: AtomicU64,
    /// Deliveries handed to the sink.
    pub deliveries: AtomicU64,
    /// Conditions that the database was asked about.
    pub questions: AtomicU64,
    /// Changes dropped because there were too many.
    pub dropped: AtomicU64,
    /// Parties (role and claims) whose sight of rows was checked, counted once for all rows asked together.
    pub checks: AtomicU64,
    /// Verdicts about rows that compiled policies gave, for one party each, without the database.
    pub judged: AtomicU64,
    /// What was decided about rows under row-level security, by table.
    pub relations: RelationStats,
    /// Parties that were asked for what their policies read, counted once for all that is asked together.
    pub terms_asked: AtomicU64,
    /// How long the database took to say who sees rows, trying again included.
    pub check_times: Histogram,
    /// Attempts to ask the database about rows that failed and were repeated.
    pub check_failures: Counter,
    /// Bytes of the log that were not handed over yet when last looked at.
    pub lag_bytes: AtomicU64,
    /// Bytes of the log that are kept for those who come back.
    pub journal_bytes: AtomicU64,
    /// Checks of what channels want to watch: those who want the same at once share one.
    pub subscription_checks: AtomicU64,
    /// Passes over the journal for those who have come back.
    pub journal_passes: AtomicU64,
    /// Slices of these passes: for so long at a time live changes wait.
    pub journal_slices: AtomicU64,
    /// Changes that were read in them.
    pub journal_changes: AtomicU64,
    /// Subscriptions that were looked at for these changes.
    pub journal_considered: AtomicU64,
    /// The most that was handed over in one slice: changes, each counted for every channel that got it.
    pub journal_slice_most: AtomicU64,
    /// Channels that watch row changes.
    pub subscribers: AtomicU64,
    /// Replication sessions started.
    pub sessions: AtomicU64,
    /// Replication sessions that were ended on purpose.
    pub sessions_ended: Counter,
    /// Replication sessions that were lost, or given up.
    pub sessions_lost: Counter,
    /// Attempts to start one that failed.
    pub session_failures: Counter,
    /// From the commit of a message to its being handed to the sink, by the clocks of both machines.
    pub committed_latency: Histogram,
    /// Times of broadcasts, measured from the `inserted_at` of the message.
    pub inserted_latency: Histogram,
    /// How long looking for stored messages took.
    pub replays: Histogram,
    /// How long setting the database up took.
    pub set_ups: Histogram,
    /// Set-ups that failed, in whole or in part.
    pub set_up_failures: Counter,
    /// Live results that are kept now.
    pub live_results: AtomicU64,
    /// Rows of live results that are kept now.
    pub live_rows: AtomicU64,
    /// Changes of live results that the log told by itself, without a reading.
    pub live_changes: AtomicU64,
    /// Results that were looked at for rows, each once for a transaction: it costs what it matches.
    pub live_looks: AtomicU64,
    /// How long reading a live result took, sending included.
    pub live_runs: Histogram,
    /// Readings of live results that failed.
    pub live_failures: Counter,
    /// Questions to the policies of private topics.
    pub policies: PolicyStats,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            rows: AtomicU64::default(),
            deliveries: AtomicU64::default(),
            questions: AtomicU64::default(),
            skipped: AtomicU64::default(),
            left_out: AtomicU64::default(),
            dropped: AtomicU64::default(),
            checks: AtomicU64::default(),
            judged: AtomicU64::default(),
            relations: RelationStats::default(),
            terms_asked: AtomicU64::default(),
            check_times: Histogram::new(CHECK_TIMES),
            check_failures: Counter::default(),
            lag_bytes: AtomicU64::default(),
            journal_bytes: AtomicU64::default(),
            subscription_checks: AtomicU64::default(),
            journal_passes: AtomicU64::default(),
            journal_slices: AtomicU64::default(),
            journal_changes: AtomicU64::default(),
            journal_considered: AtomicU64::default(),
            journal_slice_most: AtomicU64::default(),
            subscribers: AtomicU64::default(),
            sessions: AtomicU64::default(),
            sessions_ended: Counter::default(),
            sessions_lost: Counter::default(),
            session_failures: Counter::default(),
            committed_latency: Histogram::new(LATENCIES),
            inserted_latency: Histogram::new(LATENCIES),
            replays: Histogram::new(POLICY_TIMES),
            set_ups: Histogram::new(SET_UP_TIMES),
            set_up_failures: Counter::default(),
            live_results: AtomicU64::default(),
            live_rows: AtomicU64::default(),
            live_changes: AtomicU64::default(),
            live_looks: AtomicU64::default(),
            live_runs: Histogram::new(LIVE_TIMES),
            live_failures: Counter::default(),
            policies: PolicyStats::default(),
        }
    }
}

/// Counters of the questions to a tenant's policies since the server started.
#[derive(Debug)]
pub struct PolicyStats {
    /// Questions that were asked, answered by whatever means.
    pub asked: AtomicU64,
    /// Transactions in the database: one round trip each. Fewer than `asked`, because equal questions share.
    pub probes: AtomicU64,
    /// Statements in these transactions.
    pub statements: AtomicU64,
    /// Questions that found no connection in time, or were not put because too many had found none.
    pub crowded: AtomicU64,
    /// Time that reading checks took in the database.
    pub read: Histogram,
    /// Time that writing checks took in the database.
    pub write: Histogram,
}

impl Default for PolicyStats {
    fn default() -> Self {
        Self {
            asked: AtomicU64::default(),
            probes: AtomicU64::default(),
            statements: AtomicU64::default(),
            crowded: AtomicU64::default(),
            read: Histogram::new(POLICY_TIMES),
            write: Histogram::new(POLICY_TIMES),
        }
    }
}

impl PolicyStats {
    pub(crate) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}
