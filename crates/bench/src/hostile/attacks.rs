//! What they do. Every attack goes on until it is stopped: whoever is closed comes back.

use std::{
    io::Read as _,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use realtime_testkit::{sign, sign_with, token, unix_now};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
    time::{self, Duration},
};

use super::victims;
use crate::wire::{self, Reader, Writer, frame};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// Nobody: what the others wait for at best
    None,
    /// As many bytes as `idle` sends, to a program that reads and forgets them: what the machine costs, whatever the server
    /// does
    Elsewhere,
    /// Joins that ask for 40,000 subscriptions
    Bindings,
    /// Filters that are slow to evaluate, on rows that others watch
    Filters,
    /// Many filters that differ, each to be checked
    Literals,
    /// Two access tokens in turn, on a channel that watches rows
    Tokens,
    /// Three sockets of 95 channels that watch rows and do not read
    Deaf,
    /// 190 sockets that do not read, and rows of 900 kB
    LargeRows,
    /// Sessions of the long-poll transport
    LongPoll,
    /// Bodies of 10 MB to long-poll sessions
    Bodies,
    /// Requests and handshakes with a wrong token
    BadTokens,
    /// Joins on one socket
    Joins,
    /// 300 sockets without a channel that send messages without an end
    Idle,
    /// Presence of two megabytes on many channels
    Presence,
    /// Half characters in broadcasts and presence
    Surrogates,
    /// Pings whose pongs nobody reads
    Pings,
    /// A room of six that is told 16 MB a second, of which one does not read
    StopsReading,
    /// What is no message
    Garbage,
    /// Broadcasts to a room of six
    Flood,
}

/// Those that attack: a process of its own, which lets all others go first. On machines of their own, attackers take no
/// processor from those who are measured.
pub(crate) struct Attackers {
    process: Child,
}

/// What the process of attackers is told.
#[derive(Debug, Args)]
pub(crate) struct Orders {
    #[arg(long, value_enum)]
    attack: Attack,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    database: String,
}

impl Attackers {
    /// Starts the process.
    pub(crate) fn start(attack: Attack, port: u16, database: &str) -> Result<Self> {
        let name = attack.to_possible_value().context("attack")?;
        let process = Command::new("chrt")
            .args(["--idle", "0"])
            .arg(std::env::current_exe()?)
            .args(["hostile-attackers", "--attack", name.get_name()])
            .args(["--port", &port.to_string(), "--database", database])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("chrt, of util-linux")?;
        Ok(Self { process })
    }

    /// Ends them. How often the server closed a connection of theirs, and how often it let none in.
    pub(crate) async fn end(mut self) -> Result<String> {
        drop(self.process.stdin.take());
        let mut told = String::new();
        self.process.stdout.take().context("stdout")?.read_to_string(&mut told).await?;
        Ok(told)
    }
}

/// Attacks until the standard input ends; then prints how often the server closed a connection, and how often it let
/// none in.
#[expect(clippy::print_stdout, reason = "tells its parent")]
pub(crate) async fn obey(orders: Orders) -> Result<()> {
    let target = Arc::new(Victim { port: orders.port, database: orders.database });
    let (closed, errors) = (Arc::default(), Arc::default());
    let mut tasks = start(orders.attack, &target, (&closed, &errors)).await?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    tasks.shutdown().await;
    println!("{} {}", closed.load(Ordering::Relaxed), errors.load(Ordering::Relaxed));
    Ok(())
}

/// The server that is attacked.
struct Victim {
    port: u16,
    database: String,
}

/// How many of an attack run side by side.
fn number(attack: Attack) -> usize {
    match attack {
        Attack::None => 0,
        Attack::LargeRows => 190,
        Attack::Idle | Attack::Elsewhere => 300,
        Attack::Deaf => 3,
        Attack::LongPoll | Attack::BadTokens | Attack::Bodies => 16,
        Attack::Presence => 30,
        Attack::Literals | Attack::Pings | Attack::Surrogates => 4,
        _ => 2,
    }
}

async fn start(
    attack: Attack,
    scene: &Arc<Victim>,
    (closed, errors): (&Arc<AtomicU64>, &Arc<AtomicU64>),
) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    if attack == Attack::Elsewhere {
        elsewhere(&mut tasks).await?;
        return Ok(tasks);
    }
    for n in 0..number(attack) {
        let (scene, closed, errors) = (Arc::clone(scene), Arc::clone(closed), Arc::clone(errors));
        tasks.spawn(async move {
            loop {
                match wire::connect(scene.port).await {
                    Ok(socket) => {
                        let _ = Box::pin(once(attack, n, &scene, socket)).await;
                        closed.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => {
                        errors.fetch_add(1, Ordering::Relaxed);
                        time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
    }
    if attack == Attack::LargeRows {
        let database = victims::database(&scene.database).await?;
        tasks.spawn(async move {
            time::sleep(Duration::from_secs(1)).await;
            loop {
                let row = "insert into public.large (body) values (repeat('x', 900000))";
                let _ = database.batch_execute(row).await;
                time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    Ok(tasks)
}

/// One connection of an attack, until it is closed.
async fn once(
    attack: Attack,
    n: usize,
    scene: &Victim,
    (mut reader, mut writer): (Reader, Writer),
) -> Result<()> {
    let topic = format!("realtime:hostile-{n}");
    let watch = r#"{"postgres_changes":[{"event":"*","schema":"public","table":"watched"}]}"#;
    match attack {
        Attack::None | Attack::Elsewhere => Ok(()),
        Attack::Bindings => {
            let entries = vec!["{}"; 40_000].join(",");
            let join =
                text(&topic, "phx_join", &format!(r#"{{"config":{{"postgres_changes":[{entries}]}}}}"#));
            both(reader, writer, &join).await
        }
        Attack::Filters => {
            let patterns = (0..90).map(|n| match n % 2 {
                0 => format!(r#"body=match.^(.*)(.*)(.*)(.*)x{n}$"#),
                _ => format!("body=like.%{}b{n}", "a".repeat(1_000)),
            });
            writer.join(&topic, &subscriptions(patterns)).await?;
            while reader.next().await.is_ok() {}
            Ok(())
        }
        Attack::Literals => loop {
            let salt = wire::now_nanos();
            let patterns = (0..100).map(|n| format!("body=like.{salt}{n}%"));
            writer.join(&topic, &subscriptions(patterns)).await?;
            reader.expect("phx_reply").await?;
        },
        Attack::Tokens => {
            writer.join(&topic, watch).await?;
            let one = |sub: &str| {
                let token = sign(&json!({"role": "anon", "sub": sub, "exp": unix_now() + 3600}));
                text(&topic, "access_token", &json!({"access_token": token}).to_string())
            };
            both(reader, writer, &[one("a"), one("b")].concat().repeat(50)).await
        }
        Attack::Deaf => {
            for channel in 0..95 {
                writer.join(&format!("{topic}-{channel}"), watch).await?;
                reader.expect("phx_reply").await?;
            }
            linger(&mut writer).await
        }
        Attack::LargeRows => {
            let watch = r#"{"postgres_changes":[{"event":"*","schema":"public","table":"large"}]}"#;
            writer.join(&topic, watch).await?;
            reader.expect("phx_reply").await?;
            linger(&mut writer).await
        }
        Attack::LongPoll => {
            let path = format!("/socket/longpoll?apikey={}&vsn=2.0.0", token("anon"));
            requests(scene.port, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"), b"").await
        }
        Attack::Bodies => bodies(scene.port).await,
        Attack::BadTokens => {
            let token = sign_with("a wrong secret that is long enough for anybody", &json!({"role": "anon"}));
            let request = if n.is_multiple_of(2) {
                format!("GET /api/broadcast?apikey={token} HTTP/1.1\r\nHost: localhost\r\n\r\n")
            } else {
                format!(
                    "GET /socket/websocket?apikey={token}&vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\n\
                     Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                )
            };
            requests(scene.port, &request, b"").await
        }
        Attack::Joins => {
            both(reader, writer, &text(&topic, "phx_join", r#"{"config":{}}"#).repeat(100)).await
        }
        Attack::Idle => {
            let part = vec![b'x'; 4_900_000];
            let mut begun = frame(1, &part);
            // Not the last of its message.
            if let Some(first) = begun.first_mut() {
                *first = 1;
            }
            writer.0.write_all(&begun).await?;
            linger(&mut writer).await
        }
        Attack::Presence => {
            let payload = "x".repeat(2_000_000);
            for channel in 0..90 {
                let topic = format!("{topic}-{channel}");
                writer.join(&topic, "{}").await?;
                reader.expect("phx_reply").await?;
                let track = format!(r#"{{"event":"track","payload":{{"x":"{payload}"}}}}"#);
                writer.0.write_all(&text(&topic, "presence", &track)).await?;
                reader.expect("phx_reply").await?;
            }
            linger(&mut writer).await
        }
        Attack::Surrogates => {
            writer.join(&topic, "{}").await?;
            let broadcast = text(&topic, "broadcast", r#"{"event":"e","payload":{"x":"\ud800"}}"#);
            let track = text(&topic, "presence", r#"{"event":"track","payload":{"x":"\udc00"}}"#);
            both(reader, writer, &[broadcast, track].concat().repeat(100)).await
        }
        Attack::Pings => {
            let pings = frame(9, b"").repeat(1_000);
            loop {
                writer.0.write_all(&pings).await?;
            }
        }
        Attack::StopsReading => {
            writer.join("realtime:loud", "{}").await?;
            reader.expect("phx_reply").await?;
            let (_deaf, mut other) = wire::joined(scene.port, "realtime:loud", "{}").await?;
            let message = text(
                "realtime:loud",
                "broadcast",
                &format!(r#"{{"event":"e","payload":"{}"}}"#, "x".repeat(160_000)),
            );
            loop {
                other.0.write_all(&message).await?;
                time::sleep(Duration::from_millis(10)).await;
            }
        }
        Attack::Garbage => {
            both(reader, writer, &frame(1, b"[\"this\",\"is\",no message").repeat(1_000)).await
        }
        Attack::Flood => {
            let topic = "realtime:flood";
            let mut members = JoinSet::new();
            for _ in 0..5 {
                let (mut reader, writer) = wire::joined(scene.port, topic, "{}").await?;
                members.spawn(async move {
                    let _writer = writer;
                    while reader.next().await.is_ok() {}
                });
            }
            writer.join(topic, "{}").await?;
            both(reader, writer, &text(topic, "broadcast", r#"{"event":"e","payload":{}}"#).repeat(1_000))
                .await
        }
    }
}

/// Sockets that send what nobody looks at.
async fn elsewhere(tasks: &mut JoinSet<()>) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tasks.spawn(async move {
        let mut readers = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            readers.spawn(async move {
                let mut buffer = vec![0; 262_144];
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    let part: Arc<[u8]> = vec![b'x'; 4_900_000].into();
    for _ in 0..number(Attack::Elsewhere) {
        let part = Arc::clone(&part);
        tasks.spawn(async move {
            while let Ok(mut stream) = TcpStream::connect(address).await {
                while stream.write_all(&part).await.is_ok() {}
            }
        });
    }
    Ok(())
}

/// A message as a frame.
fn text(topic: &str, event: &str, payload: &str) -> Vec<u8> {
    frame(1, format!(r#"["join","m","{topic}","{event}",{payload}]"#).as_bytes())
}

/// A join's config with a filter each.
fn subscriptions(filters: impl Iterator<Item = String>) -> String {
    let entries: Vec<_> = filters
        .map(|filter| json!({"event": "*", "schema": "public", "table": "watched", "filter": filter}))
        .collect();
    json!({"postgres_changes": entries}).to_string()
}

/// Sends the same for ever, and reads what comes.
async fn both(mut reader: Reader, mut writer: Writer, frames: &[u8]) -> Result<()> {
    let read = async {
        loop {
            reader.next().await?;
        }
    };
    let write = async {
        loop {
            writer.0.write_all(frames).await?;
        }
    };
    tokio::select! {
        ended = read => ended,
        ended = write => ended,
    }
}

/// Stays, and says so; reads nothing. Ends when the server does not listen any more.
async fn linger(writer: &mut Writer) -> Result<()> {
    loop {
        time::sleep(Duration::from_millis(500)).await;
        writer.send(r#"[null,"beat","phoenix","heartbeat",{}]"#).await?;
    }
}

/// Sends a request again and again on one connection.
async fn requests(port: u16, head: &str, body: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut answer = vec![0; 65_536];
    loop {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        if stream.read(&mut answer).await? == 0 {
            bail!("closed");
        }
    }
}

/// A long-poll session that is sent bodies of nine megabytes that lack their last byte, sixteen at once.
async fn bodies(port: u16) -> Result<()> {
    let query = format!("apikey={}&vsn=2.0.0", token("anon"));
    let opened = realtime_testkit::http(port, "GET", &format!("/socket/longpoll?{query}"), &[], b"").await?;
    let opened: serde_json::Value = serde_json::from_str(&opened.body)?;
    let session = opened["token"].as_str().unwrap_or_default();
    let head = format!(
        "POST /socket/longpoll?{query}&token={session} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
    );
    let body = Arc::new(vec![b'x'; 8_999_999]);
    let mut sending = JoinSet::new();
    for _ in 0..16 {
        let (head, body) = (head.clone(), Arc::clone(&body));
        sending.spawn(async move { requests(port, &head, &body).await });
    }
    while sending.join_next().await.is_some() {}
    Ok(())
}
