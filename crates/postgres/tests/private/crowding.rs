//! Too few connections for the questions (tenant_database 3.6).

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::Result;
use futures_util::future::{join, join_all};
use realtime_postgres::{AuthorizeError, AuthorizeRequest, DatabaseConfig, TenantDatabase};
use realtime_testkit::TestDb;
use serde_json::json;

use crate::support::{Log, may_read, may_write, one, ready_with, until, with_claims};

/// Policies wait for a lock that the test holds.
const WAITING: &str = "
    create function public.wait() returns boolean language sql as
        $$ select pg_advisory_xact_lock_shared(42) is not null $$;
    create policy r on realtime.messages for select using (public.wait());
    create policy w on realtime.messages for insert with check (public.wait());
    select pg_advisory_lock(42);";

async fn waiting(pool: usize) -> Result<(TestDb, TenantDatabase)> {
    let (db, database) = ready_with(|config| DatabaseConfig {
        policy_pool_size: pool,
        queue_target: Duration::from_millis(50),
        ..config
    })
    .await?;
    db.sql(WAITING).await?;
    Ok((db, database))
}

fn distinct(n: usize) -> AuthorizeRequest {
    with_claims(json!({"role": "authenticated", "n": n}))
}

/// Number of questions that policies hold up.
fn held(n: usize) -> String {
    format!(
        "select count(*) = {n} from pg_locks where locktype = 'advisory' and objid = 42 and not granted
         and database = (select oid from pg_database where datname = current_database())"
    )
}

/// tenant_database 13
#[tokio::test]
async fn one_connection_that_is_busy() -> Result<()> {
    let (db, database) = waiting(1).await?;
    let (log, _guard) = Log::listen();
    let busy = {
        let database = database.clone();
        tokio::spawn(async move { database.authorize_read(&distinct(0)).await })
    };
    until(&db, &held(1)).await?;
    let (first, second) = (distinct(1), distinct(2));
    let (read, write) = join(database.authorize_read(&first), database.authorize_write(&second)).await;
    assert_eq!(read, Err(AuthorizeError::IncreaseConnectionPool));
    assert_eq!(write, Err(AuthorizeError::IncreaseConnectionPool));
    assert_eq!(database.authorize_read(&first).await, Err(AuthorizeError::IncreaseConnectionPool));
    assert_eq!(log.count("Too many database timeouts"), 1);
    db.sql("select pg_advisory_unlock(42)").await?;
    assert_eq!(busy.await??, may_read(true, true));
    Ok(())
}

/// tenant_database 14
#[tokio::test]
async fn the_breaker_opens_and_asks_no_more() -> Result<()> {
    let (db, database) = waiting(5).await?;
    let (log, _guard) = Log::listen();
    let busy: Vec<_> = (0..5)
        .map(|n| {
            let database = database.clone();
            tokio::spawn(async move { database.authorize_read(&distinct(n)).await })
        })
        .collect();
    until(&db, &held(5)).await?;
    let failing: Vec<_> = (5..11).map(distinct).collect();
    for answer in join_all(failing.iter().map(|request| database.authorize_read(request))).await {
        assert_eq!(answer, Err(AuthorizeError::IncreaseConnectionPool));
    }
    // Connections are free again, and none is used.
    db.sql("select pg_advisory_unlock(42)").await?;
    for busy in busy {
        assert_eq!(busy.await??, may_read(true, true));
    }
    let probes = || database.stats().policies.probes.load(Ordering::Relaxed);
    assert_eq!(probes(), 5);
    for n in 11..21 {
        assert_eq!(database.authorize_write(&distinct(n)).await, Err(AuthorizeError::IncreaseConnectionPool));
    }
    assert_eq!(probes(), 5);
    assert_eq!(database.stats().policies.crowded.load(Ordering::Relaxed), 16);
    assert_eq!(log.count("Too many database timeouts"), 1);
    let connections = "select count(*) from pg_stat_activity
        where datname = current_database() and application_name = 'realtime_connect'";
    assert_eq!(one::<i64>(&db, connections).await?, 5);
    Ok(())
}

/// Who shares a question does not need a connection, and one that gives up harms nobody.
#[tokio::test]
async fn waiting_is_shared() -> Result<()> {
    let (db, database) = ready_with(|config| DatabaseConfig { policy_pool_size: 1, ..config }).await?;
    db.sql(WAITING).await?;
    let ask = |n| {
        let database = database.clone();
        tokio::spawn(async move { database.authorize_read(&distinct(n)).await })
    };
    let busy = ask(0);
    until(&db, &held(1)).await?;
    let impatient = ask(1);
    let sharing: Vec<_> = (0..30).map(|_| ask(1)).collect();
    tokio::task::yield_now().await;
    impatient.abort();
    db.sql("select pg_advisory_unlock(42)").await?;
    for answer in sharing {
        assert_eq!(answer.await??, may_read(true, true));
    }
    busy.await??;
    assert_eq!(database.stats().policies.probes.load(Ordering::Relaxed), 2);
    Ok(())
}

/// Many users at once on few connections, some of whom give up in the middle: each of the others gets the answer
/// to its own question.
#[tokio::test]
async fn answers_are_not_mixed_up() -> Result<()> {
    let (db, database) = ready_with(|config| DatabaseConfig { policy_pool_size: 2, ..config }).await?;
    db.sql(
        "create function public.even() returns boolean language sql stable as
            $$ select (current_setting('request.jwt.claims')::jsonb ->> 'n')::int % 2 = 0 $$;
         create policy r on realtime.messages for select using (public.even());
         create policy w on realtime.messages for insert with check (not public.even());",
    )
    .await?;
    let asking: Vec<_> = (0..400)
        .map(|n| {
            let database = database.clone();
            tokio::spawn(async move {
                if n % 3 == 0 {
                    let verdict = database.authorize_write(&distinct(n)).await?;
                    anyhow::ensure!(verdict == may_write(n % 2 == 1, n % 2 == 1), "{n}: {verdict:?}");
                } else {
                    let verdict = database.authorize_read(&distinct(n)).await?;
                    anyhow::ensure!(verdict == may_read(n % 2 == 0, n % 2 == 0), "{n}: {verdict:?}");
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let given_up = async {
        for (n, asking) in asking.iter().enumerate().filter(|(n, _)| n % 5 == 0) {
            asking.abort();
            // Lets the questions go on in between, so that some are given up while they are under way.
            if n % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    given_up.await;
    let mut answered = 0;
    for asking in asking {
        match asking.await {
            Ok(answer) => {
                answer?;
                answered += 1;
            }
            Err(error) => assert!(error.is_cancelled()),
        }
    }
    assert!(answered >= 320, "{answered}");
    let busy = "select count(*) = 0 from pg_stat_activity
        where datname = current_database() and application_name = 'realtime_connect' and state <> 'idle'";
    until(&db, busy).await?;
    let stored = "select count(*) from realtime.messages";
    assert_eq!(one::<i64>(&db, stored).await?, 0);
    Ok(())
}
