//! Why it cannot go on.

/// Why it cannot go on. `Display` is for the person who has started it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WatchError(pub(super) String);
