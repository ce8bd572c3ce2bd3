//! How far the set-up of a database is, which comes with its first use.

use tokio::{
    sync::watch,
    time::{self, Duration},
};

use crate::DatabaseConfig;

/// How long anybody waits for the set-up. It goes on by itself.
const LIMIT: Duration = Duration::from_secs(10);

/// How far the set-up of a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preparation {
    /// The database has not been reached yet.
    Due,
    /// Under way.
    Running,
    /// Over, whatever came of it; or there is to be none.
    Over,
}

impl Preparation {
    /// Before the first use.
    pub(crate) fn first(config: &DatabaseConfig) -> Self {
        if config.prepare.is_some() { Self::Due } else { Self::Over }
    }
}

/// Returns when no set-up is under way, or it has taken too long. Cancel safe.
pub(crate) async fn over(preparation: &mut watch::Receiver<Preparation>) {
    let over = preparation.wait_for(|preparation| *preparation != Preparation::Running);
    // An error means that the handle is gone, with all that could be waited for.
    let _ = time::timeout(LIMIT, over).await;
}
