//! Parties whose answers are slow in coming: they are asked beside the stream. Their rows wait meanwhile, each party's in a
//! lane of its own, in order; nobody else's do.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use deadpool_postgres::Pool;
use realtime_changes::{CallNeed, Party, PartyId, SubscriptionKey, policy::Answer};
use realtime_pgoutput::Oid;
use tokio::{
    sync::{Semaphore, mpsc},
    time,
};
use tracing::Instrument as _;

use super::lanes::Kept;
use crate::visibility::{
    Passed,
    compiled::{self, Asking, Given},
};

/// Questions that are under way at once: the stream needs connections too.
const AT_ONCE: usize = 2;

/// How long rows wait until their channels are told.
const DELAYED_AFTER: Duration = Duration::from_secs(5);

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
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) oid: Oid,
    pub(super) role: Box<str>,
    pub(super) question: Question,
    pub(super) parties: Vec<(PartyId, Arc<Party>)>,
    pub(super) shares_plans: bool,
    pub(super) passed: Passed,
}

/// What a party has answered.
#[derive(Debug)]
pub(in crate::worker) struct Late {
    pub(super) job: Arc<Job>,
    /// The place of a party of the job, and what it has given. `None`: all of it takes long.
    pub(super) given: Option<(usize, Given)>,
}

/// The rows that wait for a party of a table, and for which of its subscriptions.
pub(super) type Lane = VecDeque<(Arc<Kept>, Vec<SubscriptionKey>)>;

/// What is asked beside the stream, and the lanes of those who are asked.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) lanes: HashMap<(Oid, Arc<Party>), Lane>,
    tell: mpsc::UnboundedSender<Late>,
    told: mpsc::UnboundedReceiver<Late>,
    /// The lanes whose channels know that rows are late.
    pub(super) told_late: HashSet<(Oid, Arc<Party>)>,
    permits: Arc<Semaphore>,
    pub(super) jobs: u64,
}

impl Default for Beside {
    fn default() -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        Self { lanes: HashMap::new(), tell, told, told_late: HashSet::new(), permits, jobs: 0 }
    }
}

impl Beside {
    /// The next answer; never while there is none. Cancel safe.
    pub(super) async fn answer(&mut self) -> Late {
        match self.told.recv().await {
            Some(late) => late,
            // It is told to by itself.
            None => std::future::pending().await,
        }
    }

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
            let told =
                |at, given| tell.send(Late { job: Arc::clone(&job), given: Some((at, given)) }).is_ok();
            let delayed = async {
                loop {
                    time::sleep(DELAYED_AFTER).await;
                    if tell.send(Late { job: Arc::clone(&job), given: None }).is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = compiled::ask_beside(&pool, &permits, &asking, &parties, told) => {}
                () = delayed => {}
            }
        };
        tokio::spawn(work.in_current_span());
    }

    /// Whether rows of a table wait.
    pub(super) fn has_lanes(&self, oid: Oid) -> bool {
        !self.lanes.is_empty() && self.lanes.keys().any(|(of, _)| *of == oid)
    }

    /// All rows of a table, or of all, are not delivered any more: the subscriptions that waited for them.
    pub(super) fn forget(&mut self, of: Option<Oid>) -> Vec<(Oid, SubscriptionKey)> {
        self.told_late.retain(|(oid, _)| of.is_some_and(|of| of != *oid));
        let gone = self.lanes.extract_if(|(oid, _), _| of.is_none_or(|of| of == *oid));
        gone.flat_map(|((oid, _), rows)| {
            rows.into_iter().flat_map(|(_, keys)| keys).map(move |key| (oid, key)).collect::<Vec<_>>()
        })
        .collect()
    }
}
