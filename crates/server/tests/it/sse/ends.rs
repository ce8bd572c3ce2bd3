//! What is refused, and how streams end.

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{PATIENCE, Server, ServerOptions, TestDb, sign, sign_with, token, unix_now};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time,
};

use super::{Curl, bearer};
use crate::{
    BINARY,
    changes_images::{server, server_with},
};

/// Waits until a metric has a value.
async fn until(server: &Server, name: &str, fits: impl Fn(f64) -> bool) -> Result<()> {
    let reached = async {
        while !fits(server.metric(name).await?) {
            time::sleep(time::Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    time::timeout(PATIENCE, reached).await.with_context(|| name.to_owned())?
}

/// resume case 8: errors before the stream have their status and the form of the API
#[tokio::test]
async fn what_cannot_be_served_is_refused_with_its_status() -> Result<()> {
    let (server, _db) = server("").await?;
    let ann = bearer("ann");
    let expired = sign(&json!({"role": "authenticated", "exp": unix_now() - 10}));
    let wrong =
        sign_with("another secret that is long enough", &json!({"role": "anon", "exp": unix_now() + 60}));
    let changes = "/sse/changes?schema=public&table=docs";
    let cases = [
        (changes.to_owned(), vec![], 401, "API key is missing"),
        (format!("{changes}&apikey={wrong}"), vec![], 401, ""),
        (changes.to_owned(), vec![format!("Authorization: Bearer {expired}")], 401, "Token has expired"),
        (format!("{changes}&access_token=x"), vec![], 401, ""),
        (format!("{changes}&filter=id"), vec![ann.clone()], 400, "Error parsing `filter` params"),
        (format!("{changes}&filter=nothing%3Deq.1"), vec![ann.clone()], 400, "nothing"),
        (format!("{changes}&filtr=id%3Deq.1"), vec![ann.clone()], 400, "There is no parameter `filtr`"),
        ("/sse/changes?table=nowhere".to_owned(), vec![ann.clone()], 400, "table: nowhere"),
        (
            changes.to_owned(),
            vec![ann.clone(), "Last-Event-ID: x".to_owned()],
            400,
            "Error parsing `since` params",
        ),
        ("/sse/broadcast/a?private=true".to_owned(), vec![ann.clone()], 403, "Unauthorized"),
        ("/sse/broadcast/a?private=5".to_owned(), vec![ann.clone()], 400, "`private`"),
        ("/sse/broadcast".to_owned(), vec![ann.clone()], 404, ""),
    ];
    for (path, headers, status, text) in cases {
        let headers: Vec<&str> =
            headers.iter().map(|header| &**header).chain(["Origin: http://a.example"]).collect();
        let curl = Curl::open(&server, &path, &headers).await?;
        let (told, head) = (curl.status, curl.head.join("\n").to_ascii_lowercase());
        let body = curl.body().await?;
        assert_eq!(told, status, "{path}: {body}");
        if status != 404 {
            let message: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
            let message = message["message"].as_str().context("message")?;
            ensure!(message.contains(text), "{path}: {message}");
            ensure!(head.contains("access-control-allow-origin: *"), "{path}: {head}");
        }
    }
    let answer = server.http("OPTIONS", changes, &[("Origin", "http://a.example")], b"").await?;
    assert_eq!((answer.status, answer.header("access-control-allow-methods")), (200, "GET, OPTIONS"));
    for method in ["POST", "HEAD", "DELETE"] {
        assert_eq!(server.http(method, changes, &[], b"").await?.status, 404, "{method}");
    }
    let old = server.request(&format!("GET {changes} HTTP/1.0\r\nHost: localhost\r\n{ann}\r\n\r\n")).await?;
    ensure!(old.contains(" 505 "), "{old}");
    Ok(())
}

/// resume case 8
#[tokio::test]
async fn a_tenant_that_is_not_known_is_told() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, ServerOptions::default().env("SEED_SELF_HOST", "false")).await?;
    for path in ["/sse/changes?table=docs", "/realtime/v1/sse/broadcast/a"] {
        let curl = Curl::open(&server, path, &[&bearer("ann")]).await?;
        assert_eq!(curl.status, 404);
        assert_eq!(curl.body().await?.trim(), r#"{"message":"Tenant not found"}"#);
    }
    Ok(())
}

/// resume case 8: the token's end closes the stream, and that is told
#[tokio::test]
async fn the_end_of_the_token_is_the_end_of_the_stream() -> Result<()> {
    let (server, _db) = server("").await?;
    let token = sign(&json!({"role": "authenticated", "me": "ann", "exp": unix_now() + 3}));
    let mut curl =
        Curl::open(&server, "/sse/changes?table=docs", &[&format!("Authorization: Bearer {token}")]).await?;
    let mut broadcasts = Curl::open(&server, &format!("/sse/broadcast/a?apikey={token}"), &[]).await?;
    for stream in [&mut curl, &mut broadcasts] {
        let error = stream.expect("error").await?;
        let text = error.data["message"].as_str().context("message")?;
        ensure!(error.data["status"] == "error" && text.contains("expired"), "{text}");
        assert_eq!(stream.next().await?, None, "it ends");
    }
    Ok(())
}

/// resume case 8: who does not read is told to go, as a socket is; nobody else waits
#[tokio::test]
async fn a_slow_reader_is_closed() -> Result<()> {
    let options = ServerOptions::fast().env("TENANT_MAX_PAYLOAD_SIZE_IN_KB", "10000");
    let (server, db) = server_with("", options).await?;
    let mut slow = TcpStream::connect(("127.0.0.1", server.port())).await?;
    let ann = bearer("ann");
    let request = format!("GET /sse/changes?table=docs HTTP/1.1\r\nHost: localhost\r\n{ann}\r\n\r\n");
    slow.write_all(request.as_bytes()).await?;
    let mut head = [0; 15];
    slow.read_exact(&mut head).await?;
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let mut quick = Curl::open(&server, "/sse/changes?table=docs&select=id", &[&ann]).await?;
    db.sql("insert into docs values (0, 'ann', '')").await?;
    quick.rows(1).await?;
    let text = "repeat(md5(i::text), 20000)";
    db.sql(&format!("insert into docs select i, 'ann', {text} from generate_series(1, 60) i")).await?;
    quick.rows(60).await?;
    until(&server, "realtime_slow_consumers", |count| count >= 1.0).await?;
    let mut rest = Vec::new();
    // It may be cut in the middle of an event.
    let _ = time::timeout(PATIENCE, slow.read_to_end(&mut rest)).await.context("not closed")?;
    Ok(())
}

/// resume case 8: a client that is gone is forgotten at once
#[tokio::test]
async fn who_is_gone_is_freed() -> Result<()> {
    let (server, _db) = server("").await?;
    let ann = bearer("ann");
    let connected = "realtime_connections_global_connected";
    let mut curls = Vec::new();
    for path in ["/sse/changes?table=docs", "/sse/broadcast/a", "/sse/changes?table=docs&live=true"] {
        curls.push(Curl::open(&server, path, &[&ann]).await?);
    }
    until(&server, connected, |count| count == 3.0).await?;
    for curl in curls {
        curl.kill().await?;
    }
    let freed = until(&server, connected, |count| count == 0.0);
    time::timeout(time::Duration::from_secs(15), freed).await.context("not freed within 15 s")?
}

/// resume case 8: a thousand streams, each of which gets its change
#[tokio::test]
async fn a_thousand_streams() -> Result<()> {
    const STREAMS: usize = 1_000;
    const AT_ONCE: usize = 100;
    let options = ServerOptions::fast().env("TENANT_MAX_JOINS_PER_SECOND", "100000");
    let (server, db) = server_with("", options).await?;
    let ann = bearer("ann");
    let mut streams = Vec::new();
    // Where the database is busy for long, streams that come all at once are refused.
    while streams.len() < STREAMS {
        let before = streams.len();
        for _ in 0..AT_ONCE {
            let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
            let request = format!("GET /sse/changes?table=docs HTTP/1.1\r\nHost: localhost\r\n{ann}\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            streams.push(BufReader::new(stream).lines());
        }
        for stream in &mut streams[before..] {
            next_line(stream, "event: subscribed").await?;
        }
    }
    db.sql("insert into docs values (1, 'ann', 'to all')").await?;
    for stream in &mut streams {
        next_line(stream, "event: INSERT").await?;
    }
    Ok(())
}

async fn next_line(lines: &mut tokio::io::Lines<BufReader<TcpStream>>, wanted: &str) -> Result<()> {
    let found = async {
        while let Some(line) = lines.next_line().await? {
            if line == wanted {
                return Ok(());
            }
            ensure!(!line.starts_with("HTTP/1.1") || line.contains("200"), "{line}");
        }
        anyhow::bail!("the stream ended before {wanted}")
    };
    time::timeout(PATIENCE, found).await.context("nothing came")?
}

/// A comment comes in time, so that proxies keep the connection.
#[tokio::test]
async fn comments_keep_a_quiet_stream_alive() -> Result<()> {
    let (server, _db) = server("").await?;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
    let request =
        format!("GET /sse/broadcast/a HTTP/1.1\r\nHost: localhost\r\napikey: {}\r\n\r\n", token("anon"));
    stream.write_all(request.as_bytes()).await?;
    let mut lines = BufReader::new(stream).lines();
    next_line(&mut lines, ": ").await?;
    next_line(&mut lines, ": ").await
}

/// What a client sends after its request means nothing, and is bounded.
#[tokio::test]
async fn who_sends_on_is_closed() -> Result<()> {
    let (server, _db) = server("").await?;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
    let request =
        format!("GET /sse/broadcast/a HTTP/1.1\r\nHost: localhost\r\napikey: {}\r\n\r\n", token("anon"));
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 15];
    stream.read_exact(&mut head).await?;
    let flood = async { while stream.write_all(&[b'x'; 8_192]).await.is_ok() {} };
    time::timeout(PATIENCE, flood).await.context("never closed")?;
    Ok(())
}
