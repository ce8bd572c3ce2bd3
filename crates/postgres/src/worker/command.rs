//! Requests to a worker.

use bytes::Bytes;
use realtime_changes::{ChannelId, SubscribeRefusal};
use tokio::sync::oneshot;

use super::state::LiveResult;
use crate::{Recall, SubscribeRequest, subscribe::Checked, visibility::compiled::Watching};

/// A request to the worker.
pub(crate) enum Command {
    /// Subscribe a channel whose parameters were checked.
    Subscribe {
        request: SubscribeRequest,
        checked: Checked,
        reply: oneshot::Sender<Result<(), SubscribeRefusal>>,
    },
    /// Remember a channel whose tables are not there, in place of what it had.
    Wait(SubscribeRequest, oneshot::Sender<()>),
    /// A channel was refused what it had: its rows leave.
    Refuse(SubscribeRequest, oneshot::Sender<()>),
    /// End a channel's subscriptions. Its generations have ended before.
    Unsubscribe(ChannelId),
    /// Tell which tables are watched with which role.
    Watching(oneshot::Sender<Watching>),
    /// Tell what is kept of some tables, for another node.
    Recall(Recall, oneshot::Sender<Bytes>),
    /// Tell which live results are kept.
    LiveResults(oneshot::Sender<Vec<LiveResult>>),
    /// End the session, because an operator says so.
    EndSession(oneshot::Sender<()>),
}
