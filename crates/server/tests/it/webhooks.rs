//! Webhooks of the second generation: a real server, a real PostgreSQL, and an HTTP receiver that answers as the test says.

mod admin;
mod delivery;
mod restarts;
mod stopped;

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use realtime_testkit::{PATIENCE, Server, ServerOptions, TestDb};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _,
    process::Command,
    sync::{mpsc, watch},
    time::{self, Duration},
};

use crate::BINARY;

/// Secret of the webhooks of the tests.
const SECRET: &str = "a secret of this webhook";

/// A request that came.
#[derive(Debug, Clone)]
struct Post {
    id: String,
    timestamp: String,
    signature: String,
    body: Bytes,
    /// The status that it was answered with.
    status: u16,
}

impl Post {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn record(&self) -> Value {
        self.json()["data"]["record"].clone()
    }

    /// The number in the record, and the row's id.
    fn row(&self) -> (i64, i64) {
        let record = self.record();
        (record["id"].as_i64().unwrap(), record["n"].as_i64().unwrap())
    }
}

#[derive(Clone)]
struct Shared {
    posts: mpsc::UnboundedSender<Post>,
    /// So many requests fail, before others are answered.
    failures: Arc<AtomicU32>,
    /// The status of answers; 0: there are none for now.
    status: watch::Receiver<u16>,
}

/// An endpoint.
struct Endpoint {
    port: u16,
    posts: mpsc::UnboundedReceiver<Post>,
    failures: Arc<AtomicU32>,
    status: watch::Sender<u16>,
}

impl Endpoint {
    async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (sender, posts) = mpsc::unbounded_channel();
        let (status, of_answers) = watch::channel(200);
        let failures = Arc::new(AtomicU32::new(0));
        let shared = Shared { posts: sender, failures: Arc::clone(&failures), status: of_answers };
        let router = Router::new().route("/{*path}", post(answer)).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { port, posts, failures, status })
    }

    /// A webhook that posts here.
    fn hook(&self, name: &str, change: &Value) -> Value {
        let mut hook = json!({
            "name": name,
            "url": format!("http://user:pass@127.0.0.1:{}/{name}?token=hidden", self.port),
            "secret": SECRET,
            "table": "things",
            "retry_delay_ms": 10,
        });
        for (key, value) in change.as_object().unwrap() {
            hook[key] = value.clone();
        }
        hook
    }

    async fn next(&mut self) -> Result<Post> {
        time::timeout(PATIENCE, self.posts.recv()).await.context("nothing was posted")?.context("ended")
    }

    /// The next one that was answered with success.
    async fn taken(&mut self) -> Result<Post> {
        loop {
            let post = self.next().await?;
            if post.status == 200 {
                return Ok(post);
            }
        }
    }
}

async fn answer(State(mut shared): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    assert_eq!(text("content-type"), "application/json");
    let fails =
        shared.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
    let now = *shared.status.borrow();
    let status = if fails { 503 } else { now };
    let post = Post {
        id: text("webhook-id"),
        timestamp: text("webhook-timestamp"),
        signature: text("webhook-signature"),
        body,
        status,
    };
    // The test may be over.
    let _ = shared.posts.send(post);
    if status == 0 {
        let _ = shared.status.wait_for(|status| *status != 0).await;
    }
    StatusCode::from_u16(if status == 0 { 200 } else { status }).unwrap()
}

/// A database with a table that is published.
async fn database() -> Result<TestDb> {
    let db = TestDb::new().await?;
    db.sql(
        "create table things (id bigint primary key, n bigint, note text);
         create table others (id bigint primary key, n bigint, note text);
         create table keyless (id bigint, n bigint, note text);
         alter table keyless replica identity full;
         grant select on things, others, keyless to anon;
         alter publication supabase_realtime add table things, others, keyless",
    )
    .await?;
    Ok(db)
}

/// A file with webhooks.
fn file(dir: &tempfile::TempDir, hooks: &[Value]) -> Result<String> {
    let path = dir.path().join("webhooks.json");
    std::fs::write(&path, Value::from(hooks.to_vec()).to_string())?;
    Ok(path.to_str().context("path")?.to_owned())
}

/// A server with these webhooks, which read the log already.
async fn server(
    db: &TestDb,
    dir: &tempfile::TempDir,
    hooks: &[Value],
    options: ServerOptions,
) -> Result<Server> {
    let options = options.env("WEBHOOKS_FILE", &file(dir, hooks)?);
    let server = Server::start(BINARY, db, options).await?;
    let limit = time::Instant::now() + PATIENCE;
    while server.log().matches("reading the log").count() < hooks.len() {
        ensure!(time::Instant::now() < limit, "webhooks do not read: {}", server.log());
        time::sleep(Duration::from_millis(20)).await;
    }
    Ok(server)
}

/// What OpenSSL says the signature has to be.
async fn signature(post: &Post) -> Result<String> {
    let mut signed = format!("{}.{}.", post.id, post.timestamp).into_bytes();
    signed.extend_from_slice(&post.body);
    let key: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    let digest = pipe(
        "openssl",
        &["dgst", "-sha256", "-mac", "HMAC", "-macopt", &format!("hexkey:{key}"), "-binary"],
        &signed,
    )
    .await?;
    let encoded = pipe("openssl", &["base64", "-A"], &digest).await?;
    Ok(format!("v1,{}", String::from_utf8(encoded)?))
}

async fn pipe(program: &str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new(program);
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(input).await?;
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(output.stdout)
}

/// Waits until a number of the server's metrics is reached.
async fn metric(server: &Server, name: &str, wanted: f64) -> Result<()> {
    let limit = time::Instant::now() + PATIENCE;
    loop {
        let value = server.metric(name).await?;
        if value >= wanted {
            return Ok(());
        }
        ensure!(time::Instant::now() < limit, "{name} is {value}: {}", server.log());
        time::sleep(Duration::from_millis(20)).await;
    }
}

/// The numbers that were posted of each row, in the order in which they came.
fn by_row(posts: &[Post]) -> BTreeMap<i64, Vec<i64>> {
    let mut rows: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for post in posts {
        let (id, n) = post.row();
        rows.entry(id).or_default().push(n);
    }
    rows
}
