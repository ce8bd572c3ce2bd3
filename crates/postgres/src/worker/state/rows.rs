//! Row changes: who gets them.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use realtime_changes::{Action, Asked, Delivery, Match, Question, SubscriptionKey};
use realtime_pgoutput::{
    Lsn, Oid,
    message::{OldTuple, Tuple, UnixMicros},
};
use tokio::time::{self, Duration, Instant};

use super::{
    State,
    ahead::FIRST_ANSWERS,
    failed::ASK_AGAIN,
    judging::now,
    known::Watcher,
    lanes::{self, Failure},
    sight::SeenBy,
    transaction::{Transaction, place},
    waiting::{Unjudged, Waiting},
};
use crate::{
    Notice,
    failpoints::{self, Point},
    questions,
};

/// Changes that are checked together at most.
const MAX_WAITING: usize = 256;

/// Changes that wait for the end of their transaction at most. Beyond it parties are asked before the end has come.
const MAX_UNJUDGED: usize = 2_000;

/// Bytes of changes that wait to be checked at most, give or take one change.
const MAX_WAITING_BYTES: usize = 1_000_000;

/// How often one answer to a call of a policy may lead to the next for a row.
pub(super) const MAX_CALLS: usize = 10;

/// How long the stream waits for the answers about a row: others' rows wait as long.
const ANSWERS_LIMIT: Duration = Duration::from_millis(200);

impl State {
    pub(in crate::worker) fn begin(&mut self, xid: u32, commit_lsn: Lsn, commit_time: UnixMicros) {
        self.transaction = Some(Transaction::new(xid, commit_lsn, commit_time));
        self.gone.passed = commit_lsn;
        self.judging.passes(xid);
        self.along.begins(commit_lsn);
        self.engine.begin();
    }

    /// Ends the transaction that is being read. Whether all of it, and of all before it, was handed over: else that
    /// is so after the next [`flush`](Self::flush).
    pub(in crate::worker) fn commit(&mut self) -> bool {
        self.transaction = None;
        self.sink.committed();
        self.waiting.is_empty() && self.unjudged.is_empty()
    }

    /// Whether a transaction is being read.
    pub(in crate::worker) fn is_reading(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whether changes wait to be checked, with no more of their transaction to come.
    pub(in crate::worker) fn is_due(&self) -> bool {
        self.transaction.is_none() && !(self.waiting.is_empty() && self.unjudged.is_empty())
    }

    /// Takes a row change. Where its policies read other tables it waits for the end of its transaction: the transaction
    /// may change these tables after the row.
    pub(in crate::worker) async fn change(
        &mut self,
        action: Action,
        oid: Oid,
        new: Option<Tuple>,
        old: Option<OldTuple>,
    ) {
        self.stats.rows.fetch_add(1, Ordering::Relaxed);
        let Some(transaction) = &mut self.transaction else { return };
        transaction.position.1 += 1;
        let transaction = *transaction;
        self.touch_live(action, oid, new.as_ref(), old.as_ref());
        if transaction.position <= self.handed {
            return;
        }
        self.passes(oid);
        let row = Unjudged { action, oid, new, old, transaction };
        if !failpoints::reach(Point::PolicyTableChanged).await {
            self.reads_change_of_row(&row);
        }
        if self.along.hides(oid, transaction.position.0) {
            return;
        }
        let is_fleeting = self.engine.is_fleeting(oid);
        if self.unjudged.is_empty() && !is_fleeting && !self.engine.may_grow_old(oid) {
            self.judge(row).await;
            return;
        }
        self.awaits_company |= is_fleeting;
        self.unjudged_bytes += row.size();
        self.unjudged.push(row);
        if self.unjudged.len() >= MAX_UNJUDGED || self.unjudged_bytes >= MAX_WAITING_BYTES {
            self.settle_early().await;
        }
    }

    /// The rows that wait for the end of their transaction are judged: it has come. Those for which parties have to be asked
    /// go on waiting, for those of the transactions that are there already.
    pub(in crate::worker) async fn settle(&mut self) {
        if !self.awaits_company {
            self.settle_all().await;
        }
    }

    async fn settle_all(&mut self) {
        self.unjudged_bytes = 0;
        self.awaits_company = false;
        let rows = std::mem::take(&mut self.unjudged);
        if rows.is_empty() {
            return;
        }
        let fleeting = self.begin_batch(&rows);
        if !fleeting.is_empty() {
            for oid in &fleeting {
                self.ready(*oid).await;
            }
            // What was asked by its text has to be what the policies mean by now: tables may have changed their names.
            if self.recheck_policies().await.is_err() {
                self.forget_policies();
            }
        }
        self.coming = rows.into();
        self.ahead = FIRST_ANSWERS;
        while let Some(row) = self.coming.pop_front() {
            self.judge(row).await;
        }
        for oid in fleeting {
            self.engine.end_batch(oid);
        }
    }

    /// What was asked for other rows has to be asked anew for these. The tables that this concerns.
    fn begin_batch(&mut self, rows: &[Unjudged]) -> BTreeSet<Oid> {
        let fleeting: BTreeSet<Oid> =
            rows.iter().map(|row| row.oid).filter(|oid| self.engine.is_fleeting(*oid)).collect();
        for oid in &fleeting {
            let Some(known) = self.known.get(oid) else { continue };
            let of_table = rows.iter().filter(|row| row.oid == *oid);
            self.engine.begin_batch(*oid, of_table.map(|row| row.change(&known.relation)));
        }
        fleeting
    }

    /// The same before the end has come: what their policies read is asked anew, and has then seen all of the transaction.
    async fn settle_early(&mut self) {
        for row in &self.unjudged {
            if self.engine.may_grow_old(row.oid) {
                self.engine.renew(row.oid);
            }
        }
        self.settle_all().await;
    }

    /// Hands over the changes that wait, in their order, to those who see them. To be called when no more are
    /// expected for now, and before anything that they were matched with changes.
    pub(in crate::worker) async fn flush(&mut self) {
        if self.transaction.is_some() && !self.unjudged.is_empty() {
            self.settle_early().await;
        } else {
            self.settle_all().await;
        }
        self.flush_judged().await;
    }

    /// Finds who gets a change, and hands it over, at once or with others that have to be checked.
    async fn judge(&mut self, row: Unjudged) {
        let Unjudged { action, oid, new, old, transaction } = row;
        // Skip rows of a relation that was not described (postgres_changes 124).
        let Some(known) = self.known.get(&oid) else { return };
        let relation = Arc::clone(&known.relation);
        self.latest.comes(transaction, oid, new.as_ref(), || known.key_places());
        let waiting = Waiting {
            action,
            relation,
            new,
            old,
            commit_time: transaction.commit_time,
            xid: transaction.xid,
            position: transaction.position,
            place: Some(place(transaction.position)),
            matched: Match::default(),
            is_late: false,
            is_missed: false,
        };
        self.ready(oid).await;
        let mut matched = self.match_row(&waiting).await;
        self.leave_out_returning(oid, &mut matched);
        if matched.is_empty() && !matched.has_late() || self.drops() {
            if self.waiting.is_empty() {
                self.handed = self.handed.max(transaction.position);
            }
            return;
        }
        self.take(waiting, matched).await;
    }

    /// Takes a change and what it matches: asks what is to be asked about it, and hands it over, at once or with others.
    pub(super) async fn take(&mut self, waiting: Waiting, mut matched: Match) {
        let oid = waiting.relation.oid;
        matched.retain(|key| {
            let aside = self.aside.takes(oid, key);
            if aside {
                self.put_aside(key, &waiting, None);
            }
            !aside
        });
        let asked = std::mem::take(&mut matched.asked);
        if !asked.is_empty() {
            for asked in self.ask(asked, &waiting).await {
                matched.confirm(asked);
            }
        }
        self.route(waiting, matched).await;
    }

    /// Which subscriptions a change matches.
    async fn match_row(&mut self, waiting: &Waiting) -> Match {
        let all = |state: &Self| state.engine.match_row(&waiting.change(), now());
        let matched = self.matched(waiting.relation.oid, all).await;
        self.perhaps_compare(waiting, matched.judged);
        matched
    }

    /// What a row of a table matches, as it is asked for. What policies call for it is asked.
    pub(super) async fn matched(&mut self, oid: Oid, of: impl Fn(&Self) -> Match) -> Match {
        for _ in 0..MAX_CALLS {
            let mut matched = of(self);
            let needs = std::mem::take(&mut matched.needs);
            self.count_judged(oid, matched.judged);
            let is_any = !needs.is_empty();
            let needs = if is_any { self.answer_narrowed(oid, needs).await } else { needs };
            let needs = if needs.is_empty() { needs } else { self.answer_ahead(oid, needs).await };
            if !is_any || !needs.is_empty() && !self.answer_calls(oid, needs).await {
                return matched;
            }
        }
        of(self)
    }

    /// Hands a change over to those who may get it, at once or when it has been checked.
    pub(super) async fn pass_on(&mut self, waiting: Waiting) {
        if self.waiting.is_empty() && waiting.matched.guarded().is_empty() {
            self.hand_over(&waiting, &SeenBy::default());
            return;
        }
        self.waiting_bytes += waiting.size();
        if !waiting.matched.guarded().is_empty()
            && let Some(table) = self.engine.table(waiting.relation.oid)
        {
            self.latest.waits(&waiting, table);
        }
        self.waiting.push(waiting);
        if self.waiting.len() >= MAX_WAITING || self.waiting_bytes >= MAX_WAITING_BYTES {
            self.flush_judged().await;
        }
    }

    /// Waits for receivers that have fallen behind.
    pub(in crate::worker) async fn relieve(&self) {
        if let Some(relief) = self.sink.relieve() {
            relief.await;
        }
    }

    pub(super) fn hand_over(&mut self, waiting: &Waiting, seen: &SeenBy) {
        let position = waiting.place.filter(|_| !self.aside.has_rows());
        let may_overtake = waiting.matched.refuses() && !self.beside.is_idle();
        for delivery in waiting.matched.render(&waiting.change(), &seen.row, &seen.old_row, &self.types) {
            self.stats.deliveries.fetch_add(1, Ordering::Relaxed);
            let position = position.filter(|_| !may_overtake || !self.overtakes(&delivery));
            let delivery = Delivery { position, ..delivery };
            match &mut self.history.slice {
                Some(slice) if waiting.is_missed => slice.push(delivery),
                _ => self.sink.deliver(delivery),
            }
        }
        // What comes late says nothing about the rows before it: some may still wait for others of their kind.
        if !waiting.is_late {
            self.handed = self.handed.max(waiting.position);
        }
    }

    /// Whether changes for one of the channels of a delivery wait in lanes. That a table cannot be shown is told at once.
    fn overtakes(&self, delivery: &Delivery) -> bool {
        let waits = |watcher: &Watcher| self.beside.waits_for(&watcher.attached);
        let mut watchers = delivery.recipients.iter().filter_map(|to| self.watchers.get(&to.channel));
        watchers.any(waits)
    }

    /// Which of the subscriptions that depend on the database match. One whose question fails is ended, and its channel
    /// told. The stream waits for a short time: who has no answer by then gets the row later, in a lane of its own.
    async fn ask(&mut self, asked: Vec<Asked>, waiting: &Waiting) -> Vec<Asked> {
        let mut hold = Vec::new();
        let mut groups: Vec<Vec<Asked>> = Vec::new();
        for asked in asked {
            if self.aside.takes(waiting.relation.oid, asked.key) {
                self.put_aside(asked.key, waiting, Some(asked));
                continue;
            }
            self.stats.questions.fetch_add(asked.questions.len() as u64, Ordering::Relaxed);
            let fits = |group: &&mut Vec<Asked>| {
                let first = group.first();
                group.len() < questions::BATCH
                    && first.is_some_and(|first| lanes::role(first) == lanes::role(&asked))
            };
            match groups.iter_mut().rev().find(fits) {
                Some(group) => group.push(asked),
                None => groups.push(vec![asked]),
            }
        }
        let until = Instant::now() + ANSWERS_LIMIT;
        while let Some(mut group) = groups.pop() {
            let answers = if until > Instant::now() { Some(self.answers(&group).await) } else { None };
            match answers {
                Some(Ok(answers)) => {
                    let mut answers = answers.into_iter();
                    // Take all answers of a subscription, also those after a negative one.
                    hold.extend(group.into_iter().filter(|asked| {
                        answers.by_ref().take(asked.questions.len()).filter(|holds| !holds).count() == 0
                    }));
                }
                // One question fails or delays all of them.
                Some(Err(_)) if group.len() > 1 => {
                    let half = group.split_off(group.len() / 2);
                    groups.extend([group, half]);
                }
                Some(Err(failure)) if !failure.slow => {
                    for asked in group {
                        self.end(waiting.relation.oid, asked.key, &failure);
                    }
                }
                Some(Err(_)) | None => {
                    for asked in group {
                        self.put_aside(asked.key, waiting, Some(asked));
                    }
                }
            }
        }
        hold
    }

    /// Ends a subscription whose filter cannot be evaluated. Its channel is told once, however often the table is
    /// described anew and the subscription begins again.
    pub(super) fn end(&mut self, oid: Oid, key: SubscriptionKey, failure: &Failure) {
        let code = "UnableToSubscribeToPostgres";
        if let Some((channel, id)) = self.engine.subscription(oid, key) {
            let text = format!("A filter could not be evaluated and was ended: {}", failure.text);
            let notice = Notice::warning(code, text);
            let ended = self.watchers.get_mut(&channel).map(|watcher| &mut watcher.ended);
            if ended.is_none_or(|ended| ended.insert((oid, id), notice.clone()).as_ref() != Some(&notice)) {
                let table = self.known.get(&oid).map(|known| known.name());
                let role = self.watchers.get(&channel).map(|watcher| &*watcher.request.role);
                tracing::warn!(
                    code,
                    table,
                    role,
                    error = failure.text,
                    "subscription ended: its filter raised an error"
                );
                self.sink.notice(channel, notice);
            }
        }
        let (_, then) = self.aside.forget(oid, key);
        self.release(then, false);
        self.engine.detach(oid, key);
    }

    /// The answers about some subscriptions, however long it takes until the database can be asked: the change must not
    /// pass unevaluated.
    async fn answers(&self, group: &[Asked]) -> Result<Vec<bool>, Failure> {
        let questions: Vec<&Question> = group.iter().flat_map(|asked| &asked.questions).collect();
        let role = group.first().and_then(lanes::role);
        let of = group.first().map(|asked| &*asked.access.role);
        loop {
            match questions::ask(&self.pool, role, &questions).await {
                Ok(answers) => return Ok(answers),
                Err(error) if questions::is_about_the_question(&error) => {
                    return Err(Failure::of(&error));
                }
                Err(error) => {
                    tracing::warn!(code = "UnableToConnectToProject", %error, role = of, "cannot evaluate filters; retrying");
                    self.stats.check_failures.add(1);
                    time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }
}
