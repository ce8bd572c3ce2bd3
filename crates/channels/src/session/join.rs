//! Joining a channel (protocol 3.1, 3.5, 4; postgres_changes 1.1, 1.2, 1.8).

use std::sync::Arc;

use bytes::Bytes;
use realtime_auth::AuthError;
use realtime_hub::{Audience, Holding, Member, Membership, Outbox, RoomKey, Sight};
use realtime_postgres::{
    AuthorizeError, ConnectError, ReadVerdict, ReplayError, ReplayParams, ReplayedMessage,
};
use realtime_protocol::{
    ClientMessage, JoinPayload, JoinPayloadError, JoinRefusal, MAX_REF_BYTES, MAX_TOPIC_BYTES, Ref, encode,
};
use realtime_tenants::CallWindow;
use tokio::time::Instant;

use super::{
    Effect, Session, Ticket, Topic, Waiting,
    access_token::Renewal,
    channel::{Channel, sub_topic},
    first_generation,
    policies::{self, Policies, Question},
    push::TOO_MANY_PRESENCE,
    ready::Ready,
    replay,
    watch::{Wanted, Watching},
};
use crate::token::Token;

/// Close code after a refusal that ends the socket, and of tenants that vanished (protocol 1.10).
const CLOSE_GOING_AWAY: u16 = 1001;

/// Bytes of a join's message from which on it counts as memory that its socket holds.
const LARGE_JOIN: usize = 16 * 1024;

/// Why a channel is stopped that was told too much while messages that it had missed were looked for.
const TOO_MANY_MEANWHILE: &str = "Too many messages came while stored messages were read";

/// A join that waits for the database.
pub(super) struct Joining {
    step: u32,
    topic: Arc<str>,
    raw_join_ref: Ref,
    msg_ref: Ref,
    payload: JoinPayload,
    token: Arc<Token>,
    /// What may be read of a private topic, once the policies have said it.
    read: Option<ReadVerdict>,
    /// Its place in the room while messages that it has missed are looked for: what is said meanwhile is kept.
    membership: Option<Membership>,
    /// Messages that the client has missed, oldest first.
    replayed: Vec<ReplayedMessage>,
    /// The database was replaced meanwhile: what its policies have said has to be asked of the next.
    pub(super) judge_anew: bool,
    /// What it asks to watch.
    wanted: Wanted,
    /// What it will watch: everything else is decided, the reply waits for this.
    pub(super) watching: Option<Watching>,
    pub(super) waiting: Waiting,
    /// What it keeps of its message, if that is much.
    holding: Option<Holding>,
}

impl Joining {
    /// The join_ref of the frames that the channel will push: the join's ref where it had no join_ref.
    fn join_ref(&self) -> Ref {
        if self.raw_join_ref.is_null() { self.msg_ref.clone() } else { self.raw_join_ref.clone() }
    }

    /// Asks for what it will watch once more, if it has asked: the database was replaced. The answer of the last one is
    /// void.
    pub(super) fn watch_again(&mut self, topic: &Arc<str>, step: u32) -> Option<Effect> {
        let watching = self.watching.as_mut()?;
        watching.attempt = step;
        self.step = step;
        let request = watching.watch.request(&self.token, watching.subscriptions.clone());
        Some(Effect::Subscribe(Ticket { topic: Arc::clone(topic), step }, request))
    }
}

/// Of a socket that joins too much by itself. It stays: closed, it would come back with nothing counted.
fn too_many_of_one() -> JoinRefusal {
    let refusal = JoinRefusal::ClientJoinRateLimitReached;
    JoinRefusal::Other { reason: refusal.to_string().into(), code: refusal.code() }
}

impl Session {
    /// `phx_join` on a topic that begins with `realtime:`.
    pub(super) fn join(&mut self, message: ClientMessage, effects: &mut Vec<Effect>) {
        let topic: Arc<str> = (&*message.topic).into();
        self.diffs.hold();
        // The old channel of a duplicate join ends first, whatever becomes of the new one (protocol 3.5).
        // Nothing is told of it: clients would take that to be of the new one (clients 2).
        self.topics.remove(&topic);
        let outbox = Arc::clone(&self.outbox);
        let joining = |payload, token, step| Joining {
            step,
            topic: Arc::clone(&topic),
            raw_join_ref: message.join_ref.clone(),
            msg_ref: message.msg_ref.clone(),
            payload,
            token,
            read: None,
            membership: None,
            replayed: Vec::new(),
            judge_anew: false,
            wanted: Wanted::default(),
            watching: None,
            waiting: Waiting::new(),
            holding: holding(&outbox, &message),
        };
        match self.admit(&message) {
            Err(refusal) => {
                self.refuse(&topic, &message.join_ref, &message.msg_ref, &refusal, effects);
            }
            Ok((payload, token)) if payload.legacy && self.runtime.legacy().is_some() => {
                self.join_first(topic, &message, token, effects);
            }
            Ok((payload, token)) if payload.private => {
                let step = self.step();
                let presence = payload.presence_enabled || self.runtime.tenant().presence_enabled;
                let request = self.question(&topic, &token, presence);
                let joining = joining(payload, token, step);
                self.joining += 1;
                self.topics.insert(Arc::clone(&topic), Topic::Joining(Box::new(joining)));
                effects.push(Effect::AuthorizeRead(Ticket { topic, step }, request));
            }
            Ok((payload, token)) if self.runtime.database().is_ready() && self.hears_others() => {
                let joining = joining(payload, token, 0);
                self.accepted(joining, effects);
            }
            Ok((payload, token)) => {
                let step = self.step();
                let needed = payload.legacy || !payload.postgres_changes.is_empty();
                let joining = joining(payload, token, step);
                self.joining += 1;
                self.topics.insert(Arc::clone(&topic), Topic::Joining(Box::new(joining)));
                let ticket = Ticket { topic, step };
                effects.push(if needed { Effect::Database(ticket) } else { Effect::Contact(ticket) });
            }
        }
    }

    /// Whether what is said on other nodes from now on is heard, as far as there is a connection.
    fn hears_others(&self) -> bool {
        self.interest.as_ref().is_none_or(realtime_cluster::Interest::is_ready)
    }

    /// The checks that need no database, in the order of protocol 4.6.
    fn admit(&mut self, message: &ClientMessage) -> Result<(JoinPayload, Arc<Token>), JoinRefusal> {
        let (topic, payload) = (&*message.topic, &message.payload);
        JoinPayloadError::check_length("topic", topic.len(), MAX_TOPIC_BYTES)?;
        for (field, reference) in [("join_ref", &message.join_ref), ("ref", &message.msg_ref)] {
            JoinPayloadError::check_length(field, reference.as_json().len(), MAX_REF_BYTES)?;
        }
        if sub_topic(topic).is_none_or(str::is_empty) {
            return Err(match self.runtime.legacy() {
                Some(_) => first_generation::no_sub_topic(),
                None => JoinRefusal::TopicNameRequired,
            });
        }
        if self.shutting_down {
            return Err(JoinRefusal::RealtimeRestarting);
        }
        let tenant = self.runtime.tenant();
        if !self.joins.take(&tenant.limits, Instant::now()) {
            return Err(too_many_of_one());
        }
        let raw = payload.json().map_or(&b""[..], |json| json);
        let (payload, problems) = JoinPayload::parse(raw, self.runtime.max_subscriptions())?;
        for problem in problems {
            tracing::warn!(tenant = &**self.runtime.name(), code = "InvalidJoinPayload", %problem, "join payload field ignored");
        }
        if tenant.private_only && !payload.private {
            return Err(JoinRefusal::PrivateOnly);
        }
        if self.user.is_none() {
            self.user = self.runtime.users().enter(tenant.limits.max_concurrent_users);
            if self.user.is_none() {
                return Err(JoinRefusal::ConnectionRateLimitReached);
            }
        }
        if self.runtime.meters().joins().is_triggered() {
            return Err(JoinRefusal::ClientJoinRateLimitReached);
        }
        if self.topics.len() >= tenant.limits.max_channels_per_client as usize {
            return Err(JoinRefusal::ChannelRateLimitReached);
        }
        let token = match self.runtime.legacy().map(Arc::clone) {
            Some(legacy) if payload.legacy => self.first_token(&legacy, topic, &payload)?,
            _ => self.channel_token(&payload)?,
        };
        if !payload.private && payload.replay.is_some() {
            return Err(JoinRefusal::ReplayOnPublicChannel);
        }
        // Only what may be joined counts for the tenant: mistakes are their socket's.
        self.runtime.meters().joins().add(1);
        Ok((payload, token))
    }

    /// The token a channel uses, verified now (protocol 4.4, step 7 of 4.6).
    fn channel_token(&self, payload: &JoinPayload) -> Result<Arc<Token>, JoinRefusal> {
        let text = realtime_auth::channel_token(
            &self.tenant_token.text,
            payload.access_token.as_deref(),
            payload.user_token.as_deref(),
        );
        let token = self.runtime.verify(text).map_err(|error| refused(&error))?;
        if *token.text == *self.tenant_token.text {
            return Ok(Arc::clone(&self.tenant_token));
        }
        Ok(Arc::new(token))
    }

    /// Answers a join with an error, after the back-off.
    fn refuse(
        &mut self,
        topic: &str,
        join_ref: &Ref,
        msg_ref: &Ref,
        refusal: &JoinRefusal,
        effects: &mut Vec<Effect>,
    ) {
        tracing::warn!(tenant = &**self.runtime.name(), code = refusal.code(), "{refusal}");
        self.runtime.counters().node().joined(self.transport, false);
        self.abandoned_since = Some(Instant::now());
        if !self.joined_once && self.joining == 0 {
            self.user = None;
        }
        let reply = encode::reply_error(self.vsn, join_ref, msg_ref, topic, &refusal.to_string());
        let close = refusal.closes_socket().then_some(CLOSE_GOING_AWAY);
        let delay = self.runtime.channel_error_backoff();
        if delay.is_zero() {
            self.send(reply);
            effects.extend(close.map(Effect::Close));
        } else {
            self.diffs.refused_later();
            effects.push(Effect::SendLater(delay, vec![reply], close));
        }
    }

    /// The database answered whether it can be reached: the join is decided.
    pub(super) fn database_answered(
        &mut self,
        ticket: &Ticket,
        result: Result<(), ConnectError>,
        effects: &mut Vec<Effect>,
    ) {
        let refusal = |error: ConnectError| JoinRefusal::Other {
            reason: error.join_reason().into(),
            code: error.code(),
        };
        if self.joining_mut(ticket).is_some() {
            self.decided(ticket, result.map_err(refusal), effects);
        }
    }

    /// The policies have said what may be read: the join is decided, or missed messages are looked for.
    pub(super) fn join_read_answered(
        &mut self,
        ticket: &Ticket,
        result: Result<ReadVerdict, AuthorizeError>,
        effects: &mut Vec<Effect>,
    ) {
        let tenant = Arc::clone(self.runtime.name());
        let Some(joining) = self.joining_mut(ticket) else { return };
        let topic = sub_topic(&joining.topic).unwrap_or_default();
        let unauthorized = || JoinRefusal::Unauthorized(topic.into());
        let replay = joining.payload.replay.as_ref().and_then(|replay| ReplayParams::parse(&replay.0));
        let outcome = match (result, replay) {
            (Err(error), _) => {
                policies::warn(&tenant, &error);
                Err(JoinRefusal::Other { reason: error.join_reason(topic), code: error.code() })
            }
            (Ok(read), _) if !read.may_join() => Err(unauthorized()),
            (Ok(read), Some(_)) if !read.broadcast => Err(unauthorized()),
            (Ok(_), Some(Err(error))) => Err(unable_to_replay(&error)),
            (Ok(read), replay) => Ok((read, replay.and_then(Result::ok))),
        };
        match outcome {
            Ok((read, Some(params))) => {
                let topic: Box<str> = topic.into();
                joining.read = Some(read);
                let membership = self.enter(&ticket.topic, Some(read), true, Vec::new());
                let step = self.step();
                if let Some(joining) = self.joining_mut(ticket) {
                    joining.step = step;
                    joining.membership = Some(membership);
                }
                let ticket = Ticket { topic: Arc::clone(&ticket.topic), step };
                effects.push(Effect::Replay(ticket, topic, params));
            }
            Ok((read, None)) => {
                joining.read = Some(read);
                self.decided(ticket, Ok(()), effects);
            }
            Err(refusal) => self.decided(ticket, Err(refusal), effects),
        }
    }

    /// The messages that a joining channel has missed.
    pub(super) fn replay_answered(
        &mut self,
        ticket: &Ticket,
        result: Result<Vec<ReplayedMessage>, ReplayError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(joining) = self.joining_mut(ticket) else { return };
        let outcome = match result {
            Ok(messages) => {
                joining.replayed = messages;
                Ok(())
            }
            Err(error) => {
                if let ReplayError::Failed(detail) = &error {
                    tracing::warn!(
                        tenant = &**self.runtime.name(),
                        code = error.code(),
                        error = detail,
                        "cannot read stored messages"
                    );
                }
                Err(unable_to_replay(&error))
            }
        };
        self.decided(ticket, outcome, effects);
    }

    /// The join that a ticket belongs to.
    pub(super) fn joining_mut(&mut self, ticket: &Ticket) -> Option<&mut Joining> {
        match self.topics.get_mut(&ticket.topic) {
            Some(Topic::Joining(joining)) if joining.step == ticket.step => Some(joining),
            _ => None,
        }
    }

    /// Ends a join, and takes what has waited for that.
    fn decided(&mut self, ticket: &Ticket, outcome: Result<(), JoinRefusal>, effects: &mut Vec<Effect>) {
        let Some(Topic::Joining(mut joining)) = self.topics.remove(&ticket.topic) else { return };
        self.joining -= 1;
        let waiting = std::mem::take(&mut joining.waiting);
        match outcome.and_then(|()| self.still_good(&joining.token)) {
            Ok(()) => self.accepted(*joining, effects),
            Err(refusal) => self.refuse_joining(&joining, &refusal, effects),
        }
        self.release(waiting, effects);
    }

    fn refuse_joining(&mut self, joining: &Joining, refusal: &JoinRefusal, effects: &mut Vec<Effect>) {
        self.refuse(&joining.topic, &joining.raw_join_ref, &joining.msg_ref, refusal, effects);
    }

    /// Whether a token has not expired while the database was asked.
    fn still_good(&self, token: &Token) -> Result<(), JoinRefusal> {
        let now = i64::try_from(self.runtime.clock().unix_seconds()).unwrap_or(i64::MAX);
        if token.exp > now {
            return Ok(());
        }
        self.runtime.verify(&token.text).map(drop).map_err(|error| refused(&error))
    }

    /// The join succeeds. It is answered when what it wants to watch is watched.
    fn accepted(&mut self, mut joining: Joining, effects: &mut Vec<Effect>) {
        joining.wanted = Wanted::of(&joining.topic, &mut joining.payload);
        let Joining { topic, payload, token, wanted, .. } = &joining;
        let topic = Arc::clone(topic);
        match self.begin_watch(&topic, joining.join_ref(), payload.legacy, wanted, token, effects) {
            Some(watching) => {
                joining.step = watching.attempt;
                joining.watching = Some(watching);
                self.joining += 1;
                self.topics.insert(topic, Topic::Joining(Box::new(joining)));
            }
            None => self.joined(joining, effects),
        }
    }

    /// Answers a join that has waited for what it watches, perhaps in vain.
    pub(super) fn answer_join(&mut self, topic: &str, effects: &mut Vec<Effect>) {
        let Some(Topic::Joining(mut joining)) = self.topics.remove(topic) else { return };
        self.joining -= 1;
        let waiting = std::mem::take(&mut joining.waiting);
        match self.still_good(&joining.token) {
            Ok(()) => self.joined(*joining, effects),
            Err(refusal) => self.refuse_joining(&joining, &refusal, effects),
        }
        self.release(waiting, effects);
    }

    /// Enters the room of a topic: a private one for those whom the policies let in. `first` is sent before anything
    /// else.
    fn enter(
        &self,
        topic: &Arc<str>,
        read: Option<ReadVerdict>,
        hold: bool,
        first: Vec<Bytes>,
    ) -> Membership {
        let key = RoomKey {
            tenant: Arc::clone(self.runtime.name()),
            audience: if read.is_some() { Audience::Private } else { Audience::Public },
            topic: Arc::clone(topic),
        };
        let member = Member {
            outbox: Arc::clone(&self.outbox),
            vsn: self.vsn,
            sight: read.map_or(Sight::ALL, policies::sight),
            hold,
            diffs: self.diffs.gate(),
        };
        self.runtime.hub().join(&key, member, self.runtime.hub_meter(), first)
    }

    /// The join succeeded: replies, enters the room, and starts what was asked for (order of protocol 4.7).
    fn joined(&mut self, joining: Joining, effects: &mut Vec<Effect>) {
        let join_ref = joining.join_ref();
        let Joining { topic, raw_join_ref, msg_ref, payload, token, .. } = joining;
        let Joining { read, replayed, membership, wanted, watching, judge_anew, holding, .. } = joining;
        self.runtime.counters().node().joined(self.transport, true);
        let response = encode::join_response(&wanted.echo, &wanted.ids);
        let mut first = vec![encode::reply_ok(self.vsn, &raw_join_ref, &msg_ref, &topic, &response)];
        first.extend(replay::frames(self.vsn, &join_ref, &topic, &replayed));

        let tenant = self.runtime.tenant();
        let (membership, whole) = match membership {
            Some(membership) => {
                let whole = membership.open(first, replay::ids(&replayed));
                (membership, whole)
            }
            None => (self.enter(&topic, read, false, first), true),
        };
        let presence = payload.presence_enabled || tenant.presence_enabled;
        let (watch, subscriptions, attempt, watched) = match watching {
            Some(Watching { watch, subscriptions, route, attempt, outcome, .. }) => {
                (Some(watch), subscriptions, attempt, Some((route, outcome)))
            }
            None => (None, Vec::new(), 0, None),
        };
        let channel = Channel {
            topic: Arc::clone(&topic),
            raw_join_ref,
            join_ref,
            ack: payload.ack,
            to_self: payload.to_self,
            presence_key: payload.presence_key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()).into(),
            recheck_at: token.recheck_at(self.runtime.clock().unix_seconds()),
            presence_calls: CallWindow::default(),
            merged: None,
            token,
            renewal: Renewal::default(),
            membership,
            presence,
            policies: read.map(|read| Box::new(Policies::new(read))),
            ready: Ready::Unasked,
            subscriptions,
            route: watched.as_ref().map(|(route, _)| Arc::clone(route)),
            watch,
            subscribed: false,
            _holding: holding,
            retry_at: None,
            answered: false,
            attempt,
        };
        self.joined_once = true;
        if self.attendance.is_none() {
            self.attendance = Some(self.runtime.database().attend());
        }
        self.topics.insert(Arc::clone(&topic), Topic::Joined(Box::new(channel)));
        if !whole {
            return self.stop_channel(&topic, TOO_MANY_MEANWHILE);
        }
        match watched {
            Some((route, outcome)) => {
                route.open();
                if let Some(outcome) = outcome {
                    let ticket = Ticket { topic: Arc::clone(&topic), step: attempt };
                    self.subscription_answered(&ticket, outcome, effects);
                }
            }
            None => self.refuse_watch(&topic, &wanted),
        }
        if payload.replication_ready {
            self.ask_replication(&topic, effects);
        }
        if judge_anew && read.is_some() {
            self.ask(&topic, Question::Refresh, None, effects);
        }
        if presence && read.is_none_or(|read| read.presence == Some(true)) {
            self.presence_state(&topic);
        }
    }

    /// Sends who is present (protocol 5.5).
    pub(super) fn presence_state(&mut self, topic: &str) {
        if self.runtime.meters().closes_channels() && self.runtime.too_many_presence_events() {
            return self.stop_channel(topic, TOO_MANY_PRESENCE);
        }
        let Some(Topic::Joined(channel)) = self.topics.get(topic) else { return };
        let (vsn, join_ref) = (self.vsn, &channel.join_ref);
        channel.membership.send_presence_state(|state| encode::presence_state(vsn, join_ref, topic, state));
        self.runtime.meters().presence().add(1);
    }
}

fn refused(error: &AuthError) -> JoinRefusal {
    JoinRefusal::Other { reason: error.join_reason(), code: error.code() }
}

/// A join's message is kept as what it asks for, as the text of that for the reply, and as filters. A small one counts as
/// nothing.
fn holding(outbox: &Arc<Outbox>, message: &ClientMessage) -> Option<Holding> {
    let size = message.size();
    (size >= LARGE_JOIN).then(|| {
        let mut holding = Holding::new(outbox);
        holding.add(3 * size);
        holding
    })
}

fn unable_to_replay(error: &ReplayError) -> JoinRefusal {
    JoinRefusal::Other { reason: error.to_string().into(), code: error.code() }
}
