//! A joined channel of a socket.

use std::sync::Arc;

use realtime_changes::SubscriptionSpec;
use realtime_hub::{Holding, Membership};
use realtime_protocol::Ref;
use realtime_tenants::CallWindow;
use tokio::time::Instant;

use super::{Waiting, access_token::Renewal, merged::Merged, policies::Policies, ready::Ready, watch::Watch};
use crate::{routes::Route, token::Token};

/// A joined channel. Dropping it leaves its room and ends what it watches in the database.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) topic: Arc<str>,
    /// The join message's join_ref, null if it had none: `phx_close` and `phx_error` carry it.
    pub(super) raw_join_ref: Ref,
    /// The join_ref of the frames the channel pushes: the join's ref where it had no join_ref.
    pub(super) join_ref: Ref,
    pub(super) ack: bool,
    pub(super) to_self: bool,
    pub(super) presence_key: Box<str>,
    /// Its presence messages of late.
    pub(super) presence_calls: CallWindow,
    /// What it said last of its presence, while it may not say more.
    pub(super) merged: Option<Box<Merged>>,
    pub(super) token: Arc<Token>,
    pub(super) recheck_at: Instant,
    /// Tokens that follow it.
    pub(super) renewal: Renewal,
    pub(super) membership: Membership,
    /// Whether presence was asked for when it was joined.
    pub(super) presence: bool,
    /// What is known of its permissions. `None` for public channels, which need none.
    pub(super) policies: Option<Box<Policies>>,
    /// What it was told of broadcasts from the database.
    pub(super) ready: Ready,
    /// What it wants to watch in the database. Empty for most channels.
    pub(super) subscriptions: Vec<(u32, Arc<SubscriptionSpec>)>,
    /// Where its row changes go, if it wants any.
    pub(super) route: Option<Arc<Route>>,
    /// The right to them. `None` while nothing is watched, or when the database has refused it.
    pub(super) watch: Option<Watch>,
    /// Whether it was ever told that it is subscribed.
    pub(super) subscribed: bool,
    /// What it keeps of a large join.
    pub(super) _holding: Option<Holding>,
    /// When a subscription that failed for a passing reason is tried again.
    pub(super) retry_at: Option<Instant>,
    /// Whether it was told what became of the subscription that its join asked for.
    pub(super) answered: bool,
    /// Counts subscription attempts: the answer to an earlier one means nothing any more.
    pub(super) attempt: u32,
}

impl Channel {
    /// Where what comes on the topic has to wait, while it must.
    pub(super) fn waiting(&mut self) -> Option<&mut Waiting> {
        self.policies.as_mut().filter(|policies| policies.is_asking()).map(|policies| &mut policies.waiting)
    }

    /// The next moment at which something has to be done for it.
    pub(super) fn deadline(&self) -> Instant {
        let merged = self.merged.as_ref().map(|merged| merged.at);
        let others =
            [self.retry_at, self.ready.deadline(), merged, self.renewal.former_until(), self.renewal_at()];
        others.into_iter().flatten().fold(self.recheck_at, Instant::min)
    }
}

/// What follows `realtime:`, if the topic begins so.
pub(super) fn sub_topic(topic: &str) -> Option<&str> {
    topic.strip_prefix("realtime:")
}
