//! What a channel watches in a table.

use realtime_changes::Attachment;

use crate::Notice;

/// What a channel watches in a table.
#[derive(Debug, Default)]
pub(super) struct Bound {
    pub(super) attachments: Vec<Attachment>,
    /// Subscriptions that the table does not allow, and what the channel is told.
    pub(super) refused: Vec<(u32, Notice)>,
}
