//! Joining a channel (protocol 3.1, 3.5, 4; postgres_changes 1.1, 1.2, 1.8).

use std::{sync::Arc, time::Duration};

use rand::Rng as _;
use realtime_changes::{SubscriptionSpec, assign_ids, legacy_params};
use realtime_hub::{Audience, Member, RoomKey};
use realtime_postgres::{ConnectError, SubscribeRequest};
use realtime_protocol::{ClientMessage, JoinPayload, JoinRefusal, Payload, Ref, SystemMessage, encode};
use realtime_tenants::CallWindow;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{
    Effect, Session, Ticket, Topic, Waiting,
    channel::{Channel, Token, sub_topic},
    forget,
    push::TOO_MANY_PRESENCE,
};
use crate::routes::{Patience, Route};

/// Close code after a refusal that ends the socket, and of tenants that vanished (protocol 1.10).
const CLOSE_GOING_AWAY: u16 = 1001;

/// A subscription that failed for a passing reason is tried again after this many milliseconds (1.7, E5, E6).
const RETRY_MILLIS: std::ops::Range<u64> = 5_000..10_000;

/// A join that waits for the database.
pub(super) struct Joining {
    step: u32,
    topic: Arc<str>,
    raw_join_ref: Ref,
    msg_ref: Ref,
    payload: JoinPayload,
    token: Arc<Token>,
    /// join_ref of the channel that this join replaced; it is told after the reply.
    replaced: Option<Ref>,
    pub(super) waiting: Waiting,
}

impl Session {
    /// `phx_join` on a topic that begins with `realtime:`.
    pub(super) fn join(&mut self, message: ClientMessage, effects: &mut Vec<Effect>) {
        let topic: Arc<str> = (&*message.topic).into();
        // The old channel of a duplicate join ends first, whatever becomes of the new one (protocol 3.5).
        let replaced = match self.topics.remove(&topic) {
            Some(Topic::Joined(channel)) => {
                forget(&self.runtime, &channel);
                Some(channel.raw_join_ref.clone())
            }
            _ => None,
        };
        let joining = |payload, token, step| Joining {
            step,
            topic: Arc::clone(&topic),
            raw_join_ref: message.join_ref.clone(),
            msg_ref: message.msg_ref.clone(),
            payload,
            token,
            replaced: replaced.clone(),
            waiting: Waiting::new(),
        };
        match self.admit(&topic, &message.payload) {
            Err(refusal) => {
                self.refuse(
                    &topic,
                    &message.join_ref,
                    &message.msg_ref,
                    replaced.as_ref(),
                    &refusal,
                    effects,
                );
            }
            Ok((payload, token)) if self.runtime.database().is_ready() => {
                let joining = joining(payload, token, 0);
                self.joined(joining, effects);
            }
            Ok((payload, token)) => {
                let step = self.step();
                let joining = joining(payload, token, step);
                self.joining += 1;
                self.topics.insert(Arc::clone(&topic), Topic::Joining(Box::new(joining)));
                effects.push(Effect::Database(Ticket { topic, step }));
            }
        }
    }

    /// The checks that need no database, in the order of protocol 4.6.
    fn admit(&mut self, topic: &str, payload: &Payload) -> Result<(JoinPayload, Arc<Token>), JoinRefusal> {
        if sub_topic(topic).is_none_or(str::is_empty) {
            return Err(JoinRefusal::TopicNameRequired);
        }
        if self.shutting_down {
            return Err(JoinRefusal::RealtimeRestarting);
        }
        let raw = payload.json().map_or(&b""[..], |json| json);
        let (payload, problems) = JoinPayload::parse(raw)
            .map_err(|error| JoinRefusal::UnknownErrorOnChannel(error.to_string().into()))?;
        for problem in problems {
            tracing::warn!(code = "InvalidJoinPayload", %problem, "join payload field ignored");
        }
        let tenant = self.runtime.tenant();
        if tenant.private_only && !payload.private {
            return Err(JoinRefusal::PrivateOnly);
        }
        if self.user.is_none() {
            self.user = self.runtime.users().enter(tenant.limits.max_concurrent_users);
            if self.user.is_none() {
                return Err(JoinRefusal::ConnectionRateLimitReached);
            }
        }
        let joins = self.runtime.meters().joins();
        if joins.is_triggered() {
            return Err(JoinRefusal::ClientJoinRateLimitReached);
        }
        joins.add(1);
        if self.topics.len() >= tenant.limits.max_channels_per_client as usize {
            return Err(JoinRefusal::ChannelRateLimitReached);
        }
        let token = self.channel_token(&payload)?;
        if payload.private {
            // Policies are not asked yet: nobody may read what nobody has allowed.
            return Err(JoinRefusal::Unauthorized(sub_topic(topic).unwrap_or_default().into()));
        }
        if payload.replay.is_some() {
            return Err(JoinRefusal::ReplayOnPublicChannel);
        }
        Ok((payload, token))
    }

    /// The token a channel uses, verified now (protocol 4.4, step 7 of 4.6).
    fn channel_token(&self, payload: &JoinPayload) -> Result<Arc<Token>, JoinRefusal> {
        let text = realtime_auth::channel_token(
            &self.tenant_token.text,
            payload.access_token.as_deref(),
            payload.user_token.as_deref(),
        );
        let token = self
            .runtime
            .verify(text)
            .map_err(|error| JoinRefusal::Other { reason: error.join_reason(), code: error.code() })?;
        if *token.text == *self.tenant_token.text {
            return Ok(Arc::clone(&self.tenant_token));
        }
        Ok(Arc::new(token))
    }

    /// Answers a join with an error, after the back-off; then tells the end of the channel it replaced.
    fn refuse(
        &mut self,
        topic: &str,
        join_ref: &Ref,
        msg_ref: &Ref,
        replaced: Option<&Ref>,
        refusal: &JoinRefusal,
        effects: &mut Vec<Effect>,
    ) {
        tracing::warn!(code = refusal.code(), "{refusal}");
        self.abandoned_since = Some(Instant::now());
        if !self.joined_once && self.joining == 0 {
            self.user = None;
        }
        let mut frames = vec![encode::reply_error(self.vsn, join_ref, msg_ref, topic, &refusal.to_string())];
        frames.extend(replaced.map(|old| encode::close(self.vsn, old, topic)));
        let close = refusal.closes_socket().then_some(CLOSE_GOING_AWAY);
        let delay = self.runtime.channel_error_backoff();
        if delay.is_zero() {
            for frame in frames {
                self.send(frame);
            }
            effects.extend(close.map(Effect::Close));
        } else {
            effects.push(Effect::SendLater(delay, frames, close));
        }
    }

    /// The database answered whether it can be reached: the join is decided.
    pub(super) fn database_answered(
        &mut self,
        ticket: &Ticket,
        result: Result<(), ConnectError>,
        effects: &mut Vec<Effect>,
    ) {
        match self.topics.get(&ticket.topic) {
            Some(Topic::Joining(joining)) if joining.step == ticket.step => {}
            _ => return,
        }
        let Some(Topic::Joining(mut joining)) = self.topics.remove(&ticket.topic) else { return };
        self.joining -= 1;
        let waiting = std::mem::take(&mut joining.waiting);
        match result {
            Ok(()) => self.joined(*joining, effects),
            Err(error) => {
                let refusal = JoinRefusal::Other { reason: error.join_reason().into(), code: error.code() };
                let (topic, replaced) = (&joining.topic, joining.replaced.as_ref());
                self.refuse(topic, &joining.raw_join_ref, &joining.msg_ref, replaced, &refusal, effects);
            }
        }
        for message in waiting {
            self.waiting_bytes -= message.size();
            self.dispatch(message, effects);
        }
    }

    /// The join succeeded: replies, enters the room, and starts what was asked for (order of protocol 4.7).
    fn joined(&mut self, joining: Joining, effects: &mut Vec<Effect>) {
        let Joining { topic, raw_join_ref, msg_ref, payload, token, replaced, .. } = joining;
        let legacy = payload.legacy;
        let (objects, echo) = if legacy {
            let object = legacy_params(sub_topic(&topic).unwrap_or_default());
            let text = Value::Object(object.clone()).to_string().into_boxed_str();
            (vec![object], vec![text])
        } else {
            (payload.postgres_changes.clone(), payload.postgres_changes_text.clone())
        };
        let ids = assign_ids(&objects);
        let response = encode::join_response(&echo, &ids);
        let mut first = vec![encode::reply_ok(self.vsn, &raw_join_ref, &msg_ref, &topic, &response)];
        first.extend(replaced.map(|old| encode::close(self.vsn, &old, &topic)));

        let tenant = self.runtime.tenant();
        let key = RoomKey {
            tenant: Arc::clone(self.runtime.name()),
            audience: Audience::Public,
            topic: Arc::clone(&topic),
        };
        let member = Member { outbox: Arc::clone(&self.outbox), vsn: self.vsn };
        let membership = self.runtime.hub().join(&key, member, self.runtime.hub_meter(), first);
        let join_ref = if raw_join_ref.is_null() { msg_ref } else { raw_join_ref.clone() };
        let presence = payload.presence_enabled || tenant.presence_enabled;
        let channel = Channel {
            id: self.runtime.routes().next_channel(),
            topic: Arc::clone(&topic),
            raw_join_ref,
            join_ref,
            ack: payload.ack,
            to_self: payload.to_self,
            presence_key: payload.presence_key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()).into(),
            recheck_at: token.recheck_at(self.runtime.clock().unix_seconds()),
            presence_calls: CallWindow::default(),
            token,
            membership,
            subscriptions: Vec::new(),
            retry_at: None,
            attempt: 0,
        };
        self.joined_once = true;
        self.topics.insert(Arc::clone(&topic), Topic::Joined(Box::new(channel)));
        if !objects.is_empty() {
            self.watch(&topic, &objects, &ids, legacy, effects);
        }
        if presence {
            self.presence_state(&topic);
        }
    }

    /// Sends who is present (protocol 5.5).
    fn presence_state(&mut self, topic: &str) {
        if self.runtime.too_many_presence_events() {
            return self.stop_channel(topic, TOO_MANY_PRESENCE);
        }
        let Some(Topic::Joined(channel)) = self.topics.get(topic) else { return };
        let (vsn, join_ref) = (self.vsn, &channel.join_ref);
        channel.membership.send_presence_state(|state| encode::presence_state(vsn, join_ref, topic, state));
        self.runtime.meters().presence().add(1);
    }

    /// Starts watching the database for what the join asked (postgres_changes 1.3, 1.7): all or nothing.
    fn watch(
        &mut self,
        topic: &Arc<str>,
        objects: &[Map<String, Value>],
        ids: &[u32],
        legacy: bool,
        effects: &mut Vec<Effect>,
    ) {
        let parsed: Result<Vec<_>, _> = objects.iter().map(SubscriptionSpec::parse).collect();
        let specs = match parsed {
            Ok(specs) => specs,
            Err(error) => {
                // The text repeats what the client sent, which is nobody else's business.
                tracing::warn!(code = "RealtimeDisabledForConfiguration", "subscription refused");
                tracing::debug!(%error, "subscription refused");
                self.system(topic, &SystemMessage::postgres_changes_error(error.to_string()));
                return;
            }
        };
        let (vsn, outbox) = (self.vsn, Arc::clone(&self.outbox));
        let routes = Arc::clone(self.runtime.routes());
        let Some(channel) = self.channel_mut(topic) else { return };
        channel.subscriptions = ids.iter().copied().zip(specs.into_iter().map(Arc::new)).collect();
        let join_ref = channel.join_ref.clone();
        routes.open(
            channel.id,
            Arc::new(Route {
                outbox,
                vsn,
                topic: Arc::clone(topic),
                join_ref,
                legacy,
                patience: Patience::default(),
            }),
        );
        self.subscribe(topic, effects);
    }

    /// Asks the database for what the channel watches, with its token as it is now.
    pub(super) fn subscribe(&mut self, topic: &Arc<str>, effects: &mut Vec<Effect>) {
        let step = self.step();
        let Some(channel) = self.channel_mut(topic) else { return };
        if channel.subscriptions.is_empty() {
            return;
        }
        channel.attempt = step;
        channel.retry_at = None;
        let request = SubscribeRequest {
            channel: channel.id,
            role: Arc::clone(&channel.token.role),
            claims: Arc::clone(&channel.token.claims),
            subscriptions: channel.subscriptions.clone(),
        };
        effects.push(Effect::Subscribe(Ticket { topic: Arc::clone(topic), step }, Box::new(request)));
    }

    /// Tells the client what became of its subscription.
    pub(super) fn subscription_answered(
        &mut self,
        ticket: &Ticket,
        result: Result<(), realtime_changes::SubscribeRefusal>,
    ) {
        let Some(channel) = self.channel_mut(&ticket.topic) else { return };
        if channel.attempt != ticket.step {
            return;
        }
        match result {
            Ok(()) => self.system(&ticket.topic, &SystemMessage::subscribed()),
            Err(refusal) => {
                if refusal.is_transient() {
                    let delay = Duration::from_millis(rand::rng().random_range(RETRY_MILLIS));
                    channel.retry_at = Some(Instant::now() + delay);
                }
                tracing::warn!(code = refusal.code(), "subscription refused");
                tracing::debug!(error = %refusal, "subscription refused");
                self.system(&ticket.topic, &SystemMessage::postgres_changes_error(refusal.to_string()));
            }
        }
    }

    /// Tries a failed subscription again if it is time.
    pub(super) fn retry_subscription(&mut self, topic: &Arc<str>, now: Instant, effects: &mut Vec<Effect>) {
        if self.channel_mut(topic).is_some_and(|channel| channel.retry_at.is_some_and(|at| at <= now)) {
            self.subscribe(topic, effects);
        }
    }
}
