//! Channels of the first generation: joined without `config`, where that is served (legacy 1.4, 1.5, 2, 9).
//!
//! They carry row changes and nothing else: no broadcast, no presence, no `system` frames. Their errors are `phx_error`,
//! upon which old clients join again. The stream engine gives them everything that is published to their topic; the other
//! engine is that of the second generation, whose subscription is made before the join is answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;
use realtime_auth::AuthError;
use realtime_changes::{EventFilter, Filter, NamePattern, Operator, SubscribeRefusal, SubscriptionSpec};
use realtime_legacy::StarEvents;
use realtime_protocol::{AccessTokenPush, ClientMessage, JoinPayload, JoinRefusal, Ref, encode};
use tokio::time::Instant;

use super::{Effect, Session, Ticket, Topic, access_token::Renewal, channel::sub_topic, watch::Watch};
use crate::{
    first_generation::{Legacy, Place},
    routes::{Gate, Route},
    token::Token,
};

/// The id of a channel's only subscription; old clients are not told of it.
const SUBSCRIPTION: u32 = 1;

/// A subscription that failed for a passing reason is tried again after this many milliseconds.
const RETRY_MILLIS: std::ops::Range<u64> = 5_000..10_000;

/// A joined channel of the first generation.
#[derive(Debug)]
pub(super) struct FirstChannel {
    topic: Arc<str>,
    /// The join message's join_ref, null if it had none.
    raw_join_ref: Ref,
    /// What `phx_close` and `phx_error` carry: that, or the join's ref.
    end_ref: Ref,
    /// Its token. `None`: nobody is asked for one.
    token: Option<Arc<Token>>,
    /// When that is verified again.
    recheck_at: Option<Instant>,
    /// Tokens that follow it.
    renewal: Renewal,
    watching: Watching,
}

/// What a channel watches.
#[derive(Debug)]
enum Watching {
    /// Nothing: a topic or a token that nothing is delivered to.
    Nothing,
    /// A topic of the stream engine, until this is dropped.
    Topic { route: Arc<Route>, _place: Place },
    /// A subscription to row changes.
    Rows {
        watch: Watch,
        spec: Arc<SubscriptionSpec>,
        /// Counts attempts: the answer to an earlier one means nothing any more.
        attempt: u32,
        /// The reference of the join, until it is answered.
        unanswered: Option<Ref>,
        /// When it is tried again.
        retry_at: Option<Instant>,
    },
}

impl FirstChannel {
    /// The next moment at which something has to be done for it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let retry_at = match &self.watching {
            Watching::Rows { retry_at, .. } => *retry_at,
            Watching::Nothing | Watching::Topic { .. } => None,
        };
        let others = [retry_at, self.renewal.former_until(), self.renewal.due_at()];
        others.into_iter().chain([self.recheck_at]).flatten().min()
    }

    /// The database has another handle, which knows of no subscriptions: a channel asks again, at a time of its own; at
    /// once if its join is not answered yet. An answer that is still out is void.
    pub(super) fn watch_again(&mut self, step: u32, effects: &mut Vec<Effect>) {
        let Watching::Rows { attempt, unanswered, retry_at, .. } = &mut self.watching else { return };
        *attempt = step;
        if unanswered.is_none() {
            let delay = Duration::from_millis(rand::rng().random_range(RETRY_MILLIS));
            *retry_at = Some(Instant::now() + delay);
        } else {
            effects.extend(self.subscription());
        }
    }

    /// The question for what it watches, with its token as it is now.
    fn subscription(&self) -> Option<Effect> {
        let (Watching::Rows { watch, spec, attempt, .. }, Some(token)) = (&self.watching, &self.token) else {
            return None;
        };
        let request = watch.request(token, vec![(SUBSCRIPTION, Arc::clone(spec))]);
        let ticket = Ticket { topic: Arc::clone(&self.topic), step: *attempt };
        Some(Effect::Subscribe(ticket, request))
    }
}

/// The refusal of the topic `realtime:`.
pub(super) fn no_sub_topic() -> JoinRefusal {
    JoinRefusal::Other { reason: "realtime subtopic does not exist".into(), code: "TopicNameRequired" }
}

/// The refusal of a token, and of a subscription that the database does not take.
fn refusal(topic: &str, code: &'static str) -> JoinRefusal {
    JoinRefusal::Other { reason: format!("error occurred when joining {topic}").into(), code }
}

impl Session {
    /// The token of a channel: its own, or that of the socket. An unsecured server looks at none.
    pub(super) fn first_token(
        &self,
        legacy: &Legacy,
        topic: &str,
        payload: &JoinPayload,
    ) -> Result<Arc<Token>, JoinRefusal> {
        if !legacy.settings().secure {
            return Ok(Arc::clone(legacy.anonymous()));
        }
        let text = realtime_auth::channel_token(
            &self.tenant_token.text,
            payload.access_token.as_deref(),
            payload.user_token.as_deref(),
        );
        match self.runtime.verify_first_generation(text) {
            Ok(_) if *text == *self.tenant_token.text => Ok(Arc::clone(&self.tenant_token)),
            Ok(token) => Ok(Arc::new(token)),
            Err(error) => Err(refusal(topic, error.code())),
        }
    }

    /// Joins a channel that was admitted.
    pub(super) fn join_first(
        &mut self,
        topic: Arc<str>,
        message: &ClientMessage,
        token: Arc<Token>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(legacy) = self.runtime.legacy().map(Arc::clone) else { return };
        let raw_join_ref = message.join_ref.clone();
        let end_ref = if raw_join_ref.is_null() { message.msg_ref.clone() } else { raw_join_ref.clone() };
        let now = self.runtime.clock().unix_seconds();
        let token = legacy.settings().secure.then_some(token);
        let mut channel = FirstChannel {
            topic: Arc::clone(&topic),
            renewal: Renewal::default(),
            recheck_at: token.as_ref().map(|token| token.recheck_at(now)),
            raw_join_ref,
            end_ref,
            token,
            watching: Watching::Nothing,
        };
        self.joined_once = true;
        let has_role = channel.token.as_ref().is_some_and(|token| !token.role.is_empty());
        if legacy.streams() {
            self.answer_first(&channel, &message.msg_ref);
            let star = match legacy.settings().profile.star_events {
                StarEvents::Never => false,
                StarEvents::Always => true,
                StarEvents::Auto => may_need_stars(message),
            };
            let route = self.first_route(&channel, star);
            channel.watching = Watching::Topic { _place: legacy.enter(Arc::clone(&route)), route };
        } else if has_role && let Some(spec) = spec(&topic, legacy.settings().profile.dotted_filter) {
            channel.watching = Watching::Rows {
                watch: Watch::new(&self.runtime),
                spec: Arc::new(spec),
                attempt: 0,
                unanswered: Some(message.msg_ref.clone()),
                retry_at: None,
            };
        } else {
            // Who nothing can be shown to hears nothing, and is not told.
            self.answer_first(&channel, &message.msg_ref);
        }
        self.topics.insert(Arc::clone(&topic), Topic::First(Box::new(channel)));
        self.subscribe_first(&topic, effects);
    }

    /// Any message but join and leave. Unknown ones are ignored.
    pub(super) fn first_push(&mut self, message: &ClientMessage, effects: &mut Vec<Effect>) {
        if &*message.event != "access_token" {
            return;
        }
        if let Some(legacy) = self.runtime.legacy()
            && legacy.settings().profile.star_events == StarEvents::Auto
            && let Some(Topic::First(channel)) = self.topics.get(&*message.topic)
            && let Watching::Topic { route, .. } = &channel.watching
        {
            // Clients that know this event understand `*` by themselves.
            route.star.store(false, Ordering::Relaxed);
        }
        let push = message.payload.json().map(|payload| AccessTokenPush::parse(payload));
        let Some(AccessTokenPush::Token(text)) = push else { return };
        let topic: Arc<str> = (&*message.topic).into();
        let Some(channel) = self.first_mut(&topic) else { return };
        // Nobody was asked for a token, nobody's is looked at.
        let Some(token) = &channel.token else { return };
        channel.renewal.came(text, token);
        self.renew_first(&topic, effects);
    }

    /// Judges the token that waits, if it is its time.
    pub(super) fn renew_first(&mut self, topic: &Arc<str>, effects: &mut Vec<Effect>) {
        let Some(channel) = self.first_mut(topic) else { return };
        if let Some(text) = channel.renewal.due(Instant::now()) {
            self.use_first_token(topic, &text, effects);
        }
    }

    /// Uses a token from now on.
    fn use_first_token(&mut self, topic: &Arc<str>, text: &str, effects: &mut Vec<Effect>) {
        let verified = self.runtime.verify_first_generation(text);
        let now = self.runtime.clock().unix_seconds();
        let Some(channel) = self.first_mut(topic) else { return };
        match verified {
            Ok(token) => {
                let recheck_at = channel.recheck_at.replace(token.recheck_at(now));
                let former = channel.token.replace(Arc::new(token));
                let watches = matches!(channel.watching, Watching::Rows { .. });
                if let (true, Some(former), Some(recheck_at)) = (watches, former, recheck_at) {
                    channel.renewal.began(former, recheck_at);
                }
                self.subscribe_first(topic, effects);
            }
            Err(_) if realtime_auth::is_api_key(text) => {}
            Err(error) => self.refuse_first_token(topic, &error),
        }
    }

    fn refuse_first_token(&mut self, topic: &Arc<str>, error: &AuthError) {
        tracing::debug!(code = error.code(), %error, "token refused");
        self.break_first(topic);
    }

    /// `phx_leave`. One that is not of the live channel is ignored.
    pub(super) fn leave_first(&mut self, message: &ClientMessage) {
        let Some(Topic::First(channel)) = self.topics.get(&*message.topic) else { return };
        let named = |join_ref: &Ref| !join_ref.is_null();
        if named(&message.join_ref)
            && named(&channel.raw_join_ref)
            && message.join_ref != channel.raw_join_ref
        {
            return;
        }
        let (end_ref, topic) = (channel.end_ref.clone(), Arc::clone(&channel.topic));
        self.send(encode::reply_ok(self.vsn, &end_ref, &message.msg_ref, &topic, b"{}"));
        self.end_first(&topic);
        self.send(encode::close(self.vsn, &end_ref, &topic));
    }

    /// Does what has become due: tokens that expire, subscriptions to be tried again.
    pub(super) fn tick_first(&mut self, topic: &Arc<str>, now: Instant, effects: &mut Vec<Effect>) {
        let Some(channel) = self.first_mut(topic) else { return };
        if let Watching::Rows { retry_at, .. } = &mut channel.watching
            && retry_at.is_some_and(|at| at <= now)
        {
            *retry_at = None;
            self.subscribe_first(topic, effects);
        }
        self.recheck_first(topic, now, effects);
        self.recheck_first_former(topic, now);
        self.renew_first(topic, effects);
    }

    /// Verifies the token again if it is time. A newer one that waits takes its place if it has expired.
    fn recheck_first(&mut self, topic: &Arc<str>, now: Instant, effects: &mut Vec<Effect>) {
        let Some(channel) = self.first_mut(topic) else { return };
        let due = channel.recheck_at.is_some_and(|at| at <= now);
        let Some(token) = channel.token.clone().filter(|_| due) else { return };
        let verified = self.runtime.verify_first_generation_again(&token);
        let unix_seconds = self.runtime.clock().unix_seconds();
        let Some(channel) = self.first_mut(topic) else { return };
        match verified {
            Ok(token) => channel.recheck_at = Some(token.recheck_at(unix_seconds)),
            Err(error) => match channel.renewal.at_once() {
                Some(text) => self.use_first_token(topic, &text, effects),
                None => self.refuse_first_token(topic, &error),
            },
        }
    }

    /// Ends a channel that would go on seeing rows with the rights of a token that has expired.
    fn recheck_first_former(&mut self, topic: &Arc<str>, now: Instant) {
        let former = self.first_mut(topic).and_then(|channel| channel.renewal.former_due(now));
        let Some(former) = former else { return };
        let verified = self.runtime.verify_first_generation_again(&former);
        let unix_seconds = self.runtime.clock().unix_seconds();
        let Some(channel) = self.first_mut(topic) else { return };
        channel.renewal.is_over();
        match verified {
            Ok(token) => channel.renewal.began(former, token.recheck_at(unix_seconds)),
            Err(error) => self.refuse_first_token(topic, &error),
        }
    }

    /// The database has answered what becomes of a subscription.
    pub(super) fn first_answered(&mut self, ticket: &Ticket, result: Result<(), SubscribeRefusal>) {
        let Some(channel) = self.first_mut(&ticket.topic) else { return };
        let Watching::Rows { attempt, unanswered, retry_at, .. } = &mut channel.watching else { return };
        if *attempt != ticket.step {
            return;
        }
        let unanswered = unanswered.take();
        match &result {
            // A table that comes to be published later is watched then.
            Ok(()) | Err(SubscribeRefusal::NoTable(_)) => channel.renewal.is_over(),
            Err(refused) if refused.is_transient() => {
                // Old clients do not try again by themselves.
                let delay = Duration::from_millis(rand::rng().random_range(RETRY_MILLIS));
                *retry_at = Some(Instant::now() + delay);
            }
            Err(refused) => {
                tracing::warn!(code = refused.code(), "subscription refused");
                tracing::debug!(error = %refused, "subscription refused");
                return match unanswered {
                    Some(msg_ref) => {
                        let reason = refusal(&ticket.topic, refused.code()).to_string();
                        let end_ref = channel.end_ref.clone();
                        self.end_first(&ticket.topic);
                        let topic = &ticket.topic;
                        self.send(encode::reply_error(self.vsn, &end_ref, &msg_ref, topic, &reason));
                    }
                    None => self.break_first(&ticket.topic),
                };
            }
        }
        let Some(msg_ref) = unanswered else { return };
        let Some(Topic::First(channel)) = self.topics.get(&ticket.topic) else { return };
        self.answer_first(channel, &msg_ref);
        // Not before: what was committed earlier would come before the answer.
        if let Watching::Rows { watch, .. } = &channel.watching {
            watch.open(self.first_route(channel, false));
        }
    }

    /// Asks the database for what a channel watches, with its token as it is now.
    fn subscribe_first(&mut self, topic: &Arc<str>, effects: &mut Vec<Effect>) {
        let step = self.step();
        let Some(channel) = self.first_mut(topic) else { return };
        if let Watching::Rows { attempt, .. } = &mut channel.watching {
            *attempt = step;
            effects.extend(channel.subscription());
        }
    }

    fn answer_first(&self, channel: &FirstChannel, msg_ref: &Ref) {
        self.send(encode::reply_ok(self.vsn, &channel.raw_join_ref, msg_ref, &channel.topic, b"{}"));
    }

    fn first_route(&self, channel: &FirstChannel, star: bool) -> Arc<Route> {
        Arc::new(Route {
            outbox: Arc::clone(&self.outbox),
            vsn: self.vsn,
            topic: Arc::clone(&channel.topic),
            join_ref: Ref::null(),
            legacy: true,
            quiet: true,
            star: AtomicBool::new(star),
            patience: Arc::clone(&self.patience),
            gate: Gate::open(),
        })
    }

    fn first_mut(&mut self, topic: &str) -> Option<&mut FirstChannel> {
        match self.topics.get_mut(topic) {
            Some(Topic::First(channel)) => Some(channel),
            _ => None,
        }
    }

    /// Ends a channel such that its client joins again.
    fn break_first(&mut self, topic: &Arc<str>) {
        if let Some(end_ref) = self.end_first(topic) {
            self.send(encode::error(self.vsn, &end_ref, topic));
        }
    }

    /// Ends a channel without a word; returns the reference for it.
    fn end_first(&mut self, topic: &Arc<str>) -> Option<Ref> {
        match self.topics.remove(topic) {
            Some(Topic::First(channel)) => {
                self.abandoned_since = Some(Instant::now());
                Some(channel.end_ref)
            }
            Some(other) => {
                self.topics.insert(Arc::clone(topic), other);
                None
            }
            None => None,
        }
    }
}

/// Whether a client may be one for which the event `*` was made, and is none that it harms. Those for Python join without a
/// reference, the last ones for JavaScript with a join_ref or a `user_token`.
fn may_need_stars(join: &ClientMessage) -> bool {
    let user_token = || {
        let payload = join.payload.json().and_then(|payload| JoinPayload::parse(payload, 0).ok());
        payload.is_some_and(|(payload, _)| payload.user_token.is_some())
    };
    !join.msg_ref.is_null() && join.join_ref.is_null() && !user_token()
}

/// What a topic means to the second generation's engine (legacy 2.3). The value of a filter is taken as it stands.
fn spec(topic: &str, dotted: bool) -> Option<SubscriptionSpec> {
    let rest = sub_topic(topic)?;
    let marks = if dotted { &["=eq.", ".eq."][..] } else { &["=eq."] };
    let filter = marks.iter().filter_map(|mark| rest.split_once(*mark)).min_by_key(|(left, _)| left.len());
    let (left, value) = filter.map_or((rest, None), |(left, value)| (left, Some(value)));
    let mut parts = left.splitn(3, ':');
    let (schema, table, column) = (parts.next()?, parts.next(), parts.next());
    let filters = match (column, value) {
        (Some(column), Some(value)) => {
            vec![Filter { column: column.into(), operator: Operator::Eq, value: value.into(), negate: false }]
        }
        (None, None) => Vec::new(),
        // Three parts without a value, or a value without a column: a topic that nothing is published to.
        _ => return None,
    };
    Some(SubscriptionSpec {
        event: EventFilter::All,
        // Alone, `*` is every schema; within a longer topic it is a name.
        schema: if rest == "*" { NamePattern::Any } else { NamePattern::Exact(schema.into()) },
        table: table.map_or(NamePattern::Any, |table| NamePattern::Exact(table.into())),
        filters,
        select: None,
    })
}
