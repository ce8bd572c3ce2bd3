//! What operators are shown of a database.

use std::time::SystemTime;

use anyhow::{Context as _, Result};
use realtime_postgres::{DatabaseConfig, Origin, look, look_at_schema};
use realtime_testkit::{MAX_CONNECTIONS, TestDb};

use crate::support::{config, open};

#[tokio::test]
async fn a_database_and_its_slots() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let config = config(&db).await?;
    let slot = format!("{}_slot", db.name());
    db.sql(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await?;
    let before = look(&config).await?;
    assert!(before.version.starts_with("PostgreSQL "), "{before:?}");
    assert_eq!((&*before.wal_level, before.published), ("logical", Some(1)));
    assert_eq!(before.max_connections, MAX_CONNECTIONS.to_string());
    assert!(before.sessions >= 1);
    db.sql("insert into public.test (details) select repeat('x', 1000) from generate_series(1, 1000)")
        .await?;
    let after = look(&config).await?;
    db.sql(&format!("select pg_drop_replication_slot('{slot}')")).await?;
    let [was, is] = [before, after].map(|facts| facts.slots.into_iter().find(|found| found.name == slot));
    let (was, is) = (was.context("slot")?, is.context("slot")?);
    assert_eq!((is.plugin.as_deref(), is.active, is.temporary), (Some("pgoutput"), false, false));
    assert_eq!(is.wal_status.as_deref(), Some("reserved"));
    assert!(is.lag_bytes > was.lag_bytes.map(|lag| lag + 1_000_000.0), "{was:?} {is:?}");

    let other = DatabaseConfig { publication: "nobody's".to_owned(), ..config.clone() };
    assert_eq!(look(&other).await?.published, None);
    let gone = DatabaseConfig { port: 1, ..config };
    assert!(look(&gone).await.is_err());
    Ok(())
}

/// What is planned is what a set-up does, and looking does not do it.
#[tokio::test]
async fn what_a_set_up_would_do() -> Result<()> {
    let db = TestDb::new().await?;
    let config = config(&db).await?;
    let now = SystemTime::now();
    let planned = look_at_schema(&config, now).await?;
    assert_eq!((planned.origin, planned.migrations.len()), (Origin::Ours, 0));
    assert!(planned.plan.iter().all(|step| !step.sql.is_empty()));
    assert_eq!(look_at_schema(&config, now).await?, planned);
    let report = open(config.clone()).set_up_schema(now, true).await?;
    let planned: Vec<_> = planned.plan.into_iter().map(|step| step.what).collect();
    assert_eq!(report.changed, planned);
    assert_eq!(look_at_schema(&config, now).await?.plan, []);

    db.sql(
        "create table realtime.schema_migrations (version bigint primary key, inserted_at timestamp(0));
         insert into realtime.schema_migrations values (20211116024918, '2024-01-02 03:04:05'), (20211116045059, null)",
    )
    .await?;
    let supabase = look_at_schema(&config, now).await?;
    assert_eq!(supabase.origin, Origin::Supabase(Some(2)));
    let expected = [
        ("20211116024918".to_owned(), Some("2024-01-02T03:04:05".to_owned())),
        ("20211116045059".to_owned(), None),
    ];
    assert_eq!(supabase.migrations, expected);
    Ok(())
}
