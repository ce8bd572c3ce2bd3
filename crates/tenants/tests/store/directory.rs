use std::{
    future::{Future as _, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use anyhow::{Context as _, Result};
use realtime_tenants::{Directory, Field, Store, StoreError, Tenant};
use realtime_testkit::{PATIENCE, TestDb};
use serde_json::json;
use tokio::{task::JoinHandle, time};
use tokio_util::sync::CancellationToken;

use crate::support::{complete, directory, fields, store, until};

/// Longer than any test: what is seen was told, not asked for.
const LONG: Duration = Duration::from_secs(600);

/// A directory that follows what others change; listening already.
async fn running(
    db: &TestDb,
    store: &Store,
    expiry: Duration,
) -> Result<(Arc<Directory>, CancellationToken, JoinHandle<()>)> {
    let directory = directory(store, expiry, None);
    let stop = CancellationToken::new();
    let task = tokio::spawn(Arc::clone(&directory).run(stop.clone()));
    until("listening", async || {
        let query = "select count(*) from pg_stat_activity
                     where datname = current_database() and query = 'listen realtime_metadata'";
        Ok(db.client().query_one(query, &[]).await?.get::<_, i64>(0) > 0)
    })
    .await?;
    Ok((directory, stop, task))
}

fn users(tenant: &Arc<Tenant>) -> u32 {
    tenant.limits.max_concurrent_users
}

#[tokio::test]
async fn known_tenants_are_not_asked_for() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    let directory = directory(&store, LONG, None);
    assert!(directory.resolve_cached("t.example").is_none());
    assert!(directory.resolve("t.example:4000").await?.is_none());
    // It is not remembered that there was none.
    store.create("t", &complete("secret")).await?;
    let tenant = directory.resolve("t.example:4000").await?.context("t")?;
    db.sql("delete from _realtime.tenants").await?;
    let again = directory.resolve_cached("t").context("cached")?;
    assert!(Arc::ptr_eq(&tenant, &again));
    assert!(Arc::ptr_eq(&tenant, &directory.resolve("t.a.b.c").await?.context("t")?));
    for host in ["", ".", "T.example", &"x".repeat(300), "u\0v"] {
        assert!(directory.resolve_cached(host).is_none(), "{host}");
    }
    assert!(directory.resolve("T.example").await?.is_some(), "hosts are case insensitive");
    assert!(directory.resolve("u\0v").await?.is_none());
    Ok(())
}

/// http_and_ops 19; changes through one node are known to it at once and to others soon, each told once.
#[tokio::test]
async fn nodes_tell_each_other_of_changes() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    let here = directory(&store, LONG, None);
    let (there, stop, task) = running(&db, &store, LONG).await?;
    let mut news = there.changes();

    here.create("t", &complete("secret")).await?;
    assert!(here.resolve_cached("t").is_some());
    assert!(there.resolve("t").await?.is_some());
    let made = time::timeout(PATIENCE, news.recv()).await??;
    assert_eq!((&*made.external_id, made.before.is_none()), ("t", true));

    let updated = here.update("t", &fields(json!({"max_concurrent_users": 7}))).await?;
    assert_eq!(users(&here.resolve_cached("t").context("here")?), 7);
    let changed = time::timeout(PATIENCE, news.recv()).await??;
    assert_eq!(changed.changed, [Field::MaxConcurrentUsers]);
    assert_eq!(changed.before.as_deref(), Some(&updated.before));
    assert_eq!(changed.after.as_deref(), Some(&updated.after));
    assert_eq!(users(&changed.tenant.context("tenant")?), 7);
    assert_eq!(users(&there.resolve_cached("t").context("there")?), 7);

    // What changes nothing is told to nobody: the next news are those of the removal.
    here.update("t", &fields(json!({"max_concurrent_users": 7}))).await?;
    here.delete("t").await?;
    assert!(here.resolve("t").await?.is_none());
    let gone = time::timeout(PATIENCE, news.recv()).await??;
    assert_eq!(gone.before.as_deref(), Some(&updated.after));
    assert!(gone.after.is_none() && gone.tenant.is_none());
    assert!(there.resolve("t").await?.is_none());
    assert!(news.is_empty());
    stop.cancel();
    task.await?;
    Ok(())
}

#[tokio::test]
async fn changes_in_sql_are_seen_within_the_expiry() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    store.create("t", &complete("secret")).await?;
    store.create("gone", &complete("secret")).await?;
    let (directory, stop, task) = running(&db, &store, Duration::from_millis(400)).await?;
    directory.resolve("t").await?.context("t")?;
    directory.resolve("gone").await?.context("gone")?;
    let mut news = directory.changes();
    db.sql(
        "update _realtime.tenants set suspend = true where external_id = 't';
         delete from _realtime.tenants where external_id = 'gone'",
    )
    .await?;
    // Nobody asks for them, yet both are told: known tenants are read anew.
    let mut told = Vec::new();
    for _ in 0..2 {
        let change = time::timeout(PATIENCE, news.recv()).await??;
        told.push((change.external_id.to_string(), change.changed.clone(), change.after.is_some()));
    }
    told.sort();
    assert_eq!(told, [("gone".to_owned(), vec![], false), ("t".to_owned(), vec![Field::Suspend], true)]);
    stop.cancel();
    task.await?;
    // Without that, whoever asks after the expiry waits for the answer.
    db.sql("update _realtime.tenants set suspend = false").await?;
    until("healed", async || Ok(directory.resolve("t").await?.is_some_and(|tenant| !tenant.suspend))).await
}

#[tokio::test]
async fn many_who_ask_for_the_same_share_a_question() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    store.create("t", &complete("secret")).await?;
    let directory = directory(&store, LONG, None);
    let other = db.connect().await?;
    other.batch_execute("begin; lock table _realtime.tenants in access exclusive mode").await?;
    let begun = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (directory, begun) = (Arc::clone(&directory), Arc::clone(&begun));
        tasks.spawn(async move {
            begun.fetch_add(1, Ordering::Relaxed);
            directory.resolve("t").await.map(|tenant| tenant.is_some())
        });
    }
    let waiting = async || -> Result<i64> {
        let query = "select count(*) from pg_stat_activity
                     where datname = current_database() and wait_event_type = 'Lock'";
        Ok(db.client().query_one(query, &[]).await?.get(0))
    };
    until("asked", async || Ok(begun.load(Ordering::Relaxed) == 100 && waiting().await? > 0)).await?;
    // Whoever asked by himself would be seen by now.
    time::sleep(Duration::from_millis(100)).await;
    assert_eq!(waiting().await?, 1);
    other.batch_execute("commit").await?;
    assert!(tasks.join_all().await.into_iter().all(|found| found == Ok(true)));
    Ok(())
}

#[tokio::test]
async fn floods_of_unknown_names_are_thinned_out() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    store.create("t", &complete("secret")).await?;
    let directory = directory(&store, LONG, None);
    directory.resolve("t").await?.context("t")?;
    let begin = time::Instant::now();
    let mut flooded = 0;
    for number in 0..2000 {
        match directory.resolve(&format!("unknown-{number}")).await {
            Ok(None) => {}
            Err(StoreError::Flooded) => flooded += 1,
            other => panic!("{other:?}"),
        }
    }
    let allowed = 201 + (begin.elapsed().as_secs_f64() * 100.0) as usize;
    assert!(2000 - flooded <= allowed, "{flooded} refused, {allowed} allowed");
    assert!(directory.resolve("t").await?.is_some(), "known tenants do not suffer");
    Ok(())
}

#[tokio::test]
async fn unknown_hosts_mean_the_default_tenant_without_asking_each_time() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    store.create("home", &complete("secret")).await?;
    let directory = directory(&store, LONG, Some("home"));
    assert!(directory.resolve_cached("localhost:4000").is_none());
    let tenant = directory.resolve("localhost:4000").await?.context("home")?;
    assert!(tenant.default);
    assert_eq!(&*directory.resolve_cached("localhost:4000").context("cached")?.external_id, "home");
    // A tenant that is made takes its name at once.
    directory.create("localhost", &complete("secret")).await?;
    assert_eq!(&*directory.resolve_cached("localhost:4000").context("own")?.external_id, "localhost");
    Ok(())
}

/// Self-hosting: the only tenant is meant by `localhost` too, and is served while the metadata database is away.
#[tokio::test]
async fn a_lost_database_does_not_harm_the_default_tenant() -> Result<()> {
    let db = TestDb::new().await?;
    let other = TestDb::new().await?;
    let store = store(&db).await?;
    store.create("home", &complete("secret")).await?;
    let directory = directory(&store, Duration::from_millis(100), Some("home"));
    directory.resolve("localhost:4000").await?.context("home")?;
    let name = db.name();
    other
        .sql(&format!(
            "alter database {name} allow_connections false;
             select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
        ))
        .await?;
    time::sleep(Duration::from_millis(200)).await;
    for _ in 0..5 {
        assert_eq!(&*directory.resolve("localhost:4000").await?.context("away")?.external_id, "home");
    }
    assert!(directory.resolve("never-seen").await.is_err());
    Ok(())
}

/// Known tenants are served while the metadata database is away, unknown ones are an error, and all is well once it
/// is back.
#[tokio::test]
async fn a_lost_database_harms_nobody_who_is_known() -> Result<()> {
    let db = TestDb::new().await?;
    let other = TestDb::new().await?;
    let store = store(&db).await?;
    store.create("t", &complete("secret")).await?;
    let (directory, stop, task) = running(&db, &store, Duration::from_millis(200)).await?;
    directory.resolve("t").await?.context("t")?;
    let name = db.name();
    other
        .sql(&format!(
            "alter database {name} allow_connections false;
             select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
        ))
        .await?;
    // Past the expiry.
    time::sleep(Duration::from_millis(300)).await;
    for _ in 0..20 {
        assert!(directory.resolve("t").await?.is_some());
    }
    let error = directory.resolve("unknown").await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable(_)), "{error}");

    other.sql(&format!("alter database {name} allow_connections true")).await?;
    store.update("t", &fields(json!({"max_concurrent_users": 5}))).await?;
    until("back", async || {
        Ok(directory.resolve("t").await?.is_some_and(|tenant| users(&tenant) == 5)
            && directory.resolve("unknown").await.is_ok())
    })
    .await?;
    stop.cancel();
    task.await?;
    Ok(())
}

/// A write of this node that is learned late does not undo what another wrote after it, whose news came sooner.
#[tokio::test]
async fn a_late_write_does_not_win_over_a_newer_record() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    let here = directory(&store, LONG, None);
    here.create("t", &complete("secret")).await?;
    let other = crate::support::store(&db).await?;
    for attempt in 0..20 {
        let (mine, theirs) = (100 + attempt, 1_000 + attempt);
        let mine_fields = fields(json!({"max_concurrent_users": mine}));
        let mut update = Box::pin(here.update("t", &mine_fields));
        // Polled until it is committed, and not until it is known here.
        let mut over = false;
        loop {
            over = over || poll_fn(|context| Poll::Ready(update.as_mut().poll(context).is_ready())).await;
            time::sleep(Duration::from_millis(20)).await;
            if over || other.get("t").await?.context("t")?.max_concurrent_users == mine {
                break;
            }
        }
        if over {
            continue;
        }
        other.update("t", &fields(json!({"max_concurrent_users": theirs}))).await?;
        here.refresh("t").await?;
        update.await?;
        let known = here.resolve_cached("t").context("t")?;
        assert_eq!(i64::from(users(&known)), i64::from(theirs));
        return Ok(());
    }
    anyhow::bail!("never seen between commit and answer")
}

/// A record that cannot be read, or a number in one, costs neither the other tenants nor what is known of its own.
#[tokio::test]
async fn one_bad_record_harms_only_itself() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    for name in ["good", "huge", "never"] {
        store.create(name, &complete("secret")).await?;
    }
    let (here, stop, task) = running(&db, &store, Duration::from_millis(200)).await?;
    for name in ["good", "huge", "never"] {
        assert!(here.get(name).await?.is_some(), "{name}");
    }
    db.sql(
        "update _realtime.tenants set jwt_jwks = '{\"keys\": [], \"n\": 1e400, \"m\": 1.797e308}' where external_id = 'huge';
         update _realtime.tenants set inserted_at = 'infinity' where external_id = 'never';
         update _realtime.tenants set max_concurrent_users = 9 where external_id = 'good'",
    )
    .await?;
    until("read anew", async || Ok(here.latest("good").is_some_and(|tenant| users(&tenant) == 9))).await?;
    let known = here.latest("huge").context("huge")?;
    assert!(known.jwt_jwks.as_deref().is_some_and(|jwks| jwks.contains("keys")), "{known:?}");
    assert!(here.latest("never").is_some(), "it is not gone");
    let listed: Vec<_> = store.list().await?.into_iter().map(|record| record.external_id).collect();
    assert_eq!(listed, ["good", "huge"]);
    let page: Vec<_> = store.page(None, 9).await?.into_iter().map(|record| record.external_id).collect();
    assert_eq!(page, ["good", "huge"]);
    assert!(store.get("never").await.is_err());
    let changed = store.update("huge", &fields(json!({"max_concurrent_users": 8}))).await?;
    let jwks = changed.after.jwt_jwks.context("jwks")?;
    assert_eq!((&jwks["keys"], &jwks["n"]), (&json!([]), &json!(null)));
    stop.cancel();
    Ok(task.await?)
}
