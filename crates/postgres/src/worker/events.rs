//! What a worker does when the log brings something, or when something has become due.

use realtime_changes::Action;
use realtime_pgoutput::{Lsn, message::Message};
use tokio::time::Instant;

use super::{Worker, running::REFRESH, state::Refreshed};
use crate::replication::Event;

impl Worker {
    /// Does what has become due.
    pub(super) async fn wake(&mut self) {
        let now = Instant::now();
        self.state.tell_dropped(now);
        if self.running.is_some() {
            self.replay().await;
        }
        if self.streams.wake_at().is_some_and(|at| at <= now) {
            self.streams.looked();
            if !self.state.is_due() && !self.state.is_reading() {
                self.confirm_reached().await;
            }
        }
        let Some(running) = &mut self.running else {
            if self.retry_at <= now {
                self.come_back().await;
            }
            return;
        };
        if self.idle_since.is_some_and(|since| since + self.config.idle_stop <= now) {
            self.idle_since = None;
            if !self.wants_session() {
                self.end_idle().await;
            } else if self.state.is_empty() && !self.may_hear() {
                // Others follow, and nobody tells us when they leave.
                self.idle_since = Some(now);
            }
            return;
        }
        if running.refresh_at.is_some_and(|at| at <= now) {
            self.refresh().await;
        }
        self.keep_past();
    }

    /// Looks at what the log does not tell.
    async fn refresh(&mut self) {
        let Some(running) = &mut self.running else { return };
        running.refresh_at = None;
        match self.state.refresh(Some(&running.publications)).await {
            Ok(Refreshed::Differs) => return self.restart().await,
            Ok(Refreshed::Unpublished) if !self.hears() => return self.unpublished().await,
            Ok(Refreshed::Published | Refreshed::Unpublished) => self.interest.may_differ(),
            Err(error) => {
                let publication = &*self.config.publication;
                tracing::warn!(code = "CheckOidsError", %error, publication, "cannot read the publication; retrying");
                // Nothing was seen, and no further commit need follow.
                if let Some(running) = &mut self.running {
                    running.refresh_at = Some(Instant::now() + REFRESH);
                }
            }
        }
        self.confirm_reached().await;
        let is_between = self.state.is_between();
        if let Some(running) = &mut self.running {
            running.refreshed = Instant::now();
            if is_between {
                running.refresh_at.get_or_insert(running.refreshed + REFRESH);
            }
        }
    }

    /// Takes an event that is there now.
    pub(super) async fn event(&mut self, event: Event, now: Instant) {
        self.has_read = true;
        if let Some(running) = &mut self.running
            && let Some(publications) = running.session.take_others()
        {
            self.state.reads(&publications);
            running.publications = publications;
        }
        let (message, bytes) = match event {
            Event::Idle(position) => {
                // It may have gone over to another node's stream meanwhile.
                let reader = self.running.as_ref().map(|running| running.session.reader());
                self.contact.replicates(reader);
                if let Some(running) = &self.running {
                    running.lag.reads(running.session.slot());
                }
                return self.idle(position).await;
            }
            Event::Message(message, bytes) => (message, bytes),
            Event::Skipped(relation, rows) => {
                if self.state.skipped(relation, rows, now).await {
                    self.interest.differs();
                }
                return;
            }
            Event::Granted => return self.interest.differs(),
        };
        if let Some(running) = &self.running {
            running.lag.caught_up(false);
        }
        self.state.record(&message, bytes, now);
        match message {
            Message::Begin { commit_time, final_lsn, xid } => {
                if let Some(past) = &mut self.past {
                    past.passes(final_lsn, commit_time);
                }
                self.state.begin(xid, final_lsn, commit_time);
            }
            Message::Commit { end_lsn, .. } => {
                if let Some(running) = &mut self.running {
                    running.reached = end_lsn;
                    running.grown(end_lsn);
                }
                self.comes_further(end_lsn);
                self.state.settle().await;
                self.state.conclude(end_lsn).await;
                self.state.commit_live().await;
                if self.state.commit() {
                    self.confirm_reached().await;
                }
                self.state.has_read(end_lsn);
                self.state.prune_history();
                let waits = self.state.is_due();
                self.state.replay_beside_log().await;
                self.handed_over(waits).await;
            }
            Message::Relation { relation, .. } => {
                self.interest.may_differ();
                self.state.relation(relation).await;
            }
            Message::Insert { relation, new, .. } => {
                self.state.broadcast(relation, &new).await;
                self.state.change(Action::Insert, relation, Some(new), None).await;
            }
            Message::Update { relation, old, new, .. } => {
                self.state.change(Action::Update, relation, Some(new), old).await;
            }
            Message::Delete { relation, old, .. } => {
                self.state.change(Action::Delete, relation, None, Some(old)).await;
            }
            Message::Truncate { relations, .. } => self.state.truncated(&relations).await,
            // The others carry nothing for subscribers.
            _ => {}
        }
    }

    /// The server has read its log up to a position. In the middle of a transaction that says nothing. It says so after
    /// every transaction when there is no other: what waits goes on waiting for company.
    async fn idle(&mut self, position: Lsn) {
        if self.state.is_reading() {
            return;
        }
        let Some(running) = &mut self.running else { return };
        running.reached = running.reached.max(position);
        running.grown(position);
        if !self.state.is_due() {
            running.lag.caught_up(true);
            self.confirm_reached().await;
        }
        self.comes_further(position);
        self.state.has_read(position);
        self.state.conclude(position).await;
    }

    /// Reads the journal further for those who have come back.
    pub(super) async fn replay(&mut self) {
        let waits = self.state.is_due();
        self.state.replay().await;
        self.handed_over(waits).await;
    }

    /// What waited may have been handed over meanwhile.
    async fn handed_over(&mut self, waited: bool) {
        if waited && !self.state.is_due() && !self.state.is_reading() {
            self.confirm_reached().await;
        }
    }

    /// Everything up to the last transaction that came whole was handed over.
    pub(super) async fn confirm_reached(&mut self) {
        let Some(reached) = self.running.as_ref().map(|running| running.reached) else { return };
        if self.tell_streams(reached) {
            return;
        }
        if let Some(running) = &self.running {
            running.confirm(reached).await;
        }
    }
}
