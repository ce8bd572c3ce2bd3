//! The tables of publications, told by the catalog alone.
//!
//! PostgreSQL has a view for this, `pg_publication_tables`. From PostgreSQL 16 on it takes a lock on each table: a migration
//! that holds one table would hold up whoever asks about any other.

/// A subquery: for each table of each publication the columns `pubname`, `oid` of the table, and `is_filtered`: whether
/// the publication has a condition on its rows. The rows are those of `pg_publication_tables`: leaves of partitioned tables
/// in place of their roots, or roots in place of their partitions, as the publication says.
///
/// Which schemas a publication has is read from the dependencies: their own catalog (6237) is of PostgreSQL 15.
macro_rules! published {
    () => {
        "(select p.pubname, c.oid, pg_catalog.to_jsonb(r) ->> 'prqual' is not null as is_filtered
        from pg_catalog.pg_publication p
        cross join lateral (select array(
            select s.refobjid
            from pg_catalog.pg_depend d
            join pg_catalog.pg_depend s on s.classid = d.classid and s.objid = d.objid
                and s.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
            where d.refclassid = 'pg_catalog.pg_publication'::pg_catalog.regclass and d.refobjid = p.oid
                and d.classid = 6237)) whole (schemas)
        join pg_catalog.pg_class c on c.relkind in ('r', 'p') and c.relpersistence = 'p' and c.oid >= 16384
        left join pg_catalog.pg_publication_rel r on r.prpubid = p.oid and r.prrelid = c.oid
        cross join lateral (select c.relispartition and not p.puballtables and exists (
            select from pg_catalog.pg_partition_ancestors(c.oid) a
            join pg_catalog.pg_class ac on ac.oid = a.relid
            where ac.oid <> c.oid and (ac.relnamespace = any(whole.schemas)
                or exists (select from pg_catalog.pg_publication_rel ar
                    where ar.prpubid = p.oid and ar.prrelid = ac.oid)))) above (has_root)
        where case
            when p.puballtables and p.pubviaroot then not c.relispartition
            when p.puballtables then c.relkind = 'r'
            when p.pubviaroot then
                (r.oid is not null or c.relnamespace = any(whole.schemas)) and not above.has_root
            else c.relkind = 'r' and (r.oid is not null or c.relnamespace = any(whole.schemas) or above.has_root)
            end)"
    };
}

pub(crate) use published;

#[cfg(test)]
mod tests {
    use anyhow::{Result, ensure};
    use realtime_testkit::TestDb;
    use tokio_postgres::Client;

    const OURS: &str =
        concat!("select pubname::text, oid::int8, is_filtered from ", published!(), " t order by 1, 2");

    const TABLES: &str = "
        create schema one; create schema two;
        create table one.plain (id int primary key);
        create table two.plain (id int primary key);
        create unlogged table one.unlogged (id int primary key);
        create view one.sight as select * from one.plain;
        create materialized view one.stored as select * from one.plain;
        create table one.parent (id int primary key);
        create table two.child () inherits (one.parent);
        create table one.root (id int primary key) partition by range (id);
        create table one.leaf partition of one.root for values from (0) to (10);
        create table two.leaf partition of one.root for values from (10) to (20);
        create table two.branch partition of one.root for values from (20) to (40) partition by range (id);
        create table one.twig partition of two.branch for values from (20) to (30);
        create table two.twig partition of two.branch for values from (30) to (40);";

    const PUBLICATIONS: [&str; 6] = [
        "for all tables",
        "for table one.plain, two.plain, one.parent",
        "for table one.root",
        "for table two.branch, one.leaf",
        "for table one.root, two.branch, two.twig, only one.parent",
        "",
    ];

    /// Those that PostgreSQL 14 does not know.
    const OF_15: [&str; 6] = [
        "for tables in schema one",
        "for tables in schema two",
        "for tables in schema one, two",
        "for table two.branch, tables in schema one",
        "for table one.root where (id > 1), one.plain (id) where (id > 2), two.twig",
        "for table two.twig where (id > 1), one.root where (id > 2)",
    ];

    async fn rows(client: &Client, sql: &str) -> Result<Vec<(String, i64, bool)>> {
        let rows = client.query(sql, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
            .collect::<Result<_, tokio_postgres::Error>>()?)
    }

    #[tokio::test]
    async fn it_is_what_postgresql_says() -> Result<()> {
        let db = TestDb::new().await?;
        db.sql(TABLES).await?;
        let version: i32 =
            db.client().query_one("select current_setting('server_version_num')::int", &[]).await?.get(0);
        let newer: &[&str] = if version >= 150_000 { &OF_15 } else { &[] };
        for (at, what) in PUBLICATIONS.iter().chain(newer).enumerate() {
            for via_root in [false, true] {
                // PostgreSQL has no conditions of roots whose leaves are published.
                if what.contains("root where") && !via_root {
                    continue;
                }
                let name = format!("p{at:02}_{via_root}");
                db.sql(&format!(
                    "create publication {name} {what} with (publish_via_partition_root = {via_root})"
                ))
                .await?;
            }
        }
        // 14 names some leaves several times.
        let theirs = "select distinct t.pubname::text, c.oid::int8, to_jsonb(t) ->> 'rowfilter' is not null
            from pg_publication_tables t
            join pg_namespace n on n.nspname = t.schemaname
            join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
            order by 1, 2";
        let (ours, theirs) = (rows(db.client(), OURS).await?, rows(db.client(), theirs).await?);
        assert_eq!(ours, theirs);
        ensure!(ours.len() > 30, "too little was compared: {}", ours.len());
        Ok(())
    }

    #[tokio::test]
    async fn a_table_that_is_locked_holds_up_nobody() -> Result<()> {
        let db = TestDb::new().await?;
        db.sql(TABLES).await?;
        db.sql("create publication p for table one.plain, two.plain").await?;
        let mut keeper = db.connect().await?;
        let locked = keeper.transaction().await?;
        locked.batch_execute("lock table one.plain in access exclusive mode").await?;
        db.sql("set statement_timeout = '5s'").await?;
        let found = rows(db.client(), OURS).await?.into_iter().filter(|(name, ..)| name == "p").count();
        assert_eq!(found, 2);
        Ok(())
    }
}
