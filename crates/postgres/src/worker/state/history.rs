//! What a worker keeps of the log for those who come back (resume 3).

use std::sync::Arc;

use bytes::Bytes;
use realtime_changes::Table;
use realtime_journal::{Bounds, Journal};
use realtime_pgoutput::{
    Lsn, Oid,
    message::{Relation, UnixMicros},
};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::{returning::Returning, slice::Slice};
use crate::catalog::Present;

/// A table as a part of the log describes it.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) relation: Arc<Relation>,
    pub(super) table: Arc<Table>,
    /// Where the log has each of its columns.
    pub(super) places: Box<[Option<usize>]>,
    /// See [`Known`](super::known::Known).
    pub(super) logged: Box<[i16]>,
    pub(super) key: Box<[i16]>,
}

impl Version {
    /// Whether rows of both are read alike.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        *self.relation == *other.relation && self.places == other.places
    }
}

/// A message of the log that is kept: a row change, or a TRUNCATE.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// The table of a row change as it was then.
    pub(super) version: Option<Arc<Version>>,
    pub(super) xid: u32,
    pub(super) commit_time: UnixMicros,
    /// As the walsender has sent it.
    pub(super) bytes: Bytes,
    /// Not 0: so many rows up to here were left out, and are not kept.
    pub(super) skipped: u32,
}

/// What is kept, and for whom.
#[derive(Debug)]
pub(super) struct History {
    pub(super) journal: Journal<Item>,
    /// How many times rows were left out that it may know of; some it may have forgotten.
    pub(super) skipped: u64,
    /// What its clock counts from.
    pub(super) begun: Instant,
    /// The tables as they were described last.
    pub(super) versions: FxHashMap<Oid, Arc<Version>>,
    pub(super) returning: Returning,
    /// What a slice of a pass hands over, while it is under way.
    pub(super) slice: Option<Slice>,
    /// Up to where the log has been read, between two transactions.
    pub(super) read: Lsn,
    /// Where the log ended when a session began that goes on where another ended: up to there is the past, too. And how long
    /// that is waited for.
    pub(super) past_end: Option<(Lsn, Instant)>,
    /// Where the database was when it was last asked.
    pub(super) present: Option<Present>,
}

impl History {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            journal: Journal::new(bounds),
            skipped: 0,
            begun: Instant::now(),
            versions: FxHashMap::default(),
            returning: Returning::default(),
            slice: None,
            read: Lsn(0),
            past_end: None,
            present: None,
        }
    }

    /// Whether a session that goes on at `start` brings all that comes after what is kept. Where nothing has come for a while
    /// it begins behind the last change.
    pub(super) fn continues(&self, start: Lsn) -> bool {
        self.journal.continues(start) || self.journal.floor().is_some() && start <= self.read
    }

    /// Until when it is waited for what another session has left. `None`: it was read.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        self.past_end.filter(|(end, _)| self.read < *end).map(|(_, until)| until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use realtime_journal::Past;
    use realtime_pgoutput::Position;

    use super::*;

    /// A connection that is lost while nothing happens makes no gap.
    #[tokio::test(start_paused = true)]
    async fn what_was_read_goes_on_behind_the_last_change() {
        let bounds = Bounds { bytes: 1 << 20, age: Duration::from_secs(100) };
        let mut history = History::new(bounds);
        history.read = Lsn(50);
        assert!(!history.continues(Lsn(50)), "nothing is kept");
        history.journal.begin(Lsn(10), Past::Until(UnixMicros(0)));
        let item =
            Item { version: None, xid: 1, commit_time: UnixMicros(5), bytes: Bytes::new(), skipped: 0 };
        let position = Position { commit: Lsn(40), number: 1 };
        history.journal.push(position, item.commit_time, Duration::ZERO, 10, item);
        assert!(history.continues(Lsn(40)), "the transaction comes again");
        assert!(history.continues(Lsn(50)), "it has ended here");
        assert!(!history.continues(Lsn(51)));
    }
}
