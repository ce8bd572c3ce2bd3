//! What policies call for the rows of a transaction is asked for many of them at once (row_security 2.2): each row by
//! itself would ask all parties for its own values.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use realtime_changes::{
    CallNeed, Party, PartyId, Truth,
    policy::{Answer, CallKey},
};
use realtime_pgoutput::Oid;

use super::{State, held_up::Trust, judging::now};
use crate::visibility::compiled::{self, Asking};

/// Values that a party is asked for at once.
const VALUES: usize = 32;

/// Answers of one round trip at most: some ten milliseconds of the database's work.
const ANSWERS: usize = 4_000;

/// Answers of the first round trip for a transaction.
pub(super) const FIRST_ANSWERS: usize = 500;

/// Rows behind a row that are looked at for what they need too.
const LOOK: usize = 500;

impl State {
    /// Answers calls for a row, and for the rows behind it that call the same with other values. What is left has to be
    /// asked for the row alone: there is nothing behind it, or somebody holds up others, or an answer failed.
    pub(super) async fn answer_ahead(&mut self, oid: Oid, needs: Vec<CallNeed>) -> Vec<CallNeed> {
        let mut left = Vec::new();
        for need in needs {
            if self.coming.is_empty() || self.ahead == 0 {
                left.push(need);
                continue;
            }
            let group = self.alike(oid, need);
            let is_answered = group.len() > 1 && self.answer_group(oid, &group).await;
            // Who was waited for in vain is not to be waited for with every row.
            self.ahead = if is_answered { (self.ahead * 2).min(ANSWERS) } else { self.ahead / 8 };
            if !is_answered {
                left.extend(group.into_iter().next());
            }
        }
        left
    }

    /// What a row needs, and what rows behind it need of the same call and parties.
    fn alike(&self, oid: Oid, need: CallNeed) -> Vec<CallNeed> {
        let Some(relation) = self.known.get(&oid).map(|known| Arc::clone(&known.relation)) else {
            return vec![need];
        };
        let mut keys: HashSet<CallKey> = HashSet::from([need.need.key.clone()]);
        let mut group = vec![need];
        for row in self.coming.iter().filter(|row| row.oid == oid).take(LOOK) {
            if group.len() >= VALUES {
                break;
            }
            for other in self.engine.match_row(&row.change(&relation), now()).needs {
                let is_alike = group.first().is_some_and(|first| {
                    first.role == other.role
                        && first.need.call == other.need.call
                        && first.need.parties == other.need.parties
                });
                if is_alike && group.len() < VALUES && keys.insert(other.need.key.clone()) {
                    group.push(other);
                }
            }
        }
        group
    }

    /// Asks all parties of some calls for all values. False, and nothing is known, if one answer is missing.
    async fn answer_group(&mut self, oid: Oid, group: &[CallNeed]) -> bool {
        let Some((first, query)) = group.first().zip(self.call_of_many(oid, group)) else { return false };
        let known = |id: &PartyId| self.engine.party(oid, *id).map(Arc::clone);
        let Some(parties) = first.need.parties.iter().map(known).collect::<Option<Vec<Arc<Party>>>>() else {
            return false;
        };
        if parties.iter().any(|party| self.judging.trust(oid, party) != Trust::Full) {
            return false;
        }
        self.stats.terms_asked.fetch_add((parties.len() * group.len()) as u64, Ordering::Relaxed);
        let parties: Vec<&Party> = parties.iter().map(|party| &**party).collect();
        let mut truths = vec![Vec::with_capacity(parties.len()); group.len()];
        for parties in parties.chunks((self.ahead / group.len()).max(1)) {
            let (shares_plans, passed) = (self.shares_plans, &self.judging.passed);
            let asking = Asking { role: &first.role, queries: vec![(&*query, 2)], shares_plans, passed };
            let given = compiled::ask_briefly(&self.pool, &asking, parties, self.policy_wait).await;
            for answers in given.unwrap_or_default().answers {
                let Some(of_party) = answers.and_then(|answers| by_value(&answers, group.len())) else {
                    return false;
                };
                truths.iter_mut().zip(of_party).for_each(|(truths, truth)| truths.push(Some(truth)));
            }
        }
        if truths.iter().any(|truths| truths.len() < parties.len()) {
            return false;
        }
        for (need, truths) in group.iter().zip(&truths) {
            self.engine.answer(oid, need, truths);
        }
        let role = first.role.clone();
        self.keep_to_memory(oid, &role);
        true
    }
}

/// The answers of a party by the numbers of the values. `None` unless there is one for each.
fn by_value(answers: &[Answer], values: usize) -> Option<Vec<Truth>> {
    let [Ok(rows)] = answers else { return None };
    let mut truths = vec![None; values];
    for row in rows {
        let [Some(at), truth] = row.as_slice() else { return None };
        *truths.get_mut(at.parse::<usize>().ok()?)? =
            Some(Truth::known(truth.as_deref().map(|text| text == "true")));
    }
    truths.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use realtime_changes::policy::NoValue;

    use super::*;

    #[test]
    fn each_value_has_one_answer() {
        let row = |at: &str, truth: Option<&str>| vec![Some(at.to_owned()), truth.map(str::to_owned)];
        let answers = |rows| [Ok(rows)];
        let all = answers(vec![row("1", Some("true")), row("0", Some("false")), row("2", None)]);
        assert_eq!(by_value(&all, 3), Some(vec![Truth::FALSE, Truth::known(Some(true)), Truth::known(None)]));
        assert_eq!(by_value(&all, 4), None, "one is missing");
        assert_eq!(by_value(&all, 2), None, "one too many");
        assert_eq!(by_value(&answers(vec![row("x", None)]), 1), None);
        assert_eq!(by_value(&[Err(NoValue::Failed)], 1), None);
    }
}
