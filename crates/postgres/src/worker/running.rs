//! A session that runs, and how far it has come.

use realtime_pgoutput::Lsn;
use tokio::time::{Duration, Instant};

use super::lag::LagWatch;
use crate::{
    failpoints::{self, Point},
    session::Session,
};

/// How soon after a commit, at the earliest, the publication and the rights of roles are looked at again.
pub(super) const REFRESH: Duration = Duration::from_secs(1);

/// Pause after a lost or refused session: doubles from the first to the second, with full jitter.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// A session and how far it has come.
pub(super) struct Running {
    pub(super) session: Session,
    /// The publications that it reads.
    pub(super) publications: Vec<String>,
    pub(super) lag: LagWatch,
    /// End of the last transaction that came whole.
    pub(super) reached: Lsn,
    /// Up to where commits have been seen to happen, of whatever kind.
    pub(super) log_end: Lsn,
    /// When the catalog is looked at again, because there were commits since the last time.
    pub(super) refresh_at: Option<Instant>,
    pub(super) refreshed: Instant,
    pub(super) begun: Instant,
}

impl Running {
    pub(super) fn new(session: Session, publications: Vec<String>, lag: LagWatch) -> Self {
        let (now, reached) = (Instant::now(), session.start_position());
        Self {
            session,
            publications,
            lag,
            reached,
            log_end: Lsn(0),
            refresh_at: Some(now + REFRESH),
            refreshed: now,
            begun: now,
        }
    }

    pub(super) async fn confirm(&self, position: Lsn) {
        if failpoints::reach(Point::PositionConfirmed).await {
            return;
        }
        self.session.confirm(position);
        self.lag.confirmed(position);
    }

    /// The log has grown: perhaps by something that it does not tell us.
    pub(super) fn grown(&mut self, position: Lsn) {
        if position > self.log_end {
            self.log_end = position;
            self.lag.grown(position);
            self.refresh_at.get_or_insert(self.refreshed + REFRESH);
        }
    }
}
