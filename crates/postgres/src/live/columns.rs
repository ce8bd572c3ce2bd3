//! What a query has to know of columns beyond what the log does: how they are ordered and compared.

use deadpool_postgres::ClientWrapper as Client;
use realtime_pgoutput::Oid;
use tokio_postgres::{Error, types::Type};

/// The columns of a relation, in their order: the collation by which filters compare, if it is not the column's own;
/// whether values have an order; whether the type is composite.
///
/// Filters compare values as their type does by itself, whatever collation a column has.
const COLUMNS: &str = "select
        case when a.attcollation <> 0 and base.typcollation <> 0 and a.attcollation <> base.typcollation then
            (select concat(quote_ident(n.nspname), '.', quote_ident(co.collname))
             from pg_collation co join pg_namespace n on n.oid = co.collnamespace
             where co.oid = base.typcollation) end,
        base.typtype::text in ('e', 'r', 'm', 'c') or base.typcategory = 'A' or exists (
            select from pg_opclass oc
            where oc.opcmethod = (select am.oid from pg_am am where am.amname = 'btree') and oc.opcdefault
                and (oc.opcintype = base.oid or exists (
                    select from pg_cast ca
                    where ca.castsource = base.oid and ca.casttarget = oc.opcintype and ca.castmethod = 'b'
                        and ca.castcontext = 'i'))),
        base.typtype::text = 'c'
    from pg_attribute a
    cross join lateral (
        with recursive below (oid, basetype) as (
            select t.oid, t.typbasetype from pg_type t where t.oid = a.atttypid
            union all
            select t.oid, t.typbasetype from below join pg_type t on t.oid = below.basetype)
        select t.* from below b join pg_type t on t.oid = b.oid where b.basetype = 0) base
    where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
    order by a.attnum";

/// What a query has to know of a column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The collation to compare by in place of the column's, quoted.
    pub(super) collation: Option<Box<str>>,
    /// Whether values can be ordered.
    pub(super) has_order: bool,
    /// Whether it is a row of several values.
    pub(super) is_composite: bool,
}

/// The columns of a relation, in their order.
pub(super) async fn facts(client: &Client, relation: Oid) -> Result<Vec<Facts>, Error> {
    let statement = client.prepare_typed_cached(COLUMNS, &[Type::OID]).await?;
    let rows = client.query(&statement, &[&relation]).await?;
    rows.iter()
        .map(|row| {
            let collation: Option<String> = row.try_get(0)?;
            Ok(Facts {
                collation: collation.map(Into::into),
                has_order: row.try_get(1)?,
                is_composite: row.try_get(2)?,
            })
        })
        .collect()
}
