//! What a node that follows wants of the stream: the rows of tables that somebody here watches, or that decide what somebody
//! sees. The others are left out; that they were is known (`State::skipped`).
//!
//! Invariant: a channel is subscribed when the stream brings all rows of its tables from where it is. Nothing else depends
//! on what is wanted: what was left out although somebody needs it is told, or asked of the database.

use std::sync::atomic::Ordering;

use realtime_changes::SubscribeRefusal;
use realtime_pgoutput::Oid;
use rustc_hash::FxHashSet;
use tokio::{
    sync::oneshot,
    time::{Duration, Instant},
};

use super::{Worker, interest::Waiting};
use crate::{
    Reader, Recall, SubscribeRequest,
    subscribe::{Checked, overtaken},
};

/// How long a table is wanted that nobody needs any more.
const LINGER: Duration = Duration::from_secs(30);

/// How long a subscription waits until the owner has taken notice of it. The owner may be within a long transaction. Beyond
/// it the channel is told of what is left out.
const GRANT: Duration = Duration::from_secs(5);

/// Tables with strands of their own, at most; each is a subscription of NATS. More are wanted without one.
const MAX_WANTED: usize = 500;

/// Tables that are not wanted, at most.
const MAX_UNWANTED: usize = 10_000;

impl Worker {
    /// Whether rows that a request needs are left out of the stream, or were of what it comes back for.
    pub(super) fn must_wait(&self, request: &SubscribeRequest, checked: &Checked) -> bool {
        self.lacks(checked) || self.to_recall(request, checked).is_some()
    }

    /// What a request needs of what was left out, if the owner can be asked.
    fn to_recall(&self, request: &SubscribeRequest, checked: &Checked) -> Option<Recall> {
        self.running.as_ref().filter(|running| running.session.reader() == Reader::AnotherNode)?;
        self.state.to_recall(request, &checked.tables)
    }

    /// Asks the owner for what it has kept.
    fn ask_owner(&mut self, recall: &Recall) {
        let asking = self.running.as_ref().and_then(|running| running.session.recall(recall));
        // Then those who wait for it go on without.
        let Some(asking) = asking else { return self.interest.differs() };
        let (reply, answer) = oneshot::channel();
        self.interest.recall = Some(answer);
        tokio::spawn(async move {
            let answer = asking.await.inspect_err(|error| {
                tracing::debug!(error, "cannot ask the node that reads the database for what it has kept");
            });
            let _ = reply.send(answer.ok());
        });
    }

    fn lacks(&self, checked: &Checked) -> bool {
        self.running.as_ref().is_some_and(|running| {
            let unwanted = running.session.unwanted();
            needs(checked).into_iter().any(|table| unwanted.leaves_out(table))
        })
    }

    /// A subscription waits until the stream brings what it needs.
    pub(super) fn wait_for_rows(
        &mut self,
        request: SubscribeRequest,
        checked: Checked,
        reply: oneshot::Sender<Result<(), SubscribeRefusal>>,
    ) {
        let (tables, until) = (needs(&checked), Instant::now() + GRANT);
        let waiting = Waiting { request, checked, reply, tables, until, is_asked: false };
        self.interest.waiting.push(waiting);
        self.interest.differs();
        // What is to be done is done behind the command.
    }

    /// Subscribes those who have waited and lack nothing any more.
    pub(super) async fn admit_granted(&mut self) {
        if self.interest.waiting.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut recall: Option<Recall> = None;
        let is_asking = self.interest.recall.is_some();
        for mut waiting in std::mem::take(&mut self.interest.waiting) {
            if waiting.until > now && waiting.request.generation.is_current() && !waiting.reply.is_closed() {
                let mut waits = self.lacks(&waiting.checked) || is_asking && waiting.is_asked;
                if !waits
                    && !waiting.is_asked
                    && let Some(more) = self.to_recall(&waiting.request, &waiting.checked)
                {
                    waits = true;
                    if !is_asking {
                        waiting.is_asked = true;
                        let all = recall.get_or_insert_with(|| more.clone());
                        all.after = all.after.min(more.after);
                        all.tables.extend(more.tables);
                    }
                }
                if waits {
                    self.interest.waiting.push(waiting);
                    continue;
                }
            }
            let Waiting { request, checked, reply, .. } = waiting;
            let outcome = match request.generation.is_current() {
                true => self.subscribe(request, checked).await,
                false => Err(overtaken()),
            };
            // The caller may already be gone; the end of its channel is a command of its own.
            let _ = reply.send(outcome);
        }
        if let Some(mut recall) = recall {
            recall.tables.sort_unstable();
            recall.tables.dedup();
            self.ask_owner(&recall);
        }
    }

    /// Says what is wanted, if it is time and differs from what was said.
    pub(super) fn tell_interest(&mut self) {
        let now = Instant::now();
        if self.interest.look_at.is_none_or(|at| at > now) {
            return;
        }
        self.interest.look_at = None;
        // Who does not follow gets everything; what was said last comes first.
        let Some(running) = self.running.as_mut().filter(|running| running.session.can_leave_out()) else {
            return;
        };
        let mut needed = self.state.needed();
        needed.extend(self.interest.waiting.iter().flat_map(|waiting| &waiting.tables));
        let mut tables = self.state.may_be_left_out();
        tables.sort_unstable();
        let (mut wanted, mut unwanted) = (FxHashSet::default(), FxHashSet::default());
        let known = &mut self.interest.needed;
        known.retain(|table, at| needed.contains(table) || *at + LINGER > now);
        for table in tables {
            if needed.contains(&table) {
                known.insert(table, now);
            }
            let is_wanted = known.contains_key(&table);
            let (all, most) =
                if is_wanted { (&mut wanted, MAX_WANTED) } else { (&mut unwanted, MAX_UNWANTED) };
            if all.len() < most {
                all.insert(table);
            }
        }
        let lingers = known.iter().filter(|(table, _)| !needed.contains(table));
        self.interest.look_at = lingers.map(|(_, at)| *at + LINGER).min();
        self.stats.left_out.store(unwanted.len() as u64, Ordering::Relaxed);
        if !running.session.unwanted().is(&wanted, &unwanted) {
            running.session.want(wanted, unwanted);
        }
    }
}

/// The tables whose rows a request needs.
fn needs(checked: &Checked) -> Vec<Oid> {
    let live = checked.live.iter().flat_map(|found| &found.source.reads);
    checked.tables.iter().chain(live).copied().collect()
}
