//! What holds for every route (http_and_ops 0).

use std::io::Read as _;

use anyhow::Result;
use flate2::read::GzDecoder;
use realtime_testkit::{Server, ServerOptions, TestDb, sign_with, token};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::BINARY;

/// http_and_ops 35: every answer has an id, that of the request if it brought one
#[tokio::test]
async fn every_answer_has_an_id() -> Result<()> {
    let (server, _db) = crate::server().await?;
    for (path, status) in [
        ("/healthcheck", 200),
        ("/api/ping", 200),
        ("/nowhere", 404),
        ("/metrics", 403),
        ("/socket/websocket?vsn=9", 403),
        ("/socket/websocket?vsn=2.0.0", 401),
        ("/socket/longpoll?vsn=9", 200),
    ] {
        let answer = server.http("GET", path, &[("baggage", "a=b,request-id=1234%3567890;p=1")], b"").await?;
        assert_eq!((answer.status, answer.header("x-request-id")), (status, "1234567890"), "{path}");
        for bad in [
            "request-id=123456789",
            "request-id=1234567890%0A",
            "request-id=%FF123456789",
            "other=1234567890",
        ] {
            let answer = server.http("GET", path, &[("baggage", bad)], b"").await?;
            let id = answer.header("x-request-id");
            assert_eq!(id.len(), 20, "{path} {bad}");
            assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{id}");
        }
        let answer = server.http("GET", path, &[("X-Request-Id", "of-the-gateway-000001")], b"").await?;
        assert_eq!(answer.header("x-request-id"), "of-the-gateway-000001");
    }
    // An upgrade is an answer too.
    let upgrade = format!(
        "GET /socket/websocket?apikey={}&vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Accept-Encoding: gzip\r\nbaggage: request-id=of-the-socket\r\n\r\n",
        token("anon")
    );
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
    stream.write_all(upgrade.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("x-request-id: of-the-socket"), "{head}");
    assert!(!head.contains("content-encoding"), "{head}");
    Ok(())
}

/// The member of the baggage can have another name.
#[tokio::test]
async fn the_baggage_key_is_a_setting() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default().env("REQUEST_ID_BAGGAGE_KEY", "sb-request-id");
    let server = Server::start(BINARY, &db, options).await?;
    let baggage = [("baggage", "request-id=of-somebody-else, sb-request-id=0192f0c5-aaaa")];
    let answer = server.http("GET", "/healthcheck", &baggage, b"").await?;
    assert_eq!(answer.header("x-request-id"), "0192f0c5-aaaa");
    Ok(())
}

/// http_and_ops 56: what is asked in a way that is not served is refused in the same words everywhere
#[tokio::test]
async fn refusals_of_form() -> Result<()> {
    let (server, _db) = crate::server().await?;
    let health = server.http("GET", "/healthcheck", &[], b"").await?;
    assert_eq!((health.status, &*health.body), (200, "ok"));
    let bearer = format!("Bearer {}", token("anon"));
    let json = ("Accept", "application/json");
    let html = ("Accept", "text/html");
    let long = "x".repeat(4_097);
    for (method, path, headers, body, status, text) in [
        ("GET", "/nowhere", &[][..], "", 404, "Not Found"),
        ("GET", "/nowhere", &[html], "", 404, "Not Found"),
        ("GET", "/nowhere", &[json], "", 404, "\"Not Found\""),
        ("GET", "/api/nowhere", &[html], "", 404, "Not Found"),
        ("DELETE", "/healthcheck", &[], "", 404, "Not Found"),
        ("GET", "/api/ping", &[html], "", 406, "Not Acceptable"),
        ("GET", "/api/ping", &[("Accept", "text/html, */*;q=0.1")], "", 200, r#"{"message":"Success"}"#),
        ("GET", "/realtime/v1/api/ping", &[("Accept", "image/png")], "", 406, "Not Acceptable"),
        ("POST", "/api/broadcast", &[html, ("Authorization", &bearer)], "{}", 406, "Not Acceptable"),
        ("GET", "/healthcheck", &[html], "", 200, "ok"),
        ("GET", "/healthcheck", &[("X-Long", &long)], "", 431, "Request Header Fields Too Large"),
        (
            "POST",
            "/api/broadcast",
            &[json, ("Content-Type", "application/json"), ("Authorization", &bearer)],
            "{\"messages\":",
            400,
            "\"Bad Request\"",
        ),
        ("GET", "/api/tenants/%ff", &[], "", 400, "Bad Request"),
        ("GET", "/metrics/%ff", &[json], "", 400, "\"Bad Request\""),
        ("POST", "/api/broadcast/%ff/events/a", &[("Authorization", &bearer)], "{}", 400, "Bad Request"),
    ] {
        let answer = server.http(method, path, headers, body.as_bytes()).await?;
        assert_eq!((answer.status, &*answer.body), (status, text), "{method} {path} {headers:?}");
        assert_eq!(answer.header("x-request-id").len(), 20, "{method} {path}");
    }
    // An announced body that is too large is refused before it is sent.
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
    let head = "POST /api/broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 8000001\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.ends_with("Request Entity Too Large"), "{answer}");
    Ok(())
}

/// A client that sends a large body without need reads the answer, not the end of its connection, and can go on with it.
#[tokio::test]
async fn what_is_refused_unread_is_answered_all_the_same() -> Result<()> {
    let (server, _db) = crate::server().await?;
    let small = b"GET /healthcheck HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for (path, kind, length, status) in [
        ("/api/broadcast", "application/json", 8_000_001, 413),
        ("/api/broadcast", "application/json", 12_000_000, 413),
        ("/api/broadcast", "application/json", 5_000_000, 401),
        ("/api/broadcast/a/events/b", "text/plain", 5_000_000, 415),
        ("/api/tenants", "application/json", 5_000_000, 403),
        ("/nowhere", "application/json", 5_000_000, 404),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&vec![b' '; length]).await?;
        stream.write_all(small).await?;
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await?;
        assert!(answers.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {length}: {answers}");
        assert!(answers.ends_with("\r\n\r\nok"), "{path} {length}: {answers}");
    }
    Ok(())
}

/// A path with empty segments is the path without: a base address that ends with a slash makes some.
#[tokio::test]
async fn empty_segments_of_a_path_mean_nothing() -> Result<()> {
    let (server, _db) = crate::server().await?;
    for path in ["/healthcheck/", "//healthcheck", "/api/ping/", "/realtime/v1//api/ping?a=b//"] {
        assert_eq!(server.http("GET", path, &[], b"").await?.status, 200, "{path}");
    }
    for path in ["/socket//websocket", "//socket/websocket/", "/realtime/v1//websocket"] {
        let path = format!("{path}?apikey={}&vsn=9", token("anon"));
        // Refused for its version: the route was found.
        assert_eq!(server.http("GET", &path, &[], b"").await?.status, 403, "{path}");
    }
    Ok(())
}

/// HEAD is answered wherever GET is, as it is, but for the body.
#[tokio::test]
async fn head_is_get_without_a_body() -> Result<()> {
    let (server, _db) = crate::server().await?;
    for path in ["/healthcheck", "/api/ping", "/metrics", "/nowhere", "/api/openapi"] {
        let get = server.http("GET", path, &[], b"").await?;
        let head = server.http("HEAD", path, &[], b"").await?;
        assert_eq!((head.status, &*head.body), (get.status, ""), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
    }
    Ok(())
}

/// Answers are compressed for those who ask, if it is worth it.
#[tokio::test]
async fn large_answers_are_compressed_for_those_who_ask() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default().env("METRICS_JWT_SECRET", "of-the-metrics");
    let server = Server::start(BINARY, &db, options).await?;
    let bearer = format!("Bearer {}", sign_with("of-the-metrics", &json!({})));
    let plain = server.http("GET", "/metrics", &[("Authorization", &bearer)], b"").await?;
    assert!(!plain.headers.contains_key("content-encoding") && plain.body.len() > 5_000);
    let ask = format!(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept-Encoding: gzip\r\nAuthorization: {bearer}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
    stream.write_all(ask.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..at].to_vec())?.to_ascii_lowercase();
    assert!(head.contains("content-encoding: gzip") && head.contains("vary: accept-encoding"), "{head}");
    let body = dechunk(&answer[at + 4..], head.contains("transfer-encoding: chunked"));
    let mut text = String::new();
    GzDecoder::new(&*body).read_to_string(&mut text)?;
    assert!(text.contains("realtime_build_info{"), "{text}");
    assert!(body.len() * 3 < text.len(), "{} of {}", body.len(), text.len());
    let small = server.http("GET", "/healthcheck", &[("Accept-Encoding", "gzip")], b"").await?;
    assert_eq!((small.header("content-encoding"), &*small.body), ("", "ok"));
    Ok(())
}

fn dechunk(mut body: &[u8], chunked: bool) -> Vec<u8> {
    if !chunked {
        return body.to_vec();
    }
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
    whole
}
