//! What a channel watches in the database (postgres_changes 1.3, 1.7, 1.8).

use std::{
    mem,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rand::Rng as _;
use realtime_changes::{ParamsError, SubscribeRefusal, SubscriptionSpec, assign_ids, legacy_params};
use realtime_protocol::{Extension, JoinPayload, Ref, SystemMessage};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::{
    client::{Client, sub_topic},
    effect::{Effect, Ticket},
    routes::{Gate, Route},
    token::Token,
    watch::Watch,
};

/// A subscription that failed for a passing reason is tried again after this many milliseconds (1.7, E5, E6).
const RETRY_MILLIS: std::ops::Range<u64> = 5_000..10_000;

/// How long a join waits for its subscription. A database that takes longer leaves the client its own patience, which
/// is ten seconds: it is told by a `system` frame later on.
const REPLY_LIMIT: Duration = Duration::from_secs(5);

/// Subscriptions, each with the id that the client knows it by.
type Subscriptions = Vec<(u32, Arc<SubscriptionSpec>)>;

/// What a join asks for, as the client wrote it.
#[derive(Default)]
pub(super) struct Wanted {
    objects: Vec<Map<String, Value>>,
    /// Each object as text, for the reply.
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
    pub(super) fn specs(&self) -> Result<Vec<SubscriptionSpec>, ParamsError> {
        self.objects.iter().map(SubscriptionSpec::parse).collect()
    }
}

/// What a channel will watch whose join is not answered yet.
pub(super) struct Watching {
    rows: Rows,
    /// When the join is answered at the latest.
    pub(super) reply_by: Instant,
    outcome: Option<Result<(), SubscribeRefusal>>,
}

impl Watching {
    /// Asks the database for what a join wants to watch, so that its reply can mean that no change is missed from then
    /// on. `None` if there is nothing to ask for (postgres_changes 1.3, 1.7).
    pub(super) fn begin(
        wanted: &Wanted,
        topic: &Arc<str>,
        join_ref: Ref,
        legacy: bool,
        token: &Token,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Option<Self> {
        let specs = wanted.specs().ok().filter(|specs| !specs.is_empty())?;
        let route = Arc::new(Route {
            outbox: Arc::clone(&client.outbox),
            vsn: client.vsn,
            topic: Arc::clone(topic),
            join_ref,
            legacy,
            quiet: false,
            star: AtomicBool::new(false),
            patience: Arc::clone(&client.patience),
            gate: Gate::shut(),
        });
        let ids = wanted.ids.iter().copied();
        let mut rows = Rows {
            subscriptions: ids.zip(specs.into_iter().map(Arc::new)).collect(),
            route: Some(route),
            ..Rows::none()
        };
        rows.subscribe(topic, token, client, effects);
        Some(Self { rows, reply_by: Instant::now() + REPLY_LIMIT, outcome: None })
    }

    /// The step of the question that is out.
    pub(super) fn step(&self) -> u32 {
        self.rows.step()
    }

    /// The database has answered.
    pub(super) fn answered(&mut self, outcome: Result<(), SubscribeRefusal>) {
        self.outcome = Some(outcome);
    }

    /// The database was replaced: the next is asked. The answer of the last one is void.
    pub(super) fn ask_again(
        &mut self,
        topic: &Arc<str>,
        token: &Token,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) {
        self.rows.subscribe(topic, token, client, effects);
    }

    /// What the channel watches once it has joined, and what became of the question if that is known.
    pub(super) fn joined(self) -> (Rows, Option<Result<(), SubscribeRefusal>>) {
        (self.rows, self.outcome)
    }
}

/// What became of a subscription.
pub(super) struct Answered {
    /// The database has judged the channel's token.
    pub(super) is_judged: bool,
    /// What the client is told.
    pub(super) told: SystemMessage,
    /// The code of a refusal.
    pub(super) refused: Option<&'static str>,
}

/// The row changes of a channel.
#[derive(Debug)]
pub(super) struct Rows {
    /// Empty for most channels.
    subscriptions: Subscriptions,
    /// Where they go, if any are wanted.
    route: Option<Arc<Route>>,
    /// The right to them. `None` while nothing is watched, or when the database has refused it.
    watch: Option<Watch>,
    /// When a subscription that failed for a passing reason is tried again.
    retry_at: Option<Instant>,
    /// Whether the channel was told what became of the subscription that its join asked for.
    answered: bool,
    /// The step of the last question: the answer to an earlier one means nothing any more.
    attempt: u32,
}

impl Rows {
    /// Nothing is watched.
    pub(super) fn none() -> Self {
        Self {
            subscriptions: Vec::new(),
            route: None,
            watch: None,
            retry_at: None,
            answered: false,
            attempt: 0,
        }
    }

    /// Whether something is watched.
    pub(super) fn is_watching(&self) -> bool {
        self.watch.is_some()
    }

    /// The step of the last question.
    pub(super) fn step(&self) -> u32 {
        self.attempt
    }

    /// The join was answered: sends what was kept, and everything that follows.
    pub(super) fn open(&self) {
        if let Some(route) = &self.route {
            route.open();
        }
    }

    /// Asks the database for what is wanted, with the token as it is now.
    pub(super) fn subscribe(
        &mut self,
        topic: &Arc<str>,
        token: &Token,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) {
        let Some(route) = &self.route else { return };
        let ticket: Ticket = client.ticket(topic);
        self.attempt = ticket.step;
        self.retry_at = None;
        let watch = self.watch.get_or_insert_with(|| Watch::over(&client.runtime, route));
        effects.push(Effect::Subscribe(ticket, watch.request(token, self.subscriptions.clone())));
    }

    /// The database has answered a question. `None` if another one followed it.
    pub(super) fn answered(&mut self, step: u32, result: Result<(), SubscribeRefusal>) -> Option<Answered> {
        if self.attempt != step {
            return None;
        }
        let is_first = !mem::replace(&mut self.answered, true);
        let Err(refusal) = result else {
            return Some(Answered { is_judged: true, told: SystemMessage::subscribed(), refused: None });
        };
        let is_judged = match &refusal {
            SubscribeRefusal::Unavailable(_) => {
                self.retry_at = Some(retry_at());
                false
            }
            // The worker has put the wait for the table in place of what was watched.
            SubscribeRefusal::NoTable(_) => true,
            // What was watched before was watched with another token.
            SubscribeRefusal::Database { .. } => {
                self.watch = None;
                true
            }
        };
        let (text, code) = (refusal.to_string(), refusal.code());
        // The join is refused what it asked for. What is tried again or refused later ends no channel.
        let told = if is_first {
            SystemMessage::postgres_changes_error(text)
        } else {
            SystemMessage::warning(Extension::PostgresChanges, code, text)
        };
        Some(Answered { is_judged, told, refused: Some(code) })
    }

    /// The database has another handle, which knows of no subscriptions: it is asked again, at a time of the channel's own.
    /// An answer of the last one that is still out is void. Whether there is something to ask for.
    pub(super) fn is_replaced(&mut self, client: &mut Client) -> bool {
        if self.subscriptions.is_empty() {
            return false;
        }
        self.attempt = client.step();
        self.retry_at = Some(retry_at());
        true
    }

    /// Nothing is watched any more. Whether something was.
    pub(super) fn end(&mut self) -> bool {
        self.watch.take().is_some()
    }

    /// Whether a subscription is to be tried again later.
    pub(super) fn is_retried(&self) -> bool {
        self.retry_at.is_some()
    }

    /// When a subscription is tried again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }
}

fn retry_at() -> Instant {
    Instant::now() + Duration::from_millis(rand::rng().random_range(RETRY_MILLIS))
}
