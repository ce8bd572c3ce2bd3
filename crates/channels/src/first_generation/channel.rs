//! Channels of the first generation: those joined without `config`, on a server that supports them (legacy 1.4, 1.5,
//! 2, 9).
//!
//! They carry row changes and nothing else: no broadcast, no presence, no `system` frames. An error is told by
//! `phx_error`, after which old clients join again. There are two engines. The stream engine delivers everything that
//! is published to a topic. The other one is the engine of the second generation; its subscription is made before the
//! join is answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rand::Rng as _;
use realtime_auth::AuthError;
use realtime_changes::{EventFilter, Filter, NamePattern, SubscribeRefusal, SubscriptionSpec, Tree};
use realtime_codes::ErrorCode;
use realtime_legacy::StarEvents;
use realtime_protocol::{AccessTokenPush, ClientMessage, JoinPayload, JoinRefusal, Ref, encode};
use tokio::time::Instant;

use super::{engine::Legacy, members::Place};
use crate::{
    client::{Client, sub_topic},
    effect::{Effect, Ticket},
    renewal::Renewal,
    routes::{Gate, Route},
    token::Token,
    watch::Watch,
};

/// The id of a channel's only subscription; old clients are not told of it.
const SUBSCRIPTION: u32 = 1;

/// A subscription that failed for a passing reason is tried again after this many milliseconds.
const RETRY_MILLIS: std::ops::Range<u64> = 5_000..10_000;

/// Why a channel ends.
#[derive(Debug)]
pub(crate) enum End {
    /// Its client left.
    Left,
    /// The client has to join again.
    Broken,
    /// The join is refused.
    Refused { msg_ref: Ref, reason: String },
}

/// A joined channel of the first generation.
#[derive(Debug)]
pub(crate) struct FirstChannel {
    topic: Arc<str>,
    /// The join message's join_ref, null if it had none.
    raw_join_ref: Ref,
    /// The reference in `phx_close` and `phx_error`: `raw_join_ref`, or the ref of the join if that is null.
    end_ref: Ref,
    /// Its token. `None` if the server asks for no tokens.
    token: Option<Arc<Token>>,
    /// When the token is verified again.
    recheck_at: Option<Instant>,
    /// Tokens that follow it.
    renewal: Renewal,
    /// Whether clients that know `access_token` are assumed to understand `*` by themselves.
    auto_star: bool,
    watching: Watching,
}

/// What a channel watches.
#[derive(Debug)]
enum Watching {
    /// Nothing: neither this topic nor this token can receive anything.
    Nothing,
    /// A topic of the stream engine, until this value is dropped.
    Topic { route: Arc<Route>, _place: Place },
    /// A subscription to row changes.
    Rows {
        watch: Watch,
        spec: Arc<SubscriptionSpec>,
        /// Counts attempts, so that a late answer to an earlier attempt is recognised.
        attempt: u32,
        /// The reference of the join, until it is answered.
        unanswered: Option<Ref>,
        /// When the subscription is tried again.
        retry_at: Option<Instant>,
    },
}

/// The refusal of the topic `realtime:`.
pub(crate) fn no_sub_topic() -> JoinRefusal {
    JoinRefusal::Other {
        reason: "realtime subtopic does not exist".into(),
        code: ErrorCode::TopicNameRequired.as_str(),
    }
}

/// The refusal of a token, or of a subscription that the database rejects.
fn refusal(topic: &str, code: &'static str) -> JoinRefusal {
    JoinRefusal::Other { reason: format!("error occurred when joining {topic}").into(), code }
}

/// The token of a channel: its own or the socket's. A server that asks for no tokens reads none.
pub(crate) fn token(
    legacy: &Legacy,
    client: &Client,
    topic: &str,
    payload: &JoinPayload,
) -> Result<Arc<Token>, JoinRefusal> {
    if !legacy.settings().secure {
        return Ok(Arc::clone(legacy.anonymous()));
    }
    let text = realtime_auth::channel_token(
        &client.token.text,
        payload.access_token.as_deref(),
        payload.user_token.as_deref(),
    );
    match client.runtime.verify_first_generation(text) {
        Ok(_) if *text == *client.token.text => Ok(Arc::clone(&client.token)),
        Ok(token) => Ok(Arc::new(token)),
        Err(error) => Err(refusal(topic, error.code())),
    }
}

impl FirstChannel {
    /// Joins a channel that was admitted.
    pub(crate) fn join(
        legacy: &Legacy,
        topic: Arc<str>,
        message: &ClientMessage,
        token: Arc<Token>,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Self {
        let raw_join_ref = message.join_ref.clone();
        let end_ref = if raw_join_ref.is_null() { message.msg_ref.clone() } else { raw_join_ref.clone() };
        let now = client.runtime.clock().unix_seconds();
        let settings = legacy.settings();
        let token = settings.secure.then_some(token);
        let mut channel = Self {
            topic,
            renewal: Renewal::default(),
            recheck_at: token.as_ref().map(|token| token.recheck_at(now)),
            raw_join_ref,
            end_ref,
            token,
            auto_star: settings.profile.star_events == StarEvents::Auto,
            watching: Watching::Nothing,
        };
        let has_role = channel.token.as_ref().is_some_and(|token| !token.role.is_empty());
        if legacy.streams() {
            channel.answer(&message.msg_ref, client);
            let star = match settings.profile.star_events {
                StarEvents::Never => false,
                StarEvents::Always => true,
                StarEvents::Auto => may_need_stars(message),
            };
            let route = channel.route(star, client);
            channel.watching = Watching::Topic { _place: legacy.enter(Arc::clone(&route)), route };
        } else if has_role && let Some(spec) = spec(&channel.topic, settings.profile.dotted_filter) {
            channel.watching = Watching::Rows {
                watch: Watch::new(&client.runtime),
                spec: Arc::new(spec),
                attempt: 0,
                unanswered: Some(message.msg_ref.clone()),
                retry_at: None,
            };
        } else {
            // A client that may see nothing receives nothing. It is not told.
            channel.answer(&message.msg_ref, client);
        }
        channel.subscribe(client, effects);
        channel
    }

    /// The next moment at which something has to be done for it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let retry_at = match &self.watching {
            Watching::Rows { retry_at, .. } => *retry_at,
            Watching::Nothing | Watching::Topic { .. } => None,
        };
        let others = [retry_at, self.renewal.former_until(), self.renewal.due_at()];
        others.into_iter().chain([self.recheck_at]).flatten().min()
    }

    /// The last frame that its client gets.
    pub(crate) fn last_word(&self, end: &End, client: &Client) -> Bytes {
        match end {
            End::Left => encode::close(client.vsn, &self.end_ref, &self.topic),
            End::Broken => encode::error(client.vsn, &self.end_ref, &self.topic),
            End::Refused { msg_ref, reason } => {
                encode::reply_error(client.vsn, &self.end_ref, msg_ref, &self.topic, reason)
            }
        }
    }

    /// Subscribes again, because the database has a new handle, which knows no subscriptions. A joined channel does so
    /// at a random time, one whose join is not answered yet at once. An answer that is still missing no longer counts.
    pub(crate) fn database_replaced(&mut self, client: &mut Client, effects: &mut Vec<Effect>) {
        let Watching::Rows { attempt, unanswered, retry_at, .. } = &mut self.watching else { return };
        *attempt = client.step();
        if unanswered.is_none() {
            *retry_at = Some(later());
        } else {
            effects.extend(self.question());
        }
    }

    /// Handles a message other than join and leave. Unknown ones are ignored.
    pub(crate) fn push(
        &mut self,
        message: &ClientMessage,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        if &*message.event != "access_token" {
            return Ok(());
        }
        if self.auto_star
            && let Watching::Topic { route, .. } = &self.watching
        {
            // Clients that know this event understand `*` by themselves.
            route.star.store(false, Ordering::Relaxed);
        }
        let push = message.payload.json().map(|payload| AccessTokenPush::parse(payload));
        // A server that asks for no tokens reads none.
        let Some(token) = &self.token else { return Ok(()) };
        let text = match push {
            Some(AccessTokenPush::Token(text)) => text,
            Some(AccessTokenPush::TooLong) => return Err(refused(&AuthError::Malformed)),
            _ => return Ok(()),
        };
        self.renewal.came(text, token);
        self.renew(client, effects)
    }

    /// Handles `phx_leave`. True if it concerns this channel; the leave is answered then.
    pub(crate) fn leave(&self, message: &ClientMessage, client: &Client) -> bool {
        let named = |join_ref: &Ref| !join_ref.is_null();
        if named(&message.join_ref) && named(&self.raw_join_ref) && message.join_ref != self.raw_join_ref {
            return false;
        }
        client.send(encode::reply_ok(client.vsn, &self.end_ref, &message.msg_ref, &self.topic, b"{}"));
        true
    }

    /// Does everything that is due: verifies tokens, tries subscriptions again.
    pub(crate) fn tick(
        &mut self,
        now: Instant,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        if let Watching::Rows { retry_at, .. } = &mut self.watching
            && retry_at.is_some_and(|at| at <= now)
        {
            *retry_at = None;
            self.subscribe(client, effects);
        }
        self.recheck(now, client, effects)?;
        self.recheck_former(now, client)?;
        self.renew(client, effects)
    }

    /// Uses the token that waits, if it is time.
    fn renew(&mut self, client: &mut Client, effects: &mut Vec<Effect>) -> Result<(), End> {
        match self.renewal.due(Instant::now()) {
            Some(text) => self.use_token(&text, client, effects),
            None => Ok(()),
        }
    }

    /// Uses a token from now on.
    fn use_token(&mut self, text: &str, client: &mut Client, effects: &mut Vec<Effect>) -> Result<(), End> {
        let now = client.runtime.clock().unix_seconds();
        match client.runtime.verify_first_generation(text) {
            Ok(token) => {
                let recheck_at = self.recheck_at.replace(token.recheck_at(now));
                let former = self.token.replace(Arc::new(token));
                let watches = matches!(self.watching, Watching::Rows { .. });
                if let (true, Some(former), Some(recheck_at)) = (watches, former, recheck_at) {
                    self.renewal.began(former, recheck_at);
                }
                self.subscribe(client, effects);
                Ok(())
            }
            Err(_) if realtime_auth::is_api_key(text) => Ok(()),
            Err(error) => Err(refused(&error)),
        }
    }

    /// Verifies the token again if it is time. If it has expired, a newer one that waits takes its place.
    fn recheck(&mut self, now: Instant, client: &mut Client, effects: &mut Vec<Effect>) -> Result<(), End> {
        let Some(token) = self.token.as_ref().filter(|_| self.recheck_at.is_some_and(|at| at <= now)) else {
            return Ok(());
        };
        match client.runtime.verify_first_generation_again(token) {
            Ok(token) => {
                self.recheck_at = Some(token.recheck_at(client.runtime.clock().unix_seconds()));
                Ok(())
            }
            Err(error) => match self.renewal.at_once() {
                Some(text) => self.use_token(&text, client, effects),
                None => Err(refused(&error)),
            },
        }
    }

    /// Ends a channel that would otherwise see rows with the rights of an expired token.
    fn recheck_former(&mut self, now: Instant, client: &Client) -> Result<(), End> {
        let Some(former) = self.renewal.former_due(now) else { return Ok(()) };
        let verified = client.runtime.verify_first_generation_again(&former);
        self.renewal.is_over();
        let token = verified.map_err(|error| refused(&error))?;
        self.renewal.began(former, token.recheck_at(client.runtime.clock().unix_seconds()));
        Ok(())
    }

    /// Takes the database's answer to a subscription.
    pub(crate) fn answered(
        &mut self,
        step: u32,
        result: Result<(), SubscribeRefusal>,
        client: &Client,
    ) -> Result<(), End> {
        let Watching::Rows { spec, attempt, unanswered, retry_at, .. } = &mut self.watching else {
            return Ok(());
        };
        if *attempt != step {
            return Ok(());
        }
        let unanswered = unanswered.take();
        match &result {
            // If the table is published later, the subscription begins then.
            Ok(()) | Err(SubscribeRefusal::NoTable(_)) => self.renewal.is_over(),
            // Old clients do not try again by themselves.
            Err(refused) if refused.is_transient() => *retry_at = Some(later()),
            Err(refused) => {
                let (tenant, code, table) = (client.tenant(), refused.code(), spec.place());
                let (role, reason) = (self.token.as_ref().map(|token| &*token.role), refused.reason());
                tracing::warn!(tenant, code, table, role, reason, "subscription refused");
                let refused = |msg_ref| {
                    let reason = refusal(&self.topic, refused.code()).to_string();
                    End::Refused { msg_ref, reason }
                };
                return Err(unanswered.map_or(End::Broken, refused));
            }
        }
        let Some(msg_ref) = unanswered else { return Ok(()) };
        self.answer(&msg_ref, client);
        // Frames go out only now: earlier changes would arrive before the answer.
        if let Watching::Rows { watch, .. } = &self.watching {
            watch.open(self.route(false, client));
        }
        Ok(())
    }

    /// Asks the database for what the channel watches, with its current token.
    fn subscribe(&mut self, client: &mut Client, effects: &mut Vec<Effect>) {
        if let Watching::Rows { attempt, .. } = &mut self.watching {
            *attempt = client.step();
            effects.extend(self.question());
        }
    }

    /// The question to the database, with the channel's current token.
    fn question(&self) -> Option<Effect> {
        let (Watching::Rows { watch, spec, attempt, .. }, Some(token)) = (&self.watching, &self.token) else {
            return None;
        };
        let request = watch.request(token, vec![(SUBSCRIPTION, Arc::clone(spec))]);
        let ticket = Ticket { topic: Arc::clone(&self.topic), step: *attempt };
        Some(Effect::Subscribe(ticket, request))
    }

    fn answer(&self, msg_ref: &Ref, client: &Client) {
        client.send(encode::reply_ok(client.vsn, &self.raw_join_ref, msg_ref, &self.topic, b"{}"));
    }

    fn route(&self, star: bool, client: &Client) -> Arc<Route> {
        Arc::new(Route {
            outbox: Arc::clone(&client.outbox),
            vsn: client.vsn,
            topic: Arc::clone(&self.topic),
            join_ref: Ref::null(),
            legacy: true,
            quiet: true,
            star: AtomicBool::new(star),
            patience: Arc::clone(&client.patience),
            gate: Gate::open(),
            after: None,
            gap: AtomicBool::new(false),
        })
    }
}

/// The end of a channel whose token is refused: its client has to join again with another one.
fn refused(error: &AuthError) -> End {
    tracing::debug!(code = error.code(), %error, "token refused");
    End::Broken
}

/// When a subscription is tried again.
fn later() -> Instant {
    Instant::now() + Duration::from_millis(rand::rng().random_range(RETRY_MILLIS))
}

/// Whether a client may need the event `*` and is not harmed by it. Python clients join without a reference; the last
/// JavaScript clients join with a join_ref or a `user_token`.
fn may_need_stars(join: &ClientMessage) -> bool {
    let user_token = || {
        let payload = join.payload.json().and_then(|payload| JoinPayload::parse(payload, 0).ok());
        payload.is_some_and(|(payload, _)| payload.user_token.is_some())
    };
    !join.msg_ref.is_null() && join.join_ref.is_null() && !user_token()
}

/// What a topic means to the engine of the second generation (legacy 2.3). The value of a filter is taken literally.
fn spec(topic: &str, dotted: bool) -> Option<SubscriptionSpec> {
    let rest = sub_topic(topic)?;
    let marks = if dotted { &["=eq.", ".eq."][..] } else { &["=eq."] };
    let filter = marks.iter().filter_map(|mark| rest.split_once(*mark)).min_by_key(|(left, _)| left.len());
    let (left, value) = filter.map_or((rest, None), |(left, value)| (left, Some(value)));
    let mut parts = left.splitn(3, ':');
    let (schema, table, column) = (parts.next()?, parts.next(), parts.next());
    let filters = match (column, value) {
        (Some(column), Some(value)) => vec![Tree::Leaf(Filter::equal(column, value))],
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
        live: None,
        if_view: None,
        since: None,
    })
}
