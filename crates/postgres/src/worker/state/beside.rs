//! Parties whose answers are slow in coming: they are asked beside the stream, for what their policies compare rows with,
//! or about the rows themselves. Their rows wait meanwhile, each party's in a lane of its own, in order; nobody else's do.

use std::{collections::HashMap, sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use realtime_changes::{CallNeed, ChannelId, Party, PartyId, SubscriptionKey, policy::Answer};
use realtime_pgoutput::Oid;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{self, Instant},
};
use tracing::Instrument as _;

use super::{
    errand::{Errand, Outcome},
    for_whom::ForWhom,
    lane::{Lane, LaneRow},
    slow::Slow,
};
use crate::visibility::{
    Passed,
    compiled::{self, Asking, Given},
};

/// Questions that are under way at once: the stream needs connections too.
const AT_ONCE: usize = 2;

/// How long rows wait until their channels are told.
pub(super) const DELAYED_AFTER: Duration = Duration::from_secs(5);

/// What is asked of parties.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) what: What,
    /// The queries, and how many columns each has.
    pub(super) queries: Vec<(String, usize)>,
    /// For each of the terms: whether there is a query for it.
    pub(super) keeps: Vec<bool>,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    /// All terms.
    Values,
    /// These terms, by their places.
    Renewal(Vec<usize>),
    Call(Arc<CallNeed>),
}

impl Question {
    /// The answers by term.
    pub(super) fn spread(&self, answers: Vec<Answer>) -> Vec<Answer> {
        let mut answers = answers.into_iter();
        let mut answer = |keeps: &bool| match keeps {
            true => answers.next().unwrap_or(Err(realtime_changes::policy::NoValue::Failed)),
            false => Err(realtime_changes::policy::NoValue::NotAsked),
        };
        self.keeps.iter().map(&mut answer).collect()
    }
}

/// Some parties, and what they are asked.
#[derive(Debug)]
pub(in crate::worker) struct Job {
    pub(super) number: u64,
    pub(super) oid: Oid,
    pub(super) role: Box<str>,
    pub(super) question: Question,
    pub(super) parties: Vec<(PartyId, Arc<Party>)>,
    pub(super) shares_plans: bool,
    pub(super) passed: Passed,
}

/// What has happened beside the stream.
#[derive(Debug)]
pub(in crate::worker) enum Late {
    /// A party, by its place in the job, has given what its policies compare rows with.
    Values(Arc<Job>, usize, Given),
    /// All of that takes long.
    Delayed(Arc<Job>),
    /// A party was asked about rows, by the question of this number.
    Judged(Arc<Party>, u64, Outcome),
    /// Such an answer is long in coming.
    LongInComing(Arc<Party>),
    /// The lane of a party is to be looked at.
    Due(Arc<Party>),
}

/// What is asked beside the stream, and the lanes of those who are asked.
#[derive(Debug)]
pub(super) struct Beside {
    /// A channel is that of one party: so it gets what it gets in order, of whatever table.
    pub(super) lanes: HashMap<Arc<Party>, Lane>,
    tell: mpsc::UnboundedSender<Late>,
    told: mpsc::UnboundedReceiver<Late>,
    permits: Arc<Semaphore>,
    questions: u64,
    /// Those for whom rows have waited.
    slow: Slow,
}

impl Default for Beside {
    fn default() -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        Self { lanes: HashMap::new(), tell, told, permits, questions: 0, slow: Slow::default() }
    }
}

impl Beside {
    /// What happens next; never while nothing can. Cancel safe.
    pub(super) async fn next(&mut self) -> Late {
        match self.told.recv().await {
            Some(late) => late,
            // It is told to by itself.
            None => std::future::pending().await,
        }
    }

    /// A number for a question.
    pub(super) fn number(&mut self) -> u64 {
        self.questions += 1;
        self.questions
    }

    /// Asks parties for what their policies compare rows with.
    pub(super) fn ask(&self, pool: Pool, job: Job) {
        let (tell, permits) = (self.tell.clone(), Arc::clone(&self.permits));
        let work = async move {
            let job = Arc::new(job);
            let asking = Asking {
                role: &job.role,
                queries: job.question.queries.iter().map(|(sql, width)| (&**sql, *width)).collect(),
                shares_plans: job.shares_plans,
                passed: &job.passed,
            };
            let parties: Vec<&Party> = job.parties.iter().map(|(_, party)| &**party).collect();
            let told = |at, given| tell.send(Late::Values(Arc::clone(&job), at, given)).is_ok();
            tokio::select! {
                () = compiled::ask_beside(&pool, &permits, &asking, &parties, told) => {}
                () = every(DELAYED_AFTER, || tell.send(Late::Delayed(Arc::clone(&job))).is_ok()) => {}
            }
        };
        tokio::spawn(work.in_current_span());
    }

    /// Asks a party about rows.
    pub(super) fn send(&self, pool: Pool, errand: Errand) {
        let (tell, permits) = (self.tell.clone(), Arc::clone(&self.permits));
        let work = async move {
            let party = Arc::clone(&errand.party);
            tokio::select! {
                outcome = errand.run(&pool, &permits) => {
                    // The worker may be gone.
                    let _ = tell.send(Late::Judged(party, errand.number, outcome));
                }
                () = every(DELAYED_AFTER, || tell.send(Late::LongInComing(Arc::clone(&party))).is_ok()) => {}
                () = tell.closed() => {}
            }
        };
        tokio::spawn(work.in_current_span());
    }

    /// Whether no rows wait.
    pub(super) fn is_idle(&self) -> bool {
        self.lanes.is_empty()
    }

    /// The list of whom a row is for, as it is known in the lane of its party. `keys` are in order.
    pub(super) fn known_list(
        &self,
        party: &Arc<Party>,
        oid: Oid,
        keys: &[SubscriptionKey],
    ) -> Option<Arc<ForWhom>> {
        self.lanes.get(party)?.known_list(oid, keys)
    }

    /// Puts a row into the lane of a party.
    pub(super) fn push(&mut self, party: &Arc<Party>, row: LaneRow) {
        if !self.lanes.contains_key(party) {
            self.is_due(party);
        }
        self.lanes.entry(Arc::clone(party)).or_default().push(row);
    }

    /// Has the lane of a party looked at soon.
    pub(super) fn is_due(&self, party: &Arc<Party>) {
        // Both ends are here.
        let _ = self.tell.send(Late::Due(Arc::clone(party)));
    }

    /// Takes the first row of a lane.
    pub(super) fn pop(&mut self, party: &Arc<Party>) -> Option<LaneRow> {
        self.lanes.get_mut(party)?.pop()
    }

    /// Whether the stream does not wait for a party.
    pub(super) fn is_slow(&self, oid: Oid, party: &Arc<Party>) -> bool {
        self.slow.has(oid, party, Instant::now())
    }

    /// A party has taken long.
    pub(super) fn was_slow(&mut self, oid: Oid, party: &Arc<Party>) {
        self.slow.put(oid, party, Instant::now());
    }

    /// The rows of a table, or all, are not delivered any more.
    pub(super) fn forget(&mut self, of: Option<Oid>) -> Vec<LaneRow> {
        self.slow.forget(of);
        let Some(oid) = of else {
            return self.lanes.drain().flat_map(|(_, lane)| lane.into_rows()).collect();
        };
        let mut gone = Vec::new();
        let mut touched = Vec::new();
        for (party, lane) in &mut self.lanes {
            let rows = lane.take_out(oid);
            if !rows.is_empty() {
                touched.push(Arc::clone(party));
                gone.extend(rows);
            }
        }
        touched.iter().for_each(|party| self.is_due(party));
        gone
    }

    /// Subscriptions of a channel have ended. Whether rows waited for them. What the channel was to be told behind these is
    /// not told.
    pub(super) fn leaves(&mut self, channel: ChannelId, keys: &[(Oid, SubscriptionKey)]) -> bool {
        let waited = self.waits_for(keys);
        for row in self.lanes.values_mut().flat_map(Lane::rows_mut) {
            row.then.retain(|behind| behind.channel != channel);
        }
        waited
    }

    /// Whether rows wait for some subscriptions.
    pub(super) fn waits_for(&self, keys: &[(Oid, SubscriptionKey)]) -> bool {
        self.lanes.values().flat_map(Lane::lists).any(|list| list.has_any(keys))
    }
}

/// Does something every now and then, until that says that it was enough.
async fn every(pause: Duration, mut act: impl FnMut() -> bool) {
    loop {
        time::sleep(pause).await;
        if !act() {
            return;
        }
    }
}
