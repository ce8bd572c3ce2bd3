//! What compiled policies depend on in the catalog: the log does not tell when a function, another table's policies, a
//! membership of roles or a publication changes.

use std::collections::HashSet;

use deadpool_postgres::GenericClient;
use realtime_changes::policy::Catalog;
use realtime_pgoutput::Oid;
use tokio_postgres::Error;

use crate::published::published;

/// A number that changes when anything does that compiled policies were made of: the functions and relations of the names
/// that the compiler looked for, columns and policies of these relations, roles and their memberships, rights on schemas,
/// types, labels of enums, casts, operators, what is published.
const PRINT: &str = concat!(
    "select pg_catalog.hashtextextended(pg_catalog.concat_ws('/',
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', p.oid, p.xmin), ',' order by p.oid)
         from pg_catalog.pg_proc p where p.proname = any($1)),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', c.oid, c.relname, c.relnamespace, c.relkind, c.relpersistence,
                c.relowner, c.relacl::text, c.relreplident, c.relrowsecurity, c.relforcerowsecurity, c.relispartition, c.relhassubclass,
                (select pg_catalog.string_agg(pg_catalog.concat_ws(':', a.attnum, a.xmin), ',' order by a.attnum)
                 from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0),
                (select pg_catalog.string_agg(pg_catalog.concat_ws(':', p.oid, p.xmin), ',' order by p.oid)
                 from pg_catalog.pg_policy p where p.polrelid = c.oid)), ',' order by c.oid)
         from pg_catalog.pg_class c where c.relname = any($2)),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', m.roleid, m.member, m.xmin), ','
                order by m.roleid, m.member, m.grantor)
         from pg_catalog.pg_auth_members m),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', r.oid, r.rolname, r.rolsuper, r.rolbypassrls, r.rolinherit), ','
                order by r.oid)
         from pg_catalog.pg_roles r),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', n.oid, n.xmin), ',' order by n.oid)
         from pg_catalog.pg_namespace n where n.nspname !~ '^pg_(temp|toast)'),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', t.oid, t.xmin), ',' order by t.oid)
         from pg_catalog.pg_type t where t.oid >= 16384 and t.typtype in ('d', 'e')),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', p.oid, p.xmin), ',' order by p.oid)
         from pg_catalog.pg_publication p where p.pubname = any($3)),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', r.oid, r.xmin), ',' order by r.oid)
         from pg_catalog.pg_publication_rel r
         join pg_catalog.pg_publication p on p.oid = r.prpubid where p.pubname = any($3)),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', t.pubname, t.oid, t.is_filtered), ','
                order by t.pubname, t.oid)
         from ",
    published!(),
    " t where t.pubname = any($3)),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', c.oid, c.xmin), ',' order by c.oid)
         from pg_catalog.pg_cast c where c.oid >= 16384),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', e.oid, e.xmin), ',' order by e.oid)
         from pg_catalog.pg_enum e),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', o.oid, o.xmin), ',' order by o.oid)
         from pg_catalog.pg_operator o where o.oid >= 16384)
    ), 0)"
);

/// Those of some tables whose every change comes with the log.
const KEPT: &str = concat!(
    "select distinct c.oid from ",
    published!(),
    " t
    join pg_catalog.pg_publication p on p.pubname = t.pubname
    join pg_catalog.pg_class c on c.oid = t.oid
    where t.pubname = any($2) and c.oid = any($1)
        and p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate
        and c.relkind = 'r' and c.relpersistence = 'p' and not c.relhassubclass and not c.relispartition
        and not t.is_filtered"
);

/// A number that changes when anything does that policies were compiled from.
pub(crate) async fn print(
    client: &impl GenericClient,
    catalog: &Catalog,
    publications: &[String],
) -> Result<i64, Error> {
    let (functions, relations) = (catalog.function_names(), catalog.relation_names());
    let statement = client.prepare_cached(PRINT).await?;
    client.query_one(&statement, &[&functions, &relations, &publications]).await?.try_get(0)
}

/// Those of some tables whose every change comes with the log: what is read in them can be kept until then.
pub(crate) async fn kept_tables(
    client: &impl GenericClient,
    tables: &[Oid],
    publications: &[String],
) -> Result<HashSet<Oid>, Error> {
    let statement = client.prepare_cached(KEPT).await?;
    client.query(&statement, &[&tables, &publications]).await?.iter().map(|row| row.try_get(0)).collect()
}
