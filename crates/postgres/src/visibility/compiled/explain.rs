//! What becomes of the policies of published tables, for operators. Nothing is changed, and no row is read.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::Client;
use realtime_changes::policy::{self, Catalog, Relation};
use realtime_pgoutput::Oid;
use serde::Serialize;
use tokio_postgres::Error;

use super::{
    load::{Written, out_of_sight, relations, supply, written},
    print::kept_tables,
};
use crate::{RelationStats, catalog};

/// Tables that are explained, at most.
const MAX_TABLES: usize = 200;

/// Roles of a table, at most.
const MAX_ROLES: usize = 20;

/// How often the compiler may want something more.
const ROUNDS: usize = 50;

/// Roles that clients usually have.
const USUAL: [&str; 2] = ["anon", "authenticated"];

/// What becomes of the policies of a database's published tables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// The publication of row changes.
    pub publication: String,
    /// Its tables, by name.
    pub tables: Vec<TablePolicies>,
    /// Whether it has more tables than are shown.
    pub is_cut: bool,
}

/// The policies of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TablePolicies {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Whether row-level security is on.
    pub row_security: bool,
    /// Channels that watch it through this server's node, by role.
    pub watchers: BTreeMap<String, usize>,
    /// What was decided about its rows by this node since it started. `None`: it had no rows under row-level security.
    pub counted: Option<Counted>,
    /// What holds for whom; roles for which the same holds stand together.
    pub roles: Vec<RolePolicies>,
}

/// Verdicts about the rows of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Given by compiled policies.
    pub compiled: u64,
    /// Given by the database.
    pub asked: u64,
    /// Not given: the policies could not be evaluated.
    pub withheld: u64,
    /// Compiled ones that the database contradicted.
    pub mismatch: u64,
}

/// The policies that decide for some roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolePolicies {
    /// The roles.
    pub roles: Vec<String>,
    /// Whether they see all rows, whatever the policies say.
    pub bypasses: bool,
    /// The policies, in the order of their evaluation.
    pub policies: Vec<PolicyFacts>,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyFacts {
    /// Name.
    pub name: String,
    /// Whether it shows rows (`PERMISSIVE`) or demands something of those that are shown (`RESTRICTIVE`).
    pub permissive: bool,
    /// Its condition.
    pub using: String,
    /// Who decides.
    pub decided: Decided,
    /// What the database is asked about, and why it is not compiled.
    pub asked: Vec<AskedPart>,
    /// The tables that it reads.
    pub reads: Vec<ReadTable>,
}

/// Who decides what a policy says of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    /// The server, by the compiled policy.
    Compiled,
    /// The server as far as it can, and the database where that leaves it open.
    InPart,
    /// The database, for each row.
    Asked,
}

impl PolicyFacts {
    /// The database is asked about all of it, whatever else is known of it.
    fn ask_all(&mut self, why: &policy::Why) {
        if self.decided != Decided::Asked {
            self.asked.clear();
        }
        self.decided = Decided::Asked;
        self.asked.insert(0, AskedPart { text: self.using.clone(), why: why.to_string() });
    }
}

/// A part of a policy that the database is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AskedPart {
    /// The part.
    pub text: String,
    /// Why it is not compiled, and what helps.
    pub why: String,
}

/// A table that a policy reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadTable {
    /// Schema and name.
    pub name: String,
    /// Whether all of its changes come with the log, so that the server knows when answers are out of date.
    pub in_stream: bool,
}

/// Which tables are watched with which role, by how many channels.
pub(crate) type Watching = Vec<(Oid, Box<str>, usize)>;

/// Explains the policies of all published tables.
///
/// # Errors
/// When the database cannot be asked.
pub(crate) async fn explain(
    client: &Client,
    publication: &str,
    publications: &[&str],
    watching: &Watching,
    stats: &RelationStats,
) -> Result<PolicyReport, Error> {
    let publications = catalog::publications(client, publications).await?;
    let mut published = catalog::published(client, publication).await?;
    published.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    let is_cut = published.len() > MAX_TABLES;
    published.truncate(MAX_TABLES);
    let mut explainer = Explainer { client, publication, publications, stats, catalog: Catalog::default() };
    let counters: BTreeMap<_, _> = stats.all().into_iter().collect();
    let mut tables = Vec::with_capacity(published.len());
    for table in published {
        let of_table = watching.iter().filter(|(oid, ..)| *oid == table.oid);
        let watchers: BTreeMap<String, usize> =
            of_table.map(|(_, role, channels)| (role.to_string(), *channels)).collect();
        let counted = counters.get(&*format!("{}.{}", table.schema, table.name)).map(|counters| Counted {
            compiled: counters.compiled.get(),
            asked: counters.asked.get(),
            withheld: counters.withheld.get(),
            mismatch: counters.mismatch.get(),
        });
        let facts = explainer.facts(table.oid, &watchers).await?;
        let roles = match facts.is_secured {
            true => explainer.roles(table.oid, &table.name, &facts).await?,
            false => Vec::new(),
        };
        let (schema, name) = (table.schema, table.name);
        tables.push(TablePolicies { schema, name, row_security: facts.is_secured, watchers, counted, roles });
    }
    if let Some(why) = out_of_sight(client, &explainer.catalog).await? {
        let of_roles = tables.iter_mut().flat_map(|table| &mut table.roles);
        of_roles.flat_map(|role| &mut role.policies).for_each(|policy| policy.ask_all(&why));
    }
    Ok(PolicyReport { publication: publication.to_owned(), tables, is_cut })
}

/// Explains the policies of one table for one role.
///
/// # Errors
/// When the database cannot be asked.
pub(crate) async fn explain_one(
    client: &Client,
    publication: &str,
    publications: &[&str],
    stats: &RelationStats,
    oid: Oid,
    role: &str,
) -> Result<Vec<PolicyFacts>, Error> {
    let publications = catalog::publications(client, publications).await?;
    let mut explainer = Explainer { client, publication, publications, stats, catalog: Catalog::default() };
    const SQL: &str = "select c.relname::text, c.relkind = 'p' from pg_catalog.pg_class c where c.oid = $1";
    let Some(row) = client.query_opt(SQL, &[&oid]).await? else { return Ok(Vec::new()) };
    let (name, is_partitioned): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
    let own = relations(client, &name).await?.into_iter().find(|relation| relation.oid == oid);
    let Some(own) = own else { return Ok(Vec::new()) };
    let mut policies = Vec::new();
    for written in written(client, oid, role).await?.iter() {
        policies.push(explainer.policy(&own, written, is_partitioned).await?);
    }
    if let Some(why) = out_of_sight(client, &explainer.catalog).await? {
        policies.iter_mut().for_each(|policy| policy.ask_all(&why));
    }
    Ok(policies)
}

struct Explainer<'a> {
    client: &'a Client,
    publication: &'a str,
    /// Those that are read.
    publications: Vec<String>,
    stats: &'a RelationStats,
    catalog: Catalog,
}

/// What is to be known of a table beside its policies.
struct Facts {
    is_secured: bool,
    is_partitioned: bool,
    roles: Vec<String>,
}

impl Explainer<'_> {
    /// The roles of a table are those that watch it, those that its policies name, and the usual ones.
    async fn facts(&self, oid: Oid, watchers: &BTreeMap<String, usize>) -> Result<Facts, Error> {
        const SQL: &str = "select c.relrowsecurity, c.relkind = 'p', array(
                select distinct r.rolname::text
                from pg_catalog.pg_roles r
                where r.rolname = any ($2) or exists (select from pg_catalog.pg_policy p
                    where p.polrelid = c.oid and p.polcmd::text in ('r', '*') and r.oid = any (p.polroles))
                order by 1)
            from pg_catalog.pg_class c where c.oid = $1";
        let names: Vec<&str> = watchers.keys().map(String::as_str).chain(USUAL).collect();
        match self.client.query_opt(SQL, &[&oid, &names]).await? {
            Some(row) => {
                let mut roles: Vec<String> = row.try_get(2)?;
                roles.truncate(MAX_ROLES);
                Ok(Facts { is_secured: row.try_get(0)?, is_partitioned: row.try_get(1)?, roles })
            }
            None => Ok(Facts { is_secured: false, is_partitioned: false, roles: Vec::new() }),
        }
    }

    async fn roles(&mut self, oid: Oid, name: &str, facts: &Facts) -> Result<Vec<RolePolicies>, Error> {
        let own = relations(self.client, name).await?.into_iter().find(|relation| relation.oid == oid);
        let Some(own) = own else { return Ok(Vec::new()) };
        let pairs: Vec<(&str, Oid)> = facts.roles.iter().map(|role| (&**role, oid)).collect();
        let accesses = catalog::role_accesses(self.client, &pairs).await?;
        let mut known: BTreeMap<Box<str>, (Written, PolicyFacts)> = BTreeMap::new();
        let mut all: Vec<RolePolicies> = Vec::new();
        for (role, access) in facts.roles.iter().zip(accesses) {
            let bypasses = access.is_some_and(|access| access.bypasses_rls);
            let mut policies = Vec::new();
            if !bypasses {
                for written in written(self.client, oid, role).await?.iter() {
                    let kept = known.get(&written.name).filter(|(same, _)| same == written);
                    let of_policy = match kept {
                        Some((_, of_policy)) => of_policy.clone(),
                        None => self.policy(&own, written, facts.is_partitioned).await?,
                    };
                    known.insert(written.name.clone(), (written.clone(), of_policy.clone()));
                    policies.push(of_policy);
                }
            }
            match all.iter_mut().find(|same| same.bypasses == bypasses && same.policies == policies) {
                Some(same) => same.roles.push(role.clone()),
                None => all.push(RolePolicies { roles: vec![role.clone()], bypasses, policies }),
            }
        }
        Ok(all)
    }

    async fn policy(
        &mut self,
        own: &Relation,
        written: &Written,
        is_partitioned: bool,
    ) -> Result<PolicyFacts, Error> {
        let mut compiled = policy::compile(&[written.policy()], own, &self.catalog);
        for _ in 0..ROUNDS {
            if compiled.wanted().is_empty() {
                break;
            }
            for wanted in compiled.wanted() {
                supply(self.client, &mut self.catalog, wanted).await?;
            }
            compiled = policy::compile(&[written.policy()], own, &self.catalog);
        }
        let tables: Vec<Oid> = compiled.reads().collect::<BTreeSet<Oid>>().into_iter().collect();
        let kept = kept_tables(self.client, &tables, &self.publications).await?;
        let is_kept = |oid: Oid| kept.contains(&oid);
        let explained = policy::explain(written.policy(), own, &self.catalog, is_kept, self.publication);
        let mut asked: Vec<AskedPart> = explained
            .asked
            .into_iter()
            .map(|reason| AskedPart { text: reason.text.into(), why: reason.why })
            .collect();
        let mut decides = explained.decides;
        let names = std::iter::once((&*written.name, &*written.using));
        let whole = match () {
            () if is_partitioned => {
                Some("the table has partitions: the log does not tell when its policies change".to_owned())
            }
            () if !self.stats.distrusted(own.oid, names).is_empty() => {
                Some(policy::Why::Distrusted.to_string())
            }
            () => None,
        };
        if let Some(why) = whole {
            decides = false;
            asked = vec![AskedPart { text: written.using.to_string(), why }];
        }
        let reads = tables.iter().map(|oid| ReadTable {
            name: match self.catalog.relation(*oid) {
                Some(relation) => format!("{}.{}", relation.schema, relation.name),
                None => oid.to_string(),
            },
            in_stream: kept.contains(oid),
        });
        Ok(PolicyFacts {
            name: written.name.to_string(),
            permissive: written.permissive,
            using: written.using.to_string(),
            decided: match (asked.is_empty(), decides) {
                (true, _) => Decided::Compiled,
                (false, true) => Decided::InPart,
                (false, false) => Decided::Asked,
            },
            asked,
            reads: reads.collect(),
        })
    }
}
