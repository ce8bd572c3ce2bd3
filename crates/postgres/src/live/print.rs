//! Whether what was looked at in the catalog is still so. The log does not tell when a view or a function is replaced, or what
//! is granted on one.

use std::sync::Arc;

use deadpool_postgres::ClientWrapper as Client;
use realtime_pgoutput::Oid;
use tokio_postgres::{
    Error,
    types::{ToSql, Type},
};

use crate::published::published;

/// Something in the catalog that a [`Source`](super::Source) was made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// A table or a view.
    Relation(Oid),
    /// A function that is called.
    Function(Oid),
    /// What a name in the text of a function may mean.
    Named(Arc<str>),
    /// What all have in common.
    Shared,
}

/// Numbers that change when a relation does: its name, owner, options and grants, columns and their grants, rule,
/// policies, keys, children, what is published of it.
const RELATIONS: &str = concat!(
    "select c.oid, hashtextextended(concat_ws('/',
            c.xmin, n.xmin, c.relrowsecurity, c.relforcerowsecurity,
            (select string_agg(concat_ws(':', a.attnum, a.xmin), ',' order by a.attnum)
             from pg_attribute a where a.attrelid = c.oid and a.attnum > 0),
            (select string_agg(concat_ws(':', w.oid, w.xmin), ',' order by w.oid)
             from pg_rewrite w where w.ev_class = c.oid and w.ev_type = '1'),
            (select string_agg(concat_ws(':', p.oid, p.xmin), ',' order by p.oid)
             from pg_policy p where p.polrelid = c.oid),
            (select string_agg(concat_ws(':', i.indexrelid, i.indisprimary, i.indisunique, i.indkey::text), ','
                    order by i.indexrelid)
             from pg_index i where i.indrelid = c.oid and (i.indisprimary or i.indisunique)),
            (select string_agg(i.inhrelid::text, ',' order by i.inhrelid)
             from pg_inherits i where i.inhparent = c.oid),
            (select string_agg(concat_ws(' ', t.oid, t.is_filtered), ',')
             from ",
    published!(),
    " t
             where t.pubname = $2::text and t.oid = c.oid)), 0)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = any($1)"
);

/// The same for functions: text, owner, settings, whose rights count; and who owns them.
const FUNCTIONS: &str = "select p.oid, hashtextextended(concat_ws('/', p.xmin, n.xmin), 0)
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where p.oid = any($1)";

/// The same for names: which functions and relations there are of each.
const NAMES: &str = "select w.name, hashtextextended(concat_ws('/',
            (select string_agg(p.oid::text, ',' order by p.oid) from pg_proc p where p.proname = w.name::name),
            (select string_agg(concat_ws(':', c.oid, c.relnamespace), ',' order by c.oid)
             from pg_class c
             where c.relname = w.name::name and c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relpersistence <> 't')), 0)
    from unnest($1::text[]) w (name)";

/// Numbers that change when anything does that [`Source`](super::Source) was made of, by part, in no order. One that is gone
/// has none.
pub(crate) async fn prints<'p>(
    client: &Client,
    publication: &str,
    parts: impl IntoIterator<Item = &'p Part>,
) -> Result<Vec<(Part, i64)>, Error> {
    let (mut relations, mut functions, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::Relation(oid) => relations.push(*oid),
            Part::Function(oid) => functions.push(*oid),
            Part::Named(name) => names.push(&**name),
            Part::Shared => {}
        }
    }
    let mut prints = Vec::new();
    let statement = client.prepare_typed_cached(RELATIONS, &[Type::OID_ARRAY, Type::TEXT]).await?;
    let parameters: [&(dyn ToSql + Sync); 2] = [&relations, &publication];
    for row in client.query(&statement, &parameters).await? {
        prints.push((Part::Relation(row.try_get(0)?), row.try_get(1)?));
    }
    if !functions.is_empty() {
        let statement = client.prepare_typed_cached(FUNCTIONS, &[Type::OID_ARRAY]).await?;
        for row in client.query(&statement, &[&functions]).await? {
            prints.push((Part::Function(row.try_get(0)?), row.try_get(1)?));
        }
    }
    if !names.is_empty() {
        let statement = client.prepare_typed_cached(NAMES, &[Type::TEXT_ARRAY]).await?;
        for row in client.query(&statement, &[&names]).await? {
            prints.push((Part::Named(row.try_get::<_, &str>(0)?.into()), row.try_get(1)?));
        }
    }
    Ok(prints)
}
