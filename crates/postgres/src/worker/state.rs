//! What a worker knows: relations, types, who watches what.

mod sight;
mod waiting;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use deadpool_postgres::Pool;
use realtime_changes::{
    Action, Attachment, ChannelId, Engine, Matches, Plan, Question, RoleAccess, SubscribeRefusal,
    SubscriptionKey, Table, plan,
};
use realtime_pgoutput::{
    Oid, TypeRegistry,
    message::{OldTuple, Relation, Tuple, UnixMicros},
};
use tokio::time::{self, Duration};
use waiting::Waiting;

use crate::{
    ChangeSink, Notice, Stats, SubscribeRequest, catalog, pool, questions, subscribe::Literals,
    validate::Refused, visibility::Troubled,
};

/// Pause before a database that could not be asked is asked again. Rows must not pass unchecked.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Changes that are checked together at most.
const MAX_WAITING: usize = 100;

/// Bytes of changes that wait to be checked at most, give or take one change.
const MAX_WAITING_BYTES: usize = 1_000_000;

/// Literals kept at most; beyond it they are asked anew.
const MAX_LITERALS: usize = 100_000;

/// A channel and where it is attached.
struct Watcher {
    request: SubscribeRequest,
    attached: Vec<(Oid, SubscriptionKey)>,
}

/// A table that the walsender has described.
struct Known {
    relation: Arc<Relation>,
    /// `None`: the table is gone from the catalog.
    table: Option<Arc<Table>>,
    access: HashMap<Arc<str>, Arc<RoleAccess>>,
}

pub(super) struct State {
    pool: Pool,
    sink: Arc<dyn ChangeSink>,
    stats: Arc<Stats>,
    engine: Engine,
    types: TypeRegistry,
    known: HashMap<Oid, Known>,
    watchers: HashMap<ChannelId, Watcher>,
    literals: Literals,
    /// Known once the database was asked.
    collation_is_c: Option<bool>,
    commit_time: UnixMicros,
    troubled: Troubled,
    /// Changes of the transaction at hand that wait to be checked, and those that came after them.
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
}

impl State {
    pub(super) fn new(pool: Pool, sink: Arc<dyn ChangeSink>, stats: Arc<Stats>) -> Self {
        Self {
            pool,
            sink,
            stats,
            engine: Engine::default(),
            types: TypeRegistry::default(),
            known: HashMap::new(),
            watchers: HashMap::new(),
            literals: Literals::default(),
            collation_is_c: None,
            commit_time: UnixMicros::default(),
            troubled: Troubled::default(),
            waiting: Vec::new(),
            waiting_bytes: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    pub(super) fn channels(&self) -> Vec<ChannelId> {
        self.watchers.keys().copied().collect()
    }

    /// Forgets what the walsender has told; a new session tells it again.
    pub(super) fn forget_relations(&mut self) {
        // What waits belongs to a transaction whose rest is lost: the gap is told.
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.engine.clear();
        self.known.clear();
        self.types = TypeRegistry::default();
        for watcher in self.watchers.values_mut() {
            watcher.attached.clear();
        }
    }

    pub(super) fn begin(&mut self, commit_time: UnixMicros) {
        self.commit_time = commit_time;
    }

    pub(super) fn remove(&mut self, channel: ChannelId) {
        let Some(watcher) = self.watchers.remove(&channel) else { return };
        for (oid, key) in watcher.attached {
            self.engine.detach(oid, key);
        }
    }

    /// Subscribes a channel in place of what it had, or leaves that if the database cannot be asked.
    pub(super) async fn add(
        &mut self,
        request: SubscribeRequest,
        literals: Literals,
    ) -> Result<(), SubscribeRefusal> {
        self.flush().await;
        if self.literals.len() > MAX_LITERALS {
            self.literals = Literals::default();
        }
        self.literals.extend(literals);
        let channel = request.channel;
        let watched: Vec<Oid> = self
            .known
            .values()
            .filter_map(|known| known.table.as_ref())
            .filter(|table| {
                request.subscriptions.iter().any(|(_, spec)| spec.matches_name(&table.schema, &table.name))
            })
            .map(|table| table.oid)
            .collect();
        let mut attachments = Vec::new();
        for oid in watched {
            let bound = self.bind(oid, &request).await;
            attachments.push((oid, bound.map_err(|error| SubscribeRefusal::Unavailable(error.to_string()))?));
        }
        self.remove(channel);
        let mut watcher = Watcher { request, attached: Vec::new() };
        for (oid, attachments) in attachments {
            self.attach(oid, attachments, &mut watcher);
        }
        self.watchers.insert(channel, watcher);
        Ok(())
    }

    /// Takes a description of a table. The walsender repeats it after every alteration, grant or change of a
    /// policy: what was known of the table is asked anew, before any row of it passes.
    pub(super) async fn relation(&mut self, relation: Arc<Relation>) {
        self.flush().await;
        let oid = relation.oid;
        loop {
            match self.load(Arc::clone(&relation)).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(code = "CheckOidsError", %error, relation = oid, "cannot read the catalog, trying on");
                    time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }

    async fn load(&mut self, relation: Arc<Relation>) -> Result<(), Failed> {
        let oid = relation.oid;
        let client = pool::get(&self.pool).await?;
        if self.collation_is_c.is_none() {
            self.collation_is_c = Some(catalog::collation_is_c(&client).await?);
        }
        let table = catalog::table(&client, oid, &mut self.types).await?.map(Arc::new);
        catalog::load_types(&client, &mut self.types, relation.columns.iter().map(|column| column.type_oid))
            .await?;
        drop(client);
        let known = Known { relation: Arc::clone(&relation), table: table.clone(), access: HashMap::new() };
        self.known.insert(oid, known);
        let Some(table) = table else { return Ok(()) };
        self.engine.put_table(Arc::clone(&table), &relation);
        let mut watchers = std::mem::take(&mut self.watchers);
        let mut outcome = Ok(());
        for watcher in watchers.values_mut() {
            watcher.attached.retain(|(attached, _)| *attached != oid);
            match self.bind(oid, &watcher.request).await {
                Ok(attachments) => self.attach(oid, attachments, watcher),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.watchers = watchers;
        outcome
    }

    /// What a channel watches in a table. A subscription that the table no longer allows is left out, and the
    /// channel is told.
    async fn bind(&mut self, oid: Oid, request: &SubscribeRequest) -> Result<Vec<Attachment>, Failed> {
        let Some(table) = self.known.get(&oid).and_then(|known| known.table.clone()) else {
            return Ok(Vec::new());
        };
        let mut attachments = Vec::new();
        for (id, spec) in &request.subscriptions {
            if !spec.matches_name(&table.schema, &table.name) {
                continue;
            }
            let Some(access) = self.access(oid, &request.role).await? else { continue };
            let plan = match plan(spec, &table, &access) {
                Ok(plan) => plan,
                Err(message) => {
                    let refusal = SubscribeRefusal::raised(spec.context(), &message);
                    self.sink.notice(request.channel, Notice::Error(refusal.to_string()));
                    continue;
                }
            };
            match self.canonical(&plan).await? {
                Ok(literals) => attachments.push(Attachment {
                    channel: request.channel,
                    id: *id,
                    event: spec.event,
                    predicate: plan.compile(&literals, self.collation_is_c == Some(true)),
                    access,
                    claims: Arc::clone(&request.claims),
                    select: plan.select().map(<[usize]>::to_vec),
                }),
                Err(error) => {
                    let refusal = SubscribeRefusal::Database { context: spec.context(), error };
                    self.sink.notice(request.channel, Notice::Error(refusal.to_string()));
                }
            }
        }
        Ok(attachments)
    }

    fn attach(&mut self, oid: Oid, attachments: Vec<Attachment>, watcher: &mut Watcher) {
        for attachment in attachments {
            match self.engine.attach(oid, attachment) {
                Ok(key) => watcher.attached.push((oid, key)),
                Err(error) => tracing::error!(%error, relation = oid, "subscription not attached"),
            }
        }
    }

    /// What a role may see of a table, asked once until the table is described anew.
    async fn access(&mut self, oid: Oid, role: &Arc<str>) -> Result<Option<Arc<RoleAccess>>, Failed> {
        if let Some(access) = self.known.get(&oid).and_then(|known| known.access.get(role)) {
            return Ok(Some(Arc::clone(access)));
        }
        let client = pool::get(&self.pool).await?;
        let Some(access) = catalog::role_access(&client, role, oid).await? else { return Ok(None) };
        let access = Arc::new(access);
        if let Some(known) = self.known.get_mut(&oid) {
            known.access.insert(Arc::clone(role), Arc::clone(&access));
        }
        Ok(Some(access))
    }

    /// The canonical literals of a plan, or why the database refuses one.
    async fn canonical(&mut self, plan: &Plan) -> Result<Result<Vec<String>, String>, Failed> {
        let checks = plan.checks();
        if checks.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let client = pool::get(&self.pool).await?;
        let mut literals = Vec::with_capacity(checks.len());
        for check in &checks {
            match self.literals.canonical(&client, check).await {
                Ok(literal) => literals.push(literal),
                Err(Refused::Literal(error)) => return Ok(Err(error)),
                Err(Refused::Unavailable(error)) => return Err(error.into()),
            }
        }
        Ok(Ok(literals))
    }

    /// Takes a row change: finds who gets it and hands it over, at once or with others of its transaction.
    pub(super) async fn change(
        &mut self,
        action: Action,
        oid: Oid,
        new: Option<Tuple>,
        old: Option<OldTuple>,
    ) {
        self.stats.rows.fetch_add(1, Ordering::Relaxed);
        // A relation that was not described is no fault of the row's (postgres_changes 124).
        let Some(relation) = self.known.get(&oid).map(|known| Arc::clone(&known.relation)) else { return };
        let mut waiting = Waiting {
            action,
            relation,
            new,
            old,
            commit_time: self.commit_time,
            matches: Matches::default(),
            keys: Vec::new(),
            guarded: Vec::new(),
        };
        let change = waiting.change();
        let mut matches = self.engine.matches(&change);
        if matches.is_empty() {
            return;
        }
        let mut keys = std::mem::take(&mut matches.certain);
        keys.extend(self.ask(oid, &matches).await);
        let mut guarded = self.engine.guarded(&waiting.change(), &keys);
        guarded.retain(|group| !self.troubled.is_barred(oid, &group.party));
        (waiting.matches, waiting.keys, waiting.guarded) = (matches, keys, guarded);
        if self.waiting.is_empty() && waiting.guarded.is_empty() {
            self.hand_over(&waiting, &HashSet::new());
            return;
        }
        self.waiting_bytes += waiting.size();
        self.waiting.push(waiting);
        if self.waiting.len() >= MAX_WAITING || self.waiting_bytes >= MAX_WAITING_BYTES {
            self.flush().await;
        }
    }

    fn hand_over(&self, waiting: &Waiting, seen: &HashSet<SubscriptionKey>) {
        let (change, matches) = (waiting.change(), &waiting.matches);
        for delivery in self.engine.deliveries(&change, matches, &waiting.keys, seen, &self.types) {
            self.stats.deliveries.fetch_add(1, Ordering::Relaxed);
            self.sink.deliver(delivery);
        }
    }

    /// Which of the subscriptions that depend on the database match. One whose question fails is ended, and
    /// its channel told; the others go on.
    async fn ask(&mut self, oid: Oid, matches: &Matches) -> Vec<SubscriptionKey> {
        let questions: Vec<_> = matches.asked.iter().flat_map(|asked| &asked.questions).collect();
        if questions.is_empty() {
            return Vec::new();
        }
        self.stats.questions.fetch_add(questions.len() as u64, Ordering::Relaxed);
        let mut answers = self.answers(&questions).await.into_iter();
        let mut keys = Vec::new();
        for asked in &matches.asked {
            let answers: Result<Vec<bool>, _> = answers.by_ref().take(asked.questions.len()).collect();
            match answers {
                Ok(answers) if !answers.contains(&false) => keys.push(asked.key),
                Ok(_) => {}
                Err(error) => {
                    let text =
                        format!("A filter could not be evaluated and was ended: {}", pool::describe(&error));
                    tracing::warn!(
                        code = "UnableToSubscribeToPostgres",
                        "subscription ended: its filter raised an error"
                    );
                    if let Some(channel) = self.engine.channel(oid, asked.key) {
                        self.sink.notice(channel, Notice::Error(text));
                    }
                    self.engine.detach(oid, asked.key);
                }
            }
        }
        keys
    }

    /// The answers, however long it takes: the change must not pass unevaluated.
    async fn answers(&self, questions: &[&Question]) -> Vec<Result<bool, tokio_postgres::Error>> {
        loop {
            let answers = async {
                let client = pool::get(&self.pool).await?;
                Ok::<_, Failed>(questions::ask(&client, questions).await?)
            };
            match answers.await {
                Ok(answers) => return answers,
                Err(error) => {
                    tracing::warn!(code = "UnableToConnectToProject", %error, "cannot ask the database, trying on");
                    time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }
}

/// The database could not be asked.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Connect(#[from] crate::ConnectError),
    #[error("{}", pool::describe(.0))]
    Query(#[from] tokio_postgres::Error),
}
