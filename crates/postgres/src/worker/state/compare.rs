//! Compares verdicts of compiled policies with those of the database, and concludes from what differs.

use std::sync::{Arc, atomic::Ordering};

use realtime_changes::{Sample, Table};
use realtime_pgoutput::{Lsn, Oid};

use super::{
    State,
    failed::Failed,
    judging::now,
    self_check::{Found, Job, MAX_ROW, Open},
    waiting::Waiting,
};
use crate::{
    catalog, pool,
    visibility::compiled::{self, Written},
};

impl State {
    /// Counts verdicts that compiled policies gave about a row.
    pub(super) fn count_judged(&self, oid: Oid, judged: u64) {
        if judged > 0 {
            self.stats.judged.fetch_add(judged, Ordering::Relaxed);
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
            self.self_check.compare(&self.pool, open, job);
        }
    }

    fn job(&mut self, table: Arc<Table>, sample: Sample, waiting: &Waiting) -> Option<(Open, Job)> {
        let Sample { is_old, party, shown, suspects } = sample;
        let (oid, role) = (table.oid, party.role.clone());
        let written = Arc::clone(&self.judging.rules.get(&(oid, role.clone()))?.loaded.written);
        let reads = self.engine.policies(oid, &role)?.reads().collect();
        let known = self.known.get(&oid)?;
        let id = self.self_check.number();
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
        let publications = self.along.reading().to_vec();
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
