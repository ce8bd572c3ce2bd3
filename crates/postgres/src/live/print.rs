//! Whether what was looked at in the catalog is still so. The log does not tell when a view is replaced, or what is granted
//! on one.

use deadpool_postgres::ClientWrapper as Client;
use realtime_pgoutput::Oid;
use tokio_postgres::{
    Error,
    types::{ToSql, Type},
};

use crate::published::published;

/// Numbers that change when a relation does: its name, owner, options and grants, columns and their grants, rule,
/// policies, keys, children, what is published of it. The publication counts by its version: what it leaves out for a moment
/// is missed however soon it tells everything again.
const PRINTS: &str = concat!(
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
             where t.pubname = $2::text and t.oid = c.oid),
            (select string_agg(concat_ws(' ', p.oid, p.xmin, r.xmin), ',' order by p.oid, r.oid)
             from pg_publication p
             left join pg_publication_rel r on r.prpubid = p.oid and (r.prrelid = c.oid
                or c.relispartition and r.prrelid in (select a.relid from pg_partition_ancestors(c.oid) a))
             where p.pubname = $2::text)), 0)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = any($1)"
);

/// Numbers that change when anything does that [`Source`](super::Source) was made of, by relation, in no order. A relation
/// that is gone has none.
pub(crate) async fn prints(
    client: &Client,
    publication: &str,
    relations: &[Oid],
) -> Result<Vec<(Oid, i64)>, Error> {
    let statement = client.prepare_typed_cached(PRINTS, &[Type::OID_ARRAY, Type::TEXT]).await?;
    let parameters: [&(dyn ToSql + Sync); 2] = [&relations, &publication];
    let rows = client.query(&statement, &parameters).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
