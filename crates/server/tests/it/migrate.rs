//! `realtime migrate` as operators meet it.

use anyhow::Result;
use realtime_testkit::TestDb;
use tokio::process::Command;

use crate::BINARY;

async fn migrate(db: &TestDb, further: &[(&str, &str)]) -> Result<(Option<i32>, Vec<String>)> {
    let output = Command::new(BINARY)
        .arg("migrate")
        .env_clear()
        .envs(db.env().await?)
        .envs(further.iter().copied())
        .output()
        .await?;
    let lines = String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
    Ok((output.status.code(), lines))
}

#[tokio::test]
async fn prints_what_changed() -> Result<()> {
    let db = TestDb::new().await?;
    let (code, lines) = migrate(&db, &[]).await?;
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(lines[0].starts_with(&format!("Tenant realtime-dev: database {} at 127.0.0.1:", db.name())));
    assert_eq!(lines[1], "  Create schema realtime");
    assert_eq!(
        lines.last().map(String::as_str),
        Some("  Create publication supabase_realtime_messages_publication")
    );
    assert_eq!(lines.len(), 18, "{lines:#?}");
    db.sql("select realtime.send('{}', 'e', 'T')").await?;
    let (code, lines) = migrate(&db, &[]).await?;
    assert_eq!((code, &lines[1..]), (Some(0), &["  Nothing to change".to_owned()][..]));
    // By hand, roles that came later get their rights, too.
    db.sql("revoke all on realtime.messages from anon; revoke usage on schema realtime from anon").await?;
    let (_, lines) = migrate(&db, &[]).await?;
    assert_eq!(lines[1], "  Grant anon the use of schema realtime and of its messages");
    Ok(())
}

#[tokio::test]
async fn tells_what_it_could_not_do() -> Result<()> {
    let db = TestDb::new().await?;
    db.sql(&format!("create role lesser_{0} login password 'x'", db.name())).await?;
    let user = format!("lesser_{}", db.name());
    let (code, lines) = migrate(&db, &[("DB_USER", &user), ("DB_PASSWORD", "x")]).await?;
    assert_eq!(code, Some(1));
    let expected = format!(
        "  Failed, nothing was changed: MigrationsFailedToRun: Create schema realtime: db error: ERROR: permission denied \
         for database {}",
        db.name()
    );
    assert_eq!(&lines[1..], &[expected]);
    let (code, lines) = migrate(&db, &[("DB_PORT", "1")]).await?;
    assert_eq!(code, Some(1));
    assert!(
        lines[1].starts_with("  Failed, nothing was changed: Cannot connect to the database"),
        "{lines:?}"
    );
    let (code, _) = migrate(&db, &[("DB_PORT", "x")]).await?;
    assert_eq!(code, Some(64));
    Ok(())
}

/// With a key the metadata database is set up first, then the databases of the tenants in it.
#[tokio::test]
async fn prepares_the_metadata_too() -> Result<()> {
    let db = TestDb::new().await?;
    let key = ("DB_ENC_KEY", "supabaserealtime");
    let (code, lines) = migrate(&db, &[key]).await?;
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(lines[0].starts_with(&format!("Metadata: database {} at 127.0.0.1:", db.name())), "{lines:#?}");
    assert_eq!(lines[1], "  Create schema _realtime");
    assert_eq!(lines.last().map(String::as_str), Some("There is no tenant whose database could be set up"));
    let seeded = [key, ("SEED_SELF_HOST", "true"), ("API_JWT_SECRET", "s")];
    let (code, lines) = migrate(&db, &seeded).await?;
    assert_eq!(code, Some(0), "{lines:#?}");
    assert_eq!(lines[1], "  Make tenant realtime-dev");
    assert!(lines[2].starts_with("Tenant realtime-dev: database "), "{lines:#?}");
    let (_, lines) = migrate(&db, &seeded).await?;
    assert_eq!((lines[1].as_str(), lines[3].as_str()), ("  Nothing to change", "  Nothing to change"));
    // Another key: the tenant cannot be read, and that is told.
    let (code, lines) = migrate(&db, &[("DB_ENC_KEY", "another16bytekey")]).await?;
    assert_eq!(code, Some(1));
    assert!(lines[2].starts_with("Tenant realtime-dev: cannot be served: "), "{lines:#?}");
    let (code, _) = migrate(&db, &[("DB_ENC_KEY", "short")]).await?;
    assert_eq!(code, Some(64));
    Ok(())
}

/// What a set-up cannot mend is told, with what mends it.
#[tokio::test]
async fn tells_what_it_does_not_mend() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("realtime-migrate-").tempdir()?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let options = realtime_localpg::ClusterOptions {
        bin_dir: std::env::var_os("REALTIME_PG_BIN").map(Into::into),
        data_dir: dir.path().join("pg"),
        install: true,
        durable: false,
        settings: vec!["wal_level=replica".to_owned()],
        ..realtime_localpg::ClusterOptions::default()
    };
    let cluster = realtime_localpg::Cluster::start(options, &|_| {}).await?;
    let output = Command::new(BINARY)
        .arg("migrate")
        .env_clear()
        .envs([("DB_HOST", cluster.host()), ("DB_USER", cluster.user()), ("DB_PASSWORD", cluster.password())])
        .env("DB_PORT", cluster.port().to_string())
        .output()
        .await?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("  Failed: wal_level is replica") && text.contains("alter system set wal_level"),
        "{text}"
    );
    assert!(
        text.contains("  Note: there is no publication supabase_realtime")
            && text.contains("create publication")
    );
    cluster.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_dry_run_changes_nothing() -> Result<()> {
    let db = TestDb::new().await?;
    for _ in 0..2 {
        let output = Command::new(BINARY)
            .args(["migrate", "--dry-run"])
            .env_clear()
            .envs(db.env().await?)
            .output()
            .await?;
        let text = String::from_utf8(output.stdout)?;
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains("\n  Would create schema realtime\n"), "{text}");
    }
    let made = db.client().query_one("select to_regnamespace('realtime') is not null", &[]).await?;
    assert!(!made.get::<_, bool>(0));
    // With a metadata database, too.
    let (code, lines) = {
        let output = Command::new(BINARY)
            .args(["migrate", "--dry-run"])
            .env_clear()
            .envs(db.env().await?)
            .env("DB_ENC_KEY", "0123456789abcdef")
            .output()
            .await?;
        (output.status.code(), String::from_utf8(output.stdout)?)
    };
    assert_eq!(code, Some(0), "{lines}");
    assert!(lines.contains("  Would create schema _realtime"), "{lines}");
    Ok(())
}
