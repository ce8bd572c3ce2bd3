//! What a permanent slot brought after the start of the server before its subscribers were back.

use realtime_pgoutput::Oid;
use rustc_hash::FxHashSet;
use tokio::time::{Duration, Instant};

use super::State;
use crate::Notice;

/// How long after the beginning subscribers are taken for those who come back: twice the longest pause of the
/// official clients.
const COMING_BACK: Duration = Duration::from_secs(60);

/// What those are told who come back when rows of theirs are past.
const PAST: &str =
    "Row changes that were committed while the server was away have been read already: some were missed";

/// The tables whose rows are past, for those who come back.
#[derive(Debug)]
pub(super) struct Away {
    until: Instant,
    past: FxHashSet<Oid>,
    /// The slot was lost: rows of any table may be.
    all: bool,
}

impl State {
    /// The first session of this server begins with a permanent slot. `lost`: what was there could not be read.
    pub(in crate::worker) fn comes_back(&mut self, reads_at: Instant, lost: bool) {
        self.away = Some(Away {
            until: reads_at.max(Instant::now()) + COMING_BACK,
            past: FxHashSet::default(),
            all: lost,
        });
    }

    /// A row of a table passes.
    pub(super) fn passes(&mut self, oid: Oid) {
        let Some(away) = &mut self.away else { return };
        if away.past.insert(oid) && away.until < Instant::now() {
            self.away = None;
        }
    }

    /// What a channel that comes to watch these tables has to be told.
    pub(super) fn missed(&self, tables: &[Oid]) -> Option<Notice> {
        let away = self.away.as_ref().filter(|away| Instant::now() <= away.until)?;
        let past = away.all || tables.iter().any(|oid| away.past.contains(oid));
        past.then(|| Notice::gap("ReadBeforeReturn", PAST))
    }
}
