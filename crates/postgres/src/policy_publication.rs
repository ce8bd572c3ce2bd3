//! The publication of tables that policies read and that the main publication lacks (row_security 2.2): so the log tells
//! when a membership changes. Clients cannot watch its tables by it.

use std::time::Duration;

use deadpool_postgres::{ClientWrapper as Client, Pool};
use realtime_pgoutput::{Lsn, Oid};
use tokio_postgres::{Error, error::SqlState};

use crate::{ConnectError, pool, published::published};

/// Its name.
pub(crate) const NAME: &str = "supabase_realtime_policies";

/// How long a lock on a table is waited for. Those who write to the table wait as long behind it.
const LOCK_LIMIT: Duration = Duration::from_millis(100);

/// Whether the publication has to be made, and may be: some policy of a published table reads another table, or calls a
/// function that may. `$1` is the main publication, `$2` ours.
const IS_TO_BE_MADE: &str = concat!(
    "select not exists (select from pg_catalog.pg_publication where pubname = $2)
        and not pg_catalog.pg_is_in_recovery()
        and pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
        and exists (
            select from ",
    published!(),
    r" t
            join pg_catalog.pg_class c on c.oid = t.oid
            join pg_catalog.pg_policy p on p.polrelid = c.oid and p.polcmd::text in ('r', '*')
            join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass and d.objid = p.oid
            where t.pubname = $1 and c.relrowsecurity and (
                d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.refobjid <> c.oid
                or d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass and exists (
                    select from pg_catalog.pg_proc f
                    join pg_catalog.pg_language l on l.oid = f.prolang
                    join pg_catalog.pg_namespace fn on fn.oid = f.pronamespace
                    where f.oid = d.refobjid and l.lanname not in ('c', 'internal') and (fn.nspname <> 'auth'
                        or coalesce(pg_catalog.pg_get_function_sqlbody(f.oid), f.prosrc) ~* '\mfrom\M'))))"
);

/// What a table has to be: one that stands alone, whose rows have a replica identity. Without that PostgreSQL refuses
/// updates and deletes of a published table.
macro_rules! is_suitable {
    () => {
        "(c.relkind = 'r' and c.relpersistence = 'p' and not c.relispartition and not c.relhassubclass
            and (c.relreplident = 'f' or exists (
                select from pg_catalog.pg_index i
                where i.indrelid = c.oid and i.indimmediate and i.indisvalid
                    and (c.relreplident = 'd' and i.indisprimary or c.relreplident = 'i' and i.indisreplident))))"
    };
}

/// Whether the main publication, `$2`, has a table.
macro_rules! is_in_main {
    () => {
        concat!("exists (select from ", published!(), " t where t.pubname = $2 and t.oid = c.oid)")
    };
}

/// Those of some tables that may be added: `$1` are the tables, `$2` the main publication, `$3` ours.
const ADDABLE: &str = concat!(
    "select c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname)
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.oid = any($1) and ",
    is_suitable!(),
    " and not ",
    is_in_main!(),
    "   and n.nspname not in ('pg_catalog', 'information_schema', 'realtime', '_realtime')
        and pg_catalog.pg_has_role(c.relowner, 'USAGE')
        and exists (select from pg_catalog.pg_publication p
            where p.pubname = $3 and pg_catalog.pg_has_role(p.pubowner, 'USAGE')
                and not exists (select from pg_catalog.pg_publication_rel r where r.prpubid = p.oid and r.prrelid = c.oid))"
);

/// Ends the transaction with an error unless the table is what it was taken for.
const IS_STILL: &str = concat!(
    "select 1 / pg_catalog.count(*) from pg_catalog.pg_class c
    where c.oid = $1 and c.oid = pg_catalog.to_regclass($2) and ",
    is_suitable!()
);

/// The tables of ours, `$3`: which it is, its name, whether the main publication has it too, and whether it must not or
/// need not stay: `$1` are those that need not.
const TABLES: &str = concat!(
    "select c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), ",
    is_in_main!(),
    ", c.oid = any($1) or not ",
    is_suitable!(),
    "
    from pg_catalog.pg_publication p
    join pg_catalog.pg_publication_rel r on r.prpubid = p.oid
    join pg_catalog.pg_class c on c.oid = r.prrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where p.pubname = $3"
);

/// Whether a session that reads this slot may read the publication: what the slot still has to decode is of a time when
/// the publication was there.
const IS_OF_SLOT: &str = "select exists (
        select from pg_catalog.pg_publication p
        where p.pubname = $1 and not exists (
            select from pg_catalog.pg_replication_slots s
            where s.slot_name = $2 and s.catalog_xmin is not null
                and pg_catalog.age(p.xmin) <= pg_catalog.age(s.catalog_xmin)))";

/// Makes the publication if policies need it and our role may.
///
/// # Errors
/// When the database cannot be asked.
pub(crate) async fn make(client: &Client, main: &str) -> Result<(), Error> {
    let wanted = client.query_one(IS_TO_BE_MADE, &[&main, &NAME]).await?;
    if wanted.try_get(0)? {
        match client.batch_execute(&format!("begin read write; create publication {NAME}; commit")).await {
            Ok(()) => {}
            Err(error) => {
                client.batch_execute("rollback").await?;
                // Another node was faster.
                if error.code() != Some(&SqlState::DUPLICATE_OBJECT) {
                    return Err(error);
                }
            }
        }
        tracing::info!(publication = NAME, "publication made for the tables that policies read");
    }
    Ok(())
}

/// Whether a session may read the publication. `slot`: the permanent slot that it would read, if there is one.
///
/// # Errors
/// When the database cannot be asked.
pub(crate) async fn is_readable(client: &Client, slot: Option<&str>) -> Result<bool, Error> {
    client.query_one(IS_OF_SLOT, &[&NAME, &slot.unwrap_or_default()]).await?.try_get(0)
}

/// A table of the publication.
#[derive(Debug, Clone)]
pub(crate) struct Along {
    pub(crate) oid: Oid,
    /// Schema-qualified and quoted.
    name: String,
    /// Whether the main publication has it too.
    pub(crate) in_main: bool,
    /// Whether it has to be taken out.
    leaves: bool,
}

/// The tables of the publication. `unread`: those that nobody's policies read any more.
///
/// # Errors
/// When the database cannot be asked.
pub(crate) async fn tables(client: &Client, main: &str, unread: &[Oid]) -> Result<Vec<Along>, Error> {
    let statement = client.prepare_cached(TABLES).await?;
    let rows = client.query(&statement, &[&unread, &main, &NAME]).await?;
    let along = |row: &tokio_postgres::Row| {
        let in_main = row.try_get(2)?;
        let leaves = in_main || row.try_get(3)?;
        Ok(Along { oid: row.try_get(0)?, name: row.try_get(1)?, in_main, leaves })
    };
    rows.iter().map(along).collect()
}

/// Takes out those of some tables that have to leave: what the main publication has must come by it alone, with its
/// conditions on rows, columns and actions. Those that left.
///
/// # Errors
/// When the database cannot be asked.
pub(crate) async fn take_out(client: &Client, tables: &[Along]) -> Result<Vec<Oid>, Error> {
    let mut left = Vec::new();
    for Along { oid, name, .. } in tables.iter().filter(|table| table.leaves) {
        let limit = LOCK_LIMIT.as_millis();
        let sql = format!(
            "begin read write; set local lock_timeout = {limit}; alter publication {NAME} drop table only {name}; commit"
        );
        match client.batch_execute(&sql).await {
            Ok(()) => {
                tracing::info!(publication = NAME, table = name, "table left out of the publication");
                left.push(*oid);
            }
            Err(error) => {
                client.batch_execute("rollback").await?;
                // It is gone, or busy: it is looked at again.
                tracing::debug!(publication = NAME, table = name, error = ?error.code(), "cannot leave a table out");
            }
        }
    }
    Ok(left)
}

/// A position in the log behind all that is there.
///
/// # Errors
/// When the database cannot be asked.
pub(crate) async fn position(client: &Client) -> Result<Lsn, Error> {
    let sql = "select pg_catalog.pg_wal_lsn_diff(
        case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
            else pg_catalog.pg_current_wal_insert_lsn() end, '0/0')::int8";
    let position: i64 = client.query_one(sql, &[]).await?.try_get(0)?;
    Ok(Lsn(position.unsigned_abs()))
}

/// Those of some tables that may be added.
///
/// # Errors
/// When the database cannot be asked.
pub(crate) async fn addable(
    client: &Client,
    main: &str,
    tables: &[Oid],
) -> Result<Vec<(Oid, String)>, Error> {
    let statement = client.prepare_cached(ADDABLE).await?;
    let rows = client.query(&statement, &[&tables, &main, &NAME]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Adds tables. Whoever writes to one has committed before it is added, or the log tells of what he writes: it is added
/// under a lock that no writer shares. Those that were added; others are busy.
///
/// # Errors
/// When there is no connection.
pub(crate) async fn add(pool: &Pool, tables: &[(Oid, String)]) -> Result<Vec<Oid>, ConnectError> {
    let mut all = Vec::new();
    for (oid, name) in tables {
        let mut client = pool::get(pool).await?;
        match add_one(&mut client, *oid, name).await {
            Ok(()) => {
                tracing::info!(
                    publication = NAME,
                    table = name,
                    "table published for the policies that read it"
                );
                all.push(*oid);
            }
            // Another node was faster.
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_OBJECT) => all.push(*oid),
            Err(error) => {
                tracing::debug!(publication = NAME, table = name, error = ?error.code(), "cannot publish a table");
            }
        }
    }
    Ok(all)
}

async fn add_one(client: &mut Client, oid: Oid, name: &str) -> Result<(), Error> {
    let adding = client.build_transaction().read_only(false).start().await?;
    let limit = LOCK_LIMIT.as_millis();
    adding.batch_execute(&format!("set local lock_timeout = {limit}")).await?;
    adding.batch_execute(&format!("lock table only {name} in share row exclusive mode")).await?;
    adding.query_one(IS_STILL, &[&oid, &name]).await?;
    adding.batch_execute(&format!("alter publication {NAME} add table only {name}")).await?;
    adding.commit().await
}
