//! Handles of one database that follow one another.

use anyhow::{Context as _, Result};
use realtime_postgres::{DatabaseConfig, Replication, TenantDatabase};
use realtime_testkit::PATIENCE;
use tokio::time;

use crate::support::{config, one, ready, until};

const CONNECTIONS: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and application_name like 'realtime%'";
const NONE: &str = "select count(*) = 0 from pg_stat_activity
    where datname = current_database() and application_name like 'realtime%'";

async fn arrives(database: &TenantDatabase) -> Result<Replication> {
    let arriving = async {
        loop {
            let now = database.replication();
            if now.arrives {
                return now;
            }
            database.replication_differs(now).await;
        }
    };
    time::timeout(PATIENCE * 2, arriving).await.context("broadcasts do not arrive")
}

/// A handle that ended never connects again, whoever holds it and whatever it is asked.
#[tokio::test]
async fn what_ended_stays_so() -> Result<()> {
    let (db, database) = ready().await?;
    database.ready().await?;
    let _attendance = database.attend();
    arrives(&database).await?;
    assert!(database.is_connected());
    database.shutdown().await;
    assert!(!database.is_connected() && !database.is_ready());
    until(&db, NONE).await?;
    for _ in 0..5 {
        assert!(database.ready().await.is_err());
    }
    let _attendance = database.attend();
    database.shutdown().await;
    assert_eq!(one::<i64>(&db, CONNECTIONS).await?, 0);
    assert!(!database.is_ready());
    Ok(())
}

/// Who attends to the last handle attends to the next; the gap between them is counted once, at once.
#[tokio::test]
async fn who_attends_goes_over_to_the_next() -> Result<()> {
    let (db, first) = ready().await?;
    let attendance = first.attend();
    let before = arrives(&first).await?;

    let second = first.succeed(DatabaseConfig { pool_size: 3, ..config(&db).await? }, true);
    let now = second.replication();
    assert_eq!((now.arrives, now.gaps), (false, before.gaps + 1));
    first.replication_differs(before).await;
    first.shutdown().await;
    // By itself, because somebody attends.
    assert_eq!(arrives(&second).await?.gaps, before.gaps + 1);
    drop(attendance);
    second.shutdown().await;
    until(&db, NONE).await
}
