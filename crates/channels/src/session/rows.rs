//! What a channel watches in the database (postgres_changes 1.3, 1.7, 1.8).

use std::{
    mem,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rand::Rng as _;
use realtime_changes::{ParamsError, Place, SubscribeRefusal, SubscriptionSpec, assign_ids, legacy_params};
use realtime_pgoutput::Position;
use realtime_protocol::{Extension, JoinPayload, Ref, SystemMessage, Vsn};
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

/// How long a join waits for its subscription. Clients wait for ten seconds. If the database takes longer than this
/// limit, a `system` frame tells the outcome later.
const REPLY_LIMIT: Duration = Duration::from_secs(5);

/// Subscriptions, each with the id that the client knows it by.
type Subscriptions = Box<[(u32, Arc<SubscriptionSpec>)]>;

/// The row changes that a join asks for, as the client wrote them.
#[derive(Default)]
pub(super) struct Wanted {
    objects: Vec<Map<String, Value>>,
    /// Each object as text, for the reply.
    pub(super) echo: Vec<Box<str>>,
    pub(super) ids: Vec<u32>,
}

impl Wanted {
    /// Takes the subscriptions out of a join's payload.
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
    /// What the client is told. Either all subscriptions are valid or none is used.
    pub(super) fn specs(&self) -> Result<Vec<SubscriptionSpec>, ParamsError> {
        self.objects.iter().map(SubscriptionSpec::parse).collect()
    }
}

/// The subscriptions of a channel whose join is not answered yet.
pub(super) struct Watching {
    rows: Rows,
    /// When the join is answered at the latest.
    pub(super) reply_by: Instant,
    outcome: Option<Result<(), SubscribeRefusal>>,
}

impl Watching {
    /// Asks the database for what a join wants to watch. The reply waits for it, so that no change after the reply is
    /// missed. `None` if there is nothing to ask for (postgres_changes 1.3, 1.7).
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
            after: specs.first().and_then(after).filter(|_| client.vsn == Vsn::Events),
            gap: AtomicBool::new(false),
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

    /// The step of the question that has no answer yet.
    pub(super) fn step(&self) -> u32 {
        self.rows.step()
    }

    /// Takes the database's answer.
    pub(super) fn answered(&mut self, outcome: Result<(), SubscribeRefusal>) {
        self.outcome = Some(outcome);
    }

    /// Asks the next database, because the database was replaced. An answer of the former one no longer counts.
    pub(super) fn ask_again(
        &mut self,
        topic: &Arc<str>,
        token: &Token,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) {
        self.rows.subscribe(topic, token, client, effects);
    }

    /// What the channel watches after its join, and the outcome of the question if it is known.
    pub(super) fn joined(self) -> (Rows, Option<Result<(), SubscribeRefusal>>) {
        (self.rows, self.outcome)
    }
}

/// Tables that a line of the log names.
const LOGGED_TABLES: usize = 3;

/// The outcome of a subscription.
pub(super) struct Answered {
    /// Whether the database has judged the channel's token.
    pub(super) is_judged: bool,
    /// What the client is told.
    pub(super) told: SystemMessage,
    /// What the log says of a refusal.
    pub(super) refused: Option<Refused>,
}

/// A refusal, without what the client wrote into its filters: nobody else may see that.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) code: &'static str,
    /// The tables that were meant.
    pub(super) tables: String,
    pub(super) reason: String,
}

/// The row changes of a channel.
#[derive(Debug)]
pub(super) struct Rows {
    /// Empty for most channels.
    subscriptions: Subscriptions,
    /// Where row changes go, if any are wanted.
    route: Option<Arc<Route>>,
    /// The right to row changes. `None` while nothing is watched, or after the database has refused it.
    watch: Option<Watch>,
    /// When a subscription that failed for a passing reason is tried again.
    retry_at: Option<Instant>,
    /// Whether the client was told the outcome of its first subscription.
    answered: bool,
    /// The step of the last question. Answers to earlier ones do not count.
    attempt: u32,
}

impl Rows {
    /// The state of a channel that watches nothing.
    pub(super) fn none() -> Self {
        Self {
            subscriptions: Box::default(),
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

    /// Sends the frames that were held back, and everything that follows. Called when the join was answered.
    pub(super) fn open(&self) {
        if let Some(route) = &self.route {
            route.open();
        }
    }

    /// Asks the database for what is wanted, with the current token.
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
        effects.push(Effect::Subscribe(ticket, watch.request(token, self.subscriptions.to_vec())));
    }

    /// Takes the database's answer to a question. `None` if a newer question was asked.
    pub(super) fn answered(&mut self, step: u32, result: Result<(), SubscribeRefusal>) -> Option<Answered> {
        if self.attempt != step {
            return None;
        }
        let is_first = !mem::replace(&mut self.answered, true);
        let Err(refusal) = result else {
            self.goes_on();
            return Some(Answered { is_judged: true, told: SystemMessage::subscribed(), refused: None });
        };
        let is_judged = match &refusal {
            SubscribeRefusal::Unavailable(_) => {
                self.retry_at = Some(retry_at());
                false
            }
            // The worker now waits for the table, in place of what was watched.
            SubscribeRefusal::NoTable(_) => true,
            // What was watched before was watched with another token.
            SubscribeRefusal::Database { .. } => {
                self.watch = None;
                true
            }
        };
        let (text, code) = (refusal.to_string(), refusal.code());
        let tables = self.tables();
        let reason = refusal.reason();
        // The first answer is the one to the join: it refuses what was asked for. A later refusal ends no channel.
        let told = if is_first {
            SystemMessage::postgres_changes_error(text)
        } else {
            SystemMessage::warning(Extension::PostgresChanges, code, text)
        };
        Some(Answered { is_judged, told, refused: Some(Refused { code, tables, reason }) })
    }

    /// The places that the client named have been used: whenever this is asked for again, what came since has been
    /// delivered already.
    fn goes_on(&mut self) {
        for (_, spec) in self.subscriptions.iter_mut().filter(|(_, spec)| spec.since.is_some()) {
            *spec = Arc::new(SubscriptionSpec { since: None, ..(**spec).clone() });
        }
    }

    /// The first tables that are watched, for logs.
    pub(super) fn tables(&self) -> String {
        let places = self.subscriptions.iter().take(LOGGED_TABLES).map(|(_, spec)| spec.place());
        places.collect::<Vec<_>>().join(", ")
    }

    /// The database has a new handle, which knows no subscriptions. Plans to ask it at a random time. An answer of the
    /// former one no longer counts. Returns whether there is something to ask for.
    pub(super) fn is_replaced(&mut self, client: &mut Client) -> bool {
        if self.subscriptions.is_empty() {
            return false;
        }
        self.attempt = client.step();
        self.retry_at = Some(retry_at());
        true
    }

    /// Whether something is watched of which changes can be missed: live rows are made up for.
    pub(super) fn can_miss(&self) -> bool {
        self.subscriptions.iter().any(|(_, spec)| spec.live.is_none())
    }

    /// Ends what is watched. Returns whether there was something.
    pub(super) fn end(&mut self) -> bool {
        self.watch.take().is_some()
    }

    /// Whether the subscription is to be tried again later.
    pub(super) fn is_retried(&self) -> bool {
        self.retry_at.is_some()
    }

    /// When the subscription is tried again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }
}

/// The last change that a client has got, if it goes on from one.
fn after(spec: &SubscriptionSpec) -> Option<Position> {
    match spec.since.as_ref()?.place {
        Place::After(position) => Some(position),
        Place::From(_) => None,
    }
}

fn retry_at() -> Instant {
    Instant::now() + Duration::from_millis(rand::rng().random_range(RETRY_MILLIS))
}
