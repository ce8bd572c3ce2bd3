//! Whether a client may join: the checks that need no database, in the order of protocol 4.6.

use std::sync::Arc;

use realtime_auth::AuthError;
use realtime_codes::ErrorCode;
use realtime_postgres::ReplayError;
use realtime_protocol::{
    ClientMessage, JoinPayload, JoinPayloadError, JoinRefusal, MAX_REF_BYTES, MAX_TOPIC_BYTES,
};
use realtime_tenants::{Flood, UserSlot};
use tokio::time::{Duration, Instant};

use super::joins::Joins;
use crate::{
    client::{Client, sub_topic},
    first_generation::{self, Legacy},
    history::Asked,
    token::Token,
};

/// Close code of a client that keeps sending far more than its tenant allows: "policy violation" (RFC 6455 7.4.1).
pub(super) const CLOSE_FLOOD: u16 = 1008;

/// How many times the limit of events per second a client may send in a second, for some seconds.
const FLOOD_FACTOR: u32 = 10;

/// What a client has used of its limits.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// Counts the client as a user, from its first join.
    user: Option<UserSlot>,
    /// Joins that the client has used.
    joins: Joins,
    /// Whether a join ever succeeded. From then on the client keeps its place as a user.
    joined_once: bool,
    /// Since when there has been no channel, once a join was tried.
    abandoned_since: Option<Instant>,
    /// The node is stopping: nobody can join any more.
    shutting_down: bool,
    /// Messages that the client sends in each second.
    flood: Flood,
}

/// Refusal of a socket that joins too often. It is not closed: a new socket would begin with nothing counted.
fn too_many_of_one() -> JoinRefusal {
    let refusal = JoinRefusal::ClientJoinRateLimitReached;
    JoinRefusal::Other { reason: refusal.to_string().into(), code: refusal.code() }
}

/// The refusal of a join whose missed messages cannot be sent.
pub(super) fn unable_to_replay(error: &ReplayError) -> JoinRefusal {
    JoinRefusal::Other { reason: error.to_string().into(), code: error.code() }
}

/// The refusal of a token.
pub(super) fn refused(error: &AuthError) -> JoinRefusal {
    JoinRefusal::Other { reason: error.join_reason(), code: error.code() }
}

impl Admission {
    /// Judges a join. `channels`: number of channels that the socket has already.
    pub(super) fn admit(
        &mut self,
        message: &ClientMessage,
        channels: usize,
        legacy: Option<&Arc<Legacy>>,
        client: &Client,
    ) -> Result<(JoinPayload, Arc<Token>), JoinRefusal> {
        self.check_form(message, legacy)?;
        let runtime = &client.runtime;
        let tenant = runtime.tenant();
        if !self.joins.take(&tenant.limits, Instant::now()) {
            return Err(too_many_of_one());
        }
        let raw = message.payload.json().map_or(&b""[..], |json| json);
        let (payload, problems) = JoinPayload::parse(raw, runtime.max_subscriptions())?;
        for problem in problems {
            let code = ErrorCode::InvalidJoinPayload.as_str();
            tracing::warn!(tenant = client.tenant(), code, %problem, "join payload field ignored");
        }
        if tenant.private_only && !payload.private {
            return Err(JoinRefusal::PrivateOnly);
        }
        if self.user.is_none() {
            self.user = runtime.users().enter(tenant.limits.max_concurrent_users);
            if self.user.is_none() {
                return Err(JoinRefusal::ConnectionRateLimitReached);
            }
        }
        if runtime.meters().joins().is_triggered() {
            return Err(JoinRefusal::ClientJoinRateLimitReached);
        }
        if channels >= tenant.limits.max_channels_per_client as usize {
            return Err(JoinRefusal::ChannelRateLimitReached);
        }
        let token = match legacy {
            Some(legacy) if payload.legacy => {
                first_generation::token(legacy, client, &message.topic, &payload)?
            }
            _ => token(client, &payload)?,
        };
        if !payload.private
            && let Some(replay) = &payload.replay
        {
            let bounds = runtime.history().ok_or(JoinRefusal::ReplayOnPublicChannel)?;
            if let Some(Err(error)) = Asked::parse(&replay.0, bounds) {
                return Err(unable_to_replay(&error));
            }
        }
        // Only joins that pass the checks count for the tenant; mistakes count for their socket alone.
        runtime.meters().joins().add(1);
        Ok((payload, token))
    }

    /// The checks that need no payload.
    fn check_form(&self, message: &ClientMessage, legacy: Option<&Arc<Legacy>>) -> Result<(), JoinRefusal> {
        JoinPayloadError::check_length("topic", message.topic.len(), MAX_TOPIC_BYTES)?;
        for (field, reference) in [("join_ref", &message.join_ref), ("ref", &message.msg_ref)] {
            JoinPayloadError::check_length(field, reference.as_json().len(), MAX_REF_BYTES)?;
        }
        if sub_topic(&message.topic).is_none_or(str::is_empty) {
            return Err(match legacy {
                Some(_) => first_generation::no_sub_topic(),
                None => JoinRefusal::TopicNameRequired,
            });
        }
        if self.shutting_down { Err(JoinRefusal::RealtimeRestarting) } else { Ok(()) }
    }

    /// Counts a join that succeeded.
    pub(super) fn joined(&mut self) {
        self.joined_once = true;
    }

    /// Counts a join that was refused. `joining`: whether other joins are undecided.
    pub(super) fn refused(&mut self, joining: bool) {
        self.abandoned_since = Some(Instant::now());
        if !self.joined_once && !joining {
            self.user = None;
        }
    }

    /// Counts the end of a channel.
    pub(super) fn ended(&mut self) {
        self.abandoned_since = Some(Instant::now());
    }

    /// When a client without channels is given up. `None` if it has never tried to join.
    pub(super) fn abandoned_at(&self, timeout: Duration) -> Option<Instant> {
        self.abandoned_since.map(|since| since + timeout)
    }

    /// Lets nobody join any more, because the node is stopping.
    pub(super) fn shut_down(&mut self) {
        self.shutting_down = true;
    }

    /// Frees what the client has used, because it is gone.
    pub(super) fn gone(&mut self) {
        self.user = None;
    }

    /// Whether the client keeps sending far more than its tenant allows (spec README, decision 23).
    pub(super) fn floods(&mut self, client: &Client) -> bool {
        let meters = client.runtime.meters();
        if meters.closes_channels() {
            return false;
        }
        let limit = meters.events().limit().max(1);
        let floods = self.flood.hear(client.runtime.uptime(), limit.saturating_mul(FLOOD_FACTOR));
        if floods {
            let (tenant, code) = (client.tenant(), ErrorCode::MessagePerSecondRateLimitReached.as_str());
            tracing::warn!(tenant, code, limit, "socket closed: it goes on with ten times the limit");
        }
        floods
    }
}

/// The token that a channel uses, verified now (protocol 4.4, step 7 of 4.6).
fn token(client: &Client, payload: &JoinPayload) -> Result<Arc<Token>, JoinRefusal> {
    let text = realtime_auth::channel_token(
        &client.token.text,
        payload.access_token.as_deref(),
        payload.user_token.as_deref(),
    );
    let token = client.runtime.verify(text).map_err(|error| refused(&error))?;
    if *token.text == *client.token.text {
        return Ok(Arc::clone(&client.token));
    }
    Ok(Arc::new(token))
}

/// Whether a token has not expired while the database was asked.
pub(super) fn still_good(token: &Token, client: &Client) -> Result<(), JoinRefusal> {
    let now = i64::try_from(client.runtime.clock().unix_seconds()).unwrap_or(i64::MAX);
    if token.exp > now {
        return Ok(());
    }
    client.runtime.verify(&token.text).map(drop).map_err(|error| refused(&error))
}
