//! Row changes: who gets them.

use std::sync::{Arc, atomic::Ordering};

use realtime_changes::{Action, Candidates, Matches, Question, SubscriptionKey};
use realtime_pgoutput::{
    Lsn, Oid,
    message::{OldTuple, Tuple, UnixMicros},
};
use tokio::time;

use super::{ASK_AGAIN, Failed, LIMITED, State, Transaction, waiting::Waiting};
use crate::{Notice, pool, questions};

/// Changes that are checked together at most.
const MAX_WAITING: usize = 256;

/// Bytes of changes that wait to be checked at most, give or take one change.
const MAX_WAITING_BYTES: usize = 1_000_000;

impl State {
    pub(in crate::worker) fn begin(&mut self, xid: u32, commit_lsn: Lsn, commit_time: UnixMicros) {
        self.transaction = Some(Transaction { xid, commit_time, place: (commit_lsn, 0) });
        self.dropped.passed = commit_lsn;
    }

    /// Ends the transaction that is being read. Whether all of it, and of all before it, was handed over: else that
    /// is so after the next [`flush`](Self::flush).
    pub(in crate::worker) fn commit(&mut self) -> bool {
        self.transaction = None;
        self.sink.committed();
        self.waiting.is_empty()
    }

    /// Whether a transaction is being read.
    pub(in crate::worker) fn is_reading(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whether changes wait to be checked, with no more of their transaction to come.
    pub(in crate::worker) fn is_due(&self) -> bool {
        self.transaction.is_none() && !self.waiting.is_empty()
    }

    /// Takes a row change: finds who gets it and hands it over, at once or with others that have to be checked.
    pub(in crate::worker) async fn change(
        &mut self,
        action: Action,
        oid: Oid,
        new: Option<Tuple>,
        old: Option<OldTuple>,
    ) {
        self.stats.rows.fetch_add(1, Ordering::Relaxed);
        let Some(transaction) = &mut self.transaction else { return };
        transaction.place.1 += 1;
        let transaction = *transaction;
        if transaction.place <= self.handed {
            return;
        }
        // A relation that was not described is no fault of the row's (postgres_changes 124).
        let Some(relation) = self.known.get(&oid).map(|known| Arc::clone(&known.relation)) else { return };
        let mut waiting = Waiting {
            action,
            relation,
            new,
            old,
            commit_time: transaction.commit_time,
            xid: transaction.xid,
            place: transaction.place,
            matches: Matches::default(),
            candidates: Candidates::default(),
        };
        let mut matches = self.engine.matches(&waiting.change());
        if matches.is_empty() || self.drops() {
            if self.waiting.is_empty() {
                self.handed = transaction.place;
            }
            return;
        }
        let mut keys = std::mem::take(&mut matches.certain);
        keys.extend(self.ask(oid, &matches).await);
        waiting.candidates = self.engine.candidates(&waiting.change(), &keys);
        waiting.matches = matches;
        if self.waiting.is_empty() && waiting.candidates.guarded.is_empty() {
            self.hand_over(&waiting, &[]);
            return;
        }
        self.waiting_bytes += waiting.size();
        self.waiting.push(waiting);
        if self.waiting.len() >= MAX_WAITING || self.waiting_bytes >= MAX_WAITING_BYTES {
            self.flush().await;
        }
    }

    /// Whether rows are dropped because there are too many. The channels are told when that begins.
    fn drops(&mut self) -> bool {
        let limited = self.sink.is_limited();
        if limited {
            self.stats.dropped.fetch_add(1, Ordering::Relaxed);
            if !self.limited {
                self.limited = true;
                tracing::error!(
                    code = "MessagePerSecondRateLimitReached",
                    "Too many postgres changes messages per second"
                );
                self.tell_all(&Notice::warning("MessagePerSecondRateLimitReached", LIMITED));
            }
        } else {
            self.relent();
        }
        limited
    }

    /// Tells the channels that rows come again, if that is so.
    pub(in crate::worker) fn relent(&mut self) {
        if self.limited && !self.sink.is_limited() {
            self.limited = false;
            self.confirm_all();
        }
    }

    /// Waits for receivers that have fallen behind.
    pub(in crate::worker) async fn relieve(&self) {
        if let Some(relief) = self.sink.relieve() {
            relief.await;
        }
    }

    pub(super) fn hand_over(&mut self, waiting: &Waiting, seen: &[SubscriptionKey]) {
        let (change, matches) = (waiting.change(), &waiting.matches);
        for delivery in self.engine.deliveries(&change, matches, &waiting.candidates.open, seen, &self.types)
        {
            self.stats.deliveries.fetch_add(1, Ordering::Relaxed);
            self.sink.deliver(delivery);
        }
        self.handed = waiting.place;
    }

    /// Which of the subscriptions that depend on the database match. One whose question fails is ended, and
    /// its channel told; the others go on.
    async fn ask(&mut self, oid: Oid, matches: &Matches) -> Vec<SubscriptionKey> {
        let questions: Vec<_> = matches.asked.iter().flat_map(|asked| &asked.questions).collect();
        if questions.is_empty() {
            return Vec::new();
        }
        self.stats.questions.fetch_add(questions.len() as u64, Ordering::Relaxed);
        let mut answers = self.answers(&questions).await.into_iter();
        let mut keys = Vec::new();
        for asked in &matches.asked {
            let answers: Result<Vec<bool>, _> = answers.by_ref().take(asked.questions.len()).collect();
            match answers {
                Ok(answers) if !answers.contains(&false) => keys.push(asked.key),
                Ok(_) => {}
                Err(error) => {
                    let text =
                        format!("A filter could not be evaluated and was ended: {}", pool::describe(&error));
                    tracing::warn!(
                        code = "UnableToSubscribeToPostgres",
                        "subscription ended: its filter raised an error"
                    );
                    if let Some(channel) = self.engine.channel(oid, asked.key) {
                        self.sink.notice(channel, Notice::warning("UnableToSubscribeToPostgres", text));
                    }
                    self.engine.detach(oid, asked.key);
                }
            }
        }
        keys
    }

    /// The answers, however long it takes: the change must not pass unevaluated.
    async fn answers(&self, questions: &[&Question]) -> Vec<Result<bool, tokio_postgres::Error>> {
        loop {
            let answers = async {
                let client = pool::get(&self.pool).await?;
                Ok::<_, Failed>(questions::ask(&client, questions).await?)
            };
            match answers.await {
                Ok(answers) => return answers,
                Err(error) => {
                    tracing::warn!(code = "UnableToConnectToProject", %error, "cannot ask the database, trying on");
                    self.stats.check_failures.add(1);
                    time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }
}
