//! Calls whose bodies tell for whom they can be true are asked of those alone: of ten thousand parties that watch, the
//! twenty of a room (row_security 2.2).
//!
//! Whom the tables name is looked up with our own rights, for the rows of a transaction at once. Those who are named are
//! asked the function itself, and one more who is not: if that one is told anything but `false`, all are asked.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use realtime_changes::{
    CallNeed, Party, PartyId, Truth,
    policy::{Answer, Bound, CallKey},
};
use realtime_pgoutput::Oid;
use tokio::time::Instant;

use super::{
    State,
    beside::{Question, What},
    held_up::Trust,
    looking_up::LookingUp,
    policies::truth,
};
use crate::{
    failpoints::{self, Point},
    visibility::compiled::{self, Asking, Names},
};

/// Parties from which on it is looked up for whom a call can be true. Fewer are asked as they are.
const MANY: usize = 40;

/// Parties of all values that are looked up at once, but for the first: each takes some bytes until it is answered.
const PARTIES: usize = 200_000;

/// Names that may come at least: of fewer parties than that all may be asked as well, but rooms have members who do not
/// watch.
const FEWEST_NAMES: usize = 1_000;

/// Rows behind a row that are looked at for what they need of the same call.
const LOOK: usize = 500;

/// Answers of one round trip at most: some ten milliseconds of the database's work.
const ANSWERS: usize = 1_000;

/// A call, and who is asked for it.
#[derive(Debug)]
struct Narrowed {
    /// What all need.
    need: CallNeed,
    asked: CallNeed,
    /// One of those who are asked: what it is told is so for all who are not.
    witness: PartyId,
}

impl State {
    /// Answers the calls that can be true for some parties only. What is left has to be asked of all.
    pub(super) async fn answer_narrowed(&mut self, oid: Oid, needs: Vec<CallNeed>) -> Vec<CallNeed> {
        let mut left = Vec::new();
        let many = if failpoints::reach(Point::CallsNarrowed).await { 1 } else { MANY };
        for need in needs {
            if !self.is_bounded(oid, &need, many) {
                left.push(need);
                continue;
            }
            let key = need.need.key.clone();
            let group = self.group(oid, need, many);
            let narrowed = self.narrow(oid, group, &mut left).await;
            if narrowed.is_empty() || self.answer_together(oid, &narrowed).await {
                continue;
            }
            // What rows behind the row need is asked when it is their turn.
            let first = narrowed.into_iter().next().filter(|narrowed| narrowed.need.need.key == key);
            if let Some(first) = first {
                left.extend(self.answer_alone(oid, first).await);
            }
        }
        left
    }

    /// Whether it pays to look up for whom a call can be true.
    fn is_bounded(&self, oid: Oid, need: &CallNeed, many: usize) -> bool {
        need.need.parties.len() >= many
            && self.is_told_of(oid, need, &need.need.key)
            && self.bounds(oid, need).is_some_and(|bounds| !bounds.is_empty())
    }

    /// Whether bounds can tell of a call with some values.
    fn is_told_of(&self, oid: Oid, need: &CallNeed, key: &CallKey) -> bool {
        let looking_up = self.looking_up(oid, need);
        looking_up.is_some_and(|looking_up| looking_up.helps_with(need.need.call, key, Instant::now()))
    }

    fn bounds(&self, oid: Oid, need: &CallNeed) -> Option<&[Bound]> {
        let looking_up = self.looking_up(oid, need)?;
        let (call, ..) = self.called(oid, need)?;
        looking_up.helps(need.need.call, Instant::now()).then_some(call.bounds())
    }

    /// What is remembered of the calls of a need's role.
    fn looking_up(&self, oid: Oid, need: &CallNeed) -> Option<&LookingUp> {
        self.judging.rules.get(&(oid, need.role.clone())).map(|rules| &rules.looking_up)
    }

    /// What a row needs, and what rows behind it need of the same call.
    fn group(&self, oid: Oid, need: CallNeed, many: usize) -> Vec<CallNeed> {
        let most = self.looking_up(oid, &need).map_or(1, |looking_up| looking_up.at_once(need.need.call));
        let mut group = vec![need];
        let Some(relation) = self.known.get(&oid).map(|known| Arc::clone(&known.relation)) else {
            return group;
        };
        let mut keys: HashSet<CallKey> = group.iter().map(|need| need.need.key.clone()).collect();
        let mut parties = 0;
        for row in self.coming.iter().filter(|row| row.oid == oid).take(LOOK) {
            let has_room = group.len() < most && parties < PARTIES;
            let Some(first) = group.first().filter(|_| has_room) else { break };
            // Values are looked at once: the parties of a need are a list of all that watch.
            let is_new = |key: &CallKey| !keys.contains(key) && self.is_told_of(oid, first, key);
            let alike = self.engine.alike(first, &row.change(&relation), is_new);
            let Some(need) = alike.filter(|need| need.need.parties.len() >= many) else { continue };
            keys.insert(need.need.key.clone());
            parties += need.need.parties.len();
            group.push(need);
        }
        group
    }

    /// Finds out who has to be asked. Where that cannot be told the first is `left`.
    async fn narrow(
        &mut self,
        oid: Oid,
        mut group: Vec<CallNeed>,
        left: &mut Vec<CallNeed>,
    ) -> Vec<Narrowed> {
        let Some(mut names) = self.names_of(oid, &mut group).await else {
            left.extend(group.into_iter().next());
            return Vec::new();
        };
        if failpoints::reach(Point::NameLost).await {
            names.pop();
        }
        let mut by_value: Vec<Vec<(usize, String)>> = vec![Vec::new(); group.len()];
        for (number, bound, name) in names {
            if let Some(rows) = by_value.get_mut(number) {
                rows.push((bound, name));
            }
        }
        let mut all = Vec::new();
        for (at, (need, rows)) in group.into_iter().zip(by_value).enumerate() {
            let is_fit = |id| {
                let party = self.engine.party(oid, id);
                party.is_some_and(|party| self.judging.trust(oid, party) == Trust::Full)
            };
            match self.engine.narrowed(oid, &need, &rows, is_fit) {
                Some((asked, witness)) => all.push(Narrowed { need, asked, witness }),
                None if at == 0 => left.push(need),
                None => {}
            }
        }
        all
    }

    /// Whom rows name for as many values of a group as can be told at once: the others leave it. `None`: it cannot be told, and
    /// that is remembered.
    async fn names_of(&mut self, oid: Oid, group: &mut Vec<CallNeed>) -> Option<Vec<(usize, usize, String)>> {
        let first = group.first()?;
        let (call, role, key) = (first.need.call, first.role.clone(), first.need.key.clone());
        let mut is_cut = false;
        loop {
            let names = self.names(oid, group).await;
            let looking_up = &mut self.judging.rules.get_mut(&(oid, role.clone()))?.looking_up;
            match names {
                Names::Told(names) => {
                    if !is_cut {
                        looking_up.were_told(call, group.len());
                    }
                    return Some(names);
                }
                Names::TooMany if group.len() > 1 => {
                    group.truncate(looking_up.named_too_many(call, group.len()));
                    is_cut = true;
                }
                Names::TooMany => {
                    looking_up.distrust_with(call, key, Instant::now());
                    return None;
                }
                Names::Hidden => {
                    looking_up.distrust(call, Instant::now());
                    return None;
                }
            }
        }
    }

    /// Whom the tables name that the bounds of a call are about.
    async fn names(&self, oid: Oid, group: &[CallNeed]) -> Names {
        let values: Option<Vec<_>> = group.iter().map(|need| Some(self.called(oid, need)?.2)).collect();
        let bounds = group.first().and_then(|first| self.bounds(oid, first));
        let table = self.known.get(&oid).and_then(|known| known.table.as_ref());
        let (Some(values), Some(bounds), Some(table)) = (values, bounds, table) else { return Names::Hidden };
        let column = |at: usize| Some(table.columns.get(at)?.name.to_string());
        let (passed, limit) = (&self.judging.passed, self.policy_wait);
        // To name more than who watches saves nothing.
        let parties: usize = group.iter().map(|need| need.need.parties.len()).sum();
        let most = parties.max(FEWEST_NAMES);
        match compiled::names(&self.pool, bounds, &values, column, passed, most, limit).await {
            Ok(names) => names,
            Err(error) => {
                tracing::debug!(%error, relation = oid, "cannot look up for whom a function can be true; asking all");
                Names::Hidden
            }
        }
    }

    /// Asks all together. False, and nothing is known, if one answer is missing.
    async fn answer_together(&mut self, oid: Oid, all: &[Narrowed]) -> bool {
        let Some((query, role)) = self.query_of_each(oid, all) else { return false };
        let mut rows: BTreeMap<PartyId, Vec<u32>> = BTreeMap::new();
        for (at, narrowed) in (0u32..).zip(all) {
            for party in &narrowed.asked.need.parties {
                rows.entry(*party).or_default().push(at);
            }
        }
        let mut parties = Vec::with_capacity(rows.len());
        for (id, rows) in rows {
            let Some(party) = self.engine.party(oid, id).map(Arc::clone) else { return false };
            if self.judging.trust(oid, &party) != Trust::Full {
                return false;
            }
            parties.push((id, party, rows));
        }
        let Some(found) = self.ask_each(&query, &role, &parties).await else { return false };
        let witnessed = |narrowed: &Narrowed, at| found.get(&(narrowed.witness, at)) == Some(&Truth::FALSE);
        if !(0u32..).zip(all).all(|(at, narrowed)| witnessed(narrowed, at)) {
            return false;
        }
        for (at, narrowed) in (0u32..).zip(all) {
            let of_party = |party: &PartyId| found.get(&(*party, at)).copied();
            let truths: Vec<Option<Truth>> = narrowed.asked.need.parties.iter().map(of_party).collect();
            self.engine.answer(oid, &narrowed.asked, &truths);
        }
        self.keep_to_memory(oid, &role);
        true
    }

    /// The answers by party and number of the values. `None` if one is missing.
    async fn ask_each(
        &self,
        query: &str,
        role: &str,
        parties: &[(PartyId, Arc<Party>, Vec<u32>)],
    ) -> Option<BTreeMap<(PartyId, u32), Truth>> {
        let (shares_plans, passed) = (self.shares_plans, &self.judging.passed);
        let asking = Asking { role, queries: vec![(query, 2)], shares_plans, passed };
        let mut found = BTreeMap::new();
        let mut rest = parties;
        while !rest.is_empty() {
            let mut answers = 0;
            let fits = |(_, _, rows): &&(PartyId, Arc<Party>, Vec<u32>)| {
                answers += rows.len();
                answers <= ANSWERS
            };
            let (some, others) = rest.split_at_checked(rest.iter().take_while(fits).count().max(1))?;
            rest = others;
            let asked: Vec<(&Party, Vec<u32>)> =
                some.iter().map(|(_, party, rows)| (&**party, rows.clone())).collect();
            let count: usize = asked.iter().map(|(_, rows)| rows.len()).sum();
            self.stats.terms_asked.fetch_add(count as u64, Ordering::Relaxed);
            let given = compiled::ask_each(&self.pool, &asking, &asked, self.policy_wait).await.ok()?;
            for ((id, _, rows), answers) in some.iter().zip(given.answers) {
                let of_party = by_number(&answers?)?;
                if !rows.iter().all(|at| of_party.contains_key(at)) {
                    return None;
                }
                found.extend(of_party.into_iter().map(|(at, truth)| ((*id, at), truth)));
            }
        }
        Some(found)
    }

    /// The statement that asks each party for some of the values, and the role of all.
    fn query_of_each(&self, oid: Oid, all: &[Narrowed]) -> Option<(String, Box<str>)> {
        let first = all.first()?;
        let (call, table, _) = self.called(oid, &first.need)?;
        if table.columns.iter().any(|column| *column.name == *compiled::NUMBER) {
            return None;
        }
        let values = |narrowed: &Narrowed| Some(self.called(oid, &narrowed.need)?.2);
        let values = all.iter().map(values).collect::<Option<Vec<_>>>()?;
        Some((compiled::call_of_each(call.sql(), &values, &table.name), first.need.role.clone()))
    }

    /// Asks for one call. Those whose answers are not there at once are asked beside the stream. What is left has to be
    /// asked of all.
    async fn answer_alone(&mut self, oid: Oid, narrowed: Narrowed) -> Option<CallNeed> {
        let Narrowed { need, asked, witness } = narrowed;
        let Some(query) = self.call(oid, &asked) else { return Some(need) };
        let asked = Arc::new(asked);
        let question =
            Question { what: What::Call(Arc::clone(&asked)), queries: vec![(query, 1)], keeps: vec![true] };
        let Ok(found) = self.ask_parties(oid, &need.role, question, &asked.need.parties).await else {
            return Some(need);
        };
        let told: BTreeMap<PartyId, Option<Truth>> = (asked.need.parties.iter().copied().zip(&found))
            .filter_map(|(party, answers)| Some((party, truth(answers.as_ref()?))))
            .collect();
        if told.get(&witness) != Some(&Some(Truth::FALSE)) {
            if let Some(rules) = self.judging.rules.get_mut(&(oid, need.role.clone())) {
                rules.looking_up.distrust(need.need.call, Instant::now());
            }
            return Some(need);
        }
        let is_there = asked.of(|party| told.contains_key(party));
        let answers: Vec<Option<Truth>> =
            is_there.need.parties.iter().map(|party| told.get(party).copied().flatten()).collect();
        self.engine.answer(oid, &is_there, &answers);
        self.keep_to_memory(oid, &need.role);
        None
    }
}

/// The answers of a party by the numbers of the values.
fn by_number(answers: &[Answer]) -> Option<BTreeMap<u32, Truth>> {
    let [Ok(rows)] = answers else { return None };
    let answer = |row: &Vec<Option<String>>| match row.as_slice() {
        [Some(at), truth] => {
            Some((at.parse().ok()?, Truth::known(truth.as_deref().map(|text| text == "true"))))
        }
        _ => None,
    };
    rows.iter().map(answer).collect()
}
