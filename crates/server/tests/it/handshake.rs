//! Connecting (protocol 1, cases 1 to 13).

use anyhow::Result;
use realtime_testkit::{Refused, Server, ServerOptions, Socket, TestDb, Version, sign, token, unix_now};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use crate::{BINARY, server};

async fn connect(
    server: &Server,
    query: &str,
    headers: &[(&'static str, &str)],
) -> Result<Result<Socket, Refused>> {
    let url = format!("ws://127.0.0.1:{}/socket/websocket?{query}", server.port());
    let version = if query.contains("vsn=2") { Version::V2 } else { Version::V1 };
    Socket::try_connect(&url, headers, version).await
}

fn json_refusal(status: u16, text: &str) -> Refused {
    Refused {
        status,
        content_type: Some("application/json; charset=utf-8".to_owned()),
        body: json!({ "error": text }).to_string(),
    }
}

/// protocol 1, 13 and decision 12: one server with a second, unknown tenant asked for.
#[tokio::test]
async fn tenants_are_found_by_host() -> Result<()> {
    let db = TestDb::new().await?;
    let server =
        Server::start(BINARY, &db, ServerOptions::default().env("SELF_HOST_TENANT_NAME", "abc")).await?;
    let key = token("anon");
    for host in ["abc.localhost", "abc.a.b.c:1234", "ABC.example", "localhost", "127.0.0.1"] {
        assert!(connect(&server, &format!("apikey={key}"), &[("host", host)]).await?.is_ok(), "{host}");
    }
    let none = Server::start(BINARY, &db, ServerOptions::default().env("SEED_SELF_HOST", "false")).await?;
    for query in [format!("apikey={key}"), String::new()] {
        let refused = connect(&none, &query, &[("host", "abc.localhost")]).await?.err();
        assert_eq!(refused, Some(json_refusal(404, "Tenant not found")));
    }
    Ok(())
}

/// protocol 2 to 5, 7
#[tokio::test]
async fn keys_are_checked() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default().env("API_JWT_JWKS", r#"{"keys":[]}"#);
    let server = Server::start(BINARY, &db, options).await?;
    let now = unix_now();
    // {"alg":"RS256","kid":"k1"}
    let rs256 = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIn0.e30.c2ln";
    let kid_text =
        "Failed to generate JWT signer for key ID (kid) \"k1\", check your JWT secret or JWKS configuration";
    let early = "Token is not valid yet";
    let fields = "Fields `role` and `exp` are required in JWT";
    for (query, text) in [
        (String::new(), "API key is missing"),
        ("apikey=".to_owned(), "The token provided is not a valid JWT"),
        ("apikey=not-a-jwt".to_owned(), "The token provided is not a valid JWT"),
        ("apikey=a.b.c".to_owned(), "The token provided is not a valid JWT"),
        ("apikey=sb_publishable_x".to_owned(), "The token provided is not a valid JWT"),
        (format!("apikey={}x", token("anon")), "Failed to validate JWT signature"),
        (format!("apikey={}", sign(&json!({"role": "anon", "exp": now - 1000}))), "Token has expired"),
        (format!("apikey={}", sign(&json!({"role": "anon", "exp": now - 5}))), "Token has expired"),
        (format!("apikey={}", sign(&json!({"role": "anon", "exp": now + 999, "nbf": now + 99}))), early),
        (format!("apikey={}", sign(&json!({"role": "anon", "exp": now + 999, "iat": now + 99}))), early),
        (format!("apikey={}", sign(&json!({"exp": now + 100}))), fields),
        (format!("apikey={}", sign(&json!({"role": "anon"}))), fields),
        (format!("apikey={rs256}"), kid_text),
    ] {
        let refused = connect(&server, &query, &[]).await?.err();
        assert_eq!(refused, Some(json_refusal(401, text)), "{query}");
    }
    Ok(())
}

/// protocol 10
#[tokio::test]
async fn the_header_wins_over_the_parameter() -> Result<()> {
    let (server, _db) = server().await?;
    let key = token("anon");
    assert!(connect(&server, "apikey=garbage", &[("x-api-key", &key)]).await?.is_ok());
    assert!(connect(&server, "", &[("x-api-key", &key)]).await?.is_ok());
    assert!(connect(&server, &format!("apikey={key}"), &[("x-api-key", "garbage")]).await?.is_err());
    Ok(())
}

/// protocol 9
#[tokio::test]
async fn serializers_are_negotiated_before_anything_else() -> Result<()> {
    let (server, _db) = server().await?;
    for vsn in ["3.0.0", "abc", "1.0", "", "2.0.0&vsn=2.0.0"] {
        let refused = connect(&server, &format!("vsn={vsn}"), &[]).await?.err();
        assert_eq!(
            refused.map(|refused| (refused.status, refused.body)),
            Some((403, String::new())),
            "{vsn}"
        );
    }
    let mut socket =
        connect(&server, &format!("apikey={}", token("anon")), &[]).await?.expect("no vsn is 1.0.0");
    assert!(socket.settle().await?.is_empty());
    let url =
        format!("ws://127.0.0.1:{}/realtime/v1/websocket?apikey={}&vsn=2.0.0", server.port(), token("anon"));
    assert!(Socket::try_connect(&url, &[], Version::V2).await?.is_ok());
    Ok(())
}

/// A browser that offers subprotocols gives up the connection unless one of them is chosen.
#[tokio::test]
async fn a_known_subprotocol_is_echoed() -> Result<()> {
    let (server, _db) = server().await?;
    let url = format!("ws://127.0.0.1:{}/socket/websocket?apikey={}", server.port(), token("anon"));
    for (offered, chosen) in [("soap, phoenix, x", Some("phoenix")), ("soap", None)] {
        let mut request = url.as_str().into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", offered.parse()?);
        let outcome = tokio_tungstenite::connect_async(request).await;
        // The client is as strict as browsers are.
        let echoed = outcome.ok().map(|(_, answer)| answer.headers()["sec-websocket-protocol"].clone());
        assert_eq!(echoed.as_ref().and_then(|value| value.to_str().ok()), chosen, "{offered}");
    }
    Ok(())
}

/// protocol 1.7
#[tokio::test]
async fn what_is_no_upgrade_is_answered_with_400() -> Result<()> {
    let (server, _db) = server().await?;
    let path = format!("/socket/websocket?apikey={}&vsn=2.0.0", token("anon"));
    let answer = server.get(&path).await?;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("'connection' header must contain 'upgrade', got [\"close\"]"), "{answer}");
    let post = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let answer = server.request(&post).await?;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.ends_with("\r\n\r\n"), "{answer}");
    let long = format!(
        "GET /healthcheck HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: {}\r\n\r\n",
        "x".repeat(4097)
    );
    assert!(server.request(&long).await?.starts_with("HTTP/1.1 431"));
    assert!(server.get("/nothing").await?.starts_with("HTTP/1.1 404"));
    assert!(server.get("/healthcheck").await?.ends_with("\r\n\r\nok"));
    Ok(())
}

/// Refusals wait (protocol 1.6); heartbeats of others do not.
#[tokio::test]
async fn refusals_are_delayed_by_the_back_off() -> Result<()> {
    let db = TestDb::new().await?;
    let server =
        Server::start(BINARY, &db, ServerOptions::default().env("CONNECT_ERROR_BACKOFF_MS", "300")).await?;
    let started = tokio::time::Instant::now();
    assert!(connect(&server, "", &[]).await?.is_err());
    assert!(started.elapsed() >= tokio::time::Duration::from_millis(300));
    Ok(())
}

/// protocol 11
#[tokio::test]
async fn heartbeats_are_answered_without_a_channel() -> Result<()> {
    let (server, _db) = server().await?;
    for version in Version::BOTH {
        let mut socket = server.socket(version, "anon").await?;
        for reference in [json!("1"), json!(7), Value::Null] {
            socket.send(json!("j"), reference.clone(), "phoenix", "heartbeat", json!({})).await?;
            let frame = socket.frame().await?;
            assert_eq!((frame.topic.as_str(), frame.event.as_str()), ("phoenix", "phx_reply"));
            assert_eq!((frame.join_ref, frame.msg_ref), (Value::Null, reference));
            assert_eq!(frame.payload, json!({"status": "ok", "response": {}}));
        }
    }
    Ok(())
}

/// protocol 12, the size: the socket takes 5,000,000 bytes and not one more.
#[tokio::test]
async fn messages_over_the_limit_close_the_socket() -> Result<()> {
    let (server, _db) = server().await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.send_text("x".repeat(5_000_000)).await?;
    assert!(socket.settle().await?.is_empty());
    // The server may close while the rest is being sent.
    let _ = socket.send_text("x".repeat(5_000_001)).await;
    assert_eq!(socket.close_code().await?, 1009);
    Ok(())
}

/// protocol 1.8: pings are answered, and closing is answered with the same code.
#[tokio::test]
async fn pings_and_closes_are_answered() -> Result<()> {
    let (server, _db) = server().await?;
    let mut socket = server.socket(Version::V1, "anon").await?;
    socket.send_message(Message::Ping("are you there".into())).await?;
    assert_eq!(socket.message().await?, Message::Pong("are you there".into()));
    socket.send_message(Message::Close(None)).await?;
    assert!(socket.message().await?.is_close());
    Ok(())
}

/// Bytes that a client sends on after it has broken the protocol, by far fewer than are thrown away at the most.
const AFTERWARDS: usize = 60;

/// What comes behind a frame that means nothing, means nothing either: the server closes, and its end is seen right
/// behind the close frame, though the client sends on.
#[tokio::test]
async fn whoever_breaks_the_protocol_is_not_waited_for() -> Result<()> {
    let (server, _db) = server().await?;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
    let request = format!(
        "GET /socket/websocket?apikey={}&vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        token("anon")
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    // An unmasked frame.
    stream.write_all(&[0x81, 0x02, b'h', b'i']).await?;
    let (mut input, mut output) = stream.into_split();
    let mut rest = Vec::new();
    let heard = input.read_to_end(&mut rest);
    let sending = async {
        for _ in 0..AFTERWARDS {
            time::sleep(time::Duration::from_millis(50)).await;
            // The server may be gone already.
            let _ = output.write_all(b"x").await;
        }
    };
    tokio::select! {
        heard = heard => drop(heard?),
        () = sending => anyhow::bail!("it is waited for"),
    }
    assert_eq!(rest, [0x88, 2, 0x03, 0xEA], "close frame with 1002");
    Ok(())
}

/// protocol 12, the idle limit; runs a minute and is worth it.
#[tokio::test]
async fn an_idle_socket_is_closed() -> Result<()> {
    let (server, _db) = server().await?;
    // Before connecting: the server's minute begins before its answer to the upgrade is read here.
    let started = tokio::time::Instant::now();
    let mut socket = server.socket(Version::V2, "anon").await?;
    assert_eq!(socket.close_code().await?, 1000);
    assert!(started.elapsed() >= tokio::time::Duration::from_secs(60));
    Ok(())
}

/// Graceful stop: sockets are closed with 1012 and the process ends with success.
#[tokio::test]
async fn stopping_closes_sockets() -> Result<()> {
    let (server, _db) = server().await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.join("realtime:a", json!({"config": {}})).await?;
    let (code, stopped) = tokio::join!(socket.close_code(), server.stop());
    stopped?;
    assert_eq!(code?, 1012);
    Ok(())
}
