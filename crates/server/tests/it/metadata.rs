//! Tenants of a metadata database, as clients and operators meet them.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version, token};
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, process::Command, time};

use crate::BINARY;

const LEGACY_KEY: &str = "supabaserealtime";
const GCM_KEY: &str = "0123456789abcdef0123456789abcdef";

/// The secret of test servers, encrypted with AES-256-GCM by Python's `cryptography`.
const SECRET_GCM: &str =
    "g1:O/bfQhW7B7rXzkCye5XvU12pSEsdLO7b+65i0vz0rMDB/TRfglR6hOm0uKyvHySJUJahnmDJFhGgLmytSKs3A/U4IrLsjAM+";

fn options() -> ServerOptions {
    ServerOptions::default().env("DB_ENC_KEY", LEGACY_KEY).env("DB_ENC_KEY_GCM", GCM_KEY)
}

/// What `openssl` makes of a value with the older key.
async fn openssl(encrypt: bool, value: &str) -> Result<String> {
    let key: String = LEGACY_KEY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut command = Command::new("openssl");
    command.args(["enc", "-aes-128-ecb", "-base64", "-A", "-K", &key]);
    if !encrypt {
        command.arg("-d");
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(value.as_bytes()).await?;
    let output = child.wait_with_output().await?;
    anyhow::ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

async fn join(server: &Server, host: &str) -> Result<Socket> {
    let url = format!(
        "ws://127.0.0.1:{}/socket/websocket?vsn=2.0.0&apikey={}",
        server.port(),
        token("authenticated")
    );
    match Socket::try_connect(&url, &[("host", host)], Version::V2).await? {
        Ok(mut socket) => {
            socket.join("realtime:room", json!({})).await?;
            Ok(socket)
        }
        Err(refused) => anyhow::bail!("{refused:?}"),
    }
}

/// As [`join`], as soon as the server has its tenants: on a busy machine it serves before that.
async fn first_join(server: &Server, host: &str) -> Result<Socket> {
    let limit = time::Instant::now() + PATIENCE;
    loop {
        match join(server, host).await {
            Err(_) if time::Instant::now() < limit => time::sleep(time::Duration::from_millis(50)).await,
            joined => return joined.with_context(|| server.log()),
        }
    }
}

/// http_and_ops 38; a schema that an older release of the reference made, with a tenant whose secret is encrypted in
/// one way and whose database's place in the other: it is completed, a socket works with the tenant, it is changed,
/// and what is written can be read by the reference's rules.
#[tokio::test]
async fn takeover_of_metadata() -> Result<()> {
    let metadata = TestDb::new().await?;
    let home = TestDb::new().await?;
    metadata
        .connect()
        .await?
        .batch_execute(include_str!("../../../tenants/tests/store/reference.sql"))
        .await?;
    let mut settings = json!({"region": "us-east-1", "ssl_enforced": false, "poll_interval_ms": 100});
    for (name, value) in home.env().await? {
        settings[name.to_ascii_lowercase()] = openssl(true, &value).await?.into();
    }
    let client = metadata.client();
    client
        .execute(
            "update _realtime.tenants set jwt_secret = $1, private_only = false where external_id = 'old'",
            &[&SECRET_GCM],
        )
        .await?;
    client
        .execute(
            "update _realtime.extensions set settings = $1::text::jsonb where tenant_external_id = 'old'",
            &[&settings.to_string()],
        )
        .await?;

    let server = Server::start(BINARY, &metadata, options().env("SEED_SELF_HOST", "false")).await?;
    first_join(&server, "old.example").await?;
    server.logged("Add column gcm_migrated_at to tenants").await?;
    for host in ["nobody", "localhost", "new.example"] {
        // The last one's keys are others.
        assert!(join(&server, host).await.is_err(), "{host}");
    }

    let bearer = format!("Bearer {}", realtime_testkit::sign(&json!({})));
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    let body = json!({"tenant": {"jwt_secret": "another secret of the tenant", "max_joins_per_second": 50}});
    let answer = server.http("PUT", "/api/tenants/old", &headers, body.to_string().as_bytes()).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    let row = client
        .query_one(
            "select jwt_secret, settings ->> 'db_name', max_joins_per_second, max_concurrent_users, migrations_ran
             from _realtime.tenants join _realtime.extensions on tenant_external_id = external_id
             where external_id = 'old'",
            &[],
        )
        .await?;
    assert_eq!(openssl(false, row.get(0)).await?, "another secret of the tenant");
    assert_eq!(openssl(false, row.get(1)).await?, home.name());
    assert_eq!((row.get::<_, i32>(2), row.get::<_, i32>(3)), (50, 321));
    // The old secret is good no longer.
    assert!(join(&server, "old.example").await.is_err());
    Ok(())
}

/// spec README, decisions 11, 12; the environment's tenant is made once, and what an operator changed survives
/// restarts.
#[tokio::test]
async fn the_environments_tenant_is_made_once() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, options()).await?;
    first_join(&server, "localhost").await?;
    join(&server, "realtime-dev.localhost").await?;
    // Its database is set up for private topics.
    time::timeout(PATIENCE, async {
        while db.sql("select from realtime.messages").await.is_err() {
            time::sleep(time::Duration::from_millis(20)).await;
        }
    })
    .await?;
    server.stop().await?;
    db.sql("update _realtime.tenants set max_concurrent_users = 1, name = 'mine'").await?;
    let server = Server::start(BINARY, &db, options()).await?;
    let first = first_join(&server, "localhost").await?;
    let url = format!("ws://127.0.0.1:{}/socket/websocket?apikey={}", server.port(), token("anon"));
    let second = Socket::try_connect(&url, &[], Version::V2).await?;
    assert_eq!(second.err().context("a second user")?.status, 429);
    drop(first);
    let row = db.client().query_one("select name, count(*) over () from _realtime.tenants", &[]).await?;
    assert_eq!((row.get::<_, String>(0), row.get::<_, i64>(1)), ("mine".to_owned(), 1));
    Ok(())
}

/// A tenant that is suspended in SQL, past the server: its sockets end within the expiry.
#[tokio::test]
async fn changes_in_sql_are_followed() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, options().env("TENANT_CACHE_EXPIRATION_IN_MS", "500")).await?;
    let mut socket = first_join(&server, "localhost").await?;
    db.sql("update _realtime.tenants set suspend = true").await?;
    assert_eq!(socket.close_code().await?, 1012);
    time::timeout(PATIENCE, async {
        while join(&server, "localhost").await.is_ok() {
            time::sleep(time::Duration::from_millis(20)).await;
        }
    })
    .await?;
    Ok(())
}

/// http_and_ops 20; two servers share a metadata database: what is changed through one is followed by the other long
/// before what it remembers expires.
#[tokio::test]
async fn servers_follow_each_other() -> Result<()> {
    let db = TestDb::new().await?;
    let patient = || options().env("TENANT_CACHE_EXPIRATION_IN_MS", "3600000");
    let here = Server::start(BINARY, &db, patient()).await?;
    let there = Server::start(BINARY, &db, patient()).await?;
    let mut socket = first_join(&there, "localhost").await?;
    let bearer = format!("Bearer {}", realtime_testkit::sign(&json!({})));
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    let put = async |fields: serde_json::Value| {
        let body = json!({ "tenant": fields }).to_string();
        let answer = here.http("PUT", "/api/tenants/realtime-dev", &headers, body.as_bytes()).await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    };
    put(json!({"max_channels_per_client": 0})).await?;
    let url = format!("ws://127.0.0.1:{}/socket/websocket?vsn=2.0.0&apikey={}", there.port(), token("anon"));
    time::timeout(PATIENCE, async {
        loop {
            let socket = Socket::try_connect(&url, &[], Version::V2).await?;
            let mut socket = socket.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
            let (reply, _) = socket.join("realtime:room", json!({})).await?;
            if reply.to_string().contains("ChannelRateLimitReached") {
                return anyhow::Ok(());
            }
            time::sleep(time::Duration::from_millis(20)).await;
        }
    })
    .await??;
    put(json!({"private_only": true})).await?;
    assert_eq!(socket.close_code().await?, 1012);
    Ok(())
}

/// Known tenants go on being served while the metadata database is away.
#[tokio::test]
async fn a_lost_metadata_database_harms_nobody_who_is_known() -> Result<()> {
    let metadata = TestDb::new().await?;
    let home = TestDb::new().await?;
    let server = Server::start(
        BINARY,
        &metadata,
        options().env("SEED_SELF_HOST", "false").env("TENANT_CACHE_EXPIRATION_IN_MS", "200"),
    )
    .await?;
    let mut settings = json!({"region": "us-east-1", "ssl_enforced": false});
    for (name, value) in home.env().await? {
        settings[name.to_ascii_lowercase()] = value.into();
    }
    let bearer = format!("Bearer {}", realtime_testkit::sign(&json!({})));
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    let body = json!({"tenant": {"external_id": "t", "jwt_secret": realtime_testkit::SECRET,
        "extensions": [{"type": "postgres_cdc_rls", "settings": settings}]}});
    let body = body.to_string();
    server.administered().await?;
    let answer = server.http("POST", "/api/tenants", &headers, body.as_bytes()).await?;
    assert_eq!(answer.status, 201, "{answer:?}");
    first_join(&server, "t.example").await?;
    let name = metadata.name();
    home.sql(&format!("alter database {name} allow_connections false")).await?;
    home.sql(&format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"))
        .await?;
    // Past the expiry.
    time::sleep(time::Duration::from_millis(300)).await;
    join(&server, "t.example").await?;
    // Of others it is not known whether they are there.
    let url = format!("ws://127.0.0.1:{}/socket/websocket?apikey={}", server.port(), token("anon"));
    let refused = Socket::try_connect(&url, &[("host", "unknown.example")], Version::V2).await?;
    let refused = refused.err().context("refused")?;
    assert_eq!((refused.status, refused.body.as_str()), (500, r#"{"error":"Error connecting to Realtime"}"#));
    let answer = server.http("GET", "/api/ping", &[("Host", "unknown.example")], b"").await?;
    assert_eq!(answer.status, 500, "{answer:?}");
    Ok(())
}

/// A server that is started before its metadata database serves what it can meanwhile, and everybody once it is there.
#[tokio::test]
async fn the_metadata_database_comes_later() -> Result<()> {
    let db = TestDb::new().await?;
    let mut environment = db.env().await?;
    let port = environment.iter_mut().find(|(name, _)| name == "DB_PORT").context("DB_PORT")?;
    let link = realtime_testkit::Link::to(port.1.parse()?).await?;
    link.cut();
    port.1 = link.port().to_string();
    let options = environment.iter().fold(options(), |options, (name, value)| options.env(name, value));
    let server = Server::start(BINARY, &db, options.env("SEED_SELF_HOST", "true")).await?;
    server.logged("the metadata database cannot be used; retrying").await?;
    let bearer = format!("Bearer {}", realtime_testkit::sign(&json!({})));
    let administrator = [("Authorization", bearer.as_str())];
    for (path, status) in [("/healthcheck", 200), ("/api/ping", 500), ("/api/tenants", 503)] {
        assert_eq!(server.http("GET", path, &administrator, b"").await?.status, status, "{path}");
    }
    link.mend();
    // Nobody asks for the tenant: it is made and connected all the same.
    server.logged("connected to the tenant's database").await?;
    let listed = server.http("GET", "/api/tenants", &administrator, b"").await?;
    assert!(listed.status == 200 && listed.body.contains("\"realtime-dev\""), "{listed:?}");
    join(&server, "realtime-dev.example").await?;
    Ok(())
}
