//! Makes compiled policies ready to judge rows: compiles them, asks parties for their values, answers calls
//! (row_security 2.2).

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use realtime_changes::{
    CallNeed, Lack, Party, PartyId, Truth,
    policy::{Answer, Catalog, NoValue, Reads},
};
use realtime_pgoutput::{Oid, message::Relation};
use tokio::time::Instant;
use tokio_postgres::IsolationLevel;

use super::{State, failed::Failed, held_up::Trust, judging::Rules, known::Known, waiting::Unjudged};
use crate::{
    foreign::NoAnswer,
    pool,
    visibility::compiled::{self, Asking, Given},
};

/// How often something may be lacking before a row is judged; then the database is asked about it.
const ROUNDS: usize = 8;

impl State {
    /// Makes the policies of a table ready to judge its rows. Where that fails the database is asked about the rows.
    pub(super) async fn ready(&mut self, oid: Oid) {
        if !self.judging.held_up.is_empty() {
            for party in self.judging.held_up.over(oid, Instant::now()) {
                self.engine.ask_anew(oid, &party);
            }
        }
        for _ in 0..ROUNDS {
            if self.engine.is_ready(oid) {
                return;
            }
            for (role, lack) in self.engine.lacks(oid) {
                let supplied = self.supply(oid, &role, lack).await;
                self.keep_to_memory(oid, &role);
                if let Err(error) = supplied {
                    tracing::warn!(code = "CheckOidsError", %error, relation = oid, "cannot compile policies; asking about each row");
                    return;
                }
            }
        }
    }

    async fn supply(&mut self, oid: Oid, role: &str, lack: Lack) -> Result<(), Failed> {
        match lack {
            Lack::Policies => self.compile(oid, role).await,
            Lack::Values(parties) => {
                let all: Vec<usize> = (0..self.terms(oid, role)).collect();
                let answers = self.ask_terms(oid, role, &all, &parties, false).await?;
                let Some(policies) = self.engine.policies(oid, role).map(Arc::clone) else { return Ok(()) };
                for (party, answers) in parties.iter().zip(answers) {
                    self.engine.put_values(oid, role, *party, policies.values(&answers));
                }
                Ok(())
            }
            Lack::Renewal(terms, parties) => {
                let answers = self.ask_terms(oid, role, &terms, &parties, true).await?;
                let named = |answers: Vec<Answer>| terms.iter().copied().zip(answers).collect();
                let answers: Vec<_> = parties.iter().copied().zip(answers.into_iter().map(named)).collect();
                self.engine.renew_values(oid, role, &terms, &answers);
                Ok(())
            }
        }
    }

    /// Keeps to the memory that answers may take. Calls are asked again as they are needed; if that is not enough, the
    /// database is asked about each row for the role that had the last answer.
    fn keep_to_memory(&mut self, oid: Oid, role: &str) {
        if self.policy_share.takes(self.engine.policy_bytes()) {
            return;
        }
        self.engine.forget_calls();
        if !self.policy_share.takes(self.engine.policy_bytes()) {
            tracing::warn!(
                code = "PolicyCacheFull",
                relation = oid,
                role,
                "POLICY_CACHE_MB is reached; asking the database about each row"
            );
            self.engine.put_policies(oid, role, None, []);
            self.policy_share.takes(self.engine.policy_bytes());
        }
    }

    fn terms(&self, oid: Oid, role: &str) -> usize {
        self.engine.policies(oid, role).map_or(0, |policies| policies.terms().len())
    }

    /// Compiles the policies of a table that decide for a role.
    async fn compile(&mut self, oid: Oid, role: &str) -> Result<(), Failed> {
        let table = self.known.get(&oid).and_then(|known| known.table.clone());
        // The log does not tell when row-level security is turned on for a root.
        let Some(table) = table.filter(|table| !table.partitioned) else {
            self.engine.put_policies(oid, role, None, []);
            return Ok(());
        };
        let publications = self.along.reading().to_vec();
        let mut client = pool::get(&self.pool).await?;
        // What is read and its fingerprint are of one moment: a change in between would never be noticed.
        let moment =
            client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let moment = moment.start().await?;
        if let Some(known) = self.judging.print
            && compiled::print(&moment, &self.judging.catalog, &publications).await? != known
        {
            self.forget_policies();
        }
        let loaded = compiled::load(&moment, &table, role, &mut self.judging.catalog).await?;
        self.judging.print = Some(compiled::print(&moment, &self.judging.catalog, &publications).await?);
        let Some(loaded) = loaded else {
            self.engine.put_policies(oid, role, None, []);
            return Ok(());
        };
        let tables: Vec<Oid> = loaded.policies.reads().collect();
        let kept = match tables.is_empty() {
            true => HashSet::new(),
            false => compiled::kept_tables(&moment, &tables, &publications).await?,
        };
        let keeps =
            |reads: &Reads| reads.can_be_kept() && reads.tables.is_subset(&kept.iter().copied().collect());
        let rules = Rules {
            keeps_term: loaded.policies.terms().iter().map(|term| keeps(term.reads())).collect(),
            keeps_call: loaded.policies.calls().iter().map(|call| keeps(call.reads())).collect(),
            loaded: loaded.clone(),
        };
        let unkept = rules.keeps_term.iter().enumerate().filter(|(_, keeps)| !**keeps);
        let fleeting = loaded.policies.askable(unkept.map(|(at, _)| at));
        self.judging.rules.insert((oid, role.into()), rules);
        self.engine.put_policies(oid, role, Some(loaded.policies), fleeting);
        moment.rollback().await?;
        drop(client);
        self.along.lacks(tables.into_iter().filter(|table| !kept.contains(table)));
        self.publish_lacking().await
    }

    /// Asks parties for terms, by their places. What is good for a batch of rows only is asked if it is `for_batch`.
    async fn ask_terms(
        &mut self,
        oid: Oid,
        role: &str,
        terms: &[usize],
        parties: &[PartyId],
        for_batch: bool,
    ) -> Result<Vec<Vec<Answer>>, NoAnswer> {
        let none = || vec![vec![Err(NoValue::NotAsked); terms.len()]; parties.len()];
        let Some(rules) = self.judging.rules.get(&(oid, role.into())) else { return Ok(none()) };
        let policies = Arc::clone(&rules.loaded.policies);
        let keeps: Vec<bool> = terms
            .iter()
            .map(|term| for_batch || rules.keeps_term.get(*term).copied().unwrap_or(false))
            .collect();
        let asked = terms.iter().zip(&keeps).filter(|(_, keeps)| **keeps).map(|(term, _)| term);
        let query = |term: &usize| policies.terms().get(*term).map(|term| (term.sql(), term.width()));
        let queries: Vec<(&str, usize)> = asked.filter_map(query).collect();
        if queries.is_empty() {
            return Ok(none());
        }
        let found = self.ask_parties(oid, role, queries, parties).await?;
        let spread = |answers: Vec<Answer>| {
            let mut answers = answers.into_iter();
            let mut answer = |keeps: &bool| match keeps {
                true => answers.next().unwrap_or(Err(NoValue::Failed)),
                false => Err(NoValue::NotAsked),
            };
            keeps.iter().map(&mut answer).collect()
        };
        Ok(found.into_iter().map(spread).collect())
    }

    /// Asks parties, each as far as it is trusted not to hold up the others.
    async fn ask_parties(
        &mut self,
        oid: Oid,
        role: &str,
        queries: Vec<(&str, usize)>,
        parties: &[PartyId],
    ) -> Result<Vec<Vec<Answer>>, NoAnswer> {
        let nobody = Arc::new(Party { role: role.into(), claims: "{}".into() });
        let known = |id: &PartyId| self.engine.party(oid, *id).map_or(&nobody, |party| party);
        let all: Vec<Arc<Party>> = parties.iter().map(known).map(Arc::clone).collect();
        self.stats.terms_asked.fetch_add(all.len() as u64, Ordering::Relaxed);
        let trusts: Vec<Trust> = all.iter().map(|party| self.judging.held_up.trust(oid, party)).collect();
        let of = |wanted: Trust| -> Vec<&Party> {
            let chosen = all.iter().zip(&trusts).filter(|(_, trust)| **trust == wanted);
            chosen.map(|(party, _)| &**party).collect()
        };
        let (shares_plans, passed) = (self.shares_plans, &self.judging.passed);
        let asking = Asking { role, queries, shares_plans, passed };
        let mut trusted = compiled::ask(&self.pool, &asking, &of(Trust::Full)).await?.into_iter();
        let mut others = compiled::ask_each(&self.pool, &asking, &of(Trust::Little)).await?.into_iter();
        let now = Instant::now();
        let mut answers = Vec::with_capacity(all.len());
        for (party, trust) in all.iter().zip(trusts) {
            let given = match trust {
                Trust::Full => trusted.next(),
                Trust::Little => others.next(),
                Trust::None => None,
            };
            let Given { answers: given, is_held_up } = given.unwrap_or_else(|| asking.held_up());
            if trust != Trust::None {
                self.judging.held_up.asked(oid, party, is_held_up, now);
            }
            answers.push(given);
        }
        Ok(answers)
    }

    /// Answers the calls of policies that decide for a row. False if there is none that can be answered.
    pub(super) async fn answer_calls(&mut self, oid: Oid, needs: &[CallNeed]) -> bool {
        let mut is_any = false;
        for need in needs {
            let Some(query) = self.call(oid, need) else { continue };
            match self.ask_parties(oid, &need.role, vec![(&query, 1)], &need.need.parties).await {
                Ok(found) => {
                    let answers: Vec<Option<Truth>> = found.iter().map(|answers| truth(answers)).collect();
                    self.engine.answer(oid, need, &answers);
                    self.keep_to_memory(oid, &need.role);
                    is_any = true;
                }
                Err(error) => {
                    tracing::warn!(code = "UnableToConnectToProject", %error, "cannot ask what policies call; asking about the row");
                    return false;
                }
            }
        }
        is_any
    }

    /// The statement that asks for a call with the values of a row. `None` if its answer cannot be kept.
    fn call(&self, oid: Oid, need: &CallNeed) -> Option<String> {
        let rules = self.judging.rules.get(&(oid, need.role.clone()))?;
        let at = need.need.call.index();
        if !*rules.keeps_call.get(at)? {
            return None;
        }
        let call = rules.loaded.policies.calls().get(at)?;
        let table = self.known.get(&oid).and_then(|known: &Known| known.table.as_ref())?;
        let mut columns = Vec::with_capacity(call.columns().len());
        for (column, value) in call.columns().iter().zip(need.need.key.values()) {
            columns.push(compiled::literal(value, rules.loaded.casts.get(*column)?)?);
        }
        Some(compiled::call(call.sql(), &columns, &table.name))
    }

    /// All of a table has changed: what policies read in it is out of date.
    pub(super) fn reads_change(&mut self, table: Oid) {
        self.engine.changed(table);
    }

    /// A row of a table has changed: what policies read in it is out of date, for those whom the row concerns.
    pub(super) fn reads_change_of_row(&mut self, row: &Unjudged) {
        if !self.engine.is_read(row.oid) {
            return;
        }
        match self.judging.relations.get(&row.oid) {
            Some(relation) => self.engine.changed_row(&row.change(relation)),
            None => self.engine.changed(row.oid),
        }
    }

    /// A table is described, perhaps anew. If its columns are others now, what policies read in it is too.
    pub(super) fn describes_read(&mut self, relation: &Arc<Relation>) {
        let before = self.judging.relations.insert(relation.oid, Arc::clone(relation));
        if before.is_some_and(|before| before != *relation) && self.engine.is_read(relation.oid) {
            self.forget_policies();
        }
    }

    /// All policies are compiled again before they judge.
    pub(super) fn forget_policies(&mut self) {
        self.engine.forget_policies();
        self.along.forget();
        self.judging.rules.clear();
        self.judging.catalog = Catalog::default();
        self.judging.print = None;
    }

    /// Looks whether anything has changed that policies are made of and of which the log does not tell.
    pub(super) async fn recheck_policies(&mut self) -> Result<(), Failed> {
        let Some(known) = self.judging.print else { return Ok(()) };
        let publications = self.along.reading().to_vec();
        let client = pool::get(&self.pool).await?;
        if compiled::print(&client, &self.judging.catalog, &publications).await? != known {
            self.forget_policies();
        }
        Ok(())
    }
}

/// The answer to a call; `None` if it failed.
fn truth(answers: &[Answer]) -> Option<Truth> {
    let Some(Ok(rows)) = answers.first() else { return None };
    let [row] = rows.as_slice() else { return None };
    let [value] = row.as_slice() else { return None };
    Some(Truth::known(value.as_deref().map(|text| text == "true")))
}
