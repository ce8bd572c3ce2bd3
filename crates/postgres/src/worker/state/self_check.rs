//! One verdict of compiled policies in so many is also asked of the database (row_security 2.8).
//!
//! The question is put beside the stream, about the same image and party. It is answered later than the row was judged, so
//! answers that differ prove nothing yet: what the policies read may have changed in between. A difference is put aside
//! until the log was read up to a position behind the answer. If no change to what the policies read has passed by then,
//! and the catalog is as it was, the compiled policies are wrong: that is logged, and the policies that may be why are
//! left to the database from then on.

mod asker;

use std::{collections::BTreeSet, sync::Arc};

pub(in crate::worker) use asker::Found;
pub(super) use asker::Job;
use asker::{Asker, MAX_OPEN};
use deadpool_postgres::Pool;
use realtime_pgoutput::{Lsn, Oid};

use crate::visibility::compiled::Written;

/// Bytes of a row that is compared, at most.
pub(super) const MAX_ROW: usize = 64 << 10;

/// Which verdicts are compared, and what has come of it.
#[derive(Debug)]
pub(super) struct SelfCheck {
    /// One in so many. 0: none.
    every: u64,
    /// Verdicts that were given since one was drawn.
    given: u64,
    /// Those that are being compared.
    pub(super) open: Vec<Open>,
    last: u64,
    asker: Option<Asker>,
    /// Up to where the log was read.
    pub(super) reached: Lsn,
}

/// A verdict that is compared with that of the database.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) id: u64,
    pub(super) oid: Oid,
    pub(super) role: Box<str>,
    pub(super) shown: bool,
    /// The policies, by their places, of which one is wrong if that is wrong.
    pub(super) suspects: Vec<usize>,
    pub(super) written: Arc<[Written]>,
    /// The tables that they read.
    pub(super) reads: BTreeSet<Oid>,
    /// The database says otherwise. That counts when the log was read up to here.
    pub(super) differs_at: Option<Lsn>,
}

impl SelfCheck {
    pub(super) fn new(every: u64) -> Self {
        Self { every, given: 0, open: Vec::new(), last: 0, asker: None, reached: Lsn(0) }
    }

    /// The next answer; never while none is awaited. Cancel safe.
    pub(super) async fn found(&mut self) -> Found {
        match &mut self.asker {
            Some(asker) => asker.found().await,
            None => std::future::pending().await,
        }
    }

    /// Gives up those whose answers prove nothing any more.
    pub(super) fn void(&mut self, proves_nothing: impl Fn(&Open) -> bool) {
        if !self.open.is_empty() {
            self.open.retain(|open| !proves_nothing(open));
        }
    }

    pub(super) fn void_all(&mut self) {
        self.open.clear();
        // The next session may read another log.
        self.reached = Lsn(0);
    }

    /// Whether one of the verdicts that were just given is to be compared.
    pub(super) fn draws(&mut self, given: u64) -> bool {
        if self.every == 0 || given == 0 {
            return false;
        }
        self.given += given;
        if self.given < self.every {
            return false;
        }
        self.given %= self.every;
        self.open.len() < MAX_OPEN
    }

    /// A number for one more.
    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Has a verdict compared, unless too many are.
    pub(super) fn compare(&mut self, pool: &Pool, open: Open, job: Job) {
        let asker = self.asker.get_or_insert_with(|| Asker::new(pool.clone()));
        if asker.ask(job) {
            self.open.push(open);
        }
    }
}
