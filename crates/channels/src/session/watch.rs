//! Watching the database for a channel (postgres_changes 1.3, 1.7, 1.8).

use std::{
    mem,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rand::Rng as _;
use realtime_changes::{
    ChannelId, ParamsError, SubscribeRefusal, SubscriptionSpec, assign_ids, legacy_params,
};
use realtime_postgres::{Generations, SubscribeRequest};
use realtime_protocol::{Extension, JoinPayload, Ref, SystemMessage};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{Effect, Session, Ticket, Topic, channel::sub_topic, policies::Question};
use crate::{
    routes::{Gate, Route},
    tenant_runtime::TenantRuntime,
    token::Token,
};

/// What channels are told that watched the database when its connection was ended on purpose.
const ENDED: &str = "The connection to the database was ended: changes may have been missed";

/// A subscription that failed for a passing reason is tried again after this many milliseconds (1.7, E5, E6).
const RETRY_MILLIS: std::ops::Range<u64> = 5_000..10_000;

/// How long a join waits for its subscription. A database that takes longer leaves the client its own patience, which
/// is ten seconds: it is told by a `system` frame later on.
const REPLY_LIMIT: Duration = Duration::from_secs(5);

/// A channel's right to row changes. Dropping it ends what the channel watches: nothing more reaches its route, and no
/// question that is still on its way to the database leaves anything behind.
pub(super) struct Watch {
    id: ChannelId,
    generations: Generations,
    runtime: Arc<TenantRuntime>,
}

impl Watch {
    /// One that nothing is watched with yet.
    pub(super) fn new(runtime: &Arc<TenantRuntime>) -> Self {
        let id = runtime.routes().next_channel();
        Self { id, generations: Generations::default(), runtime: Arc::clone(runtime) }
    }

    /// One whose row changes go this way.
    pub(super) fn over(runtime: &Arc<TenantRuntime>, route: &Arc<Route>) -> Self {
        let watch = Self::new(runtime);
        watch.open(Arc::clone(route));
        watch
    }

    /// Says where row changes go.
    pub(super) fn open(&self, route: Arc<Route>) {
        self.runtime.routes().open(self.id, route);
    }

    /// What the database is asked, in place of what it was asked before.
    pub(super) fn request(
        &self,
        token: &Token,
        subscriptions: Vec<(u32, Arc<SubscriptionSpec>)>,
    ) -> Box<SubscribeRequest> {
        Box::new(SubscribeRequest {
            channel: self.id,
            role: Arc::clone(&token.role),
            claims: Arc::clone(&token.claims),
            subscriptions,
            generation: self.generations.next(),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.runtime.routes().close(self.id);
        // Before the worker is told: what comes to it later is known to be overtaken.
        self.generations.end();
        self.runtime.database().unsubscribe(self.id);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({})", self.id.0)
    }
}

/// What a channel will watch whose join is not answered yet.
pub(super) struct Watching {
    pub(super) watch: Watch,
    pub(super) subscriptions: Vec<(u32, Arc<SubscriptionSpec>)>,
    pub(super) route: Arc<Route>,
    pub(super) attempt: u32,
    /// When the join is answered at the latest.
    pub(super) reply_by: Instant,
    pub(super) outcome: Option<Result<(), SubscribeRefusal>>,
}

/// What a join asks for, as the client wrote it.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) objects: Vec<Map<String, Value>>,
    /// The same as text, for the reply.
    pub(super) echo: Vec<Box<str>>,
    pub(super) ids: Vec<u32>,
}

impl Wanted {
    /// Takes it out of the payload.
    pub(super) fn of(topic: &str, payload: &mut JoinPayload) -> Self {
        let (objects, echo) = if payload.legacy {
            let object = legacy_params(sub_topic(topic).unwrap_or_default());
            let text = Value::Object(object.clone()).to_string().into_boxed_str();
            (vec![object], vec![text])
        } else {
            (mem::take(&mut payload.postgres_changes), mem::take(&mut payload.postgres_changes_text))
        };
        let ids = assign_ids(&objects);
        Self { objects, echo, ids }
    }

    /// # Errors
    /// What the client is told: all or nothing is watched.
    fn specs(&self) -> Result<Vec<SubscriptionSpec>, ParamsError> {
        self.objects.iter().map(SubscriptionSpec::parse).collect()
    }
}

impl Session {
    /// Asks the database for what a join wants to watch, so that its reply can mean that no change is missed from then
    /// on. `None` if there is nothing to ask for (postgres_changes 1.3, 1.7).
    pub(super) fn begin_watch(
        &mut self,
        topic: &Arc<str>,
        join_ref: Ref,
        legacy: bool,
        wanted: &Wanted,
        token: &Token,
        effects: &mut Vec<Effect>,
    ) -> Option<Watching> {
        let specs = wanted.specs().ok().filter(|specs| !specs.is_empty())?;
        let attempt = self.step();
        let route = Arc::new(Route {
            outbox: Arc::clone(&self.outbox),
            vsn: self.vsn,
            topic: Arc::clone(topic),
            join_ref,
            legacy,
            quiet: false,
            star: AtomicBool::new(false),
            patience: Arc::clone(&self.patience),
            gate: Gate::shut(),
        });
        let watch = Watch::over(&self.runtime, &route);
        let ids = wanted.ids.iter().copied();
        let subscriptions: Vec<_> = ids.zip(specs.into_iter().map(Arc::new)).collect();
        let request = watch.request(token, subscriptions.clone());
        effects.push(Effect::Subscribe(Ticket { topic: Arc::clone(topic), step: attempt }, request));
        let reply_by = Instant::now() + REPLY_LIMIT;
        Some(Watching { watch, subscriptions, route, attempt, reply_by, outcome: None })
    }

    /// Tells a client why nothing of what it wanted is watched.
    pub(super) fn refuse_watch(&mut self, topic: &str, wanted: &Wanted) {
        if let Err(error) = wanted.specs() {
            // The text repeats what the client sent, which is nobody else's business.
            let tenant = &**self.runtime.name();
            tracing::warn!(tenant, code = "RealtimeDisabledForConfiguration", "subscription refused");
            self.system(topic, &SystemMessage::postgres_changes_error(error.to_string()));
        }
    }

    /// Asks the database for what the channel watches, with its token as it is now.
    pub(super) fn subscribe(&mut self, topic: &Arc<str>, effects: &mut Vec<Effect>) {
        let step = self.step();
        let runtime = Arc::clone(&self.runtime);
        let Some(channel) = self.channel_mut(topic) else { return };
        let Some(route) = channel.route.clone() else { return };
        channel.attempt = step;
        channel.retry_at = None;
        let watch = channel.watch.get_or_insert_with(|| Watch::over(&runtime, &route));
        let request = watch.request(&channel.token, channel.subscriptions.clone());
        effects.push(Effect::Subscribe(Ticket { topic: Arc::clone(topic), step }, request));
    }

    /// Tells the client what became of its subscription.
    pub(super) fn subscription_answered(
        &mut self,
        ticket: &Ticket,
        result: Result<(), SubscribeRefusal>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(watching) = self.joining_mut(ticket).and_then(|joining| joining.watching.as_mut()) {
            watching.outcome = Some(result);
            return self.answer_join(&ticket.topic, effects);
        }
        let Some(channel) = self.channel_mut(&ticket.topic) else { return };
        if channel.attempt != ticket.step {
            return;
        }
        let answered = std::mem::replace(&mut channel.answered, true);
        match result {
            Ok(()) => {
                channel.subscribed = true;
                channel.renewal.is_over();
                self.system(&ticket.topic, &SystemMessage::subscribed());
            }
            Err(refusal) => {
                match &refusal {
                    SubscribeRefusal::Unavailable(_) => channel.retry_at = Some(retry_at()),
                    // The worker has put the wait for the table in place of what was watched.
                    SubscribeRefusal::NoTable(_) => channel.renewal.is_over(),
                    // What was watched before was watched with another token.
                    SubscribeRefusal::Database { .. } => {
                        channel.watch = None;
                        channel.renewal.is_over();
                    }
                }
                let (text, code) = (refusal.to_string(), refusal.code());
                // The join is refused what it asked for. What is tried again or refused later ends no channel.
                let told = if answered {
                    SystemMessage::warning(Extension::PostgresChanges, code, text)
                } else {
                    SystemMessage::postgres_changes_error(text)
                };
                let tenant = &**self.runtime.name();
                tracing::warn!(tenant, code, "subscription refused");
                self.system(&ticket.topic, &told);
            }
        }
    }

    /// The tenant's database has another handle, which knows of no subscriptions: the channels are told that there is a
    /// gap, and ask again, each at a time of its own. An answer of the last handle that is still out is void. If it may
    /// be another database (`elsewhere`), its policies are asked about private channels anew.
    pub(super) fn database_replaced(&mut self, elsewhere: bool, effects: &mut Vec<Effect>) {
        let topics: Vec<Arc<str>> = self.topics.keys().map(Arc::clone).collect();
        for topic in topics {
            let step = self.step();
            let channel = match self.topics.get_mut(&topic) {
                Some(Topic::Joined(channel)) => channel,
                Some(Topic::Joining(joining)) => {
                    joining.judge_anew |= elsewhere;
                    effects.extend(joining.watch_again(&topic, step));
                    continue;
                }
                Some(Topic::First(channel)) => {
                    channel.watch_again(step, effects);
                    continue;
                }
                None => continue,
            };
            let watches = !channel.subscriptions.is_empty();
            if watches {
                channel.attempt = step;
                channel.retry_at = Some(retry_at());
            }
            let judged = channel.policies.as_mut().filter(|_| elsewhere);
            if let Some(policies) = judged {
                policies.write = None;
                self.ask(&topic, Question::Refresh, None, effects);
            }
            if watches {
                self.system(
                    &topic,
                    &SystemMessage::gap(Extension::PostgresChanges, "DatabaseReplaced", ENDED),
                );
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

fn retry_at() -> Instant {
    Instant::now() + Duration::from_millis(rand::rng().random_range(RETRY_MILLIS))
}
