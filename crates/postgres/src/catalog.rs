//! Questions to the catalog (postgres_changes 7.7).

use std::collections::HashMap;

use deadpool_postgres::ClientWrapper as Client;
use realtime_changes::{Column, Comparison, Operators, Place, RoleAccess, Table};
use realtime_pgoutput::{
    Lsn, Oid, TypeInfo, TypeKind, TypeRegistry,
    message::{ReplicaIdentity, UnixMicros},
    oid,
};
use tokio_postgres::{Error, Row, types::ToSql};

use crate::published::published;

/// The rows of a query, which is prepared once on each connection.
async fn rows(client: &Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
    let statement = client.prepare_cached(sql).await?;
    client.query(&statement, parameters).await
}

/// A table of the publication.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Published {
    pub(crate) oid: Oid,
    pub(crate) schema: String,
    pub(crate) name: String,
}

/// The tables of a publication, in a fixed order; none if there is no such publication.
pub(crate) async fn published(client: &Client, publication: &str) -> Result<Vec<Published>, Error> {
    const SQL: &str = concat!(
        "select c.oid, n.nspname::text, c.relname::text from ",
        published!(),
        " t
        join pg_catalog.pg_class c on c.oid = t.oid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where t.pubname = $1
        order by c.oid"
    );
    let rows = rows(client, SQL, &[&publication]).await?;
    rows.iter()
        .map(|row| Ok(Published { oid: row.try_get(0)?, schema: row.try_get(1)?, name: row.try_get(2)? }))
        .collect()
}

/// Which of these publications exist, in alphabetical order.
pub(crate) async fn publications(client: &Client, names: &[&str]) -> Result<Vec<String>, Error> {
    const SQL: &str =
        "select pubname::text from pg_catalog.pg_publication where pubname = any($1) order by 1";
    client.query(SQL, &[&names]).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Numbers that change when anything that matters of a table does, or of the types of its columns: not all of it is told
/// by the log. In no order; a table that is gone has none.
pub(crate) async fn fingerprints(client: &Client, oids: &[Oid]) -> Result<Vec<(Oid, i64)>, Error> {
    const SQL: &str = "select c.oid, pg_catalog.hashtextextended(pg_catalog.concat_ws(' ',
            pg_catalog.quote_ident(n.nspname), pg_catalog.quote_ident(c.relname), c.relkind, c.relreplident,
            c.relrowsecurity, c.relforcerowsecurity, c.relhassubclass, c.relowner,
            (select pg_catalog.string_agg(pg_catalog.concat_ws(':', i.indexrelid, i.indisprimary, i.indisreplident,
                    i.indkey::text), ',' order by i.indexrelid)
             from pg_catalog.pg_index i where i.indrelid = c.oid and (i.indisprimary or i.indisreplident)),
            (select pg_catalog.string_agg(pg_catalog.concat_ws(':', a.attnum, pg_catalog.quote_ident(a.attname),
                    a.atttypid, a.attgenerated, pg_catalog.quote_ident(tn.nspname), pg_catalog.quote_ident(t.typname),
                    pg_catalog.quote_ident(en.nspname), pg_catalog.quote_ident(e.typname)),
                    ',' order by a.attnum)
             from pg_catalog.pg_attribute a
             join pg_catalog.pg_type t on t.oid = a.atttypid
             join pg_catalog.pg_namespace tn on tn.oid = t.typnamespace
             left join pg_catalog.pg_type e on e.oid = case when t.typtype = 'd' then t.typbasetype else t.typelem end
             left join pg_catalog.pg_namespace en on en.oid = e.typnamespace
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
            (select pg_catalog.string_agg(pg_catalog.concat_ws(':', p.oid, p.xmin), ',' order by p.oid)
             from pg_catalog.pg_policy p where p.polrelid = c.oid)), 0)
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.oid = any($1)";
    rows(client, SQL, &[&oids]).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Which of these tables are gone, and a position in the log behind their end.
pub(crate) async fn gone(client: &Client, oids: &[Oid]) -> Result<(Vec<Oid>, Lsn), Error> {
    const SQL: &str = "select pg_catalog.pg_wal_lsn_diff(
                case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
                    else pg_catalog.pg_current_wal_insert_lsn() end, '0/0')::int8,
            array(select w.oid from unnest($1::oid[]) w (oid)
                  where not exists (select from pg_catalog.pg_class c where c.oid = w.oid))";
    let rows = rows(client, SQL, &[&oids]).await?;
    let Some(row) = rows.first() else { return Ok((Vec::new(), Lsn(u64::MAX))) };
    let position: i64 = row.try_get(0)?;
    Ok((row.try_get(1)?, Lsn(position.unsigned_abs())))
}

/// Where a database is: what a client names beyond that is of another history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Present {
    /// Up to where the log is written.
    log: Lsn,
    /// Up to where it can be read.
    pub(crate) end: Lsn,
    /// The time there.
    pub(crate) clock: UnixMicros,
}

impl Present {
    /// Whether a place is of the past.
    pub(crate) fn has_passed(&self, place: Place) -> bool {
        match place {
            Place::After(position) => position.commit <= self.log,
            Place::From(time) => time <= self.clock,
        }
    }
}

/// Asks for it.
pub(crate) async fn present(client: &Client) -> Result<Present, Error> {
    const SQL: &str = "select pg_catalog.pg_wal_lsn_diff(coalesce(replayed, written), '0/0')::int8,
            pg_catalog.pg_wal_lsn_diff(coalesce(replayed, flushed), '0/0')::int8, clock
        from (select
            case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn() end as replayed,
            case when not pg_catalog.pg_is_in_recovery() then pg_catalog.pg_current_wal_insert_lsn() end as written,
            case when not pg_catalog.pg_is_in_recovery() then pg_catalog.pg_current_wal_flush_lsn() end as flushed,
            (extract(epoch from pg_catalog.clock_timestamp()) * 1000000)::int8 as clock) place";
    let nowhere = Present { log: Lsn(0), end: Lsn(0), clock: UnixMicros(i64::MIN) };
    let rows = rows(client, SQL, &[]).await?;
    let Some(row) = rows.first() else { return Ok(nowhere) };
    let position = |column: usize| Ok::<_, Error>(row.try_get::<_, Option<i64>>(column)?.unwrap_or_default());
    let (log, end) = (position(0)?.unsigned_abs(), position(1)?.unsigned_abs());
    Ok(Present { log: Lsn(log), end: Lsn(end), clock: UnixMicros(row.try_get(2)?) })
}

/// Tables that one question is about at most: the answer has a row for each of their columns.
const TABLES_AT_ONCE: usize = 500;

/// Tables: schema, name, row-level security, replica identity, key, whether it stands alone, whether it is a root, OID.
const TABLES: &str = "select n.nspname::text, c.relname::text, c.relrowsecurity, c.relreplident::text,
        (select i.indkey::int2[] from pg_catalog.pg_index i
         where i.indrelid = c.oid and i.indisprimary) as key,
        c.relkind = 'r' and not c.relhassubclass as plain, c.relkind = 'p', c.oid
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.oid = any($1)";

/// The columns of tables: number, name, type, names of the type, whether the log has them, OID of the table.
const COLUMNS: &str = "with listed as materialized (
        select w.oid, pg_catalog.to_jsonb(p) ->> 'pubgencols' as generated,
            (select pg_catalog.string_to_array(
                    pg_catalog.translate(pg_catalog.to_jsonb(r) ->> 'prattrs', '[],', ''), ' ')::int2[]
             from pg_catalog.pg_publication_rel r where r.prpubid = p.oid and r.prrelid = w.oid) as columns
        from pg_catalog.pg_publication p cross join pg_catalog.unnest($1::oid[]) w (oid) where p.pubname = $2)
    select a.attnum, a.attname::text, a.atttypid, t.typname::text,
        pg_catalog.format_type(a.atttypid, null),
        pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname),
        -- Lists of columns are of 15, published generated columns of 18.
        case when l.columns is not null then a.attnum = any(l.columns) and a.attgenerated <> 'v'
            else a.attgenerated = '' or a.attgenerated = 's' and coalesce(l.generated = 's', false) end,
        a.attrelid
    from pg_catalog.pg_attribute a
    left join listed l on l.oid = a.attrelid
    join pg_catalog.pg_type t on t.oid = a.atttypid
    join pg_catalog.pg_namespace n on n.oid = t.typnamespace
    where a.attrelid = any($1) and a.attnum > 0 and not a.attisdropped
    order by a.attrelid, a.attnum";

/// What the catalog says of a table.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) table: Table,
    /// The numbers of its columns, in their order.
    pub(crate) attnums: Box<[i16]>,
}

/// A table as it is now; types it needs are added to `types`. `None` if it is gone.
pub(crate) async fn table(
    client: &Client,
    oid: Oid,
    publication: &str,
    types: &mut TypeRegistry,
) -> Result<Option<Described>, Error> {
    Ok(tables(client, &[oid], publication, types).await?.pop())
}

/// Tables as they are now, in no order and without those that are gone: a question or two for hundreds of them. Types that
/// they need are added to `types`.
pub(crate) async fn tables(
    client: &Client,
    wanted: &[Oid],
    publication: &str,
    types: &mut TypeRegistry,
) -> Result<Vec<Described>, Error> {
    let mut all = Vec::with_capacity(wanted.len());
    for oids in wanted.chunks(TABLES_AT_ONCE) {
        let of_tables: [&(dyn ToSql + Sync); 1] = [&oids];
        let of_columns: [&(dyn ToSql + Sync); 2] = [&oids, &publication];
        let (found, columns) =
            tokio::try_join!(rows(client, TABLES, &of_tables), rows(client, COLUMNS, &of_columns))?;
        let used: Result<Vec<Oid>, Error> = columns.iter().map(|row| row.try_get(2)).collect();
        let mut used = used?;
        used.sort_unstable();
        used.dedup();
        // Types may have been altered or renamed since they were loaded.
        types.forget_alterable(used.iter().copied());
        load_types(client, types, used.iter().copied()).await?;
        let bases: Vec<Oid> = used.iter().map(|oid| types.base(*oid)).collect();
        let own = types_of_applications(client, &used, &bases).await?;
        let mut by_table: HashMap<Oid, Vec<&Row>> = HashMap::new();
        for row in &columns {
            by_table.entry(row.try_get(7)?).or_default().push(row);
        }
        for row in &found {
            let columns = by_table.remove(&row.try_get(7)?).unwrap_or_default();
            all.push(described(row, &columns, &own, types)?);
        }
    }
    Ok(all)
}

/// A table by its row, and those of its columns.
fn described(
    row: &Row,
    columns: &[&Row],
    own: &HashMap<Oid, Comparison>,
    types: &TypeRegistry,
) -> Result<Described, Error> {
    let attnums: Result<Vec<i16>, Error> = columns.iter().map(|row| row.try_get(0)).collect();
    let attnums = attnums?;
    let columns: Result<Vec<Column>, Error> = columns.iter().map(|row| column(row, own, types)).collect();
    let key: Option<Vec<i16>> = row.try_get(4)?;
    let position = |attnum: &i16| attnums.iter().position(|known| known == attnum);
    let identity: String = row.try_get(3)?;
    let table = Table {
        oid: row.try_get(7)?,
        schema: row.try_get::<_, String>(0)?.into(),
        name: row.try_get::<_, String>(1)?.into(),
        columns: columns?,
        primary_key: key.unwrap_or_default().iter().filter_map(position).collect(),
        row_security: row.try_get(2)?,
        plain: row.try_get(5)?,
        partitioned: row.try_get(6)?,
        replica_identity: match identity.as_str() {
            "f" => ReplicaIdentity::Full,
            "i" => ReplicaIdentity::Index,
            "n" => ReplicaIdentity::Nothing,
            _ => ReplicaIdentity::Default,
        },
    };
    Ok(Described { table, attnums: attnums.into() })
}

/// How values of types are compared: see [`types_of_applications`]. `$1` are the types, `$2` the types below domains.
const COMPARISONS: &str = "with recursive wanted as (
        select w.type, w.base, w.n
        from unnest($1::oid[], $2::oid[]) with ordinality w (type, base, n)
    ), parts (n, type) as (
        select w.n, w.type from wanted w
        union
        select p.n, part.type
        from parts p
        join pg_catalog.pg_type t on t.oid = p.type
        cross join lateral (
            select t.typelem where t.typelem <> 0
            union all
            select t.typbasetype where t.typbasetype <> 0
            union all
            select a.atttypid from pg_catalog.pg_attribute a
            where t.typrelid <> 0 and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
            union all
            select r.rngsubtype from pg_catalog.pg_range r where r.rngtypid = t.oid
            union all
            select r.rngtypid from pg_catalog.pg_range r
            where pg_catalog.to_jsonb(r) ->> 'rngmultitypid' = t.oid::text
        ) part (type)
    ), own as (
        select distinct on (o.oprleft, o.oprname)
            o.oprleft, o.oprname, pg_catalog.quote_ident(s.nspname) as schema
        from pg_catalog.pg_operator o
        join pg_catalog.pg_namespace s on s.oid = o.oprnamespace
        join pg_catalog.pg_type b on b.oid = o.oprleft
        where o.oprright = o.oprleft and o.oprleft = any($2) and o.oprresult = 16
            and (o.oprowner = b.typowner or exists (
                select from pg_catalog.pg_depend of_operator
                join pg_catalog.pg_depend of_type on of_type.refclassid = of_operator.refclassid
                    and of_type.refobjid = of_operator.refobjid
                where of_operator.classid = 'pg_catalog.pg_operator'::pg_catalog.regclass
                    and of_operator.objid = o.oid and of_operator.deptype = 'e'
                    and of_type.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
                    and of_type.objid = b.oid and of_type.deptype = 'e'))
        order by o.oprleft, o.oprname, s.oid = b.typnamespace desc, o.oid
    )
    select pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname),
        exists (select from parts p join pg_catalog.pg_type d on d.oid = p.type
                where p.n = w.n and d.typtype = 'd')
            or exists (select from pg_catalog.pg_cast c
                where c.castfunc >= 16384
                    and (c.castsource = 25 and c.casttarget in (w.type, w.base)
                        or c.casttarget = 25 and c.castsource in (w.type, w.base))),
        case when n.nspname <> 'pg_catalog' and t.typtype = 'b' and not (t.typcategory = 'A' and t.typelem <> 0) then
            array(select own.oprname::text from own where own.oprleft = t.oid order by own.oprname)
        end,
        array(select own.schema from own where own.oprleft = t.oid order by own.oprname),
        w.type
    from wanted w
    join pg_catalog.pg_type t on t.oid = w.base
    join pg_catalog.pg_namespace n on n.oid = t.typnamespace
    order by w.n";

/// How statements compare values of the types of columns that are not built in. `bases`: the types below domains.
///
/// A type of an extension has its operators where the extension is. Those that bear the same names and were made by
/// somebody else are not used: whoever may create in a schema could have values compared by code of his.
async fn types_of_applications(
    client: &Client,
    types: &[Oid],
    bases: &[Oid],
) -> Result<HashMap<Oid, Comparison>, Error> {
    let own = types.iter().copied().zip(bases.iter().copied()).filter(|(of, _)| *of >= oid::FIRST_NORMAL);
    let (types, bases): (Vec<Oid>, Vec<Oid>) = own.unzip();
    if types.is_empty() {
        return Ok(HashMap::new());
    }
    let found = rows(client, COMPARISONS, &[&types, &bases]).await?;
    found
        .iter()
        .map(|row| {
            let operators = match row.try_get::<_, Option<Vec<String>>>(2)? {
                None => Operators::BuiltIn,
                Some(names) => {
                    let schemas: Vec<String> = row.try_get(3)?;
                    Operators::Own(
                        names.into_iter().zip(schemas).map(|(name, at)| (name.into(), at.into())).collect(),
                    )
                }
            };
            let type_name = row.try_get::<_, String>(0)?.into();
            Ok((row.try_get(4)?, Comparison { type_name, operators, runs_code: row.try_get(1)? }))
        })
        .collect()
}

fn column(row: &Row, own: &HashMap<Oid, Comparison>, types: &TypeRegistry) -> Result<Column, Error> {
    let type_oid = row.try_get(2)?;
    let cast_type: Box<str> = row.try_get::<_, String>(5)?.into();
    let built_in =
        || Comparison { type_name: cast_type.clone(), operators: Operators::BuiltIn, runs_code: false };
    let comparison = own.get(&type_oid).cloned().unwrap_or_else(built_in);
    Ok(Column {
        name: row.try_get::<_, String>(1)?.into(),
        type_oid,
        base_oid: types.base(type_oid),
        type_name: row.try_get::<_, String>(3)?.into(),
        sql_type: row.try_get::<_, String>(4)?.into(),
        cast_type,
        comparison,
        in_log: row.try_get(6)?,
    })
}

/// Adds types, and the types that they are made of, until nothing is missing.
pub(crate) async fn load_types(
    client: &Client,
    types: &mut TypeRegistry,
    wanted: impl IntoIterator<Item = Oid>,
) -> Result<(), Error> {
    const TYPES: &str = "select t.oid, t.typname::text, t.typtype::text, t.typbasetype, t.typelem,
            t.typcategory = 'A' and t.typelem <> 0 as is_array, coalesce(e.typdelim::text, ','), t.typrelid
        from pg_catalog.pg_type t left join pg_catalog.pg_type e on e.oid = t.typelem
        where t.oid = any($1)";
    const ATTRIBUTES: &str = "select a.attname::text, a.atttypid
        from pg_catalog.pg_attribute a
        where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
        order by a.attnum";
    let mut missing = types.missing(wanted);
    while !missing.is_empty() {
        let rows = rows(client, TYPES, &[&missing]).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let typtype: String = row.try_get(2)?;
            let kind = match typtype.as_str() {
                "d" => TypeKind::Domain(row.try_get(3)?),
                "c" => {
                    let relation: Oid = row.try_get(7)?;
                    let attributes = self::rows(client, ATTRIBUTES, &[&relation]).await?;
                    let attributes: Result<Vec<_>, Error> = attributes
                        .iter()
                        .map(|row| Ok((row.try_get::<_, String>(0)?.into(), row.try_get(1)?)))
                        .collect();
                    TypeKind::Composite(attributes?)
                }
                _ if row.try_get(5)? => {
                    let delimiter: String = row.try_get(6)?;
                    let delimiter = delimiter.as_bytes().first().copied().unwrap_or(b',');
                    TypeKind::Array { element: row.try_get(4)?, delimiter }
                }
                _ => TypeKind::Scalar,
            };
            found.push(TypeInfo { oid: row.try_get(0)?, name: row.try_get::<_, String>(1)?.into(), kind });
        }
        // A type that is gone by now is written as text; asking again would not end.
        for oid in &missing {
            if !found.iter().any(|info| info.oid == *oid) {
                types.insert(TypeInfo { oid: *oid, name: "unknown".into(), kind: TypeKind::Scalar });
            }
        }
        let next: Vec<Oid> = found.iter().map(|info| info.oid).collect();
        for info in found {
            types.insert(info);
        }
        missing = types.missing(next);
    }
    Ok(())
}

/// What a role may see of a table. `None` if there is no such role; names are exact.
pub(crate) async fn role_access(client: &Client, role: &str, oid: Oid) -> Result<Option<RoleAccess>, Error> {
    Ok(role_accesses(client, &[(role, oid)]).await?.pop().flatten())
}

/// What roles may see of tables, in the order of the pairs. `None` for a role that does not exist.
pub(crate) async fn role_accesses(
    client: &Client,
    wanted: &[(&str, Oid)],
) -> Result<Vec<Option<RoleAccess>>, Error> {
    const SQL: &str = "select w.n,
            r.rolsuper or r.rolbypassrls
                or (not c.relforcerowsecurity and pg_catalog.pg_has_role(r.oid, c.relowner, 'USAGE')),
            (select coalesce(array_agg(
                    pg_catalog.has_schema_privilege(r.oid, c.relnamespace, 'USAGE')
                    and pg_catalog.has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT') order by a.attnum), '{}')
             from pg_catalog.pg_attribute a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
        from unnest($1::text[], $2::oid[]) with ordinality w (role, relation, n)
        join pg_catalog.pg_roles r on r.rolname = w.role
        join pg_catalog.pg_class c on c.oid = w.relation";
    let (roles, oids): (Vec<&str>, Vec<Oid>) = wanted.iter().copied().unzip();
    let mut accesses = vec![None; wanted.len()];
    for row in rows(client, SQL, &[&roles, &oids]).await? {
        let n: i64 = row.try_get(0)?;
        let at = usize::try_from(n - 1).unwrap_or(usize::MAX);
        if let (Some(slot), Some((role, _))) = (accesses.get_mut(at), wanted.get(at)) {
            let (bypasses_rls, selectable) = (row.try_get(1)?, row.try_get(2)?);
            *slot = Some(RoleAccess { role: (*role).into(), bypasses_rls, selectable });
        }
    }
    Ok(accesses)
}

/// Whether a role exists.
pub(crate) async fn role_exists(client: &Client, role: &str) -> Result<bool, Error> {
    const SQL: &str = "select exists (select from pg_catalog.pg_roles where rolname = $1)";
    match rows(client, SQL, &[&role]).await?.first() {
        Some(row) => row.try_get(0),
        None => Ok(false),
    }
}

/// Whether somebody has written a function and declared it immutable. PostgreSQL evaluates such a function when it plans:
/// one that reads the claims all the same gives every user of the plan the claims of the first.
pub(crate) async fn has_immutable_functions(client: &Client) -> Result<bool, Error> {
    const SQL: &str = "select exists (
            select from pg_catalog.pg_proc p
            join pg_catalog.pg_language l on l.oid = p.prolang
            where p.provolatile = 'i' and l.lanname not in ('c', 'internal')
                and p.oid >= 16384
                and not exists (
                    select from pg_catalog.pg_depend d
                    where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'))";
    match rows(client, SQL, &[]).await?.first() {
        Some(row) => row.try_get(0),
        None => Ok(true),
    }
}

/// Whether the database orders text by its bytes.
pub(crate) async fn collation_is_c(client: &Client) -> Result<bool, Error> {
    // The provider and its locale are columns of newer servers only.
    const SQL: &str = "select coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'), d.datcollate::text,
            coalesce(to_jsonb(d) ->> 'datlocale', '')
        from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()";
    let row = client.query_one(SQL, &[]).await?;
    let (provider, collate, locale): (String, String, String) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let by_bytes = |name: &str| matches!(name, "C" | "POSIX" | "C.UTF-8" | "C.utf8");
    Ok(match provider.as_str() {
        "c" => by_bytes(&collate),
        "b" => by_bytes(&locale),
        _ => false,
    })
}
