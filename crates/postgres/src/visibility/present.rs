//! Rows that stand in a table, for what the log does not carry of an image.
//!
//! They are read with rights that the policies do not limit, so no code of an application may run. The table is locked and
//! looked at first, in the same transaction: its name may mean a view by now. Values of its key are compared by types and
//! operators that are built in; a table whose key has others is not read. Nothing but tables can be read in the
//! transaction, where the server knows how to say so, and where our role may, it takes on that of the table's owner, whose
//! code an index can hold.

use std::{borrow::Cow, collections::HashMap};

use deadpool_postgres::{ClientWrapper as Client, Pool};
use serde_json::{Map, Value as Json, json};
use tokio_postgres::{
    Error,
    types::{ToSql, Type},
};

use super::{
    condition::PolicyColumn,
    inquiry::{Inquiry, Row, is_passing},
    logged::{place, value},
};
use crate::{foreign::NoAnswer, pool, quote::quoted};

/// The columns of a primary key, in order: number, name, the type below a domain, and whether its input and its equality
/// are PostgreSQL's own.
const KEY: &str = "select a.attnum, a.attname::pg_catalog.text,
        pg_catalog.concat(pg_catalog.quote_ident(tn.nspname::pg_catalog.text), '.',
            pg_catalog.quote_ident(t.typname::pg_catalog.text)),
        (t.oid operator(pg_catalog.<) 16384 or t.typtype::pg_catalog.text operator(pg_catalog.=) 'e')
            and op.oid operator(pg_catalog.<) 16384
            and opn.nspname::pg_catalog.text operator(pg_catalog.=) 'pg_catalog'
    from pg_catalog.pg_index i
    cross join lateral rows from (
        pg_catalog.unnest(i.indkey::pg_catalog.int2[]), pg_catalog.unnest(i.indclass::pg_catalog.oid[]))
        with ordinality k (attnum, opclass, n)
    join pg_catalog.pg_attribute a on a.attrelid operator(pg_catalog.=) i.indrelid
        and a.attnum operator(pg_catalog.=) k.attnum
    cross join lateral (
        with recursive below (oid, basetype) as (
            select d.oid, d.typbasetype from pg_catalog.pg_type d where d.oid operator(pg_catalog.=) a.atttypid
            union all
            select d.oid, d.typbasetype
            from below join pg_catalog.pg_type d on d.oid operator(pg_catalog.=) below.basetype)
        select b.oid from below b where b.basetype operator(pg_catalog.=) 0) base
    join pg_catalog.pg_type t on t.oid operator(pg_catalog.=) base.oid
    join pg_catalog.pg_namespace tn on tn.oid operator(pg_catalog.=) t.typnamespace
    join pg_catalog.pg_opclass c on c.oid operator(pg_catalog.=) k.opclass
    join pg_catalog.pg_amop o on o.amopfamily operator(pg_catalog.=) c.opcfamily
        and o.amoplefttype operator(pg_catalog.=) c.opcintype
        and o.amoprighttype operator(pg_catalog.=) c.opcintype and o.amopstrategy operator(pg_catalog.=) 3
    join pg_catalog.pg_operator op on op.oid operator(pg_catalog.=) o.amopopr
    join pg_catalog.pg_namespace opn on opn.oid operator(pg_catalog.=) op.oprnamespace
    where i.indrelid operator(pg_catalog.=) $1 and i.indisprimary
    order by k.n";

/// Ends the transaction with an error unless the name means the table still, and its columns are those that are known.
/// `$1` is the table, `$2` its name, `$3` its columns.
const IS_THE_TABLE: &str = "select 1 operator(pg_catalog./) pg_catalog.count(*)
    from pg_catalog.pg_class c
    where c.oid operator(pg_catalog.=) $1 and c.oid operator(pg_catalog.=) pg_catalog.to_regclass($2)
        and c.relkind::pg_catalog.text operator(pg_catalog.=) any ('{r,p}')
        and (select pg_catalog.string_agg(pg_catalog.concat(a.attnum, ' ', a.attname), ',' order by a.attnum)
             from pg_catalog.pg_attribute a
             where a.attrelid operator(pg_catalog.=) c.oid and a.attnum operator(pg_catalog.>) 0
                and not a.attisdropped) operator(pg_catalog.=) $3";

/// Takes from the session what it does not need: views and foreign tables, and the rights that the owner of the table does
/// not have.
const RESTRICT: &str = "select case
            when pg_catalog.current_setting('restrict_nonsystem_relation_kind', true) is not null then
                pg_catalog.set_config('restrict_nonsystem_relation_kind', 'view, foreign-table', true) end,
        pg_catalog.set_config('role', r.rolname::pg_catalog.text, true)
    from pg_catalog.pg_class c
    left join pg_catalog.pg_roles r on r.oid operator(pg_catalog.=) c.relowner
        and pg_catalog.pg_has_role(r.oid, case
            when pg_catalog.current_setting('server_version_num')::pg_catalog.int4 operator(pg_catalog.>=) 160000
            then 'SET' else 'MEMBER' end)
    where c.oid operator(pg_catalog.=) $1";

/// A column of a key.
struct KeyColumn {
    attnum: i16,
    name: String,
    type_name: String,
    /// Whether no code of an application runs where its values are read and compared.
    built_in: bool,
}

/// Looks for rows in the table by their keys, each only if its version is the one that the change wrote. Gives the texts
/// of the columns, by place among the rows. Rows that our own role does not see, or that have no key in the log, are not
/// found.
pub(super) async fn present(
    pool: &Pool,
    inquiry: &Inquiry<'_>,
    columns: &[PolicyColumn],
    lacking: &[usize],
) -> Result<HashMap<usize, Vec<Option<String>>>, NoAnswer> {
    let client = pool::get(pool).await?;
    let key = key(&client, inquiry).await?;
    let wanted = wanted(inquiry, &key, lacking);
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    match read(&client, inquiry, &key, columns, &Json::Array(wanted)).await {
        Ok(found) => Ok(found),
        // The table has changed, or may not be read: its rows are not found.
        Err(error) if error.as_db_error().is_some_and(|error| !is_passing(error)) => Ok(HashMap::new()),
        Err(error) => Err(error.into()),
    }
}

/// The columns of the primary key. None if code of an application would have to run.
async fn key(client: &Client, inquiry: &Inquiry<'_>) -> Result<Vec<KeyColumn>, Error> {
    let statement = client.prepare_typed_cached(KEY, &[Type::OID]).await?;
    let rows = client.query(&statement, &[&inquiry.table.oid]).await?;
    let column = |row: &tokio_postgres::Row| {
        Ok::<_, Error>(KeyColumn {
            attnum: row.try_get(0)?,
            name: row.try_get(1)?,
            type_name: row.try_get(2)?,
            built_in: row.try_get(3)?,
        })
    };
    let key: Vec<KeyColumn> = rows.iter().map(column).collect::<Result<_, _>>()?;
    Ok(if key.iter().all(|column| column.built_in) { key } else { Vec::new() })
}

/// The rows to look for, as objects.
fn wanted(inquiry: &Inquiry<'_>, key: &[KeyColumn], lacking: &[usize]) -> Vec<Json> {
    // Without a key there is no row to look for.
    if key.is_empty() {
        return Vec::new();
    }
    // Later changes are told by the key that was known when they came.
    let is_same = inquiry.key.iter().eq(key.iter().map(|column| &column.attnum));
    let mut wanted = Vec::new();
    for at in lacking {
        let Some(row) = inquiry.rows.get(*at) else { continue };
        let Some(texts) = key_of(inquiry, row, key) else { continue };
        let mut object = Map::new();
        object.insert("place".to_owned(), json!(at));
        object.insert("xid".to_owned(), json!(row.xid.to_string()));
        object.insert("is_last".to_owned(), json!(row.is_last && is_same));
        object.extend(texts.into_iter().enumerate().map(|(n, text)| (format!("k{n}"), Json::String(text))));
        wanted.push(Json::Object(object));
    }
    wanted
}

/// The texts of a new row's key. `None` if the change does not carry it.
fn key_of(inquiry: &Inquiry<'_>, row: &Row<'_>, key: &[KeyColumn]) -> Option<Vec<String>> {
    let text =
        |column: &KeyColumn| value(&row.change, place(inquiry.logged, column.attnum)?)?.map(Cow::into_owned);
    key.iter().map(text).collect()
}

async fn read(
    client: &Client,
    inquiry: &Inquiry<'_>,
    key: &[KeyColumn],
    columns: &[PolicyColumn],
    wanted: &Json,
) -> Result<HashMap<usize, Vec<Option<String>>>, Error> {
    let table = inquiry.table;
    let name = format!("{}.{}", quoted(&table.schema), quoted(&table.name));
    let own = columns.iter().filter(|column| !column.is_of_system());
    let listed: Vec<String> = own.map(|column| format!("{} {}", column.attnum, column.name)).collect();
    // A role that is subject to the policies gets an error in place of what they show it.
    let begin = format!(
        "begin isolation level repeatable read read only; set local row_security = off;
            lock table only {name} in access share mode"
    );
    let (listed, wanted) = (listed.join(","), wanted.to_string());
    let sql = sql(&name, table.partitioned, key, columns);
    let oid: (&(dyn ToSql + Sync), Type) = (&table.oid, Type::OID);
    let checked = [oid.clone(), (&name, Type::TEXT), (&listed, Type::TEXT)];
    let asked: [(&(dyn ToSql + Sync), Type); 3] =
        [(&wanted, Type::TEXT), oid.clone(), (&inquiry.publication, Type::TEXT)];
    let (begun, checked, restricted, found, ended) = tokio::join!(
        biased;
        client.batch_execute(&begin),
        client.query_typed(IS_THE_TABLE, &checked),
        client.query_typed(RESTRICT, std::slice::from_ref(&oid)),
        client.query_typed(&sql, &asked),
        client.batch_execute("rollback"),
    );
    ended?;
    begun?;
    checked.and(restricted)?;
    let place = |row: &tokio_postgres::Row| {
        let place: i32 = row.try_get(0)?;
        Ok((usize::try_from(place).unwrap_or(usize::MAX), row.try_get(1)?))
    };
    found?.iter().map(place).collect()
}

/// The statement that reads the rows: `$1` are those that are wanted, `$2` is the table, `$3` the publication.
///
/// A transaction writes several versions of a row, of which the last one stands. It is the version of a change if that is
/// the last of the transaction in the log, and the log has them all; or if it was written by the transaction's first
/// command, which no change came before. (`cmin` is what it says if nobody has locked or updated the version.)
fn sql(name: &str, partitioned: bool, key: &[KeyColumn], columns: &[PolicyColumn]) -> String {
    let (mut definition, mut conditions) = (String::new(), Vec::new());
    for (n, column) in key.iter().enumerate() {
        definition += &format!(", k{n} {}", column.type_name);
        conditions.push(format!("t.{} operator(pg_catalog.=) wanted.k{n}", quoted(&column.name)));
    }
    let texts: Vec<String> = columns
        .iter()
        .map(|column| {
            let column = format!("t.{}", quoted(&column.name));
            format!(
                "case when pg_catalog.num_nulls({column}) operator(pg_catalog.=) 0
                    then pg_catalog.format('%s', {column}) end"
            )
        })
        .collect();
    format!(
        "select wanted.place, array[{texts}]::pg_catalog.text[]
            from pg_catalog.jsonb_to_recordset($1::pg_catalog.jsonb)
                wanted (place pg_catalog.int4, xid pg_catalog.text, is_last pg_catalog.bool{definition})
            join {only}{name} t on {conditions}
            where t.xmin::pg_catalog.text operator(pg_catalog.=) wanted.xid
                and (t.cmin::pg_catalog.text operator(pg_catalog.=) '0'
                        and t.xmax::pg_catalog.text operator(pg_catalog.=) '0'
                    or wanted.is_last and exists (select from pg_catalog.pg_publication p
                            where p.pubname::pg_catalog.text operator(pg_catalog.=) $3 and p.pubinsert and p.pubupdate)
                        and not exists (select from pg_catalog.pg_publication_rel r
                            where r.prrelid operator(pg_catalog.=) $2
                                and pg_catalog.to_jsonb(r) operator(pg_catalog.->>) 'prqual' is not null))",
        texts = texts.join(", "),
        // Rows of a root stand in its partitions. Those of other children are no rows of the table.
        only = if partitioned { "" } else { "only " },
        conditions = conditions.join(" and "),
    )
}
