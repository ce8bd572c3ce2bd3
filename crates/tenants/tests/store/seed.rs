use std::time::Duration;

use anyhow::{Context as _, Result};
use realtime_tenants::{Field, GCM_BACKFILL, Seed, SeedPlace, Seeded, Store};
use realtime_testkit::TestDb;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::support::{complete, directory, fields, store};

fn seed(secret: Option<&str>, host: &str) -> Seed {
    Seed {
        external_id: "home".to_owned(),
        jwt_secret: secret.map(Into::into),
        fallback_secret: "known to everybody".into(),
        jwt_jwks: None,
        presence_enabled: false,
        place: SeedPlace {
            host: host.to_owned(),
            port: 5433,
            name: "postgres".to_owned(),
            user: "supabase_admin".to_owned(),
            password: "pw".into(),
            publication: "supabase_realtime".to_owned(),
            ssl_enforced: false,
        },
    }
}

async fn seen(store: &Store) -> Result<(String, String)> {
    let tenant = directory(store, Duration::ZERO, Some("home")).get("home").await?.context("home")?;
    Ok((
        tenant.jwt_secret.as_ref().context("secret")?.expose_secret().to_owned(),
        tenant.database.host.clone(),
    ))
}

/// spec README, decision 11
#[tokio::test]
async fn seeding_leaves_what_an_operator_changed() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    let Seeded::Created(made) = store.seed(&seed(None, "db")).await? else { panic!("not created") };
    assert_eq!(seen(&store).await?, ("known to everybody".to_owned(), "db".to_owned()));
    assert_eq!(made.database().context("database")?.text("region"), Some("us-east-1"));
    assert!(store.flag(GCM_BACKFILL).await?.is_some_and(|flag| flag.enabled));

    let Seeded::Updated(same) = store.seed(&seed(None, "db")).await? else { panic!("created again") };
    assert_eq!(same.changed, []);

    let mut settings = json!({"publication": "mine", "db_pool": 7, "region": "eu-west-1", "db_host": "db",
        "db_port": "5433", "db_name": "postgres", "db_user": "supabase_admin", "db_password": "pw"});
    settings["ssl_enforced"] = false.into();
    let own = json!({"max_concurrent_users": 9, "private_only": true, "name": "Home",
        "extensions": [{"type": "postgres_cdc_rls", "settings": settings}, {"type": "other", "settings": {"a": 1}}]});
    store.update("home", &fields(own)).await?;
    let Seeded::Updated(moved) = store.seed(&seed(Some("a secret"), "elsewhere")).await? else {
        panic!("created again")
    };
    assert_eq!(moved.changed, [Field::JwtSecret, Field::Extensions]);
    assert_eq!(seen(&store).await?, ("a secret".to_owned(), "elsewhere".to_owned()));
    let after = store.get("home").await?.context("home")?;
    assert_eq!((after.max_concurrent_users, after.private_only), (9, true));
    assert_eq!(after.name.as_deref(), Some("Home"));
    let database = after.database().context("database")?;
    assert_eq!((database.text("publication"), database.integer("db_pool")), (Some("mine"), Some(7)));
    assert_eq!(after.extensions.len(), 2);
    // A secret that the environment does not say stays.
    store.seed(&seed(None, "elsewhere")).await?;
    assert_eq!(seen(&store).await?.0, "a secret");
    Ok(())
}

#[tokio::test]
async fn nodes_may_seed_together() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    store.create("other", &complete("x")).await?;
    let mut nodes = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let store = store.clone();
        nodes.spawn(async move { store.seed(&seed(Some("s"), "db")).await });
    }
    let seeded: Vec<_> = nodes.join_all().await.into_iter().collect::<Result<_, _>>()?;
    assert_eq!(seeded.iter().filter(|seeded| matches!(seeded, Seeded::Created(_))).count(), 1);
    assert_eq!(store.list().await?.len(), 2);
    Ok(())
}
