//! Makes compiled policies ready to judge rows: compiles them, asks parties for their values, answers calls
//! (row_security 2.2).

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use realtime_changes::{
    CallNeed, Lack, Party, PartyId, Table, Truth,
    policy::{Answer, Call, Catalog, NoValue, Reads},
};
use realtime_pgoutput::{Oid, message::Relation};
use tokio::time::Instant;
use tokio_postgres::IsolationLevel;

use super::{
    State,
    beside::{Question, What},
    failed::Failed,
    held_up::Trust,
    judging::Rules,
    known::Known,
    looking_up::LookingUp,
    waiting::Unjudged,
};
use crate::{
    foreign::NoAnswer,
    pool,
    visibility::compiled::{self, Asking, InTime},
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
                break;
            }
            for (role, lack) in self.engine.lacks(oid) {
                let supplied = self.supply(oid, &role, lack).await;
                self.keep_to_memory(oid, &role);
                if let Err(error) = supplied {
                    let table = self.known.get(&oid).map(|known| known.name());
                    tracing::warn!(code = "CheckOidsError", %error, table, role = &*role, "cannot compile policies; asking about each row");
                    return;
                }
            }
        }
        // A slice brings what was missed and nothing else.
        if self.history.slice.is_none() {
            self.deliver_late(oid).await;
        }
    }

    async fn supply(&mut self, oid: Oid, role: &str, lack: Lack) -> Result<(), Failed> {
        match lack {
            Lack::Policies => self.compile(oid, role).await,
            Lack::Values(parties) => {
                let Some(question) = self.question(oid, role, What::Values) else { return Ok(()) };
                let answers = self.ask_parties(oid, role, question, &parties).await?;
                let Some(policies) = self.engine.policies(oid, role).map(Arc::clone) else { return Ok(()) };
                let values = |(party, answers): (&PartyId, Option<Vec<Answer>>)| {
                    Some((*party, policies.values(&answers?)))
                };
                let values = parties.iter().zip(answers).filter_map(values);
                self.engine.put_values(oid, role, values);
                Ok(())
            }
            Lack::Renewal(terms, parties) => {
                let question = self.question(oid, role, What::Renewal(terms.clone()));
                let Some(question) = question else { return Ok(()) };
                let answers = self.ask_parties(oid, role, question, &parties).await?;
                let named = |(party, answers): (&PartyId, Option<Vec<Answer>>)| {
                    Some((*party, terms.iter().copied().zip(answers?).collect()))
                };
                let answers: Vec<_> = parties.iter().zip(answers).filter_map(named).collect();
                self.engine.renew_values(oid, role, &terms, &answers);
                Ok(())
            }
        }
    }

    /// Keeps to the memory that answers may take. Calls are asked again as they are needed; if that is not enough, the
    /// database is asked about each row for the role that had the last answer.
    pub(super) fn keep_to_memory(&mut self, oid: Oid, role: &str) {
        if self.policy_share.takes(self.engine.policy_bytes()) {
            return;
        }
        self.engine.forget_calls();
        if !self.policy_share.takes(self.engine.policy_bytes()) {
            let table = self.known.get(&oid).map(|known| known.name());
            tracing::warn!(
                code = "PolicyCacheFull",
                table,
                role,
                "POLICY_CACHE_MB is reached; asking the database about each row"
            );
            self.engine.put_policies(oid, role, None, []);
            self.policy_share.takes(self.engine.policy_bytes());
        }
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
        let loaded =
            compiled::load(&moment, &table, role, &mut self.judging.catalog, &self.stats.relations).await?;
        self.judging.print = Some(compiled::print(&moment, &self.judging.catalog, &publications).await?);
        let Some(loaded) = loaded else {
            self.engine.put_policies(oid, role, None, []);
            return Ok(());
        };
        if !loaded.written.iter().any(|policy| policy.permissive) {
            let name = format!("{}.{}", table.schema, table.name);
            tracing::warn!(
                code = "TableWithoutPolicy",
                table = name,
                role,
                "no policy shows a role a row of what it watches"
            );
        }
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
            looking_up: LookingUp::default(),
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

    /// What is to be asked for terms. What is good for a batch of rows only is not asked of those that come.
    pub(super) fn question(&self, oid: Oid, role: &str, what: What) -> Option<Question> {
        let rules = self.judging.rules.get(&(oid, role.into()))?;
        let terms = rules.loaded.policies.terms();
        let keeps: Vec<bool> = match &what {
            What::Renewal(terms) => vec![true; terms.len()],
            What::Values | What::Call(_) => rules.keeps_term.clone(),
        };
        let all: Vec<usize> = match &what {
            What::Renewal(terms) => terms.clone(),
            What::Values | What::Call(_) => (0..terms.len()).collect(),
        };
        let asked = all.iter().zip(&keeps).filter(|(_, keeps)| **keeps).filter_map(|(at, _)| terms.get(*at));
        let queries = asked.map(|term| (term.sql().to_owned(), term.width())).collect();
        Some(Question { what, queries, keeps })
    }

    /// Asks parties. Those whose answers are not there at once are asked beside the stream: they have none here.
    pub(super) async fn ask_parties(
        &mut self,
        oid: Oid,
        role: &str,
        question: Question,
        parties: &[PartyId],
    ) -> Result<Vec<Option<Vec<Answer>>>, NoAnswer> {
        if question.queries.is_empty() {
            return Ok(vec![Some(question.spread(Vec::new())); parties.len()]);
        }
        let nobody = Arc::new(Party { role: role.into(), claims: "{}".into() });
        let known = |id: &PartyId| self.engine.party(oid, *id).map_or(&nobody, |party| party);
        let all: Vec<Arc<Party>> = parties.iter().map(known).map(Arc::clone).collect();
        self.stats.terms_asked.fetch_add(all.len() as u64, Ordering::Relaxed);
        let trusts: Vec<Trust> = all.iter().map(|party| self.judging.trust(oid, party)).collect();
        let trusted = all.iter().zip(&trusts).filter(|(_, trust)| **trust == Trust::Full);
        let trusted: Vec<&Arc<Party>> = trusted.map(|(party, _)| party).collect();
        let InTime { answers: given, slow } = {
            let (shares_plans, passed) = (self.shares_plans, &self.judging.passed);
            let queries = question.queries.iter().map(|(sql, width)| (&**sql, *width)).collect();
            let asking = Asking { role, queries, shares_plans, passed };
            let parties: Vec<&Party> = trusted.iter().map(|party| &***party).collect();
            compiled::ask_briefly(&self.pool, &asking, &parties, self.policy_wait).await?
        };
        // Nobody is to wait for it again.
        for slow in slow.into_iter().filter_map(|at| trusted.get(at)) {
            self.judging.slow.put(oid, slow, Instant::now());
        }
        let mut given = given.into_iter();
        let (mut answers, mut late) = (Vec::with_capacity(all.len()), Vec::new());
        for ((id, party), trust) in parties.iter().zip(all).zip(trusts) {
            let answer = match trust {
                Trust::Full => given.next().flatten(),
                Trust::Little => None,
                Trust::None => Some(vec![Err(NoValue::Failed); question.queries.len()]),
            };
            if answer.is_none() {
                late.push((*id, party));
            }
            answers.push(answer.map(|answer| question.spread(answer)));
        }
        if !late.is_empty() {
            self.ask_beside(oid, role, question, late);
        }
        Ok(answers)
    }

    /// Answers the calls of policies that decide for a row. False if there is none that can be answered.
    pub(super) async fn answer_calls(&mut self, oid: Oid, needs: Vec<CallNeed>) -> bool {
        let mut is_any = false;
        for need in needs {
            let Some(query) = self.call(oid, &need) else { continue };
            let need = Arc::new(need);
            let what = What::Call(Arc::clone(&need));
            let question = Question { what, queries: vec![(query, 1)], keeps: vec![true] };
            match self.ask_parties(oid, &need.role, question, &need.need.parties).await {
                Ok(found) => {
                    let is_there: HashSet<PartyId> = (need.need.parties.iter().zip(&found))
                        .filter_map(|(party, answers)| answers.is_some().then_some(*party))
                        .collect();
                    let answers: Vec<Option<Truth>> =
                        found.iter().flatten().map(|answers| truth(answers)).collect();
                    self.engine.answer(oid, &need.of(|party| is_there.contains(party)), &answers);
                    self.keep_to_memory(oid, &need.role);
                    is_any = true;
                }
                Err(error) => {
                    let table = self.known.get(&oid).map(|known| known.name());
                    tracing::warn!(code = "UnableToConnectToProject", %error, table, "cannot ask what policies call; asking about the row");
                    return false;
                }
            }
        }
        is_any
    }

    /// The statement that asks for a call with the values of a row. `None` if its answer cannot be kept.
    pub(super) fn call(&self, oid: Oid, need: &CallNeed) -> Option<String> {
        let (call, table, columns) = self.called(oid, need)?;
        Some(compiled::call(call.sql(), &columns, &table.name))
    }

    /// The same with the values of several rows, for which the same is called: the number of the values, and the answer.
    pub(super) fn call_of_many(&self, oid: Oid, needs: &[CallNeed]) -> Option<String> {
        let (call, table, _) = self.called(oid, needs.first()?)?;
        if table.columns.iter().any(|column| *column.name == *compiled::NUMBER) {
            return None;
        }
        let values = needs.iter().map(|need| Some(self.called(oid, need)?.2)).collect::<Option<Vec<_>>>()?;
        Some(compiled::call_of_many(call.sql(), &values, &table.name))
    }

    /// A call, its table, and the values of its columns.
    pub(super) fn called(&self, oid: Oid, need: &CallNeed) -> Option<(&Call, &Table, Vec<String>)> {
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
        Some((call, table, columns))
    }

    /// All of a table has changed: what policies read in it is out of date.
    pub(super) fn reads_change(&mut self, table: Oid) {
        self.self_check.void(|open| open.reads.contains(&table));
        self.engine.changed(table);
    }

    /// A row of a table has changed: what policies read in it is out of date, for those whom the row concerns.
    pub(super) fn reads_change_of_row(&mut self, row: &Unjudged) {
        self.self_check.void(|open| open.reads.contains(&row.oid));
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
        self.live.doubt_policies();
        self.compile_anew();
    }

    /// The same where what they have said counts.
    pub(super) fn compile_anew(&mut self) {
        self.self_check.void_all();
        self.engine.forget_policies();
        self.policies.clear();
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
pub(super) fn truth(answers: &[Answer]) -> Option<Truth> {
    let Some(Ok(rows)) = answers.first() else { return None };
    let [row] = rows.as_slice() else { return None };
    let [value] = row.as_slice() else { return None };
    Some(Truth::known(value.as_deref().map(|text| text == "true")))
}
