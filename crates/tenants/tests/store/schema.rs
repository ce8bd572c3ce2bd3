use anyhow::Result;
use realtime_tenants::{Ciphers, Store, StoreError};
use realtime_testkit::TestDb;

use crate::support::{bare, ciphers, complete, config};

/// Versions in `schema_migrations` and columns of `tenants`.
async fn counts(db: &TestDb) -> Result<(i64, i64)> {
    let row = db
        .client()
        .query_one(
            "select (select count(*) from _realtime.schema_migrations),
                (select count(*) from information_schema.columns
                 where table_schema = '_realtime' and table_name = 'tenants')",
            &[],
        )
        .await?;
    Ok((row.get(0), row.get(1)))
}

#[tokio::test]
async fn a_second_set_up_finds_nothing_to_do() -> Result<()> {
    let db = TestDb::new().await?;
    let store = bare(&db, Ciphers::default()).await?;
    let changed = store.set_up().await?;
    assert!(changed.iter().any(|line| line == "Create table tenants"), "{changed:?}");
    assert!(changed.iter().any(|line| line.contains("33 migrations")), "{changed:?}");
    assert_eq!(counts(&db).await?, (33, 27));
    assert_eq!(store.set_up().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn nodes_may_set_up_together() -> Result<()> {
    let db = TestDb::new().await?;
    let mut nodes = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let store = bare(&db, Ciphers::default()).await?;
        nodes.spawn(async move { store.set_up().await });
    }
    let changed: Vec<_> = nodes.join_all().await.into_iter().collect::<Result<_, _>>()?;
    assert_eq!(changed.iter().filter(|changed| !changed.is_empty()).count(), 1, "{changed:?}");
    Ok(())
}

/// What one release of the reference after another made: columns, null or not, and rows are as it left them.
#[tokio::test]
async fn an_older_schema_is_completed() -> Result<()> {
    let db = TestDb::new().await?;
    let store = bare(&db, ciphers(false)).await?;
    store.set_up().await?;
    store.create("old", &complete("secret")).await?;
    db.sql(
        "alter table _realtime.tenants
             drop column gcm_migrated_at, drop column feature_flags, drop column presence_enabled,
             drop column client_presence_window_ms, drop column max_client_presence_events_per_window,
             drop constraint jwt_secret_or_jwt_jwks_required, alter column jwt_secret set not null;
         drop table _realtime.feature_flags;
         drop index _realtime.extensions_tenant_external_id_type_index;
         delete from _realtime.schema_migrations where version > 20250711044927;",
    )
    .await?;
    let changed = store.set_up().await?;
    for expected in [
        "Add column gcm_migrated_at to tenants",
        "Allow jwt_secret of tenants to be null",
        "Create table feature_flags",
        "Create index extensions_tenant_external_id_type_index",
        "Add constraint jwt_secret_or_jwt_jwks_required",
        "Record 9 migrations of Supabase Realtime as done",
    ] {
        assert!(changed.iter().any(|line| line == expected), "{expected}: {changed:?}");
    }
    assert_eq!(counts(&db).await?, (33, 27));
    let old = store.get("old").await?.unwrap();
    assert!(!old.presence_enabled && old.feature_flags.is_empty() && old.extensions.len() == 1);
    assert_eq!(store.set_up().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn where_the_tables_are_is_for_the_operator_to_say() -> Result<()> {
    let db = TestDb::new().await?;
    db.sql("create schema elsewhere").await?;
    let mut config = config(&db, Ciphers::default()).await?;
    config.after_connect = Some("SET search_path TO elsewhere".to_owned());
    let store = Store::new(config.clone())?;
    store.set_up().await?;
    db.sql("select from elsewhere.tenants, elsewhere.schema_migrations").await?;
    let made: bool =
        db.client().query_one("select to_regnamespace('_realtime') is not null", &[]).await?.get(0);
    assert!(!made);

    config.after_connect = Some("SET search_path TO nowhere".to_owned());
    let error = Store::new(config)?.set_up().await.unwrap_err();
    assert!(matches!(error, StoreError::SetUp { .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn connections_have_the_name_that_operators_know() -> Result<()> {
    let db = TestDb::new().await?;
    let store = bare(&db, Ciphers::default()).await?;
    let name: String = store.client().await?.query_one("show application_name", &[]).await?.get(0);
    assert_eq!(name, "supabase_mt_realtime");
    Ok(())
}
