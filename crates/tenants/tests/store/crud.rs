use anyhow::Result;
use realtime_tenants::{Field, StoreError};
use realtime_testkit::TestDb;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::support::{bare, ciphers, complete, fields, store};

/// http_and_ops 8, 9
#[tokio::test]
async fn secrets_are_stored_encrypted() -> Result<()> {
    let db = TestDb::new().await?;
    for write_gcm in [false, true] {
        let store = bare(&db, ciphers(write_gcm)).await?;
        store.set_up().await?;
        let name = if write_gcm { "new" } else { "old" };
        let made = store.create(name, &complete("the-secret")).await?;
        assert_eq!(made.name.as_deref(), Some(name));
        assert_eq!(made.broadcast_adapter.as_deref(), Some("gen_rpc"));
        assert_eq!(
            (made.max_concurrent_users, made.max_channels_per_client, made.max_joins_per_second),
            (200, 100, 100)
        );

        let rows = db
            .client()
            .query_one(
                "select jwt_secret, settings::text from _realtime.tenants t
                 join _realtime.extensions e on tenant_external_id = external_id where external_id = $1",
                &[&name],
            )
            .await?;
        let stored = format!("{} {}", rows.get::<_, String>(0), rows.get::<_, String>(1));
        for clear in ["the-secret", "db.internal", "5432", "\"app\"", "\"me\"", "pa55word"] {
            assert!(!stored.contains(clear), "{stored}");
        }
        assert_eq!(stored.contains("g1:"), write_gcm);

        let read = store.get(name).await?.unwrap();
        assert_eq!(read, made);
        assert_eq!(store.list().await?.len(), 1 + usize::from(write_gcm));
        let secret = read.decrypt_jwt_secret(store.ciphers())?.unwrap();
        assert_eq!(secret.expose_secret(), "the-secret");
        let host = read.database().unwrap().decrypt("db_host", store.ciphers())?.unwrap();
        assert_eq!(host.expose_secret(), "db.internal");
        let text = format!("{read:?}");
        assert!(!text.contains("the-secret") && !text.contains(read.jwt_secret.unwrap().as_str()), "{text}");
    }
    Ok(())
}

/// http_and_ops 12, 13, 14
#[tokio::test]
async fn given_fields_change_and_others_stay() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    let made = store.create("t", &complete("secret")).await?;
    assert_eq!((made.max_client_presence_events_per_window, made.client_presence_window_ms), (None, None));

    let change = json!({
        "max_client_presence_events_per_window": 42, "client_presence_window_ms": 5000,
        "presence_enabled": true, "name": "People's name", "external_id": "renamed",
    });
    let updated = store.update("t", &fields(change)).await?;
    assert_eq!(
        updated.changed,
        [
            Field::Name,
            Field::MaxClientPresenceEventsPerWindow,
            Field::ClientPresenceWindowMs,
            Field::PresenceEnabled
        ]
    );
    let read = store.get("t").await?.unwrap();
    assert_eq!(read, updated.after);
    assert_eq!(read.max_client_presence_events_per_window, Some(42));
    assert!(read.presence_enabled);
    assert_eq!((&read.jwt_secret, &read.extensions), (&made.jwt_secret, &made.extensions));

    let settings = |pool: (&str, i32)| {
        let mut settings = json!({
            "region": "us-east-1", "db_host": "db", "db_port": "1", "db_name": "a", "db_user": "b", "db_password": "c",
        });
        settings[pool.0] = pool.1.into();
        fields(json!({"extensions": [{"type": "postgres_cdc_rls", "settings": settings}]}))
    };
    let updated = store.update("t", &settings(("subcriber_pool_size", 3))).await?;
    assert_eq!(updated.changed, [Field::Extensions]);
    assert_ne!(updated.after.extensions[0].id, made.extensions[0].id);
    assert_eq!(updated.after.database().unwrap().integer("subcriber_pool_size"), Some(3));
    let updated = store.update("t", &settings(("postgres_changes_pool", 10))).await?;
    assert_eq!(updated.after.database().unwrap().settings["subcriber_pool_size"], 10);
    assert_eq!(store.get("t").await?.unwrap().extensions, updated.after.extensions);
    Ok(())
}

/// http_and_ops 19
#[tokio::test]
async fn what_is_the_same_is_no_change() -> Result<()> {
    let db = TestDb::new().await?;
    for (name, write_gcm) in [("old", false), ("new", true)] {
        let store = bare(&db, ciphers(write_gcm)).await?;
        store.set_up().await?;
        let made = store.create(name, &complete("secret")).await?;
        let again = store.update(name, &complete("secret")).await?;
        assert_eq!(again.changed, []);
        assert_eq!(store.get(name).await?, Some(made));
        let other = store.update(name, &complete("another")).await?;
        assert_eq!(other.changed, [Field::JwtSecret]);
    }
    Ok(())
}

/// http_and_ops 15, 18
#[tokio::test]
async fn wrong_changes_change_nothing() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    let made = store.create("t", &complete("secret")).await?;

    let error = store.create("t", &complete("other")).await.unwrap_err();
    assert_eq!(error, StoreError::Taken { field: "external_id" });
    assert_eq!(error.field_errors().unwrap().to_json(), json!({"external_id": ["has already been taken"]}));
    let keyless = fields(json!({"name": "x", "jwt_secret": null}));
    let error = store.update("t", &keyless).await.unwrap_err();
    assert_eq!(error, StoreError::KeyRequired);
    assert_eq!(
        error.field_errors().unwrap().to_json(),
        json!({"jwt_secret": ["either jwt_secret or jwt_jwks must be provided"]})
    );
    assert_eq!(store.create("u", &keyless).await.unwrap_err(), StoreError::KeyRequired);
    assert_eq!(store.update("u", &complete("x")).await.unwrap_err(), StoreError::NotFound { what: "tenant" });
    let twice: Value = json!([
        {"type": "other", "settings": {}}, {"type": "other", "settings": {}},
    ]);
    let error = store.update("t", &fields(json!({"extensions": twice}))).await.unwrap_err();
    assert_eq!(error, StoreError::Taken { field: "extensions" });
    assert_eq!(store.list().await?, [made]);
    Ok(())
}

/// http_and_ops 23, 24
#[tokio::test]
async fn removal_takes_the_extensions_along() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    let made = store.create("t", &complete("secret")).await?;
    assert_eq!(store.delete("t").await?, Some(made));
    assert_eq!(store.delete("t").await?, None);
    let left: i64 = db.client().query_one("select count(*) from _realtime.extensions", &[]).await?.get(0);
    assert_eq!(left, 0);
    Ok(())
}

#[tokio::test]
async fn key_sets_alone_are_enough() -> Result<()> {
    let db = TestDb::new().await?;
    let store = bare(&db, realtime_tenants::Ciphers::default()).await?;
    store.set_up().await?;
    let made = store.create("t", &fields(json!({"jwt_jwks": {"keys": []}}))).await?;
    assert_eq!(made.jwt_secret, None);
    assert_eq!(store.get("t").await?.unwrap().jwt_jwks, Some(json!({"keys": []})));
    // Without keys of our own no secret can be kept.
    let error = store.create("u", &complete("secret")).await.unwrap_err();
    assert!(matches!(error, StoreError::Cipher(_)), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_lost_database_is_told() -> Result<()> {
    let db = TestDb::new().await?;
    let mut config = crate::support::config(&db, ciphers(false)).await?;
    config.port = 1;
    let error = realtime_tenants::Store::new(config)?.list().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable(_)), "{error}");
    assert!(!error.to_string().contains("password"), "{error}");
    Ok(())
}
