use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use realtime_tenants::{FlagFields, GCM_BACKFILL, Store, TenantRecord};
use realtime_testkit::TestDb;
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::support::{LEGACY_KEY, bare, ciphers, complete, directory, fields, template, until};

async fn taken_over(db: &TestDb, write_gcm: bool) -> Result<Store> {
    db.connect().await?.batch_execute(include_str!("reference.sql")).await?;
    let store = bare(db, ciphers(write_gcm)).await?;
    store.set_up().await?;
    Ok(store)
}

/// What `openssl` decrypts of a value of the older form.
async fn openssl_decrypt(value: &str) -> Result<String> {
    let key: String = LEGACY_KEY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut openssl = Command::new("openssl")
        .args(["enc", "-d", "-aes-128-ecb", "-base64", "-A", "-K", &key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    openssl.stdin.take().context("stdin")?.write_all(value.as_bytes()).await?;
    let output = openssl.wait_with_output().await?;
    assert!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn clear(record: &TenantRecord, store: &Store) -> (String, String, u16, String) {
    let tenant = record.tenant(store.ciphers(), &template(None)).unwrap();
    (
        tenant.jwt_secret.unwrap().expose_secret().to_owned(),
        tenant.database.host,
        tenant.database.port,
        tenant.database.password.expose_secret().to_owned(),
    )
}

/// http_and_ops 38; tenants of an older release are read with both ciphers, and what is written is what the
/// reference reads.
#[tokio::test]
async fn takeover_of_metadata() -> Result<()> {
    let db = TestDb::new().await?;
    let store = taken_over(&db, false).await?;
    let tenants = store.list().await?;
    let [new, old] = &tenants[..] else { panic!("two tenants expected: {tenants:?}") };
    let pa = "pa55word".to_owned();
    assert_eq!(
        clear(old, &store),
        ("old secret of thirty-two characters".to_owned(), "db.old.example".to_owned(), 5433, pa.clone())
    );
    assert_eq!(
        clear(new, &store),
        ("new secret of thirty-two characters".to_owned(), "db.new.example".to_owned(), 6543, pa)
    );
    assert_eq!((old.max_concurrent_users, old.private_only, old.migrations_ran), (321, true, Some(63)));
    assert_eq!((new.max_presence_events_per_second, new.presence_enabled), (Some(1000), false));
    let tenant = new.tenant(store.ciphers(), &template(None))?;
    assert_eq!((tenant.database.pool_size, &*tenant.database.user), (7, "realtime"));

    // Updated, and read by the reference's rules.
    let change = json!({"jwt_secret": "changed secret of thirty-two characters", "max_joins_per_second": 5});
    store.update("old", &fields(change)).await?;
    let row = db
        .client()
        .query_one(
            "select jwt_secret, max_joins_per_second, settings ->> 'db_host'
             from _realtime.tenants join _realtime.extensions on tenant_external_id = external_id
             where external_id = 'old'",
            &[],
        )
        .await?;
    assert_eq!(openssl_decrypt(row.get(0)).await?, "changed secret of thirty-two characters");
    assert_eq!(row.get::<_, i32>(1), 5);
    assert_eq!(openssl_decrypt(row.get(2)).await?, "db.old.example");
    Ok(())
}

async fn backfill_flag(store: &Store, enabled: bool) -> Result<()> {
    let flag =
        FlagFields { name: GCM_BACKFILL.to_owned(), enabled, rollout_percentage: 100, bucket_key: None };
    store.create_flag(&flag).await?;
    Ok(())
}

/// http_and_ops 63
#[tokio::test]
async fn secrets_are_moved_in_the_background() -> Result<()> {
    let db = TestDb::new().await?;
    let store = taken_over(&db, true).await?;
    backfill_flag(&store, true).await?;
    let before = store.get("old").await?.context("old")?;
    let directory = directory(&store, Duration::from_secs(60), None);
    let mut changes = directory.changes();
    directory.get("old").await?.context("old")?;
    let _ = changes.try_recv()?;
    until("moved", async || Ok(store.get("old").await?.is_some_and(|old| old.gcm_migrated_at.is_some())))
        .await?;
    let after = store.get("old").await?.context("old")?;
    assert!(before.has_legacy_ciphertext() && !after.has_legacy_ciphertext());
    assert_eq!(clear(&after, &store), clear(&before, &store));
    assert_eq!(after.updated_at, before.updated_at);
    // It is no change that anybody would be disconnected for.
    directory.refresh("old").await?;
    assert!(changes.is_empty());
    Ok(())
}

/// http_and_ops 63
#[tokio::test]
async fn whoever_rotates_a_secret_at_the_same_time_wins() -> Result<()> {
    let db = TestDb::new().await?;
    let store = taken_over(&db, true).await?;
    let read = store.get("old").await?.context("old")?;
    bare(&db, ciphers(false)).await?.update("old", &fields(json!({"jwt_secret": "rotated"}))).await?;
    assert!(!store.move_secrets(&read).await?);
    let after = store.get("old").await?.context("old")?;
    let (secret, host, ..) = clear(&after, &store);
    assert_eq!((secret.as_str(), host.as_str()), ("rotated", "db.old.example"));
    assert!(after.jwt_secret.as_ref().is_some_and(|secret| secret.is_legacy()));
    assert_eq!(after.gcm_migrated_at, None);
    // The next time all is moved.
    assert!(store.move_secrets(&after).await?);
    let after = store.get("old").await?.context("old")?;
    assert!(after.gcm_migrated_at.is_some() && !after.has_legacy_ciphertext());
    // A secret that is written in the older form again makes it due again.
    bare(&db, ciphers(false)).await?.update("old", &complete("third")).await?;
    assert_eq!(store.get("old").await?.context("old")?.gcm_migrated_at, None);
    Ok(())
}

/// http_and_ops 63
#[tokio::test]
async fn secrets_stay_where_moving_is_not_wanted() -> Result<()> {
    for (write_gcm, flag) in [(false, Some(true)), (true, Some(false)), (true, None)] {
        let db = TestDb::new().await?;
        let store = taken_over(&db, write_gcm).await?;
        if let Some(enabled) = flag {
            backfill_flag(&store, enabled).await?;
        }
        let before = store.get("old").await?;
        let directory = directory(&store, Duration::from_secs(60), None);
        directory.get("old").await?.context("old")?;
        directory.backfills_done().await;
        assert_eq!(store.get("old").await?, before, "{write_gcm} {flag:?}");
    }
    Ok(())
}

/// http_and_ops 63
#[tokio::test]
async fn secrets_that_cannot_be_read_stay() -> Result<()> {
    let db = TestDb::new().await?;
    taken_over(&db, true).await?;
    let other = realtime_tenants::Ciphers::new(
        Some(&"another16bytekey".into()),
        Some(&crate::support::GCM_KEY.into()),
        true,
    )?;
    let store = bare(&db, other).await?;
    let before = store.get("old").await?.context("old")?;
    let error = store.move_secrets(&before).await.unwrap_err();
    assert!(matches!(error, realtime_tenants::StoreError::Cipher(_)), "{error}");
    assert_eq!(store.get("old").await?.context("old")?, before);
    // Nor can the tenant be served; that is told, not guessed.
    assert!(directory(&store, Duration::from_secs(60), None).get("old").await?.is_none());
    Ok(())
}
