//! What is done when the database cannot be asked.

use tokio::time::Duration;

use crate::foreign::NoAnswer;

/// Pause before a database that could not be asked is asked again. Rows must not pass unchecked.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Why the database could not be asked.
#[derive(Debug, thiserror::Error)]
pub(in crate::worker) enum Failed {
    #[error(transparent)]
    Asking(NoAnswer),
    /// A test wants it.
    #[error("A fail point was reached")]
    Injected,
}

impl<E: Into<NoAnswer>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Asking(error.into())
    }
}

impl Failed {
    /// What a client is told: the words of the database are for the log.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Asking(error) => error.told(),
            Self::Injected => self.to_string(),
        }
    }
}
