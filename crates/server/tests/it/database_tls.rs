//! TLS to databases, against a real PostgreSQL with certificates made here (tenant_database 8.4, http_and_ops 5).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use realtime_testkit::{PATIENCE, Server, ServerOptions, TestDb, Version};
use serde_json::json;
use tokio::time;

use crate::BINARY;

const TOPIC: &str = "realtime:any";

/// An authority that signs certificates, and its own as a file.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let file = dir.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), file })
    }

    /// A certificate for a host name, and its key.
    fn sign(&self, host: &str) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([host.to_owned()])?.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

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
    let line = || {
        let log = server.log();
        log.lines().find(|line| line.contains("UnableToConnectToTenantDatabase")).map(str::to_owned)
    };
    let limit = time::Instant::now() + PATIENCE;
    let line = loop {
        if let Some(line) = line() {
            break line;
        }
        anyhow::ensure!(time::Instant::now() < limit, "nothing was refused: {}", server.log());
        time::sleep(time::Duration::from_millis(10)).await;
    };
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
        (&[("DB_SSL", "true")], true),
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
        drop(socket);
        server.stop().await?;
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
