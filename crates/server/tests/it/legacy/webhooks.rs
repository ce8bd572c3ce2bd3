//! Webhooks, against a server that answers as the test says.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use realtime_testkit::{PATIENCE, TestDb};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{self, Instant},
};

use super::{drop_slot, joined, logged, streaming};

/// A request that came.
#[derive(Debug)]
pub struct Posted {
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    at: Instant,
}

impl Posted {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

const SILENT: u16 = 0;
const LATE: u16 = 1;

/// An endpoint: shows what is posted to it, answers with the statuses that it is given by path, in order, and with 200.
/// [`SILENT`] stands for no answer at all, [`LATE`] for success once the endpoint is opened.
pub struct Endpoint {
    port: u16,
    open: watch::Sender<bool>,
    pub posted: mpsc::UnboundedReceiver<Posted>,
}

impl Endpoint {
    pub async fn start(answers: &[(&str, &[u16])]) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (posts, posted) = mpsc::unbounded_channel();
        let answers: Vec<_> =
            answers.iter().map(|(path, statuses)| ((*path).to_owned(), statuses.to_vec())).collect();
        let answers = Arc::new(Mutex::new(answers));
        let (open, opened) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, posts.clone(), Arc::clone(&answers), opened.clone()));
            }
        });
        Ok(Self { port, open, posted })
    }

    /// Answers what has waited, and from now on at once.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    pub fn hook(&self, path: &str, event: &str, relation: &str) -> Value {
        let endpoint = format!("http://127.0.0.1:{}{path}", self.port);
        json!({"event": event, "relation": relation, "config": {"endpoint": endpoint}})
    }

    pub async fn next(&mut self) -> Result<Posted> {
        time::timeout(PATIENCE, self.posted.recv()).await.context("nothing was posted")?.context("ended")
    }
}

type Answers = Arc<Mutex<Vec<(String, Vec<u16>)>>>;

async fn answer(
    stream: TcpStream,
    posts: mpsc::UnboundedSender<Posted>,
    answers: Answers,
    mut opened: watch::Receiver<bool>,
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).context("path")?.to_owned();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let length =
            headers.iter().find(|(name, _)| name == "content-length").context("length")?.1.parse()?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let status =
            answers.lock().iter_mut().find(|(known, _)| *known == path).map_or(200, |(_, statuses)| {
                if statuses.len() > 1 { statuses.remove(0) } else { statuses[0] }
            });
        posts.send(Posted { path, headers, body, at: Instant::now() })?;
        let status = match status {
            LATE => opened.wait_for(|open| *open).await.map(|_| 200)?,
            status => status,
        };
        if status != SILENT {
            stream.write_all(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
        }
    }
}

async fn todos() -> Result<TestDb> {
    with_todos(TestDb::new().await?).await
}

async fn with_todos(db: TestDb) -> Result<TestDb> {
    db.sql(
        "create table todos (id bigint primary key, task text); create table other (id bigint primary key);
         alter publication supabase_realtime add table todos, other",
    )
    .await?;
    Ok(db)
}

/// A configuration file with these webhooks, in which everything is broadcast.
pub fn file(dir: &tempfile::TempDir, hooks: &[Value]) -> Result<String> {
    let path = dir.path().join("configuration.json");
    let events = json!(["INSERT", "UPDATE", "DELETE", "TRUNCATE"]);
    let realtime = ["*", "*:*", "*:*:*"].map(|relation| json!({"relation": relation, "events": events}));
    std::fs::write(&path, json!({"webhooks": hooks, "realtime": realtime}).to_string())?;
    Ok(path.to_str().context("path")?.to_owned())
}

/// Waits until everything that was committed is confirmed.
async fn acknowledged(db: &TestDb) -> Result<()> {
    let limit = Instant::now() + PATIENCE;
    let sql = "select confirmed_flush_lsn >= $1::text::pg_lsn from pg_replication_slots where database = current_database()";
    let end: String = db.client().query_one("select pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    while !db.client().query_one(sql, &[&end]).await?.get::<_, bool>(0) {
        anyhow::ensure!(Instant::now() < limit, "not acknowledged");
        time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// legacy 43, 45, 46
#[tokio::test]
async fn who_is_told_of_a_transaction() -> Result<()> {
    let db = todos().await?;
    let mut endpoint = Endpoint::start(&[]).await?;
    let dir = tempfile::tempdir()?;
    let hooks = [
        endpoint.hook("/all", "*", "*"),
        endpoint.hook("/inserted", "INSERT", "public:todos"),
        endpoint.hook("/updated", "UPDATE", "public:todos"),
        endpoint.hook("/column", "*", "public:todos:id"),
        endpoint.hook("/filter", "*", "public:todos.id=eq.1"),
    ];
    let env = [("CONFIGURATION_FILE", &*file(&dir, &hooks)?), ("WEBHOOK_HEADERS", "key=value1:header2=a=b")];
    let server = streaming(&db, &env).await?;
    db.sql("begin; insert into todos values (1, 'a'); insert into other values (2); commit").await?;
    let mut posted = [endpoint.next().await?, endpoint.next().await?];
    posted.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!([&*posted[0].path, &*posted[1].path], ["/all", "/inserted"]);
    assert_eq!(posted[0].body, posted[1].body);
    let body = posted[0].json();
    let changes = body["changes"].as_array().unwrap();
    assert_eq!((changes.len(), body.as_object().unwrap().len()), (2, 2));
    assert_eq!((&changes[0]["type"], &changes[0]["record"]["task"]), (&json!("INSERT"), &json!("a")));
    assert_eq!(changes[0]["commit_timestamp"], body["commit_timestamp"]);
    for post in &posted {
        assert_eq!(post.header("content-type"), "application/json");
        assert_eq!((post.header("key"), post.header("header2")), ("value1", "a=b"));
        assert_eq!((post.header("webhook-id"), post.header("webhook-signature")), ("", ""));
    }
    db.sql("insert into other values (3)").await?;
    db.sql("update todos set task = 'b'").await?;
    let mut paths = Vec::new();
    for _ in 0..3 {
        paths.push(endpoint.next().await?.path);
    }
    paths.sort();
    assert_eq!(paths, ["/all", "/all", "/updated"]);
    server.stop().await
}

/// legacy 44
#[tokio::test]
async fn endpoints_that_fail_are_not_asked_again() -> Result<()> {
    let db = todos().await?;
    let mut endpoint = Endpoint::start(&[("/broken", &[500]), ("/silent", &[SILENT])]).await?;
    let dir = tempfile::tempdir()?;
    let refusing = json!({"config": {"endpoint": "http://127.0.0.1:1/"}});
    let hooks = [endpoint.hook("/broken", "*", "*"), endpoint.hook("/silent", "*", "*"), refusing];
    let env = [("CONFIGURATION_FILE", &*file(&dir, &hooks)?), ("SLOT_NAME", "hooked")];
    let server = streaming(&db, &env).await?;
    let mut socket = joined(&server, &["realtime:public:todos"]).await?;
    let begun = Instant::now();
    db.sql("insert into todos values (1, 'a')").await?;
    socket.event("realtime:public:todos", "INSERT").await?;
    let mut paths = vec![endpoint.next().await?.path, endpoint.next().await?.path];
    paths.sort();
    assert_eq!(paths, ["/broken", "/silent"]);
    acknowledged(&db).await?;
    assert!(begun.elapsed() >= Duration::from_secs(5), "the silent one has so long to answer");
    super::logged_times(&server, "a webhook was given up", 3).await?;
    for (webhook, endpoint) in [(1, "http://127.0.0.1:"), (2, "http://127.0.0.1:"), (3, "http://127.0.0.1:1")]
    {
        let named = format!("webhook={webhook} endpoint={endpoint}");
        let line = server.logged(&named).await?;
        assert!(line.contains("tenant=realtime-dev") && line.contains("error="), "{line}");
    }
    assert!(!server.log().contains("/broken"), "the path may hold a secret");
    assert!(endpoint.posted.try_recv().is_err());
    server.stop().await?;
    drop_slot(&db, "hooked").await
}

/// With retries and a signature, as <https://www.standardwebhooks.com> has them.
#[tokio::test]
async fn retries_and_signatures() -> Result<()> {
    let db = todos().await?;
    let mut endpoint = Endpoint::start(&[("/busy", &[503, 429, 200]), ("/never", &[400])]).await?;
    let dir = tempfile::tempdir()?;
    let hooks = [endpoint.hook("/busy", "*", "public:todos"), endpoint.hook("/never", "*", "public:other")];
    let env = [
        ("CONFIGURATION_FILE", &*file(&dir, &hooks)?),
        ("SLOT_NAME", "patient"),
        ("WEBHOOK_RETRIES", "5"),
        ("WEBHOOK_RETRY_DELAY_MS", "100"),
        ("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ];
    let server = streaming(&db, &env).await?;
    db.sql("insert into todos values (1, 'a')").await?;
    let posts = [endpoint.next().await?, endpoint.next().await?, endpoint.next().await?];
    assert!(posts[1].at - posts[0].at >= Duration::from_millis(50));
    assert!(posts[2].at - posts[1].at >= Duration::from_millis(100));
    let (id, body) = (posts[0].header("webhook-id").to_owned(), &posts[0].body);
    assert!(!id.is_empty());
    for post in &posts {
        assert_eq!((post.header("webhook-id"), &post.body), (&*id, body));
        let key =
            base64::Engine::decode(&base64::prelude::BASE64_STANDARD, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
        let signed = [id.as_bytes(), b".", post.header("webhook-timestamp").as_bytes(), b".", body].concat();
        let signature = aws_lc_rs::hmac::sign(&key, &signed);
        let signature = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, signature);
        assert_eq!(post.header("webhook-signature"), format!("v1,{signature}"));
    }
    // What no attempt can mend is given up at once.
    db.sql("insert into other values (1)").await?;
    assert_eq!(endpoint.next().await?.path, "/never");
    logged(&server, "a webhook was given up").await?;
    acknowledged(&db).await?;
    assert!(endpoint.posted.try_recv().is_err());
    server.stop().await?;
    drop_slot(&db, "patient").await
}

/// What was not posted when the server was killed is posted by the next one.
#[tokio::test]
async fn webhooks_survive_the_server() -> Result<()> {
    let db = todos().await?;
    let mut endpoint = Endpoint::start(&[("/hook", &[SILENT, 200])]).await?;
    let dir = tempfile::tempdir()?;
    let file = file(&dir, &[endpoint.hook("/hook", "*", "*")])?;
    let env = [
        ("CONFIGURATION_FILE", &*file),
        ("SLOT_NAME", "survivor"),
        ("WEBHOOK_TIMEOUT_MS", "60000"),
        ("LEGACY_RESUME_DELAY_MS", "0"),
    ];
    let first = streaming(&db, &env).await?;
    db.sql("insert into todos values (1, 'a')").await?;
    let lost = endpoint.next().await?;
    first.kill().await?;
    let second = streaming(&db, &env).await?;
    assert_eq!(endpoint.next().await?.json(), lost.json());
    acknowledged(&db).await?;
    // One that is stopped gives up what is not answered, and does not confirm it.
    second.stop().await?;
    drop_slot(&db, "survivor").await
}

/// legacy 41: the lag is watched all the time, not only when connecting.
#[tokio::test]
async fn webhooks_that_hold_the_log_up_too_long() -> Result<()> {
    // The log is the cluster's, not the database's: others would fill it, too.
    let db = with_todos(TestDb::alone().await?).await?;
    db.sql("create table noise (t text)").await?;
    let mut endpoint = Endpoint::start(&[("/silent", &[SILENT])]).await?;
    let dir = tempfile::tempdir()?;
    let file = file(&dir, &[endpoint.hook("/silent", "*", "*")])?;
    let env = [
        ("CONFIGURATION_FILE", &*file),
        ("SLOT_NAME", "full"),
        // Longer than any test.
        ("WEBHOOK_TIMEOUT_MS", "3600000"),
        ("MAX_REPLICATION_LAG_MB", "1"),
    ];
    let server = streaming(&db, &env).await?;
    let mut socket = joined(&server, &["realtime:*"]).await?;
    db.sql("insert into todos values (1, 'a')").await?;
    endpoint.next().await?;
    // Who listens does not wait for it.
    assert_eq!(socket.event("realtime:*", "INSERT").await?["record"]["id"], "1");
    db.sql("insert into noise select repeat(md5(i::text), 30) from generate_series(1, 5000) i").await?;
    logged(&server, "replication slot given up").await?;
    super::logged_times(&server, "reading the log", 2).await?;
    db.sql("insert into todos values (2, 'b')").await?;
    while socket.event("realtime:*", "INSERT").await?["record"]["id"] != "2" {}
    server.stop().await?;
    drop_slot(&db, "full").await
}

/// Who listens, and other webhooks, wait for none.
#[tokio::test]
async fn a_webhook_that_never_answers_holds_up_nobody() -> Result<()> {
    let db = todos().await?;
    let mut endpoint = Endpoint::start(&[("/silent", &[SILENT])]).await?;
    let dir = tempfile::tempdir()?;
    let hooks = [endpoint.hook("/silent", "*", "public:todos"), endpoint.hook("/quick", "*", "public:todos")];
    let file = file(&dir, &hooks)?;
    // Longer than any test.
    let timeout = ("WEBHOOK_TIMEOUT_MS", "3600000");
    for slot in ["", "silent"] {
        let server = streaming(&db, &[("CONFIGURATION_FILE", &file), ("SLOT_NAME", slot), timeout]).await?;
        let mut socket = joined(&server, &["realtime:public:todos"]).await?;
        db.sql("truncate todos").await?;
        // Each row in a transaction of its own.
        let rows = 1_200;
        db.sql(&format!(
            "do $$ begin for n in 1 .. {rows} loop insert into todos values (n, 'a'); commit; end loop; end $$"
        ))
        .await?;
        let last = rows.to_string();
        while socket.event("realtime:public:todos", "INSERT").await?["record"]["id"] != last {}
        let mut silent = 0;
        loop {
            let post = endpoint.next().await?;
            silent += usize::from(post.path == "/silent");
            if post.path == "/quick" && post.json()["changes"][0]["record"]["id"] == last {
                break;
            }
        }
        assert!(silent <= 1, "it gets one after the other: {silent}");
        server.stop().await?;
    }
    drop_slot(&db, "silent").await
}

/// More than is kept for it: it gets all of it from the log, in order and once, when it has answered what it had.
#[tokio::test]
async fn a_webhook_that_falls_behind_gets_everything_later() -> Result<()> {
    let db = todos().await?;
    let mut endpoint = Endpoint::start(&[("/late", &[LATE])]).await?;
    let dir = tempfile::tempdir()?;
    let hooks = [endpoint.hook("/late", "*", "public:todos"), endpoint.hook("/quick", "*", "public:todos")];
    let env = [
        ("CONFIGURATION_FILE", &*file(&dir, &hooks)?),
        ("SLOT_NAME", "late"),
        ("WEBHOOK_TIMEOUT_MS", "3600000"),
    ];
    let server = streaming(&db, &env).await?;
    let mut socket = joined(&server, &["realtime:public:other"]).await?;
    // A webhook of two may have 32 MB.
    let rows = 40;
    db.sql(&format!(
        "do $$ begin for n in 1 .. {rows} loop
            insert into todos values (n, repeat('x', 1000000)); commit;
         end loop; end $$"
    ))
    .await?;
    db.sql("insert into other values (1)").await?;
    assert_eq!(socket.event("realtime:public:other", "INSERT").await?["record"]["id"], "1");
    let line = server.logged("a webhook is behind").await?;
    assert!(line.contains("webhook=1") && line.contains("endpoint=http://127.0.0.1:"), "{line}");
    let (mut late, mut quick) = (Vec::new(), Vec::new());
    let mut take = |post: Posted| {
        let id = post.json()["changes"][0]["record"]["id"].as_str().unwrap_or_default().parse::<i64>();
        if post.path == "/late" {
            late.push(id)
        } else {
            quick.push(id)
        }
        (late.len(), quick.len())
    };
    while take(endpoint.next().await?).1 < rows {}
    endpoint.open();
    while take(endpoint.next().await?).0 < rows {}
    acknowledged(&db).await?;
    db.sql("insert into todos values (100, '')").await?;
    while take(endpoint.next().await?) != (rows + 1, rows + 1) {}
    let all: Vec<_> = (1..=rows).map(|row| Ok(i64::try_from(row).unwrap())).chain([Ok(100)]).collect();
    assert_eq!((late, quick), (all.clone(), all));
    server.stop().await?;
    drop_slot(&db, "late").await
}
