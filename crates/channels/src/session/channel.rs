//! A joined channel of a socket: its parts, each with a state of its own, and what happens between them.

use std::sync::Arc;

use bytes::Bytes;
use realtime_auth::AuthError;
use realtime_changes::SubscribeRefusal;
use realtime_hub::{Holding, Membership, Said, Sight};
use realtime_postgres::{AuthorizeError, ReadVerdict, WriteVerdict};
use realtime_protocol::{
    AccessTokenPush, ClientMessage, Extension, Payload, PresencePush, Ref, SystemMessage, encode, size,
};
use tokio::time::Instant;

use super::{
    policies::{self, Policies, Question, Subject, sight},
    presence::{Presence, is_object},
    ready::{Ready, Replicating},
    rows::{Rows, Wanted},
    stop::{Stop, TOO_MANY_EVENTS, TOO_MANY_PRESENCE},
    tokens::Tokens,
    waiting::Waiting,
};
use crate::{
    client::{Client, sub_topic},
    counters::MessageType,
    effect::Effect,
    publish,
};

/// Answer to a broadcast that is too large (protocol 5.2): the only response that is not an object.
const TOO_LARGE: &[u8] = b"\"payload_size_exceeded\"";

/// Answer to a broadcast that the policies deny (spec README, decision 7).
const UNAUTHORIZED: &[u8] = br#"{"reason":"unauthorized"}"#;

/// Code of what channels are told whose token expired while the next one was being judged.
const EXPIRED: &str = "TokenExpired";

/// What they are told with it.
const EXPIRED_TEXT: &str =
    "The token expired before the database had judged the new one: messages may have been missed";

/// What channels are told of a gap in broadcasts from the database.
const GAP: &str = "The connection to the database was lost: broadcasts from it may have been missed";

/// What channels are told that watched the database when its connection was ended on purpose.
const ENDED: &str = "The connection to the database was ended: changes may have been missed";

/// A joined channel. Dropping it leaves its room and ends what it watches in the database.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) topic: Arc<str>,
    /// The join message's join_ref, null if it had none: `phx_close` and `phx_error` carry it.
    pub(super) raw_join_ref: Ref,
    /// The join_ref of the frames the channel pushes: the join's ref where it had no join_ref.
    pub(super) join_ref: Ref,
    /// Whether its broadcasts are answered.
    pub(super) ack: bool,
    /// Whether it gets its own broadcasts.
    pub(super) to_self: bool,
    pub(super) tokens: Tokens,
    pub(super) membership: Membership,
    pub(super) presence: Presence,
    /// What is known of its permissions. `None` for public channels, which need none.
    pub(super) policies: Option<Box<Policies>>,
    /// What it was told of broadcasts from the database.
    pub(super) ready: Ready,
    pub(super) rows: Rows,
    /// What it keeps of a large join.
    pub(super) _holding: Option<Holding>,
}

/// What is left to do for a channel once its join was answered.
pub(super) struct Welcome {
    pub(super) wanted: Wanted,
    /// What became of the subscription that it asked for, if that is known.
    pub(super) outcome: Option<Result<(), SubscribeRefusal>>,
    /// It wants to know whether broadcasts from the database arrive.
    pub(super) replication_ready: bool,
    /// What its policies have said has to be asked again.
    pub(super) judge_anew: bool,
}

impl Channel {
    /// Where what comes on the topic has to wait, while it must.
    pub(super) fn waiting(&mut self) -> Option<&mut Waiting> {
        self.policies.as_mut().filter(|policies| policies.is_asking()).map(|policies| &mut policies.waiting)
    }

    /// Whether an answer of the policies is out.
    fn is_asking(&self) -> bool {
        self.policies.as_ref().is_some_and(|policies| policies.is_asking())
    }

    /// The next moment at which something has to be done for it.
    pub(super) fn deadline(&self) -> Instant {
        let others = [self.rows.deadline(), self.ready.deadline(), self.presence.deadline()];
        others.into_iter().flatten().fold(self.tokens.deadline(self.is_asking()), Instant::min)
    }

    fn system(&self, client: &Client, message: &SystemMessage) {
        client.system(&self.join_ref, &self.topic, message);
    }

    fn answer(&self, client: &Client, msg_ref: &Ref, status: &str, response: &[u8]) {
        client.send(encode::reply(client.vsn, &self.join_ref, msg_ref, &self.topic, status, response));
    }

    /// Its join was answered: tells it what became of what it asked for (order of protocol 4.7).
    pub(super) fn welcome(
        &mut self,
        welcome: Welcome,
        replicating: &mut Replicating,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        if self.rows.is_watching() {
            self.rows.open();
            if let Some(outcome) = welcome.outcome {
                self.tell_subscription(self.rows.step(), outcome, client);
            }
        } else {
            self.refuse_watch(&welcome.wanted, client);
        }
        if welcome.replication_ready {
            self.ready = Ready::asked();
            // Before it is told: what changes meanwhile is seen by the watch.
            replicating.watch(client, effects);
            self.tell_replication(client);
        }
        if welcome.judge_anew {
            self.ask(Question::Refresh, None, client, effects)?;
        }
        let sees_presence =
            self.policies.as_ref().is_none_or(|policies| policies.read.presence == Some(true));
        if self.presence.wanted && sees_presence { self.presence_state(client) } else { Ok(()) }
    }

    /// Tells a client why nothing of what it wanted is watched.
    fn refuse_watch(&self, wanted: &Wanted, client: &Client) {
        if let Err(error) = wanted.specs() {
            // The text repeats what the client sent, which is nobody else's business.
            let tenant = client.tenant();
            tracing::warn!(tenant, code = "RealtimeDisabledForConfiguration", "subscription refused");
            self.system(client, &SystemMessage::postgres_changes_error(error.to_string()));
        }
    }

    /// Sends who is present (protocol 5.5).
    fn presence_state(&self, client: &Client) -> Result<(), Stop> {
        let meters = client.runtime.meters();
        if meters.closes_channels() && client.runtime.too_many_presence_events() {
            return Err(TOO_MANY_PRESENCE.into());
        }
        let (vsn, join_ref, topic) = (client.vsn, &self.join_ref, &self.topic);
        self.membership.send_presence_state(|state| encode::presence_state(vsn, join_ref, topic, state));
        meters.presence().add(1);
        Ok(())
    }

    /// Does what has become due: tokens that expire, subscriptions to be tried again.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        if let Some(text) = self.tokens.recheck(now, &client.runtime).map_err(refused)? {
            self.use_token(&text, client, effects)?;
        }
        if self.tokens.former_expires(now, &client.runtime) {
            self.former_expired(client, effects);
        }
        self.renew(client, effects)?;
        if self.rows.deadline().is_some_and(|at| at <= now) {
            self.subscribe(client, effects);
        }
        if self.ready.deadline().is_some_and(|by| by <= now) {
            return Err("Replication connection was not established in time".into());
        }
        if let Some(tracked) = self.presence.take_merged(now, &client.runtime) {
            self.apply_merged(tracked, client);
        }
        Ok(())
    }
}

/// Messages of its client (protocol 5).
impl Channel {
    /// Any message but join and leave. Its join_ref does not matter (protocol 3.6).
    pub(super) fn push(
        &mut self,
        message: ClientMessage,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        match &*message.event {
            "broadcast" => self.broadcast(message, client, effects),
            "presence" => self.call_presence(message, client, effects),
            "access_token" => self.access_token(&message, client, effects),
            // Unknown events are counted but not answered (protocol 3.10).
            _ => {
                client.runtime.meters().events().add(1);
                Ok(())
            }
        }
    }

    /// `broadcast` (protocol 5.1, 5.2). On a private channel the policies are asked before the first.
    fn broadcast(
        &mut self,
        message: ClientMessage,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let limit = client.runtime.tenant().limits.max_payload_bytes();
        let (said, bytes, too_large) = match &message.payload {
            Payload::Json(payload) if is_object(payload) => {
                (Said::Json(payload), payload.len(), size::exceeds(payload, limit))
            }
            Payload::UserBroadcast(user) => (Said::User(user), user.body.len(), user.external_size() > limit),
            // What no receiver could read is not sent (protocol 5.1, 15.4).
            Payload::Json(_) | Payload::Binary(_) => return Ok(()),
        };
        match self.policies.as_ref().map(|policies| policies.write.map(|write| write.broadcast)) {
            None | Some(Some(true)) => {}
            Some(Some(false)) => {
                self.answer_broadcast(client, &message, "error", UNAUTHORIZED);
                return Ok(());
            }
            Some(None) => return self.ask(Question::Write, Some(message), client, effects),
        }
        let meters = client.runtime.meters();
        if too_large {
            meters.events().add(1);
            self.answer_broadcast(client, &message, "error", TOO_LARGE);
            return Ok(());
        }
        if self.membership.sheds() {
            if self.ack {
                let limit = meters.events().limit();
                let response = format!("{{\"reason\":\"{TOO_MANY_EVENTS}\",\"limit\":{limit}}}");
                self.answer_broadcast(client, &message, "error", response.as_bytes());
            }
            return Ok(());
        }
        let delivery = publish::by_member(meters, &self.membership, self.to_self, &said, bytes);
        client.said(delivery);
        self.answer_broadcast(client, &message, "ok", b"{}");
        let meters = client.runtime.meters();
        if self.to_self && meters.closes_channels() && meters.events().is_triggered() {
            // It was handed its own message.
            return Err(TOO_MANY_EVENTS.into());
        }
        Ok(())
    }

    /// Answers a broadcast, if the client wants that.
    fn answer_broadcast(&self, client: &Client, message: &ClientMessage, status: &str, response: &[u8]) {
        if self.ack {
            self.answer(client, &message.msg_ref, status, response);
        }
    }

    /// `presence` (protocol 5.4). On a private channel the policies are asked before the first track.
    fn call_presence(
        &mut self,
        message: ClientMessage,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let push = message.payload.json().map_or(PresencePush::Unknown, PresencePush::parse);
        let unknown = self.policies.as_ref().and_then(|policies| policies.unknown_of_presence());
        if let (Some(question), PresencePush::Track(tracked)) = (unknown, &push)
            && is_object(tracked)
        {
            return self.ask(question, Some(message), client, effects);
        }
        let write = self.policies.as_ref().and_then(|policies| policies.write);
        let denied = write.is_some_and(|write| !write.presence);
        let call = self.presence.judge(push, denied, &client.runtime)?;
        let (status, response) = call.answer;
        match (call.wanted, call.held) {
            (Some(tracked), Some(held)) => {
                self.answer(client, &message.msg_ref, status, response);
                if self.presence.merge(held, tracked, &client.outbox) {
                    self.system(client, &held.told());
                }
                return Ok(());
            }
            (Some(Some(tracked)), None) => self.track(tracked, client),
            (Some(None), None) => {
                self.presence.forget_merged();
                client.changed(self.membership.untrack());
            }
            (None, _) => {}
        }
        self.answer(client, &message.msg_ref, status, response);
        Ok(())
    }

    /// Makes the channel present with an object.
    fn track(&mut self, tracked: Bytes, client: &mut Client) {
        self.presence.forget_merged();
        client.runtime.counters().payload(MessageType::Presence, tracked.len());
        if let Some(fan_out) = self.membership.track(&self.presence.key, tracked) {
            client.runtime.meters().presence().add(1);
            client.changed(fan_out);
        }
    }

    /// Does what was said last about presence, as it counts now.
    fn apply_merged(&mut self, tracked: Option<Bytes>, client: &mut Client) {
        match tracked {
            Some(tracked) => {
                // The policies may have judged another token meanwhile.
                let judged = self.policies.as_ref().and_then(|policies| policies.write);
                if judged.is_none_or(|write| write.presence) {
                    self.track(tracked, client);
                }
            }
            None => client.changed(self.membership.untrack()),
        }
    }

    /// `access_token`: a new token for the channel. Never answered.
    fn access_token(
        &mut self,
        message: &ClientMessage,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let push = message.payload.json().map(|payload| AccessTokenPush::parse(payload));
        let Some(AccessTokenPush::Token(text)) = push else { return Ok(()) };
        if realtime_auth::is_api_key(&text) {
            return Ok(());
        }
        self.tokens.came(text);
        self.renew(client, effects)
    }
}

/// Its token, and who judges it.
impl Channel {
    /// Judges the token that waits, if it is its time.
    fn renew(&mut self, client: &mut Client, effects: &mut Vec<Effect>) -> Result<(), Stop> {
        if self.is_asking() {
            return Ok(());
        }
        match self.tokens.due(Instant::now()) {
            Some(text) => self.use_token(&text, client, effects),
            None => Ok(()),
        }
    }

    /// Uses a token from now on.
    fn use_token(&mut self, text: &str, client: &mut Client, effects: &mut Vec<Effect>) -> Result<(), Stop> {
        let token = Arc::new(client.runtime.verify(text).map_err(refused)?);
        let is_judged = self.rows.is_watching() || self.policies.is_some();
        self.tokens.replace(token, is_judged, &client.runtime);
        match &mut self.policies {
            // Not told before the policies have judged it.
            Some(policies) => {
                policies.write = None;
                self.ask(Question::Refresh, None, client, effects)
            }
            None => {
                self.subscribe(client, effects);
                Ok(())
            }
        }
    }

    /// The former token has expired before the database has judged the one in use: nothing more is seen with its rights.
    fn former_expired(&mut self, client: &mut Client, effects: &mut Vec<Effect>) {
        let mut refreshing = false;
        if let Some(policies) = self.policies.as_mut().filter(|policies| policies.is_refreshing()) {
            policies.go_blind();
            refreshing = true;
            self.membership.set_sight(Sight { broadcasts: false, presence: false });
            self.system(client, &SystemMessage::gap(Extension::System, EXPIRED, EXPIRED_TEXT));
        }
        if !self.rows.end() {
            return;
        }
        self.system(client, &SystemMessage::gap(Extension::PostgresChanges, EXPIRED, EXPIRED_TEXT));
        // Asked under another number, so that nothing of the former one can come; if the answer is still out, anew.
        if !refreshing && !self.rows.is_retried() {
            self.subscribe(client, effects);
        }
    }

    /// Asks the policies. `message`, if there is one, waits for the answer as the first.
    fn ask(
        &mut self,
        question: Question,
        message: Option<ClientMessage>,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let Some(policies) = &mut self.policies else { return Ok(()) };
        let subject =
            Subject { topic: &self.topic, token: self.tokens.in_use(), wants_presence: self.presence.wanted };
        match policies.ask(question, &subject, message, client, effects) {
            Err(Some(message)) => self.unjudged(&message, client),
            Ok(()) | Err(None) => Ok(()),
        }
    }

    /// The policies have said what the channel may read. Returns what goes on then.
    pub(super) fn read_answered(
        &mut self,
        step: u32,
        result: Result<ReadVerdict, AuthorizeError>,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<Waiting, Stop> {
        let Some(policies) = &mut self.policies else { return Ok(Waiting::new()) };
        let Some(question) = policies.answered(step) else { return Ok(Waiting::new()) };
        let refreshes = question == Question::Refresh;
        let topic = sub_topic(&self.topic).unwrap_or_default();
        let read = match result {
            Ok(read) => read,
            Err(error) if refreshes => {
                policies::warn(client.tenant(), &error);
                return Err(error.refresh_message(topic).into());
            }
            Err(error) => return self.not_answered(question, &error, client),
        };
        if refreshes {
            let before = std::mem::replace(&mut policies.read, read);
            if let Some(text) = read.refresh_refusal(before, topic) {
                return Err(text.into());
            }
        } else {
            // What was read when the channel was joined stands.
            policies.read.presence = read.presence;
        }
        self.membership.set_sight(sight(policies.read));
        let was_blind = policies.see_again();
        let sees_presence = self.presence.wanted && policies.read.presence == Some(true);
        if refreshes {
            if !self.rows.is_watching() {
                self.tokens.judged();
            }
            self.subscribe(client, effects);
        }
        if was_blind && sees_presence {
            self.presence_state(client)?;
        }
        Ok(self.goes_on())
    }

    /// The policies have said what the channel may write. Returns what goes on then.
    pub(super) fn write_answered(
        &mut self,
        step: u32,
        result: Result<WriteVerdict, AuthorizeError>,
        client: &mut Client,
    ) -> Result<Waiting, Stop> {
        let Some(policies) = &mut self.policies else { return Ok(Waiting::new()) };
        let Some(question) = policies.answered(step) else { return Ok(Waiting::new()) };
        match result {
            Ok(write) => {
                policies.write = Some(write);
                Ok(self.goes_on())
            }
            Err(error) => self.not_answered(question, &error, client),
        }
    }

    /// What has waited for an answer.
    fn goes_on(&mut self) -> Waiting {
        self.policies.as_mut().map(|policies| std::mem::take(&mut policies.waiting)).unwrap_or_default()
    }

    /// There is no answer: what depends on it fails. Returns what goes on then.
    fn not_answered(
        &mut self,
        question: Question,
        error: &AuthorizeError,
        client: &mut Client,
    ) -> Result<Waiting, Stop> {
        let tenant = client.tenant();
        if question == Question::Write && matches!(error, AuthorizeError::Unavailable(_)) {
            tracing::warn!(tenant, code = "UnableToHandleBroadcast", %error, "policies could not be asked");
        } else {
            policies::warn(tenant, error);
        }
        let Some(policies) = &mut self.policies else { return Ok(Waiting::new()) };
        for track in policies.not_answered(question, client) {
            self.unjudged(&track, client)?;
        }
        Ok(self.goes_on())
    }

    /// A message cannot be judged: a broadcast is dropped, a track is answered (protocol 5.4).
    fn unjudged(&mut self, message: &ClientMessage, client: &Client) -> Result<(), Stop> {
        if &*message.event == "presence" {
            self.presence.count_unjudged(&client.runtime)?;
            self.answer(client, &message.msg_ref, "error", b"{}");
        }
        Ok(())
    }
}

/// Its database.
impl Channel {
    /// Asks the database for what the channel watches, with its token as it is now.
    fn subscribe(&mut self, client: &mut Client, effects: &mut Vec<Effect>) {
        self.rows.subscribe(&self.topic, self.tokens.in_use(), client, effects);
    }

    /// Tells the client what became of its subscription.
    pub(super) fn tell_subscription(
        &mut self,
        step: u32,
        result: Result<(), SubscribeRefusal>,
        client: &Client,
    ) {
        let Some(answered) = self.rows.answered(step, result) else { return };
        if answered.is_judged {
            self.tokens.judged();
        }
        if let Some(code) = answered.refused {
            tracing::warn!(tenant = client.tenant(), code, "subscription refused");
        }
        self.system(client, &answered.told);
    }

    /// The tenant's database has another handle, which knows of no subscriptions: the client is told that there is a gap,
    /// and the database is asked again. If it may be another one (`elsewhere`), its policies are asked about private
    /// channels anew.
    pub(super) fn database_replaced(
        &mut self,
        elsewhere: bool,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let watches = self.rows.is_replaced(client);
        if let Some(policies) = self.policies.as_mut().filter(|_| elsewhere) {
            policies.write = None;
            self.ask(Question::Refresh, None, client, effects)?;
        }
        if watches {
            self.system(client, &SystemMessage::gap(Extension::PostgresChanges, "DatabaseReplaced", ENDED));
        }
        Ok(())
    }

    /// Tells the client what it does not know yet of broadcasts from the database.
    pub(super) fn tell_replication(&mut self, client: &Client) {
        let news = self.ready.learn(client.runtime.database().replication());
        if news.missed {
            self.system(client, &SystemMessage::gap(Extension::System, "BroadcastsMissed", GAP));
        }
        if news.arrive {
            self.system(client, &SystemMessage::replication_established());
        }
    }
}

/// Why a channel ends whose token is refused.
fn refused(error: AuthError) -> Stop {
    error.system_message().into()
}
