//! What the catalog says of a live binding, and what is refused by it.

use std::sync::Arc;

use deadpool_postgres::{ClientWrapper as Client, Pool};
use realtime_changes::{Form, LiveSpec, NamePattern, Plan, RoleAccess, SubscriptionSpec, Table, plan};
use realtime_pgoutput::{
    Oid, TypeRegistry,
    message::{Relation, RelationColumn, ReplicaIdentity},
};
use tokio_postgres::types::Type;

use super::{
    closure::{self, Closure, Untold, Why},
    columns::{self, Facts},
    reached::How,
    refusal::LiveRefusal,
    source::{Key, Kind, Source},
    sql::Query,
};
use crate::{
    LiveSettings, catalog, policy_publication, pool,
    validate::{self, Refused},
};

/// The relation of a name, and its kind.
const RELATION: &str =
    "select c.oid, c.relkind::text, concat(quote_ident(n.nspname), '.', quote_ident(c.relname))
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = $1::text and c.relname = $2::text";

/// What results are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Rows of a result (`LIVE_MAX_ROWS`).
    pub(crate) max_rows: usize,
    /// Whether results are read again by the clock where the log does not tell all that changes them
    /// (`LIVE_RECHECK_MS`).
    pub(crate) by_clock: bool,
    pub(crate) policies: PolicyTables,
}

/// Where tables have to be published that only policies read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PolicyTables {
    /// In the publication of row changes.
    Published,
    /// There, or in that of policies; or nowhere yet: they can be published before the result is read.
    Unpublished,
}

impl Bounds {
    /// Those of the settings.
    pub(crate) const fn of(settings: &LiveSettings, policies: PolicyTables) -> Self {
        Self { max_rows: settings.max_rows, by_clock: settings.recheck.is_some(), policies }
    }
}

impl Bounds {
    fn may_publish(self, untold: &Untold) -> bool {
        self.policies == PolicyTables::Unpublished && untold.by_policy && untold.why == Why::Unpublished
    }
}

impl Untold {
    /// Whether nobody could do anything about it, or perhaps need not: it is told, and the binding is not refused.
    const fn is_doubt(&self) -> bool {
        match self.how {
            How::Catalog => false,
            How::Text => matches!(self.why, Why::Is(_)),
            How::Perhaps => true,
        }
    }

    /// The doubt, in words for people.
    fn doubt(&self) -> String {
        let (name, may) = (&self.name, if self.how == How::Perhaps { "may read" } else { "reads" });
        match self.why {
            Why::Is(what) => format!("a function {may} {name}, {what}"),
            Why::InPart => format!("a function {may} {name}, which is published in part"),
            Why::Unpublished => format!("a function {may} {name}, which is not published"),
        }
    }
}

/// Finds out where the result of a live binding comes from, and checks what it asks.
///
/// # Errors
/// [`LiveRefusal`] with what is wrong and what to do about it, or that the database cannot be asked.
pub(crate) async fn look(
    pool: &Pool,
    publication: &str,
    spec: &SubscriptionSpec,
    role: &str,
    bounds: Bounds,
) -> Result<Source, LiveRefusal> {
    let client = pool::get(pool).await?;
    let live = spec.live.clone().unwrap_or_default();
    let (oid, kind, name) = relation(&client, spec).await?;
    if !catalog::role_exists(&client, role).await? {
        return Err(LiveRefusal::NoRole(role.to_owned()));
    }
    let mut types = TypeRegistry::default();
    let described = catalog::table(&client, oid, publication, &mut types).await?;
    let access = catalog::role_access(&client, role, oid).await?;
    let (Some(described), Some(access)) = (described, access) else { return Err(LiveRefusal::NoRelation) };
    let facts = columns::facts(&client, oid).await?;
    let along = (bounds.policies != PolicyTables::Published).then_some(policy_publication::NAME);
    let closure = closure::closure(&client, oid, role, (publication, along)).await?;
    // Literals are asked about over another connection.
    drop(client);
    let mut looked = Looked { name, kind, table: described.table, access, facts, live };
    let unlogged = looked.take_all_as_logged();
    if !(0..looked.table.columns.len()).any(|at| looked.access.reads(at)) {
        return Err(LiveRefusal::NoRights { role: role.to_owned(), of: looked.name });
    }
    let lacking = looked.lacking(&closure, publication, bounds);
    let unpublished = looked.untold(&closure, publication, bounds)?;
    looked.check_bounds(bounds)?;
    looked.check_order()?;
    let plan = plan(spec, &looked.table, &looked.access).map_err(LiveRefusal::Plan)?;
    looked.check_lists(&plan)?;
    let (key, has_own_key) = looked.key(&closure, &described.attnums, role)?;
    let literals = literals(pool, role, &plan).await?;
    Ok(looked.source(Found {
        plan,
        literals,
        key,
        has_own_key,
        closure,
        unpublished,
        lacking,
        unlogged,
        types,
    }))
}

/// Whether a binding means a view, materialized or not.
///
/// # Errors
/// [`LiveRefusal`] when the database cannot be asked, or when there is no such relation.
pub(crate) async fn is_view(pool: &Pool, spec: &SubscriptionSpec) -> Result<bool, LiveRefusal> {
    let client = pool::get(pool).await?;
    let (_, kind, _) = relation(&client, spec).await?;
    Ok(matches!(kind, Kind::View | Kind::Materialized))
}

/// The relation that is meant.
async fn relation(client: &Client, spec: &SubscriptionSpec) -> Result<(Oid, Kind, String), LiveRefusal> {
    let (NamePattern::Exact(schema), NamePattern::Exact(table)) = (&spec.schema, &spec.table) else {
        return Err(LiveRefusal::NoRelation);
    };
    let statement = client.prepare_typed_cached(RELATION, &[Type::TEXT, Type::TEXT]).await?;
    let rows = client.query(&statement, &[&&**schema, &&**table]).await?;
    let Some(row) = rows.first() else { return Err(LiveRefusal::NoRelation) };
    let kind: String = row.try_get(1)?;
    let kind = match &*kind {
        "r" => Kind::Table,
        "p" => Kind::Partitioned,
        "v" => Kind::View,
        "m" => Kind::Materialized,
        _ => return Err(LiveRefusal::Neither(row.try_get(2)?)),
    };
    Ok((row.try_get(0)?, kind, row.try_get(2)?))
}

/// The canonical texts of a plan's literals.
async fn literals(pool: &Pool, role: &str, plan: &Plan) -> Result<Vec<String>, LiveRefusal> {
    match validate::canonical(pool, role, &plan.checks()).await {
        Ok(literals) => Ok(literals),
        Err(Refused::Literal(_, error)) => Err(LiveRefusal::Literal(error)),
        Err(Refused::Unavailable(error)) => Err(LiveRefusal::Unavailable(error)),
    }
}

/// What was looked at.
struct Looked {
    /// As `schema.name`, quoted where need be.
    name: String,
    kind: Kind,
    table: Table,
    access: RoleAccess,
    facts: Vec<Facts>,
    live: LiveSpec,
}

/// What was found out about it.
struct Found {
    plan: Plan,
    literals: Vec<String>,
    key: Key,
    has_own_key: bool,
    closure: Closure,
    unpublished: Vec<String>,
    lacking: Vec<(Oid, LiveRefusal)>,
    unlogged: Box<[usize]>,
    types: TypeRegistry,
}

impl Looked {
    /// What is read has all columns. Gives the places of those that the log lacks.
    fn take_all_as_logged(&mut self) -> Box<[usize]> {
        let mut unlogged = Vec::new();
        for (at, column) in self.table.columns.iter_mut().enumerate() {
            if !column.in_log {
                unlogged.push(at);
                column.in_log = true;
            }
        }
        unlogged.into()
    }

    /// The names of what is read without the log telling its changes: refused, unless results are read again by the
    /// clock.
    fn untold(
        &self,
        closure: &Closure,
        publication: &str,
        bounds: Bounds,
    ) -> Result<Vec<String>, LiveRefusal> {
        let mut untold =
            closure.untold.iter().filter(|untold| !untold.is_doubt() && !bounds.may_publish(untold));
        match untold.next() {
            Some(untold) if !bounds.by_clock => Err(self.refusal(untold, publication)),
            first => Ok(first.into_iter().chain(untold).map(|untold| untold.name.clone()).collect()),
        }
    }

    /// Tables that have to be published for their policies, each with what is said if that cannot be done.
    fn lacking(&self, closure: &Closure, publication: &str, bounds: Bounds) -> Vec<(Oid, LiveRefusal)> {
        let lacking = closure.untold.iter().filter(|untold| !untold.is_doubt() && bounds.may_publish(untold));
        lacking.map(|untold| (untold.oid, self.refusal(untold, publication))).collect()
    }

    fn refusal(&self, untold: &Untold, publication: &str) -> LiveRefusal {
        let (of, read, publication) = (self.name.clone(), untold.name.clone(), publication.to_owned());
        match untold.why {
            Why::Is(what) => LiveRefusal::Untold { read, what },
            Why::InPart => LiveRefusal::InPart { read, publication },
            Why::Unpublished if untold.oid == self.table.oid => LiveRefusal::Unpublished { of, publication },
            Why::Unpublished if untold.by_policy => {
                LiveRefusal::PolicyReadsUnpublished { of, read, publication }
            }
            Why::Unpublished if untold.how != How::Catalog => {
                LiveRefusal::FunctionReadsUnpublished { of, read, publication }
            }
            Why::Unpublished => LiveRefusal::ReadsUnpublished { of, read, publication },
        }
    }

    const fn check_bounds(&self, bounds: Bounds) -> Result<(), LiveRefusal> {
        match self.live.limit {
            Some(limit) if limit as usize > bounds.max_rows => {
                Err(LiveRefusal::LimitTooLarge { limit, max: bounds.max_rows })
            }
            _ => Ok(()),
        }
    }

    fn check_order(&self) -> Result<(), LiveRefusal> {
        for by in &self.live.order {
            let at = self.readable("order", &by.column)?;
            if !self.facts.get(at).is_some_and(|facts| facts.has_order) {
                let sql_type = self.table.columns.get(at).map(|column| column.sql_type.to_string());
                let (column, sql_type) = (by.column.to_string(), sql_type.unwrap_or_default());
                return Err(LiveRefusal::NoOrder { column, sql_type });
            }
        }
        Ok(())
    }

    /// Of arrays below a domain there are no lists: the type of one would be the array of an array.
    fn check_lists(&self, plan: &Plan) -> Result<(), LiveRefusal> {
        for sought in plan.sought().leaves() {
            let is_list = matches!(sought.operator, Some((_, Form::Array))) && sought.path.is_none();
            if is_list && self.facts.get(sought.column).is_some_and(|facts| facts.is_array) {
                let column = self.table.columns.get(sought.column);
                let of = column.map(|column| column.sql_type.to_string()).unwrap_or_default();
                return Err(LiveRefusal::Plan(format!("operator in does not exist for type {of}")));
            }
        }
        Ok(())
    }

    fn readable(&self, of: &'static str, name: &str) -> Result<usize, LiveRefusal> {
        let column = self.table.column(name).filter(|at| self.access.reads(*at));
        column.ok_or_else(|| LiveRefusal::NoColumn { of, column: name.to_owned() })
    }

    /// What tells rows apart, and whether that is a table's own primary key.
    fn key(&self, closure: &Closure, attnums: &[i16], role: &str) -> Result<(Key, bool), LiveRefusal> {
        if let Some(names) = &self.live.key {
            let mut places: Vec<usize> =
                names.iter().map(|name| self.readable("key", name)).collect::<Result<_, _>>()?;
            places.sort_unstable();
            places.dedup();
            let mut own = self.table.primary_key.clone();
            own.sort_unstable();
            let is_own = own == places;
            if is_own {
                // In the order of the index, as where no key is given.
                places.clone_from(&self.table.primary_key);
            }
            return Ok((Key::Columns(places.into()), is_own));
        }
        let Some(numbers) = closure.keys.of(self.table.oid) else { return Ok((Key::WholeRow, false)) };
        let mut places: Vec<usize> =
            numbers.iter().filter_map(|number| attnums.iter().position(|attnum| attnum == number)).collect();
        let is_own = !self.table.primary_key.is_empty();
        if is_own {
            // In the order of the index.
            places.clone_from(&self.table.primary_key);
        }
        match places.iter().find(|at| !self.access.reads(**at)) {
            None => Ok((Key::Columns(places.into()), is_own)),
            // A view shows what it likes of a key.
            Some(_) if !is_own => Ok((Key::WholeRow, false)),
            Some(at) => {
                let column = self.table.columns.get(*at).map(|column| column.name.to_string());
                let (role, column, of) = (role.to_owned(), column.unwrap_or_default(), self.name.clone());
                Err(LiveRefusal::NoKey { role, column, of })
            }
        }
    }

    /// The columns to read, ascending.
    fn columns(&self, plan: &Plan, key: &Key) -> Box<[usize]> {
        let is_key = |at: usize| matches!(key, Key::Columns(key) if key.contains(&at));
        let wanted = |at: &usize| match plan.select() {
            Some(select) => select.contains(at) || is_key(*at),
            None => true,
        };
        (0..self.table.columns.len()).filter(|at| self.access.reads(*at)).filter(wanted).collect()
    }

    fn source(self, found: Found) -> Source {
        let columns = self.columns(&found.plan, &found.key);
        let query = Query {
            table: &self.table,
            facts: &self.facts,
            columns: &columns,
            conditions: found.plan.sought(),
            live: &self.live,
            key: &found.key,
        };
        let sql = query.text().into();
        let doubts = doubts(&found.closure);
        let mut table = self.table;
        table.primary_key = match &found.key {
            Key::Columns(key) => key.to_vec(),
            Key::WholeRow => columns.to_vec(),
        };
        Source {
            oid: table.oid,
            kind: self.kind,
            relation: Arc::new(as_the_log_would(&table)),
            table: Arc::new(table),
            key: found.key,
            is_limited: self.live.limit.is_some(),
            has_own_key: found.has_own_key,
            unlogged: found.unlogged,
            columns,
            reads: found.closure.reads,
            unpublished: found.unpublished,
            lacking: found.lacking,
            doubts,
            relations: found.closure.relations.into(),
            plan: found.plan,
            literals: found.literals,
            access: Arc::new(self.access),
            types: Arc::new(found.types),
            sql,
        }
    }
}

/// Why it is not known all that functions read.
fn doubts(closure: &Closure) -> Box<[String]> {
    let untold = closure.untold.iter().filter(|untold| untold.is_doubt()).map(Untold::doubt);
    closure.functions.doubts.iter().cloned().chain(untold).collect()
}

/// A relation as the walsender would describe it.
fn as_the_log_would(table: &Table) -> Relation {
    let column = |(at, column): (usize, &realtime_changes::Column)| RelationColumn {
        identity: table.primary_key.contains(&at),
        name: column.name.clone(),
        type_oid: column.type_oid,
        type_modifier: -1,
    };
    Relation {
        oid: table.oid,
        schema: table.schema.clone(),
        name: table.name.clone(),
        replica_identity: ReplicaIdentity::Default,
        columns: table.columns.iter().enumerate().map(column).collect(),
    }
}
