//! Answers over HTTP that their clients do not read: what they hold has a bound, and they are given up.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{PATIENCE, SECRET, Server, ServerOptions, Socket, TestDb, Version, token, until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{self, Instant},
};

use crate::{BINARY, histories};

/// Bytes of the largest messages.
const LARGE: usize = 2_900_000;

fn options() -> ServerOptions {
    ServerOptions::default().env("TENANT_MAX_EVENTS_PER_SECOND", "1000000").env("METRICS_JWT_SECRET", SECRET)
}

async fn server(options: ServerOptions) -> Result<(Server, TestDb)> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, options).await?;
    Ok((server, db))
}

/// A connection from an address that takes little before it is read.
async fn connect(server: &Server, from: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    socket.bind(format!("{from}:0").parse()?)?;
    Ok(socket.connect(format!("127.0.0.1:{}", server.port()).parse()?).await?)
}

/// Asks for something, and does not read it.
async fn ask(server: &Server, from: &str, path: &str) -> Result<TcpStream> {
    let mut stream = connect(server, from).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nApikey: {}\r\n\r\n",
        token("anon")
    );
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// Reads what comes until the end, with a pause after so many bytes; and whether it ended well.
async fn read(stream: &mut TcpStream, bytes: usize, pause: Duration) -> (Vec<u8>, bool) {
    let (mut all, mut part) = (Vec::new(), vec![0; bytes]);
    loop {
        match stream.read(&mut part).await {
            Ok(0) => return (all, true),
            Ok(count) => all.extend_from_slice(&part[..count]),
            Err(_) => return (all, false),
        }
        if !pause.is_zero() {
            time::sleep(pause).await;
        }
    }
}

/// A session of the long-poll transport.
struct Session<'a> {
    server: &'a Server,
    query: String,
}

impl<'a> Session<'a> {
    /// A session that has joined a topic.
    async fn joined(server: &'a Server, topic: &str) -> Result<Self> {
        let query = format!("apikey={}&vsn=2.0.0", token("anon"));
        let opened = server.http("GET", &format!("/socket/longpoll?{query}"), &[], b"").await?;
        let opened: Value = serde_json::from_str(&opened.body)?;
        let query = format!("{query}&token={}", opened["token"].as_str().context("token")?);
        let session = Self { server, query };
        let join = json!(["1", "1", topic, "phx_join", {"config": {}}]).to_string();
        let json = [("Content-Type", "application/json")];
        let sent = server.http("POST", &session.path(), &json, join.as_bytes()).await?;
        ensure!(sent.body.contains("200"), "not sent");
        ensure!(session.poll().await?["messages"][0].as_str().context("reply")?.contains("ok"), "not joined");
        Ok(session)
    }

    fn path(&self) -> String {
        format!("/socket/longpoll?{}", self.query)
    }

    async fn poll(&self) -> Result<Value> {
        let answer = self.server.http("GET", &self.path(), &[], b"").await?;
        Ok(serde_json::from_str(&answer.body)?)
    }

    /// Polls and does not read.
    async fn ask(&self) -> Result<TcpStream> {
        ask(self.server, "127.0.0.1", &self.path()).await
    }
}

/// What was said, by the messages of a poll: its number and its length.
fn said(told: &Value) -> Result<Vec<(u64, usize)>> {
    let mut said = Vec::new();
    for message in told["messages"].as_array().context("messages")? {
        let message: Value = serde_json::from_str(message.as_str().context("text")?)?;
        let payload = &message[4]["payload"];
        let text = payload["text"].as_str().context("text")?;
        said.push((payload["n"].as_u64().context("number")?, text.len()));
    }
    Ok(said)
}

async fn say(socket: &mut Socket, topic: &str, n: u64, bytes: usize) -> Result<()> {
    let payload = json!({"type": "broadcast", "event": "e", "payload": {"n": n, "text": "x".repeat(bytes)}});
    let reference = socket.next_ref();
    socket.send(json!("1"), json!(reference), topic, "broadcast", payload).await?;
    ensure!(socket.reply(&reference).await?["status"] == "ok", "not said");
    Ok(())
}

/// A socket that talks on a topic.
async fn talker(server: &Server, topic: &str) -> Result<Socket> {
    let mut socket = server.socket(Version::V2, "anon").await?;
    let join = json!(["1", "1", topic, "phx_join", {"config": {"broadcast": {"ack": true}}}]);
    socket.send_text(join.to_string()).await?;
    ensure!(socket.reply("1").await?["status"] == "ok", "not joined");
    Ok(socket)
}

/// Memory of a server, in megabytes.
fn megabytes(server: &Server) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let value = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
    Ok(value.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

/// One message for many sessions is one message, however many connections wait for it.
#[tokio::test]
async fn a_message_for_many_polls_stays_one() -> Result<()> {
    let (server, _db) = server(options()).await?;
    let topic = "realtime:one";
    let mut sessions = Vec::new();
    for _ in 0..12 {
        sessions.push(Session::joined(&server, topic).await?);
    }
    let mut socket = talker(&server, topic).await?;
    let before = megabytes(&server)?;
    let mut unread = Vec::new();
    for n in 0..4 {
        say(&mut socket, topic, n, LARGE).await?;
        for session in &sessions {
            unread.push(session.ask().await?);
        }
        time::sleep(Duration::from_millis(300)).await;
    }
    let held = megabytes(&server)?.saturating_sub(before);
    assert!(held < 60, "{held} MB");
    // Nobody has lost anything: each gets all messages in their order.
    for session in &sessions[..2] {
        let mut came = Vec::new();
        while came.len() < 4 {
            came.extend(said(&session.poll().await?)?);
        }
        assert_eq!(came, [(0, LARGE), (1, LARGE), (2, LARGE), (3, LARGE)]);
    }
    Ok(())
}

/// What waits in answers is memory that is taken from those who hold most, and from nobody else.
#[tokio::test]
async fn answers_to_polls_have_a_bound_together() -> Result<()> {
    let (server, _db) = server(options().env("MAX_CLIENT_MEMORY_MB", "40")).await?;
    let mut quiet = talker(&server, "realtime:quiet").await?;
    let (mut sessions, mut unread) = (Vec::new(), Vec::new());
    for n in 0..24 {
        let topic = format!("realtime:own-{n}");
        let session = Session::joined(&server, &topic).await?;
        say(&mut talker(&server, &topic).await?, &topic, n, LARGE).await?;
        unread.push(session.ask().await?);
        sessions.push(session);
        // The answer has begun.
        unread.last_mut().context("none")?.read_exact(&mut [0; 100]).await?;
    }
    let memory = server.metric("realtime_client_memory_bytes").await?;
    assert!(memory < f64::from(41 << 20), "{memory}");
    let held = megabytes(&server)?;
    assert!(held < 100, "{held} MB");
    say(&mut quiet, "realtime:quiet", 1, 10).await?;
    // Whose messages are lost has to join anew, others get theirs.
    let (mut lost, mut came) = (0, 0);
    for (n, session) in (0..).zip(&sessions) {
        let told = session.poll().await?;
        if told["status"] == 410 {
            lost += 1;
        } else {
            assert_eq!(said(&told)?, [(n, LARGE)]);
            came += 1;
        }
    }
    assert!(lost > 5 && came > 5, "{lost} lost, {came} came");
    server.logged("SlowConsumer").await?;
    Ok(())
}

/// An answer is not larger than it has to be, and nothing is lost between two.
#[tokio::test]
async fn polls_take_a_part_of_what_waits() -> Result<()> {
    let (server, _db) = server(options()).await?;
    let topic = "realtime:parts";
    let session = Session::joined(&server, topic).await?;
    let mut socket = talker(&server, topic).await?;
    for n in 0..12 {
        say(&mut socket, topic, n, 300_000).await?;
    }
    let mut came = Vec::new();
    while came.len() < 12 {
        let part = said(&session.poll().await?)?;
        assert!((1..=3).contains(&part.len()), "{part:?}");
        came.extend(part);
    }
    assert_eq!(came, (0..12).map(|n| (n, 300_000)).collect::<Vec<_>>());
    Ok(())
}

/// What a client has not read to its end comes again, on whichever connection it asks next; and the old one is closed.
#[tokio::test]
async fn what_was_not_read_comes_again() -> Result<()> {
    let (server, _db) = server(options()).await?;
    let topic = "realtime:again";
    let session = Session::joined(&server, topic).await?;
    let mut socket = talker(&server, topic).await?;
    say(&mut socket, topic, 1, LARGE).await?;
    for gone in [true, false] {
        let mut first = session.ask().await?;
        first.read_exact(&mut [0; 100_000]).await?;
        if gone {
            drop(first);
            continue;
        }
        assert_eq!(said(&session.poll().await?)?, [(1, LARGE)]);
        let closed = time::timeout(PATIENCE, read(&mut first, 100_000, Duration::ZERO)).await?;
        assert!(closed.0.len() < LARGE - 200_000, "{} bytes", closed.0.len());
    }
    say(&mut socket, topic, 2, 10).await?;
    assert_eq!(said(&session.poll().await?)?, [(2, 10)], "once");
    Ok(())
}

/// A client that needs longer for an answer than it may be silent is not taken for gone.
#[tokio::test]
async fn a_slow_reader_keeps_its_session() -> Result<()> {
    let (server, _db) = server(options()).await?;
    let topic = "realtime:slow";
    let session = Session::joined(&server, topic).await?;
    let mut socket = talker(&server, topic).await?;
    say(&mut socket, topic, 1, LARGE).await?;
    let mut answer = session.ask().await?;
    let started = Instant::now();
    let (text, _) = read(&mut answer, 4_096, Duration::from_millis(25)).await;
    assert!(started.elapsed() > Duration::from_secs(16), "{:?}", started.elapsed());
    assert!(text.len() > LARGE);
    say(&mut socket, topic, 2, 10).await?;
    assert_eq!(said(&session.poll().await?)?, [(2, 10)]);
    Ok(())
}

async fn with_history(env: &[(&str, &str)]) -> Result<(Server, TestDb)> {
    let options = histories::ON.iter().chain(env).fold(options(), |all, (name, value)| all.env(name, value));
    let (server, db) = server(options).await?;
    say(&mut talker(&server, "realtime:h").await?, "realtime:h", 1, LARGE).await?;
    Ok((server, db))
}

const HISTORY: &str = "/api/broadcast/h/history";

/// Whoever does not read an answer is given up after a time, also if it takes a byte now and then; whoever is slow is not.
#[tokio::test]
async fn answers_that_nobody_reads_are_given_up() -> Result<()> {
    let (server, _db) = with_history(&[("HTTP_SEND_TIMEOUT_MS", "2000")]).await?;
    let before = server.metric("realtime_client_memory_bytes").await?;
    let idle = ask(&server, "127.0.0.1", HISTORY).await?;
    let mut dripping = ask(&server, "127.0.0.1", HISTORY).await?;
    let drip = tokio::spawn(async move { read(&mut dripping, 1, Duration::from_millis(100)).await });
    let mut slow = ask(&server, "127.0.0.1", HISTORY).await?;
    let (text, whole) = read(&mut slow, 60_000, Duration::from_millis(10)).await;
    assert!(whole && text.len() > LARGE, "{} bytes", text.len());
    until("given back", || async { Ok(server.metric("realtime_client_memory_bytes").await? <= before) })
        .await?;
    server.logged("AnswerNotRead").await?;
    drop(idle);
    drip.abort();
    Ok(())
}

/// Answers for one address leave room for the bodies of others.
#[tokio::test]
async fn an_address_leaves_room_for_others() -> Result<()> {
    let (server, _db) = with_history(&[("MAX_CLIENT_MEMORY_MB", "64")]).await?;
    let mut unread = Vec::new();
    for _ in 0..6 {
        unread.push(ask(&server, "127.0.0.1", HISTORY).await?);
    }
    server.logged("TooManyBodies").await?;
    let body = json!({"messages": [{"topic": "t", "event": "e", "payload": {"x": "x".repeat(2_800_000)}}]});
    let body = body.to_string();
    let mut other = connect(&server, "127.0.0.2").await?;
    let head = format!(
        "POST /api/broadcast HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Apikey: {}\r\nContent-Length: {}\r\n\r\n",
        token("anon"),
        body.len()
    );
    other.write_all(head.as_bytes()).await?;
    other.write_all(body.as_bytes()).await?;
    let (answer, _) = time::timeout(PATIENCE, read(&mut other, 4_096, Duration::ZERO)).await?;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    Ok(())
}
