//! What parties answer that are asked beside the stream, and what their channels are told when that takes long.

use std::{collections::BTreeSet, sync::Arc};

use realtime_changes::{Answered, ChannelId, Party, PartyId, SubscriptionKey, policy::Answer};
use realtime_pgoutput::Oid;
use tokio::time::Instant;

use super::{
    State,
    beside::{DELAYED_AFTER, Job, Late, Question, What},
    for_whom::ForWhom,
    policies::truth,
};
use crate::{Notice, visibility::compiled::Given};

/// What they are told if nothing was answered.
const DELAYED: &str = "Row changes are delayed: what row-level security depends on has not been answered for 5 seconds, perhaps because of a lock in the database";

/// The same if rows wait although something is.
const BEHIND: &str = "Row changes are delayed: row-level security takes long for this role and these claims; rows have waited for 5 seconds";

impl State {
    /// Asks parties beside the stream.
    pub(super) fn ask_beside(
        &mut self,
        oid: Oid,
        role: &str,
        question: Question,
        parties: Vec<(PartyId, Arc<Party>)>,
    ) {
        let number = self.beside.number();
        for (id, _) in &parties {
            self.engine.ask_beside(oid, role, *id, number);
        }
        let (shares_plans, passed) = (self.shares_plans, self.judging.passed.clone());
        let job = Job { number, oid, role: role.into(), question, parties, shares_plans, passed };
        self.beside.ask(self.pool.clone(), job);
    }

    /// Takes what has happened beside the stream.
    pub(in crate::worker) async fn happened_beside(&mut self, late: Late) {
        match late {
            Late::Values(job, at, given) => self.answered_late(&job, at, given).await,
            Late::Delayed(job) => job.parties.iter().for_each(|(_, party)| self.tell_delayed(party, DELAYED)),
            Late::Judged(party, number, outcome) => self.judged_beside(&party, number, outcome).await,
            Late::LongInComing(party) => self.tell_delayed(&party, DELAYED),
            Late::Due(party) => self.advance(&party).await,
        }
    }

    /// Takes the answer of a party, and delivers what has waited for it.
    async fn answered_late(&mut self, job: &Job, at: usize, given: Given) {
        let (oid, role) = (job.oid, &*job.role);
        let Some((id, party)) = job.parties.get(at) else { return };
        if self.engine.party(oid, *id) != Some(party) {
            return;
        }
        match self.engine.answered(oid, role, *id, job.number) {
            Answered::InTime => {
                let Given { answers, held_up } = given;
                self.judging.held_up.asked(oid, party, held_up.is_some(), Instant::now());
                match held_up {
                    Some(failure) => self.troubled.failed(oid, party, &failure),
                    None => {
                        for channel in self.troubled.mended(oid, party) {
                            self.sink.notice(channel, Notice::Subscribed);
                        }
                    }
                }
                self.take_late(job, *id, answers);
                self.keep_to_memory(oid, role);
            }
            // Its rows wait: the next row of the table is not waited for.
            Answered::OutOfDate => {
                if let Some(question) = self.question(oid, role, What::Values) {
                    self.ask_beside(oid, role, question, vec![(*id, Arc::clone(party))]);
                }
            }
            Answered::Forgotten => {}
        }
        self.deliver_late(oid).await;
    }

    fn take_late(&mut self, job: &Job, id: PartyId, answers: Vec<Answer>) {
        let (oid, role) = (job.oid, &*job.role);
        let answers = job.question.spread(answers);
        match &job.question.what {
            What::Values => {
                let Some(policies) = self.engine.policies(oid, role).map(Arc::clone) else { return };
                self.engine.put_values(oid, role, [(id, policies.values(&answers))]);
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

    /// Goes on with the lanes whose first rows are of a table: their parties may have answered.
    pub(super) async fn deliver_late(&mut self, oid: Oid) {
        if self.beside.is_idle() {
            return;
        }
        let lanes = self.beside.lanes.iter().filter(|(_, lane)| lane.asking.is_none());
        let is_of = lanes.filter(|(_, lane)| lane.rows().next().is_none_or(|row| row.oid() == oid));
        let parties: Vec<Arc<Party>> = is_of.map(|(party, _)| Arc::clone(party)).collect();
        for party in parties {
            self.advance(&party).await;
        }
    }

    /// Goes on with all lanes: while a slice was under way none did.
    pub(super) async fn go_on_with_lanes(&mut self) {
        let idle = self.beside.lanes.iter().filter(|(_, lane)| lane.asking.is_none());
        let parties: Vec<Arc<Party>> = idle.map(|(party, _)| Arc::clone(party)).collect();
        for party in parties {
            self.advance(&party).await;
        }
    }

    /// Goes on with lanes whose parties were forgotten when policies were compiled anew.
    pub(super) async fn revive_lanes(&mut self) {
        let lanes = self.beside.lanes.values().filter(|lane| lane.asking.is_none());
        let tables: BTreeSet<Oid> = lanes.filter_map(|lane| Some(lane.rows().next()?.oid())).collect();
        for oid in tables {
            self.ready(oid).await;
        }
    }

    /// Tells the channels whose rows wait for a party, once.
    fn tell_delayed(&mut self, party: &Arc<Party>, text: &'static str) {
        let Some(lane) = self.beside.lanes.get_mut(party).filter(|lane| lane.told.is_empty()) else { return };
        let of = |(oid, key): (Oid, SubscriptionKey)| self.engine.channel(oid, key);
        let channels: BTreeSet<ChannelId> = lane.lists().flat_map(ForWhom::names).filter_map(of).collect();
        if channels.is_empty() {
            return;
        }
        lane.told = channels.into_iter().collect();
        let first = lane.rows().next().map(|row| row.oid());
        let table = first.and_then(|oid| self.known.get(&oid)).map(|known| known.name());
        let role = &*party.role;
        tracing::warn!(
            code = "ChangesDelayed",
            table,
            role,
            reason = text,
            "row changes are delayed for a role and claims"
        );
        for channel in &lane.told {
            self.sink.notice(*channel, Notice::warning("ChangesDelayed", text));
        }
    }

    /// The same if the first row has waited for long.
    pub(super) fn tell_if_behind(&mut self, party: &Arc<Party>) {
        if self.beside.lanes.get(party).is_some_and(|lane| lane.waits() >= DELAYED_AFTER) {
            self.tell_delayed(party, BEHIND);
        }
    }
}
