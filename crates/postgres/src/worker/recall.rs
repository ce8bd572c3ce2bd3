//! When the server starts again, the journal is read from the log (resume 3).

use realtime_pgoutput::{Lsn, message::Message};
use tokio::time::{self, Duration, Instant};

use super::{Worker, past};
use crate::{
    DatabaseConfig,
    failpoints::{self, Point},
    replication::{self, Claim, Event, ReplicationError, Walsender},
    session::Session,
};

/// How long that may take: row changes wait meanwhile.
const LIMIT: Duration = Duration::from_secs(10);

/// How long another server is waited for that reads the same: several may have started at once. And how often it is looked
/// whether it still does.
const OTHERS_LIMIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

impl Worker {
    /// Reads into the journal what came before a session that has just begun, if this is the first since the server
    /// has started and the log is still there. False: the journal begins with the session.
    pub(super) async fn recall(&mut self, session: &Session, publications: &[String]) -> bool {
        if self.past.is_none() || self.since.is_some() || self.has_read {
            return false;
        }
        let begun = Instant::now();
        let until = session.start_position();
        let read = time::timeout(LIMIT, self.read_past(until, publications)).await;
        let is_read = match read {
            Ok(Ok(is_read)) => is_read,
            Ok(Err(error)) => {
                tracing::warn!(code = error.code(), %error, "cannot read the log of before the start; clients that come back may be told of a gap");
                false
            }
            Err(_) => {
                let code = "JournalNotRead";
                tracing::warn!(
                    code,
                    "the log of before the start is too long to be read; clients that come back may be told of a gap"
                );
                false
            }
        };
        self.state.forget_relations();
        if is_read {
            let (duration_ms, changes) = (begun.elapsed().as_millis(), self.state.kept_changes());
            tracing::info!(duration_ms, changes, "the journal has what came before the start");
        }
        is_read
    }

    /// The slot that has stayed behind, read from where it begins, if it is there and begins before a position. While another
    /// server reads it, or moves it on, that is waited for.
    async fn past(&self, until: Lsn, publications: &[String]) -> Result<Option<Walsender>, ReplicationError> {
        let mut config = self.config.clone();
        config.slot_name = past::name(&config.slot_name);
        let limit = Instant::now() + OTHERS_LIMIT;
        loop {
            let found = past::look(&self.pool, &self.config.slot_name).await;
            let found = found.map_err(|error| ReplicationError::Preparation(error.to_string()))?;
            let Some(found) = found else { return Ok(None) };
            // Nobody moves it back: then it is of no use, whoever reads it.
            if found.begins.is_none_or(|begins| begins > until) {
                return Ok(None);
            }
            let may_wait = Instant::now() < limit;
            if !found.is_read {
                match self.begin_reading_past(&config, until, publications).await {
                    // Somebody else was faster.
                    Err(error) if error.is_slot_in_use() && may_wait => {}
                    outcome => return outcome,
                }
            } else if !may_wait {
                return Ok(None);
            }
            time::sleep(LOOK).await;
        }
    }

    async fn begin_reading_past(
        &self,
        config: &DatabaseConfig,
        until: Lsn,
        publications: &[String],
    ) -> Result<Option<Walsender>, ReplicationError> {
        let walsender =
            Walsender::connect(config, publications, false, Claim::None, &self.unfinished).await?;
        let Some(mut walsender) = walsender.filter(|walsender| walsender.start_position() <= until) else {
            return Ok(None);
        };
        walsender.start().await?;
        Ok(Some(walsender))
    }

    /// Reads the slot that has stayed behind up to a position. False if there is none.
    async fn read_past(&mut self, until: Lsn, publications: &[String]) -> Result<bool, ReplicationError> {
        let Some(mut walsender) = self.past(until, publications).await? else { return Ok(false) };
        if failpoints::reach(Point::PastRead).await {
            return Ok(false);
        }
        self.state.begin_past(walsender.start_position());
        let mut decoder = replication::decoder();
        loop {
            match walsender.next().await?.decode(&mut decoder)? {
                Event::Idle(position) if position >= until && !self.state.is_reading() => break,
                Event::Idle(_) | Event::Skipped(..) | Event::Granted => {}
                // The session brings it.
                Event::Message(Message::Begin { final_lsn, .. }, _) if final_lsn >= until => break,
                Event::Message(message, bytes) => {
                    let end = match &message {
                        Message::Commit { end_lsn, .. } => *end_lsn,
                        _ => Lsn(0),
                    };
                    self.state.recall(message, bytes).await;
                    if end >= until {
                        break;
                    }
                }
            }
        }
        walsender.stop().await;
        Ok(true)
    }

    /// When the slot that stays behind is to be moved on.
    pub(super) fn past_at(&self) -> Option<Instant> {
        let reads = self.running.as_ref().is_some_and(|running| running.session.slot().is_some());
        self.past.as_ref().filter(|_| reads).map(past::Past::move_at)
    }

    /// Moves it on, if it is time.
    pub(super) fn keep_past(&mut self) {
        let Some(running) = self.running.as_ref().filter(|running| running.session.slot().is_some()) else {
            return;
        };
        if let Some(past) = &mut self.past {
            past.look(&self.pool, running.lag.confirmed_position());
        }
    }
}
