//! Rows that channels do not get, and what they are told of that; tables that go.

use std::sync::atomic::Ordering;

use deadpool_postgres::ClientWrapper as Client;
use realtime_pgoutput::Oid;
use tokio::time::Instant;

use super::{State, away::Away};
use crate::{Notice, catalog};

/// What those are told who come back when rows of theirs are past.
const PAST: &str =
    "Row changes that were committed while the server was away have been read already: some were missed";

impl State {
    /// The first session of this server begins with a permanent slot. `lost`: what was there could not be read.
    pub(in crate::worker) fn comes_back(&mut self, reads_at: Instant, lost: bool) {
        self.away = Some(Away::new(reads_at, lost));
    }

    /// A row of a table passes.
    pub(super) fn passes(&mut self, oid: Oid) {
        if self.away.as_mut().is_some_and(|away| away.passes(oid)) {
            self.away = None;
        }
    }

    /// What a channel that comes to watch these tables has to be told.
    pub(super) fn missed(&self, tables: &[Oid]) -> Option<Notice> {
        let missed = self.away.as_ref().is_some_and(|away| away.missed(tables));
        missed.then(|| Notice::gap("ReadBeforeReturn", PAST))
    }

    /// Whether a row that somebody wants is dropped because there are too many.
    pub(super) fn drops(&mut self) -> bool {
        if !self.sink.is_limited() {
            return false;
        }
        self.stats.dropped.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        self.dropped.count(now);
        self.tell_dropped(now);
        true
    }

    /// When channels are to be told of rows that were dropped.
    pub(in crate::worker) fn tell_dropped_at(&self) -> Option<Instant> {
        self.dropped.tell_at()
    }

    /// Tells the channels how many rows were dropped, if it is time.
    pub(in crate::worker) fn tell_dropped(&mut self, now: Instant) {
        let Some(count) = self.dropped.take_due(now) else { return };
        let code = "MessagePerSecondRateLimitReached";
        let reason = "above max_events_per_second of the tenant";
        tracing::error!(code, dropped = count, reason, "Too many postgres changes messages per second");
        self.tell_all(&Notice::Dropped(count));
    }

    /// Looks which of the known tables are gone, and forgets those of which no row can come any more. To be called while
    /// nothing waits to be checked.
    pub(super) async fn find_dropped(&mut self, client: &Client) -> Result<(), tokio_postgres::Error> {
        for oid in self.gone.take_over() {
            self.known.remove(&oid);
            self.history.versions.remove(&oid);
            self.engine.forget_table(oid);
            for watcher in self.watchers.values_mut() {
                watcher.attached.retain(|(attached, _)| *attached != oid);
            }
        }
        let unpublished =
            self.known.keys().filter(|oid| !self.publishes(**oid) && !self.gone.contains(**oid));
        let unpublished: Vec<Oid> = unpublished.copied().collect();
        if !unpublished.is_empty() {
            let (gone, position) = catalog::gone(client, &unpublished).await?;
            self.gone.note(gone, position);
        }
        Ok(())
    }
}
