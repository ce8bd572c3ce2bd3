//! The pages in a real Chromium. `scripts/test` installs it, and the npm packages in `clients/browser`.
//!
//! With `REALTIME_PICTURES=FOLDER` the scenarios save the pictures of the documentation there.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use realtime_localpg::{Cluster, ClusterOptions};
use realtime_testkit::{SECRET, Server, ServerOptions, TestDb, free_port, sign, token, unix_now};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    time,
};

use crate::{BINARY, clients::node_in, server};

/// Longest run of a scenario.
const LIMIT: time::Duration = time::Duration::from_secs(600);

/// Runs a scenario of `clients/browser`, and does what it asks for.
pub(crate) async fn scenario(
    program: &str,
    arguments: &[&str],
    act: impl AsyncFnMut(Value) -> Result<()>,
) -> Result<()> {
    scenario_in("browser", program, arguments, act).await
}

/// Runs a scenario of a folder of `clients`, and does what it asks for.
pub(crate) async fn scenario_in(
    folder: &str,
    program: &str,
    arguments: &[&str],
    mut act: impl AsyncFnMut(Value) -> Result<()>,
) -> Result<()> {
    let mut child = node_in(folder)?
        .arg(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take().context("stdin")?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let mut stderr = child.stderr.take().context("stderr")?;
    let errors = tokio::spawn(async move {
        let mut errors = String::new();
        stderr.read_to_string(&mut errors).await.map(|_| errors)
    });
    let played = async {
        while let Some(line) = lines.next_line().await? {
            let asked: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            let answer = match act(asked).await {
                Ok(()) => "done".to_owned(),
                Err(error) => format!("{error:#}").replace('\n', " "),
            };
            input.write_all(format!("{answer}\n").as_bytes()).await?;
        }
        anyhow::Ok(child.wait().await?)
    };
    let status = time::timeout(LIMIT, played).await.context("the scenario hangs")??;
    ensure!(status.success(), "{program}: {}", errors.await??);
    Ok(())
}

/// The Inspector: form, links, users, row changes with a filter, broadcasts, presence, the log, failures, themes and a
/// telephone (http_and_ops 56, 59 to 61)
#[tokio::test(flavor = "multi_thread")]
async fn the_inspector() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    db.sql(
        "create table public.todos (id serial primary key, task text, done boolean default false);
         grant all on public.todos to anon; alter publication supabase_realtime add table public.todos;",
    )
    .await?;
    let options = ServerOptions::default()
        .env("REGION", "eu-west-2")
        .env("TENANT_MAX_EVENTS_PER_SECOND", "100000")
        .env("CLIENT_PRESENCE_MAX_CALLS", "100");
    // It comes back on the same port.
    let port = free_port()?;
    let options = options.env("PORT", &port.to_string());
    let mut server = Some(Server::start(BINARY, &db, options.clone()).await?);
    let url = format!("http://localhost:{port}");
    let user = sign(&json!({
        "role": "authenticated", "sub": "2f6a", "email": "ann@example.com", "exp": unix_now() + 3600,
    }));
    let expired = sign(&json!({"role": "anon", "sub": "old", "exp": unix_now() - 60}));
    scenario("inspector.mjs", &[&url, &token("anon"), &user, &expired], async |asked| {
        if let Some(statements) = asked["sql"].as_str() {
            db.sql(statements).await
        } else if asked["start"] == true {
            server = Some(Server::start(BINARY, &db, options.clone()).await?);
            Ok(())
        } else {
            server.take().context("no server")?.stop().await
        }
    })
    .await
}

/// The status page turns bad when the database stops, and good again when it is back (http_and_ops 62)
#[tokio::test(flavor = "multi_thread")]
async fn the_status_page() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("realtime-test-").tempdir()?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut options = ClusterOptions {
        bin_dir: std::env::var_os("REALTIME_PG_BIN").map(Into::into),
        data_dir: dir.path().join("pg"),
        durable: false,
        ..ClusterOptions::default()
    };
    let first = Cluster::start(options.clone(), &|_| {}).await?;
    options.port = Some(first.port());
    let env = [
        ("DB_HOST", first.host().to_owned()),
        ("DB_PORT", first.port().to_string()),
        ("DB_NAME", "postgres".to_owned()),
        ("DB_USER", first.user().to_owned()),
        ("DB_PASSWORD", first.password().to_owned()),
        ("API_JWT_SECRET", SECRET.to_owned()),
        ("REGION", "eu-west-2".to_owned()),
    ];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut server = Some(Server::start_with(BINARY.as_ref(), env).await?);
    let url = format!("http://localhost:{}", server.as_ref().context("server")?.port());
    let mut cluster = Some(first);
    scenario("status.mjs", &[&url], async |asked| {
        if asked["stop"] == true {
            cluster.take().context("no cluster")?.stop().await?;
        } else if asked["start"] == true {
            cluster = Some(Cluster::start(options.clone(), &|_| {}).await?);
        } else {
            server.take().context("no server")?.stop().await?;
        }
        Ok(())
    })
    .await
}

/// The documentation is read, searched and linked within; Swagger UI follows the theme. Nothing comes from elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_documentation() -> Result<()> {
    let (server, _db) = server().await?;
    let url = format!("http://localhost:{}", server.port());
    scenario("docs.mjs", &[&url], async |asked| anyhow::bail!("{asked}")).await
}

/// Pages, their files, old addresses, caching and protection over plain HTTP (http_and_ops 56)
#[tokio::test]
async fn pages_over_http() -> Result<()> {
    let (server, _db) = server().await?;
    let get = async |path: &str, headers: &[(&str, &str)]| server.http("GET", path, headers, b"").await;
    let page = get("/", &[]).await?;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.body.contains("Inspector - Realtime"));
    assert!(page.header("content-security-policy").contains("script-src 'self'; style-src 'self'"));
    assert_eq!(
        (page.header("referrer-policy"), page.header("x-content-type-options")),
        ("no-referrer", "nosniff")
    );
    assert_eq!(page.header("cache-control"), "no-cache");
    let etag = page.header("etag").to_owned();
    let again = get("/", &[("If-None-Match", &format!("\"other\", W/{etag}"))]).await?;
    assert_eq!((again.status, again.body.as_str(), again.header("etag")), (304, "", &*etag));
    assert_eq!(get("/", &[("If-None-Match", "\"other\"")]).await?.status, 200);
    let head = server.http("HEAD", "/", &[], b"").await?;
    assert_eq!((head.status, head.body.as_str(), head.header("etag")), (200, "", &*etag));

    for (path, target) in [
        ("/inspector?channel=room_a&x=%20", "/?channel=room_a&x=%20"),
        ("/inspector", "/"),
        ("/inspector/new?a=b", "/?a=b"),
    ] {
        let moved = get(path, &[]).await?;
        assert_eq!((moved.status, moved.header("location")), (302, target));
    }

    let script =
        page.body.split("src=\"").nth(1).and_then(|rest| rest.split('"').next()).context("script")?;
    let file = get(script, &[]).await?;
    assert_eq!((file.status, file.header("content-type")), (200, "text/javascript; charset=utf-8"));
    assert_eq!(file.header("cache-control"), "public, max-age=31536000, immutable");
    let (_, path) = script.trim_start_matches("/assets/").split_once('/').context("tag")?;
    let stale = get(&format!("/assets/000000000000/{path}"), &[]).await?;
    assert_eq!(
        (stale.status, stale.header("cache-control")),
        (200, "no-cache"),
        "of a node with other files"
    );
    assert_eq!(get(&script.replace("theme", "nothing"), &[]).await?.status, 404);
    assert_eq!(get("/assets/x/../../Cargo.toml", &[]).await?.status, 404);
    for (path, kind) in [
        ("/favicon.svg", "image/svg+xml"),
        ("/robots.txt", "text/plain; charset=utf-8"),
        ("/worker.js", "text/javascript; charset=utf-8"),
    ] {
        let file = get(path, &[]).await?;
        assert_eq!((file.status, file.header("content-type")), (200, kind), "{path}");
    }

    let docs = get("/docs/quick-start", &[]).await?;
    assert_eq!((docs.status, docs.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(docs.header("content-security-policy").contains("form-action 'self'"));
    assert_eq!(docs.header("x-content-type-options"), "nosniff");
    let again = get("/docs/quick-start", &[("If-None-Match", docs.header("etag"))]).await?;
    assert_eq!(again.status, 304);
    for (path, status) in [
        ("/docs", 200),
        ("/docs/", 200),
        ("/docs/quick-start.md", 200),
        ("/docs/examples/shared-list", 200),
        ("/docs/images/dashboard.png", 200),
        ("/docs/search", 200),
        ("/docs/search?q=%3Cscript%3E%ff", 200),
        ("/docs/nothing", 404),
        ("/docs/images/nothing.png", 404),
        ("/docs/images/..%2F..%2FCargo.toml", 404),
        ("/docs/../Cargo.toml", 404),
    ] {
        assert_eq!(get(path, &[]).await?.status, status, "{path}");
    }
    let long = get(&format!("/docs/search?q={}", "a+".repeat(2_000)), &[]).await?;
    assert!(long.status == 200 && long.body.len() < 100_000, "{} {}", long.status, long.body.len());

    assert!(get("/status", &[]).await?.body.contains("Realtime Cluster Health"));
    let report = get("/status.json", &[]).await?;
    assert_eq!((report.status, report.header("cache-control")), (200, "no-store"));
    let value: Value = serde_json::from_str(&report.body)?;
    assert_eq!(value["nodes"][0]["version"], env!("CARGO_PKG_VERSION"));
    assert!(page.body.contains(value["node"].as_str().context("node")?));
    assert!(!report.body.contains("realtime-dev"), "tenants are not named: {}", report.body);

    // Pages of other servers may read why a handshake was refused.
    let refused = get("/realtime/v1/websocket?apikey=x&vsn=2.0.0", &[("Origin", "http://a.example")]).await?;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, "*"));
    let own = get("/realtime/v1/websocket?apikey=x&vsn=2.0.0", &[]).await?;
    assert_eq!((own.status, own.header("access-control-allow-origin")), (401, ""));
    Ok(())
}
