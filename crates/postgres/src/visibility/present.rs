//! Rows that stand in a table, for what the log does not carry of an image.

use std::{borrow::Cow, collections::HashMap};

use deadpool_postgres::ClientWrapper as Client;
use realtime_changes::{Change, Table};
use serde_json::{Map, Value as Json, json};
use tokio_postgres::{
    Error,
    types::{ToSql, Type},
};

use super::{Row, image, is_passing, question::quoted};

/// The columns of a primary key, in order: the type below a domain, and the schema of the operator that says equal. A
/// domain's check would run with our rights, and so would an operator that somebody made in another schema.
const KEY: &str = "select pg_catalog.concat(pg_catalog.quote_ident(tn.nspname::pg_catalog.text), '.',
        pg_catalog.quote_ident(t.typname::pg_catalog.text)),
        pg_catalog.quote_ident(opn.nspname::pg_catalog.text)
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

/// A column of a key: its type, and the schema of its equality.
type KeyColumn = (String, String);

/// Looks for rows in the table by their keys, each only if its version is the one that the change's transaction wrote.
/// Gives the texts of the columns, by place in `rows`. Rows that our own role does not see, or that have no key in the
/// log, are not found.
pub(super) async fn present(
    client: &Client,
    table: &Table,
    columns: &[&str],
    rows: &[Row<'_>],
    lacking: &[usize],
) -> Result<HashMap<usize, Vec<Option<String>>>, Error> {
    let mut wanted = Vec::new();
    for at in lacking {
        let Some(row) = rows.get(*at) else { continue };
        let Some(key) = key(table, &row.change) else { continue };
        let mut object = Map::new();
        object.insert("place".to_owned(), json!(at));
        object.insert("xid".to_owned(), json!(row.xid.to_string()));
        object.extend(key.into_iter().enumerate().map(|(n, text)| (format!("k{n}"), Json::String(text))));
        wanted.push(Json::Object(object));
    }
    if wanted.is_empty() || table.primary_key.is_empty() {
        return Ok(HashMap::new());
    }
    let statement = client.prepare_typed_cached(KEY, &[Type::OID]).await?;
    let key = client.query(&statement, &[&table.oid]).await?;
    let key: Result<Vec<KeyColumn>, Error> =
        key.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect();
    let wanted = Json::Array(wanted).to_string();
    let sql = sql(table, &key?, columns);
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&wanted, Type::TEXT)];
    let (begun, found, ended) = tokio::join!(
        biased;
        // A role that is subject to the policies gets an error in place of what they show it.
        client.batch_execute("begin isolation level repeatable read read only; set local row_security = off"),
        client.query_typed(&sql, &parameters),
        client.batch_execute("rollback"),
    );
    begun?;
    ended?;
    let found = match found {
        Ok(found) => found,
        // The table has changed, or may not be read: its rows are not found.
        Err(error) if error.as_db_error().is_some_and(|error| !is_passing(error)) => {
            return Ok(HashMap::new());
        }
        Err(error) => return Err(error),
    };
    found
        .iter()
        .map(|row| {
            let place: i32 = row.try_get(0)?;
            Ok((usize::try_from(place).unwrap_or(usize::MAX), row.try_get(1)?))
        })
        .collect()
}

fn sql(table: &Table, key: &[KeyColumn], columns: &[&str]) -> String {
    let (mut definition, mut conditions) = (String::new(), Vec::new());
    for (n, ((type_name, schema), column)) in key.iter().zip(&table.primary_key).enumerate() {
        let Some(column) = table.columns.get(*column) else { continue };
        definition += &format!(", k{n} {type_name}");
        conditions.push(format!("t.{} operator({schema}.=) wanted.k{n}", quoted(&column.name)));
    }
    // Without a key there is no row to look for.
    let conditions = if conditions.is_empty() { "false".to_owned() } else { conditions.join(" and ") };
    let texts: Vec<String> = columns
        .iter()
        .map(|name| {
            let column = format!("t.{}", quoted(name));
            format!(
                "case when pg_catalog.num_nulls({column}) operator(pg_catalog.=) 0
                    then pg_catalog.format('%s', {column}) end"
            )
        })
        .collect();
    format!(
        "select wanted.place, array[{texts}]::pg_catalog.text[]
            from pg_catalog.jsonb_to_recordset($1::pg_catalog.jsonb)
                wanted (place pg_catalog.int4, xid pg_catalog.text{definition})
            join {only}{schema}.{name} t on {conditions}
            where t.xmin::pg_catalog.text operator(pg_catalog.=) wanted.xid",
        texts = texts.join(", "),
        only = if table.plain { "only " } else { "" },
        schema = quoted(&table.schema),
        name = quoted(&table.name),
    )
}

/// The texts of a new row's primary key. `None` if the change does not carry it.
fn key(table: &Table, change: &Change<'_>) -> Option<Vec<String>> {
    let text = |column: &usize| {
        let name = &table.columns.get(*column)?.name;
        image::value(change, name)?.map(Cow::into_owned)
    };
    table.primary_key.iter().map(text).collect()
}
