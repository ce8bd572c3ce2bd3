//! What slow and large clients cost: their own connections, never the others' time, and memory within its bound.

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version, token};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use crate::{BINARY, private};

const TOPIC: &str = "realtime:memory";

/// A connection that sends what it likes and reads when it likes.
struct Raw(TcpStream);

impl Raw {
    async fn connect(server: &Server) -> Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
        let request = format!(
            "GET /socket/websocket?apikey={}&vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            token("anon")
        );
        stream.write_all(request.as_bytes()).await?;
        let mut raw = Self(stream);
        ensure!(raw.seen("\r\n\r\n").await?.starts_with("HTTP/1.1 101"), "refused");
        Ok(raw)
    }

    /// Reads until a text has come.
    async fn seen(&mut self, text: &str) -> Result<String> {
        let mut read = Vec::new();
        let reading = async {
            while !String::from_utf8_lossy(&read).contains(text) {
                ensure!(self.0.read_buf(&mut read).await? > 0, "closed");
            }
            Ok(())
        };
        time::timeout(PATIENCE, reading).await.context(text.to_owned())??;
        Ok(String::from_utf8_lossy(&read).into_owned())
    }

    /// A frame: its first byte, and as much of its payload as there is here of the length that it announces. The mask is
    /// zero.
    async fn send(&mut self, first: u8, announced: usize, payload: &[u8]) -> Result<()> {
        let mut frame = vec![first, 0x80 | 127];
        frame.extend_from_slice(&(announced as u64).to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        Ok(self.0.write_all(&frame).await?)
    }

    async fn text(&mut self, message: &Value) -> Result<()> {
        let text = message.to_string();
        self.send(0x81, text.len(), text.as_bytes()).await
    }

    /// Watches rows on this many channels. Nothing is read after that.
    async fn watch(server: &Server, name: &str, channels: usize) -> Result<Self> {
        let mut raw = Self::connect(server).await?;
        let config =
            json!({"config": {"postgres_changes": [{"event": "*", "schema": "public", "table": "test"}]}});
        for n in 0..channels {
            let reference = n.to_string();
            raw.text(&json!([reference, reference, format!("realtime:{name}-{n}"), "phx_join", config]))
                .await?;
            raw.seen("Subscribed to PostgreSQL").await?;
        }
        Ok(raw)
    }
}

/// The most memory that a server ever had, in megabytes.
fn peak(server: &Server) -> Result<u64> {
    megabytes(server, "VmHWM:")
}

/// Memory of a server by its name in the status of the process, in megabytes.
fn megabytes(server: &Server, name: &'static str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)).context(name)?;
    Ok(value.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

/// Rows of so many bytes each in a transaction of its own; all of them come to who reads.
async fn rows(db: &TestDb, reader: &mut Socket, count: usize, bytes: usize) -> Result<()> {
    for n in 0..count {
        db.sql(&format!("insert into public.test (details) values ('{n} ' || repeat('x', {bytes}))")).await?;
        let change = reader.event(TOPIC, "postgres_changes").await?;
        let details = change["data"]["record"]["details"].as_str().context("details")?;
        ensure!(details.starts_with(&format!("{n} ")), "row {n} is missing");
    }
    Ok(())
}

/// A server without a client.
async fn start(options: ServerOptions) -> Result<(Server, TestDb)> {
    let db = TestDb::with_fixture_a().await?;
    let options = options
        .env("TENANT_MAX_EVENTS_PER_SECOND", "100000000")
        .env("METRICS_JWT_SECRET", realtime_testkit::SECRET);
    let server = Server::start(BINARY, &db, options).await?;
    Ok((server, db))
}

/// A server with a client that watches rows.
async fn server(options: ServerOptions) -> Result<(Server, TestDb, Socket)> {
    let (server, db) = start(options).await?;
    let mut reader = server.socket(Version::V2, "anon").await?;
    reader.watch(TOPIC, json!([{"event": "*", "schema": "public", "table": "test"}])).await?;
    Ok((server, db, reader))
}

/// The log waits for an address that does not read a moment in all, whatever number of channels and sockets it has:
/// before, it was ten seconds for each channel.
#[tokio::test]
async fn who_does_not_read_delays_nobody() -> Result<()> {
    let (server, db, mut reader) = server(ServerOptions::default()).await?;
    let mut slow = Vec::new();
    for n in 0..2 {
        slow.push(Raw::watch(&server, &format!("slow-{n}"), 20).await?);
    }
    let before = time::Instant::now();
    // 40 kB for each of its channels: after some twenty rows an outbox is full.
    rows(&db, &mut reader, 40, 40_000).await?;
    assert!(before.elapsed() < time::Duration::from_secs(10), "{:?}", before.elapsed());
    server.logged("SlowConsumer").await?;
    assert!(server.metric("realtime_slow_consumers").await? >= 1.0);
    Ok(())
}

/// Frames that wait for those who do not read stay within the bound of the node; the sockets that hold most are closed.
#[tokio::test]
async fn outboxes_have_a_bound_together() -> Result<()> {
    let (server, db, mut reader) = server(ServerOptions::default().env("MAX_CLIENT_MEMORY_MB", "40")).await?;
    let mut slow = Vec::new();
    for n in 0..60 {
        slow.push(Raw::watch(&server, &format!("slow-{n}"), 1).await?);
    }
    // One row is 300 kB for each of them, 18 MB in all. So when the bound is reached others hold more than the one who reads
    // and has at most one row waiting; closing those who hold more is enough, however slow the machine is.
    rows(&db, &mut reader, 30, 300_000).await?;
    server.logged("SlowConsumer").await?;
    let peak = peak(&server)?;
    assert!(peak < 300, "{peak} MB, where sixty outboxes may hold 600");
    assert_eq!(server.metric("realtime_client_memory_max_bytes").await?, f64::from(40 << 20));
    Ok(())
}

/// So do messages that never end, of sockets that never join; who behaves is not closed for it.
#[tokio::test]
async fn messages_without_an_end_have_a_bound_together() -> Result<()> {
    let (server, db, mut reader) = server(ServerOptions::default().env("MAX_CLIENT_MEMORY_MB", "40")).await?;
    rows(&db, &mut reader, 2, 1_000).await?;
    let before = megabytes(&server, "VmRSS:")?;
    let part = vec![b'x'; 2_400_000];
    let mut large = Vec::new();
    for _ in 0..60 {
        let mut raw = Raw::connect(&server).await?;
        // A fragment, and the beginning of the next. Who is closed cannot send on.
        let sent = async {
            raw.send(0x01, part.len(), &part).await?;
            raw.send(0x00, part.len(), &part[1..]).await
        };
        let _ = time::timeout(PATIENCE, sent).await?;
        large.push(raw);
    }
    server.logged("SlowConsumer").await?;
    let peak = peak(&server)?;
    assert!(peak < 300, "{peak} MB");
    rows(&db, &mut reader, 2, 1_000).await?;
    drop(large);
    given_back(&server).await?;
    // The allocator gives it back, too.
    realtime_testkit::until("the memory is the system's again", async || {
        Ok(megabytes(&server, "VmRSS:")? <= before + 30)
    })
    .await
}

/// Waits until next to nothing is held.
async fn given_back(server: &Server) -> Result<()> {
    let given_back = async {
        while server.metric("realtime_client_memory_bytes").await? > 1_000_000.0 {
            time::sleep(time::Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    time::timeout(PATIENCE, given_back).await.context("much is held for good")?
}

/// Who is present with much to say holds that much.
#[tokio::test]
async fn presence_counts() -> Result<()> {
    // No second client: it would be told of presence too, and hold that until it reads or is given up.
    let (server, _db) = start(ServerOptions::default().env("MAX_CLIENT_MEMORY_MB", "100")).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.join(TOPIC, json!({"config": {"presence": {"key": "k", "enabled": true}}})).await?;
    let payload = json!({"event": "track", "payload": {"x": "x".repeat(1_000_000)}});
    socket.send(Value::Null, json!("t"), TOPIC, "presence", payload).await?;
    assert_eq!(socket.reply("t").await?["status"], "ok");
    socket.settle().await?;
    assert!(server.metric("realtime_client_memory_bytes").await? > 2_000_000.0);
    socket.send(Value::Null, json!("u"), TOPIC, "presence", json!({"event": "untrack"})).await?;
    assert_eq!(socket.reply("u").await?["status"], "ok");
    // What is told of it is large too, and held until it was read.
    while socket.event(TOPIC, "presence_diff").await?["leaves"]["k"].is_null() {}
    given_back(&server).await
}

/// A database whose policies take seconds to let anybody into a topic.
async fn slow_door() -> Result<TestDb> {
    let db = private::database().await?;
    db.sql(
        "create policy slow on realtime.messages for select to anon
            using (realtime.topic() = 'slow' and pg_sleep(1.5) is not null);",
    )
    .await?;
    Ok(db)
}

/// A message of more than may wait for the topic to be joined.
fn too_much() -> Value {
    json!([null, null, "realtime:slow", "broadcast", {"event": "e", "payload": "x".repeat(1_200_000)}])
}

/// A session that does not read, because too much waits for a join, does not take its client for silent.
#[tokio::test]
async fn who_is_not_read_is_not_silent() -> Result<()> {
    let db = private::database().await?;
    db.sql(
        "create policy held on realtime.messages for select to anon
            using (realtime.topic() = 'slow' and pg_advisory_xact_lock_shared(7) is not null);",
    )
    .await?;
    db.client().execute("select pg_advisory_lock(7)", &[]).await?;
    let options = ServerOptions::default().env("SOCKET_TIMEOUT", "2000");
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    let join = json!(["1", "1", "realtime:slow", "phx_join", {"config": {"private": true}}]);
    socket.send_text(join.to_string()).await?;
    socket.send_text(too_much().to_string()).await?;
    // It is there to be read as soon as the session reads again.
    socket.send(Value::Null, json!("beat"), "phoenix", "heartbeat", json!({})).await?;
    // The policy waits for longer than a client may be silent.
    let waits = "select count(*) from pg_stat_activity
        where wait_event = 'advisory' and query_start < clock_timestamp() - interval '3 seconds'";
    let waiting = async {
        while db.client().query_one(waits, &[]).await?.get::<_, i64>(0) == 0 {
            time::sleep(time::Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    time::timeout(PATIENCE, waiting).await.context("the policy does not wait")??;
    db.client().execute("select pg_advisory_unlock(7)", &[]).await?;
    assert_eq!(socket.reply("1").await?["status"], "ok");
    assert_eq!(socket.reply("beat").await?["status"], "ok");
    Ok(())
}

/// Large bodies of requests have a share of the memory; what is over is refused, and small ones are taken.
#[tokio::test]
async fn bodies_have_a_bound_together() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default().env("MAX_CLIENT_MEMORY_MB", "40");
    let server = Server::start(BINARY, &db, options).await?;
    let begin = |bytes: usize| {
        format!(
            "POST /api/broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Authorization: Bearer {}\r\nContent-Length: {bytes}\r\n\r\n",
            token("anon")
        )
    };
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
        stream.write_all(begin(4_000_000).as_bytes()).await?;
        // All but the last byte. Who is refused may not be read to the end.
        let body = vec![b' '; 3_999_999];
        let _ = stream.write_all(&body).await;
        waiting.push(stream);
    }
    server.logged("TooManyBodies").await?;
    let answer = server
        .http(
            "POST",
            "/api/broadcast",
            &[("Content-Type", "application/json"), ("Authorization", &format!("Bearer {}", token("anon")))],
            br#"{"messages":[{"topic":"a","event":"e","payload":{}}]}"#,
        )
        .await?;
    assert_eq!(answer.status, 202, "{answer:?}");
    Ok(())
}

mod longpoll {
    use tokio::net::TcpSocket;

    use super::*;

    async fn get(server: &Server, from: &str, query: &str) -> Result<Value> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(format!("{from}:0").parse()?)?;
        let mut stream = socket.connect(format!("127.0.0.1:{}", server.port()).parse()?).await?;
        let request =
            format!("GET /socket/longpoll?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
        let (_, body) = answer.split_once("\r\n\r\n").context("no head")?;
        Ok(serde_json::from_str(body)?)
    }

    async fn open(server: &Server, from: &str) -> Result<Value> {
        get(server, from, &format!("apikey={}&vsn=2.0.0", token("anon"))).await
    }

    #[tokio::test]
    async fn an_address_leaves_places_for_others() -> Result<()> {
        let db = TestDb::new().await?;
        let options = ServerOptions::default()
            .env("LONGPOLL_MAX_SESSIONS_PER_ADDRESS", "3")
            .env("LONGPOLL_MAX_SESSIONS_PER_TENANT", "5");
        let server = Server::start(BINARY, &db, options).await?;
        for _ in 0..3 {
            assert_eq!(open(&server, "127.0.0.1").await?["status"], 410);
        }
        assert_eq!(open(&server, "127.0.0.1").await?, json!({"status": 500}));
        for _ in 0..2 {
            assert_eq!(open(&server, "127.0.0.2").await?["status"], 410);
        }
        assert_eq!(open(&server, "127.0.0.3").await?["status"], 500, "the tenant has its five");
        server.logged("TooManyLongPolls").await?;
        // They end when nobody polls them.
        let opened = async {
            while open(&server, "127.0.0.1").await?["status"] != 410 {
                time::sleep(time::Duration::from_millis(200)).await;
            }
            anyhow::Ok(())
        };
        time::timeout(PATIENCE, opened).await?
    }

    /// While messages wait for a join and no more are taken, polls are answered.
    #[tokio::test]
    async fn polls_are_answered_while_messages_wait() -> Result<()> {
        let db = slow_door().await?;
        let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
        let opened = open(&server, "127.0.0.1").await?;
        let token = opened["token"].as_str().context("token")?;
        let query = format!("apikey={}&vsn=2.0.0&token={token}", realtime_testkit::token("anon"));
        let lines = [
            json!(["1", "1", TOPIC, "phx_join", {"config": {}}]),
            json!(["2", "slow", "realtime:slow", "phx_join", {"config": {"private": true}}]),
            too_much(),
        ];
        let body = lines.map(|line| line.to_string()).join("\n");
        let path = format!("/socket/longpoll?{query}");
        let answer =
            server.http("POST", &path, &[("Content-Type", "application/x-ndjson")], body.as_bytes()).await?;
        assert!(answer.body.contains("200"), "{answer:?}");
        let told = get(&server, "127.0.0.1", &query).await?.to_string();
        assert!(told.contains("memory") && !told.contains("slow"), "{told}");
        let told = get(&server, "127.0.0.1", &query).await?.to_string();
        assert!(told.contains("slow"), "{told}");
        Ok(())
    }

    /// A session that is closed because too much is held gives up its body at once, also one whose client sends no more.
    #[tokio::test]
    async fn a_body_that_stands_still_is_given_up() -> Result<()> {
        let db = TestDb::new().await?;
        let options = ServerOptions::default().env("MAX_CLIENT_MEMORY_MB", "40");
        let server = Server::start(BINARY, &db, options).await?;
        let mut answers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let opened = open(&server, "127.0.0.1").await?;
            let session = opened["token"].as_str().context("token")?;
            let head = format!(
                "POST /socket/longpoll?apikey={}&vsn=2.0.0&token={session} HTTP/1.1\r\nHost: localhost\r\n\
                 Content-Length: 9000000\r\n\r\n",
                token("anon")
            );
            let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
            answers.spawn(async move {
                stream.write_all(head.as_bytes()).await?;
                // All but the last byte. Who is refused may not be read to the end.
                let _ = stream.write_all(&vec![b' '; 8_999_999]).await;
                let mut answer = vec![0; 4_096];
                let count = stream.read(&mut answer).await.unwrap_or_default();
                anyhow::Ok(String::from_utf8_lossy(answer.get(..count).unwrap_or_default()).into_owned())
            });
        }
        let first = async {
            while let Some(answer) = answers.join_next().await {
                let answer = answer??;
                // One that is reset while it sends sees no answer.
                if !answer.is_empty() {
                    return Ok(answer);
                }
            }
            anyhow::bail!("no answer")
        };
        let first = time::timeout(PATIENCE, first).await??;
        assert!(first.contains("{\"status\":410}"), "it was waited for: {first}");
        Ok(())
    }

    /// Bodies of one session are read one after the other: the rest waits with its client.
    #[tokio::test]
    async fn bodies_do_not_gather() -> Result<()> {
        let db = TestDb::new().await?;
        let options = ServerOptions::default().env("MAX_CLIENT_MEMORY_MB", "200");
        let server = Server::start(BINARY, &db, options).await?;
        let opened = open(&server, "127.0.0.1").await?;
        let query = format!(
            "apikey={}&vsn=2.0.0&token={}",
            token("anon"),
            opened["token"].as_str().context("token")?
        );
        // Bodies that lack their last byte.
        let mut waiting = Vec::new();
        for _ in 0..16 {
            let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
            let head = format!(
                "POST /socket/longpoll?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
            );
            let body = vec![b'x'; 8_999_999];
            let sending = tokio::spawn(async move {
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(&body).await?;
                anyhow::Ok(stream)
            });
            waiting.push(sending);
        }
        // The first is read, its client sends the rest; nobody else can until it is given up.
        let first = async {
            while !waiting.iter().any(tokio::task::JoinHandle::is_finished) {
                time::sleep(time::Duration::from_millis(10)).await;
            }
        };
        time::timeout(PATIENCE, first).await?;
        let told = get(&server, "127.0.0.1", &query).await?;
        assert_eq!(told["status"], 204, "nothing was taken, nobody was closed");
        let peak = peak(&server)?;
        assert!(peak < 150, "{peak} MB");
        Ok(())
    }
}
