//! A node that reads a temporary slot for itself, until it can follow, or has to read for all.

use std::sync::Arc;

use realtime_pgoutput::Lsn;
use tokio::{
    sync::oneshot,
    time::{Duration, Instant},
};

use super::about::about;
use crate::{
    DatabaseConfig, Following, Owning, Sharing,
    replication::{Claim, Unfinished, Walsender},
};

/// How often a node that reads for itself looks whether it can follow, or has to read for all.
const LOOK: Duration = Duration::from_secs(2);

/// How often it looks while it is not connected to the others: then it only asks the database for the lock.
const LOOK_ALONE: Duration = Duration::from_secs(5);

/// How often it is seen whether it is time for that, and what became of it.
pub(super) const GLANCE: Duration = Duration::from_millis(500);

/// A node that reads for itself because it could not follow.
pub(super) struct Solo {
    sharing: Arc<dyn Sharing>,
    config: Arc<DatabaseConfig>,
    publications: Arc<[String]>,
    unfinished: Unfinished,
    look_at: Instant,
    /// An attempt to follow or to own.
    attempt: Option<oneshot::Receiver<Option<Next>>>,
    /// The stream that is gone over to when this one has come so far.
    next: Option<Next>,
}

/// What a node that reads for itself goes over to.
pub(super) enum Next {
    /// The stream of another node.
    Follow(Box<dyn Following>),
    /// A stream for all.
    Own(Box<Walsender>, Box<dyn Owning>),
}

impl Next {
    /// Everything before this position is not in it.
    fn position(&self) -> u64 {
        match self {
            Self::Follow(following) => following.position(),
            Self::Own(walsender, _) => walsender.start_position().0,
        }
    }

    /// Follows whoever reads for all; if nobody does, this node begins to.
    async fn find(
        sharing: &dyn Sharing,
        config: &DatabaseConfig,
        publications: &[String],
        unfinished: &Unfinished,
    ) -> Option<Self> {
        if sharing.is_connected()
            && let Ok(following) = sharing.follow().await
        {
            return Some(Self::Follow(following));
        }
        let claim = Claim::Lock(sharing.lock_name());
        let mut walsender =
            Walsender::connect(config, publications, false, claim, unfinished).await.ok()??;
        let owning = sharing.own(walsender.start_position().0, about(publications));
        walsender.start().await.ok()?;
        Some(Self::Own(Box::new(walsender), owning))
    }
}

impl Solo {
    pub(super) fn new(
        sharing: &Arc<dyn Sharing>,
        config: &DatabaseConfig,
        publications: &[String],
        unfinished: &Unfinished,
    ) -> Self {
        Self {
            sharing: Arc::clone(sharing),
            config: Arc::new(config.clone()),
            publications: publications.into(),
            unfinished: unfinished.clone(),
            look_at: Instant::now() + LOOK,
            attempt: None,
            next: None,
        }
    }

    pub(super) fn sharing(&self) -> &Arc<dyn Sharing> {
        &self.sharing
    }

    /// What to go over to, for one who has come so far and is between two transactions.
    pub(super) fn take_next(&mut self, reached: Lsn) -> Option<Next> {
        self.next.take_if(|next| next.position() <= reached.0)
    }

    /// Looks now and then whether another node can be followed, or nobody reads for all.
    pub(super) fn look(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            match attempt.try_recv() {
                Ok(next) => {
                    self.next = next;
                    self.attempt = None;
                }
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => self.attempt = None,
            }
        } else if self.next.is_none() && self.look_at <= Instant::now() {
            let pause = if self.sharing.is_connected() { LOOK } else { LOOK_ALONE };
            // Not all at the same time.
            self.look_at = Instant::now() + pause.mul_f64(rand::random_range(0.5..1.5));
            let (done, attempt) = oneshot::channel();
            self.attempt = Some(attempt);
            let (sharing, config) = (Arc::clone(&self.sharing), Arc::clone(&self.config));
            let publications = Arc::clone(&self.publications);
            let unfinished = self.unfinished.clone();
            tokio::spawn(async move {
                let _ = done.send(Next::find(&*sharing, &config, &publications, &unfinished).await);
            });
        }
    }
}
