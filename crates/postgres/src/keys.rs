//! Whether row-level security can be asked about the rows of the log: they are found by their primary keys.

use realtime_changes::{EventFilter, RoleAccess, Table};
use realtime_pgoutput::{Oid, message::Relation};
use tokio_postgres::{Client, Error};

use crate::{Notice, SubscribeRequest};

/// Whether what the publication says of a table leaves columns of its primary key out of the log.
pub(crate) async fn is_withheld(client: &Client, publication: &str, oid: Oid) -> Result<bool, Error> {
    // Lists of columns are of version 15, published generated columns of 18.
    const SQL: &str = "with listed as materialized (
            select pg_catalog.to_jsonb(p) ->> 'pubgencols' as generated,
                (select pg_catalog.string_to_array(
                        pg_catalog.translate(pg_catalog.to_jsonb(r) ->> 'prattrs', '[],', ''), ' ')::int2[]
                 from pg_catalog.pg_publication_rel r where r.prpubid = p.oid and r.prrelid = $1) as columns
            from pg_catalog.pg_publication p where p.pubname = $2)
        select exists (
            select from pg_catalog.pg_index i
            join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
            left join listed l on true
            where i.indrelid = $1 and i.indisprimary
                and not case when l.columns is not null then a.attnum = any(l.columns) and a.attgenerated <> 'v'
                    else a.attgenerated = '' or a.attgenerated = 's' and coalesce(l.generated = 's', false) end)";
    client.query_one(SQL, &[&oid, &publication]).await?.try_get(0)
}

/// Whether a description of a table lacks columns of its primary key.
pub(crate) fn is_missing(table: &Table, relation: &Relation) -> bool {
    let described = |name: &str| relation.columns.iter().any(|column| *column.name == *name);
    table.primary_key.iter().filter_map(|at| table.columns.get(*at)).any(|column| !described(&column.name))
}

/// Whether a request needs the key of a table's new rows: its role is subject to row-level security there.
pub(crate) fn are_needed(request: &SubscribeRequest, table: &Table, access: &RoleAccess) -> bool {
    let of_new_rows = |event: EventFilter| event != EventFilter::Delete;
    table.row_security
        && !access.bypasses_rls
        && !table.primary_key.is_empty()
        && request
            .subscriptions
            .iter()
            .any(|(_, spec)| of_new_rows(spec.event) && spec.matches_name(&table.schema, &table.name))
}

/// What a channel is told that needs a key which is not in the log.
pub(crate) fn notice(table: &Table) -> Notice {
    Notice::warning(
        "KeyNotPublished",
        format!(
            "Inserted and updated rows of {}.{} are withheld: row level security cannot be asked about them, because \
             the publication does not carry the primary key",
            table.schema, table.name
        ),
    )
}
