//! Rows that wait for parties that are asked beside the stream.

use std::{collections::BTreeSet, sync::Arc};

use realtime_changes::{Answered, ChannelId, Party, PartyId, SubscriptionKey, policy::Answer};
use realtime_pgoutput::Oid;
use tokio::time::Instant;

use super::{
    State,
    beside::{Job, Late, Question, What},
    judging::now,
    policies::truth,
    waiting::Waiting,
};
use crate::{
    Notice,
    visibility::{Failure, compiled::Given},
};

/// Rows of a lane at most.
const MAX_ROWS: usize = 1_000;

/// What they are told.
const DELAYED: &str = "Row changes are delayed: what row-level security depends on has not been answered for 5 seconds, perhaps because of a lock in the database";

impl State {
    /// Asks parties beside the stream.
    pub(super) fn ask_beside(
        &mut self,
        oid: Oid,
        role: &str,
        question: Question,
        parties: Vec<(PartyId, Arc<Party>)>,
    ) {
        self.beside.jobs += 1;
        let number = self.beside.jobs;
        for (id, _) in &parties {
            self.engine.ask_beside(oid, role, *id, number);
        }
        let (shares_plans, passed) = (self.shares_plans, self.judging.passed.clone());
        let job = Job { number, oid, role: role.into(), question, parties, shares_plans, passed };
        self.beside.ask(self.pool.clone(), job);
    }

    /// Takes the answer of a party, and delivers what has waited for it.
    pub(super) async fn answered_late(&mut self, Late { job, given }: Late) {
        let Some((at, given)) = given else { return self.tell_delayed(&job) };
        let (oid, role) = (job.oid, &*job.role);
        let Some((id, party)) = job.parties.get(at) else { return };
        if self.engine.party(oid, *id) != Some(party) {
            return;
        }
        if self.engine.answered(oid, role, *id, job.number) == Answered::InTime {
            let Given { answers, is_held_up } = given;
            self.judging.held_up.asked(oid, party, is_held_up, Instant::now());
            if is_held_up {
                self.troubled.failed(oid, party, &Failure::slow());
            } else {
                for channel in self.troubled.mended(oid, party) {
                    self.sink.notice(channel, Notice::Subscribed);
                }
            }
            self.take_late(&job, *id, answers);
            self.keep_to_memory(oid, role);
        }
        self.deliver_late(oid).await;
    }

    fn take_late(&mut self, job: &Job, id: PartyId, answers: Vec<Answer>) {
        let (oid, role) = (job.oid, &*job.role);
        let answers = job.question.spread(answers);
        match &job.question.what {
            What::Values => {
                let Some(policies) = self.engine.policies(oid, role).map(Arc::clone) else { return };
                self.engine.put_values(oid, role, id, policies.values(&answers));
            }
            What::Renewal(terms) => {
                let answers = terms.iter().copied().zip(answers).collect();
                self.engine.renew_late(oid, role, id, answers);
            }
            What::Call(need) => {
                let need = need.of(|party| *party == id);
                self.engine.answer(oid, &need, &[truth(&answers)]);
            }
        }
    }

    /// Rows wait for parties that are asked beside the stream.
    pub(super) fn put_beside(&mut self, oid: Oid, late: &[(PartyId, SubscriptionKey)], waiting: &Waiting) {
        for of_party in late.chunk_by(|a, b| a.0 == b.0) {
            let Some((id, _)) = of_party.first() else { continue };
            let Some(party) = self.engine.party(oid, *id).map(Arc::clone) else { continue };
            let keys: Vec<SubscriptionKey> = of_party.iter().map(|(_, key)| *key).collect();
            let lane = self.beside.lanes.entry((oid, Arc::clone(&party))).or_default();
            let kept = if lane.len() < MAX_ROWS { self.aside.keep(waiting) } else { None };
            match kept {
                Some(kept) => lane.push_back((kept, keys)),
                None => {
                    let channels = keys
                        .iter()
                        .filter_map(|key| self.engine.channel(oid, *key))
                        .collect::<Vec<ChannelId>>();
                    self.troubled.failed(oid, &party, &Failure::full());
                    self.withheld(oid, *id, &channels.into_iter().collect());
                }
            }
        }
    }

    /// Delivers what has waited for parties of a table that have answered by now.
    pub(super) async fn deliver_late(&mut self, oid: Oid) {
        if !self.beside.has_lanes(oid) {
            return;
        }
        let settled = |(of, party): &&(Oid, Arc<Party>)| *of == oid && self.engine.is_settled(oid, party);
        let names: Vec<(Oid, Arc<Party>)> = self.beside.lanes.keys().filter(settled).cloned().collect();
        for name in names {
            let is_told = self.beside.told_late.remove(&name);
            let rows = self.beside.lanes.remove(&name).unwrap_or_default();
            let keys = rows.iter().flat_map(|(_, keys)| keys).filter(|_| is_told);
            let told = self.channels(oid, keys.copied());
            for (kept, keys) in rows {
                let mut waiting = kept.waiting.again();
                for key in keys {
                    let matched = self.engine.match_one(&waiting.change(), key, now());
                    waiting.matched.join(matched);
                }
                if !waiting.matched.is_empty() {
                    self.pass_on(waiting).await;
                }
            }
            if !told.is_empty() {
                self.flush_judged().await;
            }
            for channel in told {
                self.sink.notice(channel, Notice::Subscribed);
            }
        }
    }

    /// Tells the channels whose rows wait for the parties of a job, once.
    fn tell_delayed(&mut self, job: &Job) {
        for (_, party) in &job.parties {
            let name = (job.oid, Arc::clone(party));
            let Some(rows) = self.beside.lanes.get(&name) else { continue };
            let channels = self.channels(job.oid, rows.iter().flat_map(|(_, keys)| keys).copied());
            if channels.is_empty() || !self.beside.told_late.insert(name) {
                continue;
            }
            tracing::warn!(code = "ChangesDelayed", "row changes are delayed; the database does not answer");
            for channel in channels {
                self.sink.notice(channel, Notice::warning("ChangesDelayed", DELAYED));
            }
        }
    }

    /// The channels of some subscriptions of a table, each once.
    fn channels(&self, oid: Oid, keys: impl Iterator<Item = SubscriptionKey>) -> BTreeSet<ChannelId> {
        keys.filter_map(|key| self.engine.channel(oid, key)).collect()
    }

    /// Rows of a table, or of all, that waited are not delivered, and that is told.
    pub(super) fn clear_beside(&mut self, of: Option<Oid>) {
        let waited = self.beside.forget(of);
        let mut channels: Vec<ChannelId> =
            waited.iter().filter_map(|(oid, key)| self.engine.channel(*oid, *key)).collect();
        channels.sort_unstable();
        channels.dedup();
        for channel in channels {
            let text = "Row level security takes too long: changes that waited for it were not delivered";
            self.sink.notice(channel, Notice::gap("RlsPolicyError", text));
        }
    }
}
