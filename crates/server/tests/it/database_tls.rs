//! TLS to databases, against a real PostgreSQL with certificates made here (tenant_database 8.4, http_and_ops 5).

use anyhow::{Context as _, Result};
use realtime_testkit::{Server, ServerOptions, TestDb, Version, until};
use serde_json::json;

use crate::{BINARY, authority::Authority};

const TOPIC: &str = "realtime:any";

fn options(variables: &[(&str, &str)]) -> ServerOptions {
    variables.iter().fold(ServerOptions::default(), |options, (name, value)| options.env(name, value))
}

/// Whether the connections of the server are encrypted, by name: one for queries, one for replication.
async fn encrypted(db: &TestDb) -> Result<Vec<(String, bool)>> {
    let rows = db
        .client()
        .query(
            "select distinct a.application_name, s.ssl
             from pg_stat_activity a join pg_stat_ssl s using (pid)
             where a.application_name in ('realtime', 'realtime_replication') order by 1",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What a server with these settings logs when it cannot reach its database.
async fn refused(db: &TestDb, variables: &[(&str, &str)]) -> Result<String> {
    let server = Server::start(BINARY, db, options(variables)).await?;
    let line = server.logged("UnableToConnectToTenantDatabase").await?;
    // Clients get the reason that they know, and nothing of the certificate.
    let mut socket = server.socket(Version::V2, "anon").await?;
    let (reply, _) = socket.join(TOPIC, json!({"config": {"private": true}})).await?;
    let reason = reply["response"]["reason"].as_str().with_context(|| reply.to_string())?;
    assert!(
        reason.starts_with("UnableToConnectToProject: ") || reason.starts_with("DatabaseConnectionRateLimit"),
        "{reason}"
    );
    Ok(line)
}

/// tenant_database 76: every mode, for queries and for replication; rows arrive through each
#[tokio::test]
async fn every_mode_of_tls() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new(dir.path(), "ca")?;
    let (certificate, key) = authority.sign("localhost")?;
    let db = TestDb::with_tls(certificate, key).await?;
    db.make_fixture_a().await?;
    let ca = authority.file.to_str().context("path")?;
    let modes: [(&[(&str, &str)], bool); 8] = [
        (&[], false),
        (&[("DB_SSL", "false"), ("DB_SSL_CA_CERT", "/nowhere")], false),
        // Without a place for temporary files there is one in memory.
        (&[("DB_SSL", "true"), ("TMPDIR", "/nowhere")], true),
        (&[("DB_SSL", "true"), ("DB_SSL_CA_CERT", ca), ("DB_HOST", "localhost")], true),
        (&[("DB_SSL_MODE", "prefer")], true),
        (&[("DB_SSL_MODE", "require"), ("DB_IP_VERSION", "ipv4")], true),
        (&[("DB_SSL_MODE", "verify-ca"), ("DB_SSL_CA_CERT", ca)], true),
        (
            &[
                ("DB_SSL_MODE", "verify-full"),
                ("DB_SSL_CA_CERT", ca),
                ("DB_HOST", "localhost"),
                ("DB_IP_VERSION", "ipv4"),
                ("DB_ENC_KEY", "1234567890123456"),
            ],
            true,
        ),
    ];
    for (variables, ssl) in modes {
        let server = Server::start(BINARY, &db, options(variables)).await?;
        let mut socket = server.socket(Version::V2, "anon").await?;
        let all = json!([{"schema": "public", "table": "test"}]);
        socket.watch(TOPIC, all).await.with_context(|| format!("{variables:?}: {}", server.log()))?;
        db.sql("insert into public.test (details) values (repeat('x', 100000))").await?;
        let change = socket.event(TOPIC, "postgres_changes").await?;
        assert_eq!(change["data"]["record"]["details"].as_str().map(str::len), Some(100_000));
        let expected = [("realtime".to_owned(), ssl), ("realtime_replication".to_owned(), ssl)];
        assert_eq!(encrypted(&db).await?, expected, "{variables:?}");
        if variables.iter().any(|(name, _)| *name == "DB_ENC_KEY") {
            let query = "select count(*) filter (where ssl) > 0, count(*) filter (where not ssl)
                from pg_stat_activity join pg_stat_ssl using (pid)
                where application_name = 'supabase_mt_realtime'";
            let row = db.client().query_one(query, &[]).await?;
            assert_eq!((row.get::<_, bool>(0), row.get::<_, i64>(1)), (true, 0), "the metadata database");
        }
        drop(socket);
        server.stop().await?;
        // The database may notice it a moment later: the next one is looked at alone.
        until("its connections end", || async { Ok(encrypted(&db).await?.is_empty()) }).await?;
    }
    Ok(())
}

/// tenant_database 76: who cannot be trusted is not talked to, and the log says why
#[tokio::test]
async fn servers_that_prove_nothing_are_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new(dir.path(), "ca")?;
    let other = Authority::new(dir.path(), "other")?;
    let (certificate, key) = authority.sign("localhost")?;
    let db = TestDb::with_tls(certificate, key).await?;
    let (ca, other) = (authority.file.to_str().context("path")?, other.file.to_str().context("path")?);
    for mode in ["verify-ca", "verify-full"] {
        let variables = [("DB_SSL_MODE", mode), ("DB_SSL_CA_CERT", other), ("DB_HOST", "localhost")];
        let line = refused(&db, &variables).await?;
        assert!(line.contains("invalid peer certificate: UnknownIssuer"), "{mode}: {line}");
    }
    let variables = [("DB_SSL", "true"), ("DB_SSL_CA_CERT", ca), ("DB_HOST", "127.0.0.1")];
    let line = refused(&db, &variables).await?;
    assert!(line.contains("certificate not valid for name \"127.0.0.1\""), "{line}");
    Ok(())
}

/// tenant_database 76: a server without TLS is refused where TLS is required, and used where it is preferred
#[tokio::test]
async fn servers_without_tls() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let line = refused(&db, &[("DB_SSL", "true")]).await?;
    assert!(line.contains("server does not support TLS"), "{line}");
    let line = refused(&db, &[("DB_IP_VERSION", "ipv6")]).await?;
    assert!(line.contains("The database's host 127.0.0.1 has no IPv6 address"), "{line}");

    let server = Server::start(BINARY, &db, options(&[("DB_SSL_MODE", "prefer")])).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public", "table": "test"}])).await?;
    db.sql("insert into public.test default values").await?;
    socket.event(TOPIC, "postgres_changes").await?;
    Ok(())
}
