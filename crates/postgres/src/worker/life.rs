//! The life of a worker's session: how it begins, ends, breaks and comes again, and what channels are told.

use std::sync::{Arc, atomic::Ordering};

use rand::Rng as _;
use realtime_pgoutput::Lsn;
use tokio::time::{Duration, Instant};

use super::{
    Worker,
    lag::LagWatch,
    running::{RETRY, Running},
    state::Refreshed,
};
use crate::{
    Notice, pool, prepare, publication,
    replication::{APPLICATION_NAME, ReplicationError},
    session::{self, Begin, Session},
};

/// How often a publication without tables is looked for while somebody wants it.
const LOOK_FOR_TABLES: Duration = Duration::from_secs(2);

/// How often tables that somebody waits for are looked for while there is no session that would tell of commits.
const LOOK_FOR_VAIN: Duration = Duration::from_secs(30);

/// Attempts at a permanent slot that another connection reads; then that connection is ended, if it is one of ours
/// that the server has not noticed to be dead.
const SLOT_ATTEMPTS: u32 = 3;

/// What channels are told when their stream broke.
const GAP: &str = "The connection to the database was lost: changes may have been missed";

/// What channels are told when the slot was made again behind a change.
const NOT_DECODABLE: &str = "The database could not decode a change, the replication slot was begun anew behind it: changes have been missed";

/// What channels are told when the slot was given up.
const TOO_FAR_BEHIND: &str =
    "Too far behind the database, the replication slot was given up: changes have been missed";

impl Worker {
    /// Ends the session, if there is one; then the descriptions of the walsender no longer count.
    pub(super) async fn stop_session(&mut self) {
        self.contact.replicates(None);
        if let Some(running) = self.running.take() {
            self.since = Some(running.lag.confirmed_position());
            self.attendees.ended(self.reign, self.config.durable_slot && !self.anew);
            self.stats.sessions_ended.add(1);
            running.session.stop().await;
        }
        self.state.forget_relations();
    }

    async fn connect(&mut self) -> Result<(), ReplicationError> {
        match self.start().await {
            Ok((session, publications)) => {
                if !self.recall(&session, &publications).await {
                    self.state.begin_history(session.start_position(), session.is_resumed()).await;
                }
                self.state.begin_reading(session.start_position(), session.is_resumed()).await;
                self.run_session(session, publications);
                Ok(())
            }
            Err(ReplicationError::NothingPublished) => {
                self.look_later();
                Err(ReplicationError::NothingPublished)
            }
            Err(error) => {
                let slot = &*self.config.slot_name;
                tracing::warn!(code = error.code(), %error, slot, "cannot start a replication session; retrying");
                self.stats.session_failures.add(1);
                if error.is_slot_in_use() && self.backoff.failures() >= SLOT_ATTEMPTS {
                    self.end_other_reader().await;
                }
                self.anew |= self.config.durable_slot && error.is_lasting();
                self.back_off();
                Err(error)
            }
        }
    }

    /// Takes a session that has started.
    fn run_session(&mut self, session: Session, publications: Vec<String>) {
        tracing::info!(
            database = self.config.name,
            resumed = session.is_resumed(),
            reader = session.reader().as_str(),
            "replication session started"
        );
        self.stats.sessions.fetch_add(1, Ordering::Relaxed);
        self.contact.made();
        self.contact.replicates(Some(session.reader()));
        self.begin_from(&session);
        self.state.reads(&publications);
        let limit = self.config.max_lag_bytes;
        let lag = LagWatch::start(self.pool.clone(), Arc::clone(&self.stats), limit, &self.tasks);
        let start = session.start_position();
        lag.confirmed(start);
        lag.reads(session.slot());
        let arrives = publications.iter().any(|name| name == publication::NAME);
        self.attendees.begun(self.reign, arrives, session.is_resumed());
        self.running = Some(Running::new(session, publications, lag));
        self.interest.may_differ();
        self.anew = false;
    }

    /// A session begins: what comes again is known, what cannot come is told.
    fn begin_from(&mut self, session: &Session) {
        self.state.start(session.is_resumed(), session.start_position());
        // Other nodes have gone on reading.
        let alone = self.config.sharing.as_ref().is_none_or(|sharing| !sharing.has_others());
        let first = self.config.durable_slot && self.since.is_none() && alone;
        if first && (session.is_resumed() || self.anew) {
            self.state.comes_back(self.resume_at, !session.is_resumed());
        }
        if !session.is_resumed() {
            self.furthest = session.start_position();
            self.streams.begin_anew();
        }
    }

    /// Everything up to a position has come.
    pub(super) fn comes_further(&mut self, position: Lsn) {
        if position > self.furthest {
            self.furthest = position;
            self.backoff.succeeded();
        }
    }

    /// A session, and the publications that it reads.
    async fn start(&mut self) -> Result<(Session, Vec<String>), ReplicationError> {
        // A publication that comes later would need another session.
        prepare::over(&mut self.preparation).await;
        if let Err(error) = self.state.make_policy_publication().await {
            tracing::debug!(%error, "cannot make the publication of tables that policies read");
        }
        let refreshed = self.state.refresh(None).await;
        let refreshed = refreshed.map_err(|error| ReplicationError::Preparation(error.to_string()))?;
        self.unpublished = refreshed == Refreshed::Unpublished;
        let publications = self.state.publications_to_read().await;
        let publications = publications.map_err(|error| ReplicationError::Preparation(error.to_string()))?;
        if self.unpublished && !self.hears() {
            return Err(ReplicationError::NothingPublished);
        }
        // A session that is lost later goes on at once.
        let not_before = (!self.has_read).then_some(self.resume_at);
        let begin = Begin { anew: self.anew, since: self.since, not_before };
        Session::start(&self.config, &publications, begin, &self.unfinished).await
    }

    /// Whether broadcasts are published, and somebody is there for them.
    pub(super) fn hears(&self) -> bool {
        self.attendees.is_any() && self.state.has_messages() == Some(true)
    }

    /// Ends a connection of ours that still holds the slot.
    async fn end_other_reader(&self) {
        const SQL: &str = "select pg_catalog.pg_terminate_backend(a.pid)
            from pg_catalog.pg_replication_slots s
            join pg_catalog.pg_stat_activity a on a.pid = s.active_pid
            where s.slot_name = $1 and a.application_name = $2";
        let ended = async {
            let client = pool::get(&self.pool).await.map_err(|error| error.to_string())?;
            let slot = &self.config.slot_name;
            client.execute(SQL, &[slot, &APPLICATION_NAME]).await.map_err(|error| pool::describe(&error))
        };
        match ended.await {
            Ok(0) => {}
            Ok(_) => {
                let slot = &*self.config.slot_name;
                tracing::warn!(
                    code = "ReplicationSlotBeingUsed",
                    slot,
                    "ended the connection that held the slot"
                )
            }
            Err(error) => {
                let slot = &*self.config.slot_name;
                tracing::warn!(code = "PgStatActivityQueryFailed", %error, slot, "cannot end the connection that holds the slot");
            }
        }
    }

    pub(super) fn back_off(&mut self) {
        let longest = session::longest_pause(&self.config, RETRY.1);
        self.retry_at =
            Instant::now() + self.backoff.failed_within(longest, rand::rng().random_range(0.1..1.0));
    }

    /// There is nothing to connect for: looks again in a while.
    pub(super) fn look_later(&mut self) {
        let pause = if self.unpublished { LOOK_FOR_TABLES } else { LOOK_FOR_VAIN };
        self.retry_at = Instant::now() + pause;
    }

    /// The session broke: what is known of relations no longer counts. Unless a permanent slot is read, which goes on where it
    /// ended, everybody is told that there is a gap.
    pub(super) fn lost(&mut self, error: &ReplicationError) {
        let code = match error {
            ReplicationError::Silence(_) => error.code(),
            _ => "ReplicationConnectionDown",
        };
        let slot = &*self.config.slot_name;
        tracing::warn!(code, %error, slot, "replication session lost; retrying");
        self.contact.lost();
        self.stats.sessions_lost.add(1);
        self.contact.replicates(None);
        if let Some(running) = self.running.take() {
            self.since = Some(running.lag.confirmed_position());
            if running.begun.elapsed() >= RETRY.1 {
                self.backoff.succeeded();
            }
        }
        self.state.forget_relations();
        let stuck = self.config.durable_slot && self.stuck.failed(error, self.furthest);
        self.anew |= stuck || (self.config.durable_slot && error.is_lasting());
        self.attendees.ended(self.reign, self.config.durable_slot && !self.anew);
        if !self.config.durable_slot || self.anew {
            let (code, text) = match stuck {
                true => ("ChangeNotDecodable", NOT_DECODABLE),
                false => ("ReplicationConnectionDown", GAP),
            };
            self.state.tell_all(&Notice::gap(code, text));
            self.gap_told = true;
        }
        self.back_off();
    }

    /// The slot keeps more of the log than it may.
    pub(super) async fn too_far_behind(&mut self) {
        let (slot, max_bytes) = (&*self.config.slot_name, self.config.max_lag_bytes);
        tracing::error!(
            code = "ReplicationSlotLagTooHigh",
            slot,
            max_bytes,
            "replication slot given up: too far behind"
        );
        self.stop_session().await;
        self.state.tell_all(&Notice::gap("ReplicationSlotLagTooHigh", TOO_FAR_BEHIND));
        self.gap_told = true;
        self.anew = self.config.durable_slot;
        self.retry_at = Instant::now();
    }

    /// An operator ends the session; whoever needs one gets another one at once.
    pub(super) async fn end_by_order(&mut self) {
        if self.running.is_none() {
            return;
        }
        tracing::info!(database = self.config.name, "replication session ended by an operator");
        self.stop_session().await;
        if !self.config.durable_slot {
            self.state.tell_all(&Notice::gap("ReplicationConnectionDown", GAP));
            self.gap_told = true;
        }
        self.retry_at = Instant::now();
    }

    /// The publication has no tables any more. The channels were told.
    pub(super) async fn unpublished(&mut self) {
        tracing::warn!(
            code = "RealtimeDisabledForConfiguration",
            publication = &*self.config.publication,
            "replication session ended: the publication has no tables"
        );
        self.stop_session().await;
        self.state.live_unpublished();
        self.unpublished = true;
        // A permanent slot could not be read past the time without a publication.
        self.anew = self.config.durable_slot;
        self.look_later();
    }

    /// A session reads the publications that existed when it began: others need another one. What is committed in
    /// between is missing, as the channels are told whose tables were published already.
    pub(super) async fn restart(&mut self) {
        tracing::info!(database = self.config.name, "replication session ended: publications came or went");
        let main = &self.config.publication;
        let reads = self.running.as_ref().is_some_and(|running| running.publications.contains(main));
        let exists = self.state.publications().is_some_and(|names| names.contains(main));
        self.unpublished = !(reads && exists);
        self.stop_session().await;
        // Refused attempts are logged where they fail.
        let _ = self.resume().await;
    }

    /// Tries to start a session, or looks for what somebody waits for.
    pub(super) async fn come_back(&mut self) {
        if self.state.is_empty() && !self.config.durable_slot {
            prepare::over(&mut self.preparation).await;
            let refreshed = self.state.refresh(None).await;
            if refreshed.is_err() && self.attendees.is_any() {
                return self.back_off();
            }
            self.unpublished = matches!(refreshed, Ok(Refreshed::Unpublished));
            if !self.state.can_revive() && !self.hears() {
                return self.look_later();
            }
        }
        // Refused attempts are logged where they fail.
        let _ = self.resume().await;
    }

    /// Starts a session and tells those who have waited for it what became of their stream.
    pub(super) async fn resume(&mut self) -> Result<(), ReplicationError> {
        let told = self.gap_told || self.unpublished;
        self.connect().await?;
        let Some(running) = &mut self.running else { return Ok(()) };
        if self.state.has_vain() {
            running.refresh_at = Some(Instant::now());
        }
        let resumed = running.session.is_resumed();
        // Nothing is missing from before the publication existed.
        if !resumed && !told {
            self.state.tell_all(&Notice::gap("ReplicationConnectionDown", GAP));
        }
        if !resumed || told {
            self.state.confirm_all();
        }
        self.gap_told = false;
        Ok(())
    }

    pub(super) async fn end_idle(&mut self) {
        tracing::info!(database = self.config.name, "replication session ended: nobody needs it");
        self.stop_session().await;
        self.look_later();
    }
}
