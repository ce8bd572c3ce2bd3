//! Loads what the compiler wants of a catalog.

use anyhow::Result;
use realtime_changes::policy::{
    self, Catalog, Collation, Compiled, Field, Function, NamedType, Policy, Relation, Volatility, Wanted,
};
use tokio_postgres::Client;

const RELATIONS: &str = "
    select c.oid, n.nspname::text, c.relname::text, c.relkind = 'r' and c.relpersistence = 'p' as in_log,
        array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            order by a.attnum) as names,
        array(select case when t.typtype = 'd' then t.typbasetype else t.oid end from pg_attribute a
            join pg_type t on t.oid = a.atttypid
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) as types,
        array(select t.typtype::text from pg_attribute a join pg_type t on t.oid = a.atttypid
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) as kinds,
        array(select case when not coalesce(co.collisdeterministic, true) then 'loose'
                when co.collname in ('C', 'POSIX') then 'bytes' else 'deterministic' end
            from pg_attribute a left join pg_collation co on co.oid = a.attcollation
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) as collations,
        case when c.relrowsecurity then array(select pg_get_expr(p.polqual, p.polrelid) from pg_policy p
            where p.polrelid = c.oid and p.polcmd::text in ('r', '*') and p.polqual is not null) else '{}' end as policies,
        case when not c.relforcerowsecurity then c.relowner end
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relname = $1 and c.relkind in ('r', 'v', 'm', 'p', 'f')";

const FUNCTIONS: &str = "
    select p.oid, n.nspname::text, p.proname::text, p.proargtypes::oid[], p.pronargdefaults::int4, p.provariadic <> 0,
        p.prorettype, p.proretset, p.prokind::text in ('a', 'w'), p.provolatile::text, l.lanname::text,
        coalesce(pg_get_function_sqlbody(p.oid), p.prosrc),
        coalesce(pg_get_expr(p.proargdefaults, 0), ''),
        case when p.proargmodes is null then coalesce(p.proargnames, '{}') else '{}' end,
        case when p.prosecdef then p.proowner end,
        (select r.rolsuper or r.rolbypassrls from pg_roles r where r.oid = p.proowner)
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
    where p.proname = $1";

pub async fn relations(client: &Client, name: &str) -> Result<Vec<Relation>> {
    let rows = client.query(RELATIONS, &[&name]).await?;
    let relation = |row: &tokio_postgres::Row| {
        let (names, types): (Vec<String>, Vec<u32>) = (row.get(4), row.get(5));
        let (kinds, collations): (Vec<String>, Vec<String>) = (row.get(6), row.get(7));
        let fields = (0..names.len()).map(|at| Field {
            name: names[at].as_str().into(),
            base_oid: types[at],
            is_domain: kinds[at] == "d",
            is_enum: kinds[at] == "e",
            collation: match &*collations[at] {
                "loose" => Collation::Loose,
                "bytes" => Collation::Bytes,
                _ => Collation::Deterministic,
            },
        });
        let policies: Vec<String> = row.get(8);
        Relation {
            oid: row.get(0),
            schema: row.get::<_, String>(1).into(),
            name: row.get::<_, String>(2).into(),
            in_log: row.get(3),
            fields: fields.collect(),
            policies: policies.into_iter().map(Into::into).collect(),
            exempt: row.get(9),
        }
    };
    Ok(rows.iter().map(relation).collect())
}

async fn functions(client: &Client, name: &str) -> Result<Vec<Function>> {
    let rows = client.query(FUNCTIONS, &[&name]).await?;
    let function = |row: &tokio_postgres::Row| Function {
        oid: row.get(0),
        schema: row.get::<_, String>(1).into(),
        name: row.get::<_, String>(2).into(),
        arguments: row.get(3),
        defaults: usize::try_from(row.get::<_, i32>(4)).unwrap(),
        variadic: row.get(5),
        result: row.get(6),
        returns_set: row.get(7),
        is_aggregate: row.get(8),
        volatility: match &*row.get::<_, String>(9) {
            "i" => Volatility::Immutable,
            "s" => Volatility::Stable,
            _ => Volatility::Volatile,
        },
        language: row.get::<_, String>(10).into(),
        body: row.get::<_, String>(11).into(),
        default_values: row.get::<_, String>(12).into(),
        names: row.get::<_, Vec<String>>(13).into_iter().map(Into::into).collect(),
        runs_as: row.get(14),
        owner_bypasses: row.get(15),
    };
    Ok(rows.iter().map(function).collect())
}

/// Compiles, and loads what is wanted, until nothing is.
pub async fn compile(
    client: &Client,
    catalog: &mut Catalog,
    own: &Relation,
    policies: &[Policy<'_>],
) -> Result<Compiled> {
    loop {
        let compiled = policy::compile(policies, own, catalog);
        if compiled.wanted().is_empty() {
            return Ok(compiled);
        }
        for wanted in compiled.wanted() {
            match wanted {
                Wanted::Relations(name) => {
                    catalog.put_relations(name.clone(), relations(client, name).await?)
                }
                Wanted::Functions(name) => {
                    catalog.put_functions(name.clone(), functions(client, name).await?)
                }
                Wanted::Operators => catalog.put_operators([]),
                Wanted::Type(schema, name) => {
                    let known = client
                        .query_opt(
                            "select t.oid, t.typtype::text = 'e' from pg_type t
                             join pg_namespace n on n.oid = t.typnamespace where n.nspname = $1 and t.typname = $2",
                            &[&&**schema, &&**name],
                        )
                        .await?
                        .map(|row| NamedType { oid: row.get(0), is_enum: row.get(1) });
                    catalog.put_type(schema.clone(), name.clone(), known);
                }
            }
        }
    }
}

/// Makes policies of the table `rooms`, and reads them as PostgreSQL prints them.
pub async fn printed(client: &Client, policies: &[(bool, String)]) -> Result<Vec<(bool, String)>> {
    let mut made = String::from("begin;");
    for at in 0..8 {
        made += &format!("drop policy if exists p{at} on public.rooms;");
    }
    for (at, (permissive, using)) in policies.iter().enumerate() {
        let kind = if *permissive { "permissive" } else { "restrictive" };
        made += &format!(
            "create policy p{at} on public.rooms as {kind} for select to authenticated using ({using});"
        );
    }
    made += "commit;";
    if let Err(error) = client.batch_execute(&made).await {
        client.batch_execute("rollback").await?;
        // Of what is generated everything is of the right types.
        anyhow::bail!("{policies:?}: {error:?}");
    }
    client.batch_execute("set search_path = ''").await?;
    let rows = client
        .query(
            "select polpermissive, pg_get_expr(polqual, polrelid) from pg_policy
             where polrelid = 'public.rooms'::regclass order by polname desc",
            &[],
        )
        .await?;
    client.batch_execute("reset search_path").await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
