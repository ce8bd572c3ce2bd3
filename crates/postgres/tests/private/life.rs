//! First use of a tenant's database: room for connections, and failures to connect (tenant_database 8).

use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use realtime_postgres::{AuthorizeError, ConnectError, DatabaseConfig};
use realtime_testkit::{PATIENCE, TestDb};
use tokio::time::Instant;

use crate::support::{config, may_read, one, open, ready, request, until};

/// tenant_database 72
#[tokio::test]
async fn too_few_connections() -> Result<()> {
    let db = TestDb::new().await?;
    let database = open(DatabaseConfig { pool_size: 1000, ..config(&db).await? });
    let begun = Instant::now();
    let answers = join_all((0..20).map(|_| database.ready())).await;
    for answer in &answers {
        let Err(error @ ConnectError::LackOfConnections(text)) = answer else { panic!("{answer:?}") };
        assert!(text.starts_with("Only "), "{text}");
        assert!(text.ends_with(" available connections. At least 954 connections are required."), "{text}");
        assert_eq!(
            error.join_reason(),
            "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect"
        );
    }
    assert!(!database.is_ready());
    // All of them were one failure: two more are tried before it is too much.
    let mut failures = 1;
    let limited = async || match database.ready().await {
        Err(ConnectError::RateLimited) => true,
        Err(ConnectError::LackOfConnections(_)) => false,
        other => panic!("{other:?}"),
    };
    limited_after_three(begun, &mut failures, limited).await;
    Ok(())
}

/// Asks until no attempt is made any more: that is so after three that failed, if they failed within five seconds. On a
/// busy machine the first may be past by then.
async fn limited_after_three(begun: Instant, failures: &mut u64, mut limited: impl AsyncFnMut() -> bool) {
    while !limited().await {
        *failures += 1;
        assert!(begun.elapsed() < PATIENCE, "it is never limited");
    }
    let windows = begun.elapsed().as_secs() / 5 + 1;
    assert!((3..=3 * windows).contains(failures), "{failures} in {:?}", begun.elapsed());
}

/// The figure counts what others hold, and not what we do.
#[tokio::test]
async fn room_is_what_others_leave() -> Result<()> {
    let db = TestDb::new().await?;
    let available = async |pool_size| {
        let database = open(DatabaseConfig { pool_size, ..config(&db).await? });
        match database.ready().await {
            Err(ConnectError::LackOfConnections(text)) => {
                let figure = text.split(' ').nth(1).and_then(|figure| figure.parse::<i64>().ok());
                anyhow::Ok(figure.unwrap_or_default())
            }
            other => anyhow::bail!("{other:?}"),
        }
    };
    // Other tests connect and disconnect meanwhile: the figure is compared with a margin for them.
    let before = available(1000).await?;
    let others: Vec<_> = join_all((0..100).map(|_| db.connect())).await.into_iter().collect::<Result<_>>()?;
    let after = available(1000).await?;
    assert!((50..=150).contains(&(before - after)), "{before} {after}");
    drop(others);
    Ok(())
}

/// tenant_database 73
#[tokio::test]
async fn an_unreachable_database_is_not_hammered() -> Result<()> {
    let db = TestDb::new().await?;
    let database =
        open(DatabaseConfig { port: 1, connect_timeout: Duration::from_secs(1), ..config(&db).await? });
    let limited = async || database.ready().await.unwrap_err() == ConnectError::RateLimited;
    limited_after_three(Instant::now(), &mut 0, limited).await;
    assert_eq!(
        ConnectError::RateLimited.join_reason(),
        "DatabaseConnectionRateLimitReached: Too many database connections attempts per second"
    );
    Ok(())
}

/// tenant_database 73: what the server tries by itself is no client's failure, and waits for nobody's
#[tokio::test]
async fn the_servers_own_attempts_bar_no_client() -> Result<()> {
    let db = TestDb::new().await?;
    let database =
        open(DatabaseConfig { port: 1, connect_timeout: Duration::from_secs(1), ..config(&db).await? });
    let unreachable = |answer| matches!(answer, Err(ConnectError::Unreachable(_)));
    for _ in 0..5 {
        assert!(unreachable(database.try_on().await));
    }
    for _ in 0..3 {
        assert!(unreachable(database.ready().await));
    }
    assert_eq!(database.ready().await, Err(ConnectError::RateLimited));
    assert!(unreachable(database.try_on().await));
    assert_eq!(database.ready().await, Err(ConnectError::RateLimited));
    Ok(())
}

/// tenant_database 73
#[tokio::test]
async fn first_callers_share_a_connection() -> Result<()> {
    let db = TestDb::new().await?;
    let database = open(config(&db).await?);
    for answer in join_all((0..50).map(|_| database.ready())).await {
        answer?;
    }
    assert!(database.is_ready());
    let connections = "select count(*) from pg_stat_activity
        where datname = current_database() and application_name like 'realtime%'";
    assert_eq!(one::<i64>(&db, connections).await?, 1);
    Ok(())
}

/// Questions to a database that is down share the attempts to connect, and their limit.
#[tokio::test]
async fn questions_do_not_hammer_either() -> Result<()> {
    let db = TestDb::new().await?;
    let database = open(DatabaseConfig { port: 1, ..config(&db).await? });
    let request = request("authenticated");
    let limited = Err(AuthorizeError::Unavailable(ConnectError::RateLimited));
    let is_limited = async || {
        let answers = join_all((0..10).map(|_| database.authorize_write(&request))).await;
        let unreachable = |answer: &Result<_, _>| {
            matches!(answer, Err(AuthorizeError::Unavailable(ConnectError::Unreachable(_))))
        };
        let all_limited = answers.iter().all(|answer| *answer == limited);
        assert!(all_limited || answers.iter().all(unreachable), "{answers:?}");
        all_limited
    };
    limited_after_three(Instant::now(), &mut 0, is_limited).await;
    Ok(())
}

/// Connections that were ended are made anew.
///
/// tenant_database 74
#[tokio::test]
async fn pools_survive_the_end_of_their_connections() -> Result<()> {
    let (db, database) = ready().await?;
    let service = request("service_role");
    for _ in 0..3 {
        assert_eq!(database.authorize_read(&service).await?, may_read(true, true));
        db.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name like 'realtime%'",
        )
        .await?;
        let gone = "select count(*) = 0 from pg_stat_activity
            where datname = current_database() and application_name like 'realtime%'";
        until(&db, gone).await?;
    }
    Ok(())
}
