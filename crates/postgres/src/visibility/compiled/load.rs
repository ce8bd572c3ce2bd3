//! Reads policies, and what the compiler wants to know of the catalog.

use std::sync::Arc;

use deadpool_postgres::GenericClient;
use realtime_changes::{
    Table,
    policy::{
        self, Catalog, Collation, Compiled, Field, Function, NamedType, Policy, Relation, Volatility, Wanted,
        Why,
    },
};
use realtime_pgoutput::Oid;
use tokio_postgres::{Error, Row, types::ToSql};

use crate::{RelationStats, quote::quoted};

/// How often the compiler may want something more. Names lead to names: through functions, and policies of tables.
const ROUNDS: usize = 50;

/// The policies of a table for SELECT and ALL that decide for a role, in the order in which PostgreSQL evaluates them.
const POLICIES: &str =
    "select p.polpermissive, pg_catalog.pg_get_expr(p.polqual, p.polrelid), p.polname::text
    from pg_catalog.pg_policy p
    where p.polrelid = $1 and p.polcmd::text in ('r', '*') and p.polqual is not null
        and exists (select from unnest(p.polroles) r (oid)
            where r.oid = 0 or pg_catalog.pg_has_role($2::text::name, r.oid, 'USAGE'))
    order by p.polname desc";

/// All relations of a name. Rows of a partition, or of a table with children, are also those of others.
const RELATIONS: &str = "select c.oid, n.nspname::text, c.relname::text,
        c.relkind = 'r' and c.relpersistence = 'p' and not c.relhassubclass and not c.relispartition,
        array(select a.attname::text from pg_catalog.pg_attribute a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum),
        array(select case when t.typtype = 'd' then t.typbasetype else t.oid end
            from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum),
        array(select t.typtype::text from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum),
        array(select case when not coalesce(co.collisdeterministic, true) then 'loose'
                when co.collname in ('C', 'POSIX') then 'bytes' else 'deterministic' end
            from pg_catalog.pg_attribute a left join pg_catalog.pg_collation co on co.oid = a.attcollation
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum),
        case when c.relrowsecurity then array(
            select pg_catalog.pg_get_expr(p.polqual, p.polrelid) from pg_catalog.pg_policy p
            where p.polrelid = c.oid and p.polcmd::text in ('r', '*') and p.polqual is not null) else '{}' end,
        case when not c.relforcerowsecurity then c.relowner end
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relname = $1 and c.relkind in ('r', 'v', 'm', 'p', 'f')";

/// All functions of a name.
const FUNCTIONS: &str =
    "select p.oid, n.nspname::text, p.proname::text, p.proargtypes::oid[], p.pronargdefaults::int4,
        p.provariadic <> 0, p.prorettype, p.proretset, p.prokind::text in ('a', 'w'), p.provolatile::text,
        -- What a setting of its own changes is not known. The path on which its names are looked up is.
        case when exists (select from pg_catalog.unnest(p.proconfig) own (setting) where own.setting !~ '^search_path=')
            then 'set' else l.lanname::text end, coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc),
        coalesce(pg_catalog.pg_get_expr(p.proargdefaults, 0), ''),
        case when p.proargmodes is null then coalesce(p.proargnames, '{}') else '{}' end,
        case when p.prosecdef then p.proowner end,
        (select r.rolsuper or r.rolbypassrls from pg_catalog.pg_roles r where r.oid = p.proowner)
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    join pg_catalog.pg_language l on l.oid = p.prolang
    where p.proname = $1";

/// A type by its schema and name.
const TYPE: &str = "select t.oid, t.typtype::text = 'e'
    from pg_catalog.pg_type t
    join pg_catalog.pg_namespace n on n.oid = t.typnamespace
    where n.nspname = $1 and t.typname = $2";

/// The names of operators whose functions may do anything.
const OPERATORS: &str = "select distinct o.oprname::text
    from pg_catalog.pg_operator o
    join pg_catalog.pg_proc p on p.oid = o.oprcode
    join pg_catalog.pg_language l on l.oid = p.prolang
    where o.oid >= 16384 and l.lanname not in ('internal', 'c')";

/// A cast whose function may do anything, and the function. Policies do not show where it is applied.
const CASTS: &str = "select pg_catalog.format('(%s AS %s)', pg_catalog.format_type(c.castsource, null),
        pg_catalog.format_type(c.casttarget, null)), pg_catalog.format('%I.%I', n.nspname, p.proname)
    from pg_catalog.pg_cast c
    join pg_catalog.pg_proc p on p.oid = c.castfunc
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    join pg_catalog.pg_language l on l.oid = p.prolang
    where c.oid >= 16384 and l.lanname not in ('internal', 'c')
    order by c.oid
    limit 1";

/// The collations that the columns of a table have of themselves, quoted.
const COLLATIONS: &str = "select a.attname::text,
        pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(c.collname))
    from pg_catalog.pg_attribute a
    join pg_catalog.pg_collation c on c.oid = a.attcollation
    join pg_catalog.pg_namespace n on n.oid = c.collnamespace
    where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped";

/// The policies of a table that decide for a role.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// The policies as they are written, in the order in which they were compiled.
    pub(crate) written: Arc<[Written]>,
    pub(crate) policies: Arc<Compiled>,
    /// How a value of each column is written in a question: the type to cast to, and the collation.
    pub(crate) casts: Arc<[Box<str>]>,
}

/// A policy as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) name: Box<str>,
    pub(crate) permissive: bool,
    /// Its condition.
    pub(crate) using: Box<str>,
}

impl Written {
    pub(crate) fn policy(&self) -> Policy<'_> {
        Policy { permissive: self.permissive, using: &self.using }
    }
}

/// The policies of a table that decide for a role, in the order in which PostgreSQL evaluates them.
pub(crate) async fn written(
    client: &impl GenericClient,
    table: Oid,
    role: &str,
) -> Result<Arc<[Written]>, Error> {
    let policy = |row: &Row| {
        Ok(Written {
            permissive: row.try_get(0)?,
            using: row.try_get::<_, String>(1)?.into(),
            name: row.try_get::<_, String>(2)?.into(),
        })
    };
    rows(client, POLICIES, &[&table, &role]).await?.iter().map(policy).collect()
}

/// Reads and compiles the policies of a table that decide for a role. `None`: they cannot be compiled, because the table
/// is not as it was described.
pub(crate) async fn load(
    client: &impl GenericClient,
    table: &Table,
    role: &str,
    catalog: &mut Catalog,
    stats: &RelationStats,
) -> Result<Option<Loaded>, Error> {
    let Some(own) = own(client, table).await? else { return Ok(None) };
    let written = written(client, table.oid, role).await?;
    let distrusted =
        stats.distrusted(table.oid, written.iter().map(|policy| (&*policy.name, &*policy.using)));
    let policies: Vec<Policy<'_>> = written.iter().map(Written::policy).collect();
    let compile = |catalog: &Catalog| policy::compile_distrusting(&policies, &own, catalog, &distrusted);
    let mut compiled = compile(catalog);
    for _ in 0..ROUNDS {
        if compiled.wanted().is_empty() {
            break;
        }
        for wanted in compiled.wanted() {
            supply(client, catalog, wanted).await?;
        }
        compiled = compile(catalog);
    }
    if out_of_sight(client, catalog).await?.is_some() {
        let all = (0..policies.len()).collect();
        compiled = policy::compile_distrusting(&policies, &own, catalog, &all);
    }
    Ok(Some(Loaded {
        written: Arc::clone(&written),
        policies: Arc::new(compiled),
        casts: casts(client, table).await?,
    }))
}

/// Why all policies are asked, if they are: what they depend on cannot be seen.
pub(super) async fn out_of_sight(
    client: &impl GenericClient,
    catalog: &Catalog,
) -> Result<Option<Why>, Error> {
    if let Some(row) = rows(client, CASTS, &[]).await?.first() {
        let (cast, function): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        return Ok(Some(Why::Casts(cast.into(), function.into())));
    }
    Ok(catalog.setter().map(|function| Why::Sets(format!("{}.{}", function.schema, function.name).into())))
}

/// The table as the compiler knows it, if its columns are those that are known of it.
async fn own(client: &impl GenericClient, table: &Table) -> Result<Option<Relation>, Error> {
    let all = relations(client, &table.name).await?;
    Ok(all.into_iter().find(|relation| {
        let names = relation.fields.iter().map(|field| &field.name);
        relation.oid == table.oid && names.eq(table.columns.iter().map(|column| &column.name))
    }))
}

async fn casts(client: &impl GenericClient, table: &Table) -> Result<Arc<[Box<str>]>, Error> {
    let mut collations: Vec<(String, String)> = Vec::new();
    for row in rows(client, COLLATIONS, &[&table.oid]).await? {
        collations.push((row.try_get(0)?, row.try_get(1)?));
    }
    let cast = |column: &realtime_changes::Column| {
        let own = collations.iter().find(|(name, _)| **name == *column.name);
        let collate = own.map(|(_, collation)| format!(" collate {collation}")).unwrap_or_default();
        format!("::{}{collate} as {}", column.cast_type, quoted(&column.name)).into()
    };
    Ok(table.columns.iter().map(cast).collect())
}

/// Loads what the compiler wants.
pub(super) async fn supply(
    client: &impl GenericClient,
    catalog: &mut Catalog,
    wanted: &Wanted,
) -> Result<(), Error> {
    match wanted {
        Wanted::Relations(name) => catalog.put_relations(name.clone(), relations(client, name).await?),
        Wanted::Functions(name) => {
            let found = rows(client, FUNCTIONS, &[&&**name]).await?;
            let functions: Result<Vec<Function>, Error> = found.iter().map(function).collect();
            catalog.put_functions(name.clone(), functions?);
        }
        Wanted::Operators => {
            let names: Result<Vec<Box<str>>, Error> = rows(client, OPERATORS, &[])
                .await?
                .iter()
                .map(|row| row.try_get::<_, String>(0).map(Into::into))
                .collect();
            catalog.put_operators(names?);
        }
        Wanted::Type(schema, name) => {
            let found = rows(client, TYPE, &[&&**schema, &&**name]).await?;
            let known = match found.first() {
                Some(row) => Some(NamedType { oid: row.try_get(0)?, is_enum: row.try_get(1)? }),
                None => None,
            };
            catalog.put_type(schema.clone(), name.clone(), known);
        }
    }
    Ok(())
}

pub(super) async fn relations(client: &impl GenericClient, name: &str) -> Result<Vec<Relation>, Error> {
    rows(client, RELATIONS, &[&name]).await?.iter().map(relation).collect()
}

fn relation(row: &Row) -> Result<Relation, Error> {
    let (names, types): (Vec<String>, Vec<Oid>) = (row.try_get(4)?, row.try_get(5)?);
    let (kinds, collations): (Vec<String>, Vec<String>) = (row.try_get(6)?, row.try_get(7)?);
    let policies: Vec<String> = row.try_get(8)?;
    let all = names.into_iter().zip(types).zip(kinds).zip(collations);
    let fields = all.map(|(((name, base_oid), kind), collation)| Field {
        name: name.into(),
        base_oid,
        is_domain: kind == "d",
        is_enum: kind == "e",
        collation: match &*collation {
            "loose" => Collation::Loose,
            "bytes" => Collation::Bytes,
            _ => Collation::Deterministic,
        },
    });
    Ok(Relation {
        oid: row.try_get(0)?,
        schema: row.try_get::<_, String>(1)?.into(),
        name: row.try_get::<_, String>(2)?.into(),
        in_log: row.try_get(3)?,
        fields: fields.collect(),
        policies: policies.into_iter().map(Into::into).collect(),
        exempt: row.try_get(9)?,
    })
}

fn function(row: &Row) -> Result<Function, Error> {
    Ok(Function {
        oid: row.try_get(0)?,
        schema: row.try_get::<_, String>(1)?.into(),
        name: row.try_get::<_, String>(2)?.into(),
        arguments: row.try_get(3)?,
        defaults: usize::try_from(row.try_get::<_, i32>(4)?).unwrap_or_default(),
        variadic: row.try_get(5)?,
        result: row.try_get(6)?,
        returns_set: row.try_get(7)?,
        is_aggregate: row.try_get(8)?,
        volatility: match &*row.try_get::<_, String>(9)? {
            "i" => Volatility::Immutable,
            "s" => Volatility::Stable,
            _ => Volatility::Volatile,
        },
        language: row.try_get::<_, String>(10)?.into(),
        body: row.try_get::<_, String>(11)?.into(),
        default_values: row.try_get::<_, String>(12)?.into(),
        names: row.try_get::<_, Vec<String>>(13)?.into_iter().map(Into::into).collect(),
        runs_as: row.try_get(14)?,
        owner_bypasses: row.try_get::<_, Option<bool>>(15)?.unwrap_or_default(),
    })
}

/// The rows of a query, which is prepared once on each connection.
async fn rows(
    client: &impl GenericClient,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    let statement = client.prepare_cached(sql).await?;
    client.query(&statement, parameters).await
}
