//! Partitions ahead of time, and old ones dropped (tenant_database 5).

use std::time::{Duration, SystemTime};

use anyhow::Result;
use realtime_postgres::{DatabaseConfig, JanitorSettings, Maintenance, TenantDatabase};
use realtime_testkit::TestDb;

use crate::support::{Log, all, config, one, open, ready_at, until};

const DAY: Duration = Duration::from_secs(86_400);

/// Noon of a day far from that of the test's run.
fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + DAY * 25_733 + DAY / 2
}

/// A database that was set up at [`noon`].
async fn ready() -> Result<(TestDb, TenantDatabase)> {
    ready_at(noon(), |config| config).await
}

/// Days of the partitions, counted from that of [`noon`], as PostgreSQL sees them.
const DAYS: &str = "select to_date(right(relname, 10), 'YYYY_MM_DD') - date '2040-06-15'
    from pg_inherits join pg_class c on c.oid = inhrelid
    where inhparent = 'realtime.messages'::regclass and relname ~ '^messages_\\d' order by 1";

/// tenant_database 68
#[tokio::test]
async fn old_days_go_and_new_days_come() -> Result<()> {
    let (db, database) = ready().await?;
    let now = noon();
    for days in 2..=10 {
        database.maintain(now - DAY * days, false).await?;
    }
    assert_eq!(all::<i32>(&db, DAYS).await?, (-11..=3).collect::<Vec<_>>());
    db.sql(
        "insert into realtime.messages (topic, extension, inserted_at)
         select 'T', 'broadcast', date '2040-06-15' - n from generate_series(0, 11) n;
         create table realtime.messages_rest partition of realtime.messages default;",
    )
    .await?;
    let done = database.maintain(now, true).await?;
    assert_eq!((done.created.len(), done.dropped.len(), done.problems.len()), (0, 8, 0), "{done:?}");
    assert_eq!(all::<i32>(&db, DAYS).await?, (-3..=3).collect::<Vec<_>>());
    assert_eq!(one::<i64>(&db, "select count(*) from realtime.messages").await?, 4);
    assert!(one::<bool>(&db, "select to_regclass('realtime.messages_rest') is not null").await?);
    // A day later.
    let done = database.maintain(now + DAY, true).await?;
    assert_eq!((done.created.len(), done.dropped.len()), (1, 1), "{done:?}");
    assert_eq!(database.maintain(now + DAY, true).await?, Maintenance::default());
    Ok(())
}

/// What stands in the way of one partition does not stop the others.
#[tokio::test]
async fn one_that_fails_does_not_stop_the_others() -> Result<()> {
    let (db, database) = ready().await?;
    let now = noon();
    for days in 5..=6 {
        database.maintain(now - DAY * days, false).await?;
    }
    db.sql(
        "create view public.of_mine as select * from realtime.messages_2040_06_09;
         drop table realtime.messages_2040_06_16;
         create table realtime.blocking partition of realtime.messages
            for values from ('2040-06-16 01:00') to ('2040-06-16 02:00');",
    )
    .await?;
    let done = database.maintain(now, true).await?;
    let codes: Vec<_> = done.problems.iter().filter_map(|problem| problem.split(':').next()).collect();
    assert_eq!(codes, ["JanitorFailedToDeleteOldMessages", "PartitionCreationFailed"], "{done:?}");
    assert!(!done.dropped.is_empty(), "{done:?}");
    Ok(())
}

/// Any number of nodes may look after a database at once.
#[tokio::test]
async fn many_nodes_at_once() -> Result<()> {
    let (db, database) = ready().await?;
    let now = noon() + DAY * 20;
    let runs = futures_util::future::join_all((0..8).map(|_| database.maintain(now, true))).await;
    for done in runs {
        assert_eq!(done?.problems, Vec::<String>::new());
    }
    assert_eq!(all::<i32>(&db, DAYS).await?, (19..=23).collect::<Vec<_>>());
    Ok(())
}

/// Where there is no table there is nothing to do.
#[tokio::test]
async fn a_database_without_messages() -> Result<()> {
    let db = TestDb::new().await?;
    let done = open(config(&db).await?).maintain(SystemTime::now(), true).await?;
    assert_eq!(done, Maintenance::default());
    Ok(())
}

/// The timer makes partitions at once, deletes from the second run on if it may, and survives a database that
/// cannot be reached; others are not affected.
///
/// tenant_database 69
#[tokio::test]
async fn the_timer() -> Result<()> {
    let (db, database) = ready().await?;
    let (log, _guard) = Log::listen();
    let now = noon();
    for days in [3, 9] {
        database.maintain(now - DAY * days, false).await?;
    }
    let settings = JanitorSettings {
        delete: true,
        run_after: Duration::ZERO,
        every: Duration::from_millis(100),
        randomize: false,
    };
    let unreachable = open(DatabaseConfig { port: 1, ..config(&db).await? });
    unreachable.keep_maintained(settings.clone(), SystemTime::now);
    database.keep_maintained(settings, move || now + DAY);
    until(
        &db,
        &format!("select min(day) = -2 and max(day) = 4 from ({}) d (day)", DAYS.replace(" order by 1", "")),
    )
    .await?;
    until_logged(&log).await?;
    database.shutdown().await;
    unreachable.shutdown().await;
    Ok(())
}

async fn until_logged(log: &Log) -> Result<()> {
    let limit = tokio::time::Instant::now() + realtime_testkit::PATIENCE;
    while log.count("JanitorFailedToDeleteOldMessages") == 0 {
        anyhow::ensure!(tokio::time::Instant::now() < limit, "nothing logged");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Without permission to delete, nothing is deleted, but partitions are made.
#[tokio::test]
async fn deletion_can_be_turned_off() -> Result<()> {
    let (db, database) = ready().await?;
    let now = noon();
    database.maintain(now - DAY * 9, false).await?;
    let settings = JanitorSettings {
        delete: false,
        run_after: Duration::ZERO,
        every: Duration::from_millis(50),
        randomize: false,
    };
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = std::sync::Arc::clone(&runs);
    database.keep_maintained(settings, move || {
        let run = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        now + DAY * run.min(3)
    });
    until(&db, &format!("select max(day) = 6 from ({}) d (day)", DAYS.replace(" order by 1", ""))).await?;
    database.shutdown().await;
    assert_eq!(one::<i32>(&db, &format!("select min(day) from ({DAYS}) d (day)")).await?, -10);
    Ok(())
}
