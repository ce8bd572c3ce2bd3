//! What a permanent slot brought after the start of the server before its subscribers were back.

use realtime_pgoutput::Oid;
use rustc_hash::FxHashSet;
use tokio::time::{Duration, Instant};

/// How long after the beginning subscribers are taken for those who come back: twice the longest pause of the
/// official clients.
const COMING_BACK: Duration = Duration::from_secs(60);

/// The tables whose rows are past, for those who come back.
#[derive(Debug)]
pub(super) struct Away {
    until: Instant,
    past: FxHashSet<Oid>,
    /// The slot was lost: rows of any table may be past.
    all: bool,
}

impl Away {
    pub(super) fn new(reads_at: Instant, lost: bool) -> Self {
        let until = reads_at.max(Instant::now()) + COMING_BACK;
        Self { until, past: FxHashSet::default(), all: lost }
    }

    /// A row of a table passes. Whether nobody counts as coming back any more.
    pub(super) fn passes(&mut self, oid: Oid) -> bool {
        self.past.insert(oid) && self.until < Instant::now()
    }

    /// Whether a channel that comes to watch these tables may have missed rows.
    pub(super) fn missed(&self, tables: &[Oid]) -> bool {
        Instant::now() <= self.until && (self.all || tables.iter().any(|oid| self.past.contains(oid)))
    }
}
