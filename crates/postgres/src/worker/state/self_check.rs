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
use asker::{Asker, Job};
use realtime_changes::{Sample, Table};
use realtime_pgoutput::{Lsn, Oid};

use super::{State, failed::Failed, judging::now, waiting::Waiting};
use crate::{
    catalog, pool,
    visibility::compiled::{self, Written},
};

/// Verdicts that are compared at once, at most. Others that are drawn meanwhile are not compared.
const MAX_OPEN: usize = 16;

/// Bytes of a row that is compared, at most.
const MAX_ROW: usize = 64 << 10;

/// Which verdicts are compared, and what has come of it.
#[derive(Debug)]
pub(super) struct SelfCheck {
    /// One in so many. 0: none.
    every: u64,
    /// Verdicts that were given since one was drawn.
    given: u64,
    /// Those that are being compared.
    open: Vec<Open>,
    last: u64,
    asker: Option<Asker>,
    /// Up to where the log was read.
    reached: Lsn,
}

/// A verdict that is compared with that of the database.
#[derive(Debug)]
pub(super) struct Open {
    id: u64,
    pub(super) oid: Oid,
    role: Box<str>,
    shown: bool,
    /// The policies, by their places, of which one is wrong if that is wrong.
    suspects: Vec<usize>,
    written: Arc<[Written]>,
    /// The tables that they read.
    pub(super) reads: BTreeSet<Oid>,
    /// The database says otherwise. That counts when the log was read up to here.
    differs_at: Option<Lsn>,
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
    }

    /// Whether one of the verdicts that were just given is to be compared.
    fn draws(&mut self, given: u64) -> bool {
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
}

impl State {
    /// Counts verdicts that compiled policies gave about a row.
    pub(super) fn count_judged(&self, oid: Oid, judged: u64) {
        if judged > 0 {
            self.stats.judged.fetch_add(judged, std::sync::atomic::Ordering::Relaxed);
            if let Some(known) = self.known.get(&oid) {
                known.counters.compiled.add(judged);
            }
        }
    }

    /// Has one of the verdicts about a row compared with that of the database, if it is time.
    pub(super) fn perhaps_compare(&mut self, waiting: &Waiting, judged: u64) {
        if !self.self_check.draws(judged) || waiting.size() > MAX_ROW {
            return;
        }
        let oid = waiting.relation.oid;
        let Some(sample) = self.engine.sample(&waiting.change(), now(), rand::random()) else { return };
        let Some(table) = self.engine.table(oid).map(Arc::clone) else { return };
        if let Some((open, job)) = self.job(table, sample, waiting) {
            let asker = self.self_check.asker.get_or_insert_with(|| Asker::new(self.pool.clone()));
            if asker.ask(job) {
                self.self_check.open.push(open);
            }
        }
    }

    fn job(&mut self, table: Arc<Table>, sample: Sample, waiting: &Waiting) -> Option<(Open, Job)> {
        let Sample { is_old, party, shown, suspects } = sample;
        let (oid, role) = (table.oid, party.role.clone());
        let written = Arc::clone(&self.judging.rules.get(&(oid, role.clone()))?.loaded.written);
        let reads = self.engine.policies(oid, &role)?.reads().collect();
        let known = self.known.get(&oid)?;
        self.self_check.last += 1;
        let id = self.self_check.last;
        let open = Open { id, oid, role, shown, suspects, written, reads, differs_at: None };
        let job = Job {
            id,
            table,
            logged: known.logged.clone(),
            key: known.key.clone(),
            publication: self.publication.clone(),
            shares_plans: self.shares_plans,
            row: waiting.again(),
            is_old,
            party,
            shown,
        };
        Some((open, job))
    }

    /// Takes an answer of the database.
    pub(super) async fn compared(&mut self, found: Found) {
        let Some(at) = self.self_check.open.iter().position(|open| open.id == found.id) else { return };
        match (found.shown, found.position) {
            (Some(shown), position) => {
                let Some(open) = self.self_check.open.get_mut(at) else { return };
                if shown != open.shown
                    && let Some(position) = position
                {
                    open.differs_at = Some(position);
                    let reached = self.self_check.reached;
                    return self.conclude(reached).await;
                }
                let open = self.self_check.open.swap_remove(at);
                if shown == open.shown
                    && let Some(known) = self.known.get(&open.oid)
                {
                    known.counters.compared.add(1);
                }
            }
            (None, _) => {
                self.self_check.open.swap_remove(at);
            }
        }
    }

    /// The log was read up to a position, and there is no transaction that has begun: differences up to there count,
    /// unless something has changed that the policies read.
    pub(in crate::worker) async fn conclude(&mut self, reached: Lsn) {
        self.self_check.reached = reached;
        if self.self_check.open.is_empty() || self.transaction.is_some() {
            return;
        }
        let is_due = |open: &mut Open| open.differs_at.is_some_and(|position| position <= reached);
        let due: Vec<Open> = self.self_check.open.extract_if(.., is_due).collect();
        for open in due {
            match self.stands(&open).await {
                Ok(true) => self.mismatch(&open),
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "cannot tell whether policies have changed"),
            }
        }
    }

    /// Whether the catalog is as it was when the row was judged.
    async fn stands(&mut self, open: &Open) -> Result<bool, Failed> {
        let Some(known) = self.known.get(&open.oid) else { return Ok(false) };
        let publications = self.publications.clone().unwrap_or_default();
        let client = pool::get(&self.pool).await?;
        let print = compiled::print(&client, &self.judging.catalog, &publications).await?;
        let access = catalog::role_access(&client, &open.role, open.oid).await?;
        let fingerprints = catalog::fingerprints(&client, &[open.oid]).await?;
        let written = compiled::written(&client, open.oid, &open.role).await?;
        Ok(self.judging.print == Some(print)
            && access.as_ref() == known.access.get(&*open.role).map(|access| &**access)
            && fingerprints.first().map(|(_, print)| *print) == known.fingerprint
            && written == open.written)
    }

    /// Compiled policies have said something wrong.
    fn mismatch(&mut self, open: &Open) {
        let Some(known) = self.known.get(&open.oid) else { return };
        known.counters.compared.add(1);
        known.counters.mismatch.add(1);
        let suspects: Vec<&Written> = match open.suspects.is_empty() {
            // The index led astray.
            true => open.written.iter().collect(),
            false => open.suspects.iter().filter_map(|at| open.written.get(*at)).collect(),
        };
        let names: Vec<&str> = suspects.iter().map(|policy| &*policy.name).collect();
        tracing::error!(
            code = "PolicyMismatch",
            relation = format!("{}.{}", known.relation.schema, known.relation.name),
            role = &*open.role,
            policies = names.join(", "),
            compiled = if open.shown { "shown" } else { "hidden" },
            "the database contradicts a compiled policy; asking it about each row from now on"
        );
        for policy in suspects {
            self.stats.relations.distrust((open.oid, policy.name.clone(), policy.using.clone()));
        }
        self.forget_policies();
    }
}
