//! What is checked before a channel is subscribed (postgres_changes 1.4, 1.7).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use deadpool_postgres::{ClientWrapper as Client, Pool};
use realtime_changes::{
    Form, LiteralCheck, LiveSpec, ParamsError, Plan, RoleAccess, SubscribeRefusal, SubscriptionSpec, Table,
    plan,
};
use realtime_pgoutput::{Oid, TypeRegistry};

use crate::{
    DatabaseConfig, SubscribeRequest,
    catalog::{self, Present, Published},
    live::{self, Bounds, LiveRefusal, PolicyTables, Source},
    policy_publication, pool,
    request::Found,
    sqlstate,
    validate::{self, Refused},
};

/// Literals kept at most. Beyond it all are asked again.
const MAX_LITERALS: usize = 100_000;

/// Bytes of literals kept at most: clients choose how long they are.
const MAX_LITERAL_BYTES: usize = 16 * 1024 * 1024;

/// Conditions of a request at most, those of a subscription counted for each table that it means. A second subscription on
/// a table counts as one at least: wildcards multiply.
const MAX_CONDITIONS: usize = 20_000;

/// Literals of a request that the database is asked about at most.
const MAX_ASKED: usize = 1000;

/// Canonical texts of literals that the database has accepted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Literals {
    texts: HashMap<LiteralKey, String>,
    /// About how many bytes they hold.
    bytes: usize,
}

/// A literal as it is used: type, operator, text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LiteralKey {
    cast_type: String,
    operator: String,
    form: Form,
    literal: String,
    /// Whose code checks it: another role may be answered differently.
    role: Option<String>,
}

impl LiteralKey {
    fn new(role: &str, check: &LiteralCheck<'_>) -> Self {
        Self {
            cast_type: check.cast_type.to_owned(),
            operator: check.operator.to_owned(),
            form: check.form,
            literal: check.literal.to_owned(),
            role: check.runs_code.then(|| role.to_owned()),
        }
    }
}

impl Literals {
    /// The canonical texts of literals, in their order; asks the database for those that are not known.
    pub(crate) async fn canonical(
        &mut self,
        pool: &Pool,
        role: &str,
        checks: &[LiteralCheck<'_>],
    ) -> Result<Vec<String>, Refused> {
        let unknown = self.unknown(role, checks);
        let texts = validate::canonical(pool, role, &unknown).await?;
        for (check, text) in unknown.iter().zip(texts) {
            self.bytes += check.literal.len() + text.len();
            self.texts.insert(LiteralKey::new(role, check), text);
        }
        Ok(self.known(role, checks))
    }

    /// Those of these that are not known, each once.
    pub(crate) fn unknown<'a>(&self, role: &str, checks: &[LiteralCheck<'a>]) -> Vec<LiteralCheck<'a>> {
        let mut seen = HashSet::new();
        let is_new = |check: &&LiteralCheck<'a>| {
            let key = LiteralKey::new(role, check);
            !self.texts.contains_key(&key) && seen.insert(key)
        };
        checks.iter().filter(is_new).cloned().collect()
    }

    /// The canonical texts of literals that are known.
    pub(crate) fn known(&self, role: &str, checks: &[LiteralCheck<'_>]) -> Vec<String> {
        let text = |check| self.texts.get(&LiteralKey::new(role, check)).cloned().unwrap_or_default();
        checks.iter().map(text).collect()
    }

    /// Adds what others have asked.
    pub(crate) fn extend(&mut self, other: Self) {
        for (key, text) in other.texts {
            let bytes = key.literal.len() + text.len();
            if self.texts.insert(key, text).is_none() {
                self.bytes += bytes;
            }
        }
    }

    /// Whether it holds more than it should.
    pub(crate) fn is_full(&self) -> bool {
        self.texts.len() > MAX_LITERALS || self.bytes > MAX_LITERAL_BYTES
    }
}

/// A request that was found to be in order.
#[derive(Debug, Default, Clone)]
pub(crate) struct Checked {
    /// The literals of its filters.
    pub(crate) literals: Literals,
    /// The published tables that it means, in the order of the publication.
    pub(crate) tables: Vec<Oid>,
    /// Its live bindings.
    pub(crate) live: Vec<Found>,
    /// Where the database was when this was asked, if somebody comes back who wants to know.
    pub(crate) present: Option<Present>,
}

impl Checked {
    /// The same for another request, which is equal but for ids and places to go on from.
    pub(crate) fn of(&self, request: &SubscribeRequest) -> Self {
        let found = |found: &Found| {
            let (id, spec) = request.subscriptions.get(found.at)?;
            let spec = match &spec.live {
                Some(_) => Arc::clone(spec),
                None => Arc::new(SubscriptionSpec { live: found.spec.live.clone(), ..(**spec).clone() }),
            };
            Some(Found { at: found.at, id: *id, spec, source: Arc::clone(&found.source) })
        };
        let live = self.live.iter().filter_map(found).collect();
        Self { literals: self.literals.clone(), tables: self.tables.clone(), live, present: self.present }
    }
}

/// What live results of a database are allowed.
pub(crate) fn bounds(config: &DatabaseConfig) -> Bounds {
    let policies = match config.policy_publication && config.publication != policy_publication::NAME {
        true => PolicyTables::Unpublished,
        false => PolicyTables::Published,
    };
    Bounds::of(&config.live, policies)
}

/// Checks every subscription of a request against the catalog. The first refusal counts.
pub(crate) async fn check(
    pool: &Pool,
    publication: &str,
    bounds: Bounds,
    request: &SubscribeRequest,
    tenant: Option<&str>,
) -> Result<Checked, SubscribeRefusal> {
    let client = pool::get(pool)
        .await
        .map_err(|error| SubscribeRefusal::Unavailable(error.join_reason().to_owned()))?;
    let present =
        async { Ok(if request.comes_back() { Some(catalog::present(&client).await?) } else { None }) };
    let (published, role_exists, present) = tokio::try_join!(
        catalog::published(&client, publication),
        catalog::role_exists(&client, &request.role),
        present
    )
    .map_err(|error| unavailable(&error))?;
    let mut checks = Checks {
        publication,
        tenant,
        request,
        types: TypeRegistry::default(),
        literals: Literals::default(),
        role_exists,
        tables: HashMap::new(),
        plans: Vec::new(),
        watched: HashSet::new(),
        conditions: 0,
    };
    checks.look(&client, &published).await?;
    let mut wanted = Vec::new();
    for (at, (id, spec)) in request.subscriptions.iter().enumerate() {
        if spec.live.is_some() {
            wanted.push((at, *id, Arc::clone(spec)));
            continue;
        }
        let tables: Vec<&Published> =
            published.iter().filter(|table| spec.matches_name(&table.schema, &table.name)).collect();
        if tables.is_empty() && spec.is_exact() {
            // Perhaps a view: that is always live.
            wanted.push((at, *id, Arc::clone(spec)));
            continue;
        }
        if tables.is_empty() {
            return Err(SubscribeRefusal::NoTable(spec.context()));
        }
        for table in &tables {
            checks.table(spec, table)?;
        }
    }
    // Another connection asks about the literals.
    drop(client);
    checks.literals(pool).await?;
    let literals = checks.literals;
    let mut live = Vec::new();
    for (at, id, spec) in wanted {
        let (spec, source) = found(pool, publication, bounds, request, spec).await?;
        live.push(Found { at, id, spec, source });
    }
    let tables = request.without(&live).tables(&published);
    Ok(Checked { literals, tables, live, present })
}

/// Looks where the rows of a live binding come from. One that does not ask to be live has to mean a view.
async fn found(
    pool: &Pool,
    publication: &str,
    bounds: Bounds,
    request: &SubscribeRequest,
    spec: Arc<SubscriptionSpec>,
) -> Result<(Arc<SubscriptionSpec>, Arc<Source>), SubscribeRefusal> {
    let live = match (&spec.live, spec.if_view.as_deref()) {
        (Some(live), _) | (None, Some(Ok(live))) => live.clone(),
        (None, None) => LiveSpec::default(),
        (None, Some(Err(error))) => {
            let message = ParamsError::from(error.clone()).to_string();
            return Err(SubscribeRefusal::raised(spec.context(), &message));
        }
    };
    if spec.live.is_none() {
        match live::is_view(pool, &spec).await {
            Ok(true) => {}
            Err(error @ LiveRefusal::Unavailable(_)) => return Err(error.told(spec.context())),
            Ok(false) | Err(_) => return Err(SubscribeRefusal::NoTable(spec.context())),
        }
    }
    let spec = match &spec.live {
        Some(_) => spec,
        None => Arc::new(SubscriptionSpec { live: Some(live), ..(*spec).clone() }),
    };
    let looked = live::look(pool, publication, &spec, &request.role, bounds).await;
    let source = looked.map_err(|refusal| refusal.told(spec.context()))?;
    Ok((spec, Arc::new(source)))
}

struct Checks<'a> {
    publication: &'a str,
    /// For logs, where no span names it.
    tenant: Option<&'a str>,
    request: &'a SubscribeRequest,
    types: TypeRegistry,
    literals: Literals,
    role_exists: bool,
    /// Tables that several subscriptions of the request name.
    tables: HashMap<Oid, (Table, RoleAccess)>,
    /// The subscriptions on their tables, in the order in which they are asked.
    plans: Vec<(&'a SubscriptionSpec, Plan)>,
    /// The tables of these.
    watched: HashSet<Oid>,
    /// Conditions of all of them; those that have none count once on a table that another one is on.
    conditions: usize,
}

impl<'a> Checks<'a> {
    /// Asks for all tables that the request means and for what its role may see of them, in few questions: a wildcard
    /// means hundreds.
    async fn look(&mut self, client: &Client, published: &[Published]) -> Result<(), SubscribeRefusal> {
        if !self.role_exists {
            return Ok(());
        }
        let specs = &self.request.subscriptions;
        let is_meant = |table: &&Published| {
            let means = |spec: &SubscriptionSpec| {
                spec.live.is_none() && spec.matches_name(&table.schema, &table.name)
            };
            specs.iter().any(|(_, spec)| means(spec))
        };
        let meant: Vec<Oid> = published.iter().filter(is_meant).map(|table| table.oid).collect();
        if meant.is_empty() {
            return Ok(());
        }
        let role = &*self.request.role;
        let pairs: Vec<(&str, Oid)> = meant.iter().map(|oid| (role, *oid)).collect();
        let (tables, accesses) = tokio::try_join!(
            catalog::tables(client, &meant, self.publication, &mut self.types),
            catalog::role_accesses(client, &pairs),
        )
        .map_err(|error| unavailable(&error))?;
        let mut accesses: HashMap<Oid, RoleAccess> =
            meant.into_iter().zip(accesses).filter_map(|(oid, access)| Some((oid, access?))).collect();
        for catalog::Described { table, .. } in tables {
            let Some(access) = accesses.remove(&table.oid) else { continue };
            if !access.selectable.contains(&true) {
                let (tenant, table) = (self.tenant, format!("{}.{}", table.schema, table.name));
                let code = "TableNotReadable";
                tracing::warn!(tenant, code, table, role, "a role may read nothing of what it watches");
            }
            self.tables.insert(table.oid, (table, access));
        }
        Ok(())
    }

    fn table(&mut self, spec: &'a SubscriptionSpec, published: &Published) -> Result<(), SubscribeRefusal> {
        let role = &*self.request.role;
        if !self.role_exists {
            let error = format!("ERROR 42704 (undefined_object) role \"{role}\" does not exist");
            return Err(SubscribeRefusal::Database { context: spec.context(), error });
        }
        // Dropped since it was listed.
        let Some((table, access)) = self.tables.get(&published.oid) else {
            return Err(SubscribeRefusal::NoTable(spec.context()));
        };
        let plan = plan(spec, table, access)
            .map_err(|message| SubscribeRefusal::raised(spec.context(), &message))?;
        // The first binding of a table is free: how many there are is for the database to say.
        let is_another = !self.watched.insert(published.oid);
        self.conditions += spec.conditions().max(usize::from(is_another));
        if self.conditions > MAX_CONDITIONS {
            let message = format!("too many conditions on all tables together. Maximum {MAX_CONDITIONS}");
            return Err(SubscribeRefusal::raised(spec.context(), &message));
        }
        self.plans.push((spec, plan));
        Ok(())
    }

    /// Checks the literals of all plans in one question.
    async fn literals(&mut self, pool: &Pool) -> Result<(), SubscribeRefusal> {
        let all: Vec<LiteralCheck<'_>> = self.plans.iter().flat_map(|(_, plan)| plan.checks()).collect();
        let role = &*self.request.role;
        let unknown = Literals::default().unknown(role, &all);
        if unknown.len() > MAX_ASKED {
            let context = self.context(unknown.get(MAX_ASKED));
            let message = format!("too many different values in filters. Maximum {MAX_ASKED}");
            return Err(SubscribeRefusal::raised(context, &message));
        }
        let mut literals = Literals::default();
        match literals.canonical(pool, role, &unknown).await {
            Ok(_) => {
                self.literals = literals;
                Ok(())
            }
            Err(Refused::Literal(at, error)) => {
                Err(SubscribeRefusal::Database { context: self.context(unknown.get(at)), error })
            }
            Err(Refused::Unavailable(error)) => Err(SubscribeRefusal::Unavailable(error.told())),
        }
    }

    /// The first subscription that a literal is of, as messages show it.
    fn context(&self, check: Option<&LiteralCheck<'_>>) -> String {
        let of = |(_, plan): &&(_, Plan)| check.is_some_and(|check| plan.checks().contains(check));
        self.plans.iter().find(of).map(|(spec, _)| spec.context()).unwrap_or_default()
    }
}

/// The refusal of a request that another one, or the end of its channel, has overtaken. Nobody waits for it any more.
pub(crate) fn overtaken() -> SubscribeRefusal {
    SubscribeRefusal::Unavailable("The subscription was replaced".to_owned())
}

fn unavailable(error: &tokio_postgres::Error) -> SubscribeRefusal {
    SubscribeRefusal::Unavailable(sqlstate::told_of(error))
}
