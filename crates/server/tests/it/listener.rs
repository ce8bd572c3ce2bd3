//! The listener: both families of addresses, and TLS (http_and_ops 0, 5).

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version, token};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::{BINARY, authority::Authority, clients::Client};

/// The files of a server's certificate.
struct Files {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let files = Self { authority: Authority::new(dir.path(), "ca")?, dir };
        files.renew()?;
        Ok(files)
    }

    /// Writes a new certificate.
    fn renew(&self) -> Result<()> {
        let (certificate, key) = self.authority.sign("localhost")?;
        std::fs::write(self.dir.path().join("cert.pem"), certificate)?;
        Ok(std::fs::write(self.dir.path().join("key.pem"), key)?)
    }

    fn options(&self) -> ServerOptions {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        ServerOptions::default()
            .env("TLS_CERT_FILE", &path("cert.pem"))
            .env("TLS_KEY_FILE", &path("key.pem"))
            .env("TENANT_MAX_EVENTS_PER_SECOND", "1000000")
    }
}

/// An encrypted connection, whose certificate is verified.
async fn connect(server: &Server, ca: &Path) -> Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", server.port())).await?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, tcp);
    Ok(time::timeout(PATIENCE, connecting).await??)
}

/// The certificate that a new connection is shown.
async fn shown(server: &Server, files: &Files) -> Result<Vec<u8>> {
    let stream = connect(server, &files.authority.file).await?;
    let certificates = stream.get_ref().1.peer_certificates().context("no certificate")?;
    Ok(certificates.first().context("no certificate")?.to_vec())
}

/// A joined socket on an encrypted connection.
async fn joined(server: &Server, files: &Files) -> Result<WebSocketStream<TlsStream<TcpStream>>> {
    let stream = connect(server, &files.authority.file).await?;
    let url = format!("wss://localhost/socket/websocket?apikey={}&vsn=2.0.0", token("anon"));
    let (mut socket, _) = time::timeout(PATIENCE, client_async(url, stream)).await??;
    socket.send(Message::text(json!(["1", "1", "realtime:a", "phx_join", {}]).to_string())).await?;
    let reply = next(&mut socket, "phx_reply").await?;
    ensure!(reply[4]["status"] == "ok", "{reply}");
    Ok(socket)
}

/// The next message of an event.
async fn next(socket: &mut WebSocketStream<TlsStream<TcpStream>>, event: &str) -> Result<Value> {
    loop {
        let message = time::timeout(PATIENCE, socket.next()).await.with_context(|| format!("no {event}"))?;
        let message: Value = serde_json::from_str(message.context("the socket ended")??.to_text()?)?;
        if message[3] == event {
            return Ok(message);
        }
    }
}

/// http_and_ops 0: one listener takes both families
#[tokio::test]
async fn both_families_of_addresses() -> Result<()> {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return Ok(());
    }
    let db = TestDb::new().await?;
    let both = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let only =
        Server::start(BINARY, &db, ServerOptions::default().env("REALTIME_IP_VERSION", "ipv4")).await?;
    for (server, host, reachable) in
        [(&both, "127.0.0.1", true), (&both, "::1", true), (&only, "127.0.0.1", true), (&only, "::1", false)]
    {
        let stream = TcpStream::connect((host, server.port())).await;
        assert_eq!(stream.is_ok(), reachable, "{host}");
        let Ok(mut stream) = stream else { continue };
        stream.write_all(b"GET /healthcheck HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    Ok(())
}

/// A full server is not a dead one: what watches it is answered, everybody else is told to come again.
#[tokio::test]
async fn a_full_server_says_that_it_lives() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default().env("MAX_CONNECTIONS", "3");
    let server = Server::start(BINARY, &db, options).await?;
    let mut sockets = Vec::new();
    let limit = time::Instant::now() + PATIENCE;
    // The connection by which the test has seen that it serves may be there a moment longer.
    while sockets.len() < 3 {
        ensure!(time::Instant::now() < limit, "it does not get full");
        sockets.extend(server.socket(Version::V2, "anon").await.ok());
    }
    // As many as hold the back door by asking for nothing.
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(("127.0.0.1", server.port())).await?);
    }
    for _ in 0..5 {
        let health = server.http("GET", "/healthcheck", &[], b"").await?;
        assert_eq!((health.status, &*health.body), (200, "ok"));
        let ping = server.http("GET", "/api/ping", &[], b"").await?;
        assert_eq!((ping.status, ping.header("retry-after")), (503, "1"));
    }
    drop(sockets);
    realtime_testkit::until("there are places again", async || {
        Ok(server.http("GET", "/api/ping", &[], b"").await?.status == 200)
    })
    .await
}

/// Without file descriptors neither.
#[tokio::test]
async fn a_server_without_descriptors_says_that_it_lives() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let pid = server.pid();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    let highest: usize =
        open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).max().unwrap_or(0);
    let limit = format!("--nofile={}:", highest + 5);
    let set =
        tokio::process::Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().await?;
    assert!(set.success());
    let mut sockets = Vec::new();
    let url = format!("ws://127.0.0.1:{}/socket/websocket?apikey={}", server.port(), token("anon"));
    let refused = loop {
        match Socket::try_connect(&url, &[], Version::V1).await? {
            Ok(socket) => sockets.push(socket),
            Err(refused) => break refused,
        }
        assert!(sockets.len() < 500, "it has more than it may");
    };
    assert_eq!(refused.status, 503);
    for _ in 0..5 {
        assert_eq!(server.http("GET", "/healthcheck", &[], b"").await?.status, 200);
    }
    Ok(())
}

/// The official client through `wss`, with the authority that it was told to trust.
#[tokio::test]
async fn the_official_client_over_tls() -> Result<()> {
    let files = Files::new()?;
    let db = TestDb::with_fixture_a().await?;
    let server = Server::start(BINARY, &db, files.options()).await?;
    let url = format!("https://localhost:{}", server.port());
    let test = json!([{"event": "*", "schema": "public", "table": "test"}]);
    let mut client = Client::javascript_at(&url, "2.0.0", &test, Some(&files.authority.file))?;
    client.ready().await?;
    db.sql("insert into public.test (details) values (repeat('x', 200000))").await?;
    let change = client.next("change").await?;
    assert_eq!(change["new"]["details"].as_str().map(str::len), Some(200_000));

    // Who trusts another authority does not connect; nor does who speaks without encryption.
    let other = Authority::new(files.dir.path(), "other")?;
    let error = connect(&server, &other.file).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert!(!server.get("/healthcheck").await.is_ok_and(|answer| answer.starts_with("HTTP/")));
    Ok(())
}

/// An answer that nobody reads is given up, with what encryption keeps of it.
#[tokio::test]
async fn unread_answers_over_tls() -> Result<()> {
    let files = Files::new()?;
    let db = TestDb::new().await?;
    let options =
        crate::histories::ON.iter().fold(files.options(), |all, (name, value)| all.env(name, value));
    let server = Server::start(BINARY, &db, options.env("HTTP_SEND_TIMEOUT_MS", "1000")).await?;
    let mut socket = joined(&server, &files).await?;
    for n in 0..2 {
        let payload = json!({"type": "broadcast", "event": "e", "payload": {"x": "x".repeat(1_900_000)}});
        let said = json!(["1", n.to_string(), "realtime:a", "broadcast", payload]);
        socket.send(Message::text(said.to_string())).await?;
    }
    let request = format!(
        "GET /api/broadcast/a/history HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nApikey: {}\r\n\r\n",
        token("anon")
    );
    realtime_testkit::until("the history is there", async || {
        let mut reading = connect(&server, &files.authority.file).await?;
        reading.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        time::timeout(PATIENCE, reading.read_to_end(&mut answer)).await??;
        Ok(answer.len() > 3_800_000)
    })
    .await?;
    let mut idle = connect(&server, &files.authority.file).await?;
    idle.write_all(request.as_bytes()).await?;
    server.logged("AnswerNotRead").await?;
    Ok(())
}

/// What a slow reader leaves waits, encrypted or not, and arrives whole and in order; large messages come in.
#[tokio::test]
async fn large_messages_and_slow_readers_over_tls() -> Result<()> {
    let files = Files::new()?;
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, files.options()).await?;
    let mut slow = joined(&server, &files).await?;
    let mut quick = joined(&server, &files).await?;
    for n in 0..150 {
        let payload =
            json!({"type": "broadcast", "event": "e", "payload": {"n": n, "text": "x".repeat(60_000)}});
        quick.send(Message::text(json!(["1", null, "realtime:a", "broadcast", payload]).to_string())).await?;
    }
    // The last one is answered when all have been published: nothing of it was read by the slow one.
    quick.send(Message::text(json!([null, "h", "phoenix", "heartbeat", {}]).to_string())).await?;
    assert_eq!(next(&mut quick, "phx_reply").await?[1], "h");
    for n in 0..150 {
        let message = next(&mut slow, "broadcast").await?;
        assert_eq!(
            (&message[4]["payload"]["n"], message[4]["payload"]["text"].as_str().map(str::len)),
            (&json!(n), Some(60_000))
        );
    }
    slow.close(None).await?;
    let last = time::timeout(PATIENCE, slow.next()).await.context("no answer to the close frame")?;
    assert!(matches!(last, Some(Ok(Message::Close(_)))), "{last:?}");
    server.stop().await
}

/// A stream of events, encrypted: what a slow reader leaves waits, and arrives whole and in order.
#[tokio::test]
async fn streams_over_tls() -> Result<()> {
    let files = Files::new()?;
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, files.options()).await?;
    let mut stream = connect(&server, &files.authority.file).await?;
    let request =
        format!("GET /sse/broadcast/a?apikey={} HTTP/1.1\r\nHost: localhost\r\n\r\n", token("anon"));
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 15];
    time::timeout(PATIENCE, stream.read_exact(&mut head)).await??;
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let mut quick = joined(&server, &files).await?;
    for n in 0..150 {
        let payload =
            json!({"type": "broadcast", "event": "e", "payload": {"n": n, "text": "x".repeat(60_000)}});
        quick.send(Message::text(json!(["1", null, "realtime:a", "broadcast", payload]).to_string())).await?;
    }
    quick.send(Message::text(json!([null, "h", "phoenix", "heartbeat", {}]).to_string())).await?;
    assert_eq!(next(&mut quick, "phx_reply").await?[1], "h");
    let mut lines = BufReader::new(stream).lines();
    for n in 0..150 {
        let line = loop {
            let line = time::timeout(PATIENCE, lines.next_line()).await.context("nothing came")??;
            let line = line.context("the stream ended")?;
            if let Some(data) = line.strip_prefix("data: ") {
                break data.to_owned();
            }
        };
        let data: Value = serde_json::from_str(&line)?;
        let length = data["payload"]["text"].as_str().map(str::len);
        assert_eq!((&data["payload"]["n"], length), (&json!(n), Some(60_000)));
    }
    server.stop().await
}

/// A certificate is replaced on SIGHUP, and one that is of no use is not taken; connections live on.
#[tokio::test]
async fn certificates_are_renewed_while_serving() -> Result<()> {
    let files = Files::new()?;
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, files.options()).await?;
    let hang_up =
        || kill(Pid::from_raw(i32::try_from(server.pid())?), Signal::SIGHUP).map_err(anyhow::Error::from);
    let mut socket = joined(&server, &files).await?;
    let first = shown(&server, &files).await?;

    std::fs::write(files.dir.path().join("key.pem"), "nonsense")?;
    hang_up()?;
    server.logged("CertificateNotReloaded").await?;
    assert_eq!(shown(&server, &files).await?, first);

    files.renew()?;
    hang_up()?;
    server.logged("serving with a new certificate").await?;
    assert_ne!(shown(&server, &files).await?, first);
    socket.send(Message::text(json!([null, "h", "phoenix", "heartbeat", {}]).to_string())).await?;
    assert_eq!(next(&mut socket, "phx_reply").await?[1], "h");
    Ok(())
}

/// The rest of the HTTP API over TLS, on a connection that is kept.
#[tokio::test]
async fn http_over_tls() -> Result<()> {
    let files = Files::new()?;
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, files.options()).await?;
    let mut stream = connect(&server, &files.authority.file).await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), None);
    stream
        .write_all(
            b"HEAD /api/ping HTTP/1.1\r\nHost: realtime-dev\r\n\r\n\
              GET /healthcheck HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
        .await?;
    let mut answer = String::new();
    time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    // A token in the query, through the plain test client: the server is not confused by what is no TLS.
    assert!(server.socket(Version::V2, "anon").await.is_err());
    Ok(())
}
