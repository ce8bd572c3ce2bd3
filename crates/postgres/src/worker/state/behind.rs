//! What channels are told in the order of their changes, also of those that wait.

use realtime_changes::ChannelId;
use realtime_pgoutput::Position;

use crate::Notice;

/// What a channel is told behind changes that wait: when the last lane that holds it has come so far.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) channel: ChannelId,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Notice(Notice),
    /// It has got all that it had missed, up to here.
    CaughtUp(Position),
}
