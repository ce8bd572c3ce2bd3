//! A joined channel of a socket.

use std::{sync::Arc, time::Duration};

use realtime_auth::{Claims, SKEW};
use realtime_changes::SubscriptionSpec;
use realtime_hub::{Holding, Membership};
use realtime_protocol::Ref;
use realtime_tenants::CallWindow;
use tokio::time::Instant;

use super::{Waiting, access_token::Renewal, merged::Merged, policies::Policies, ready::Ready, watch::Watch};
use crate::routes::Route;

/// How often a token is verified again while it lasts (protocol 8.5).
const RECHECK: Duration = Duration::from_secs(300);

/// A verified token. Shared by the channels that use it.
#[derive(Debug)]
pub struct Token {
    /// As the client sent it.
    pub text: Box<str>,
    /// Its `role` claim.
    pub role: Arc<str>,
    /// All claims, as JSON.
    pub claims: Arc<str>,
    /// Expiry in Unix seconds.
    pub exp: i64,
}

impl Token {
    /// Keeps what channels need of a verified token.
    #[must_use]
    pub fn new(text: &str, claims: &Claims) -> Self {
        Self {
            text: text.into(),
            role: claims.role().into(),
            claims: claims.json().into(),
            exp: claims.exp(),
        }
    }

    /// That of a client that nobody asked for one. It verifies nowhere.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { text: "".into(), role: "".into(), claims: "{}".into(), exp: i64::MAX }
    }

    /// When it has to be verified again: at its expiry, and at the latest after [`RECHECK`]. One that came after its expiry
    /// lasts as long as clocks may differ.
    pub(super) fn recheck_at(&self, unix_seconds: u64) -> Instant {
        let exp = u64::try_from(self.exp).unwrap_or(0);
        let end = if exp > unix_seconds { exp } else { exp.saturating_add(SKEW) };
        let left = end.saturating_sub(unix_seconds);
        Instant::now() + RECHECK.min(Duration::from_secs(left))
    }
}

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
