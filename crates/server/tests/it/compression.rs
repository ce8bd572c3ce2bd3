//! Compressed messages (permessage-deflate, RFC 7692) on real sockets.

use anyhow::{Context as _, Result, ensure};
use flate2::{Compress, Compression, FlushCompress};
use realtime_protocol::deflate;
use realtime_testkit::{PATIENCE, SECRET, Server, ServerOptions, TestDb, Version, sign, token};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use crate::{BINARY, clients::Client};

const TOPIC: &str = "realtime:compressed";

/// What browsers offer.
const OFFER: Option<&str> = Some("permessage-deflate; client_max_window_bits");

const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Largest message of these tests, in bytes.
const MOST: usize = 10_000_000;

async fn start(options: ServerOptions) -> Result<(Server, TestDb)> {
    let db = TestDb::with_fixture_a().await?;
    let options = options.env("METRICS_JWT_SECRET", SECRET).env("TENANT_MAX_EVENTS_PER_SECOND", "100000");
    Ok((Server::start(BINARY, &db, options).await?, db))
}

fn compressing() -> ServerOptions {
    ServerOptions::default().env("WEBSOCKET_COMPRESSION", "true")
}

/// How many messages the server has compressed (`sent`) or inflated (`received`).
async fn count(server: &Server, direction: &str) -> Result<f64> {
    let bearer = format!("Bearer {}", sign(&json!({})));
    let answer = server.http("GET", "/metrics?scope=node", &[("authorization", &bearer)], b"").await?;
    let label = format!("direction=\"{direction}\"");
    let mut lines =
        answer.body.lines().filter(|line| line.starts_with("realtime_websocket_compressed_messages"));
    let line = lines.find(|line| line.contains(&label)).context("no such metric")?;
    Ok(line.rsplit(' ').next().context("value")?.parse()?)
}

/// A socket that shows frames as they travel.
struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
    version: Version,
    /// What the server has answered to the offer.
    agreed: Option<String>,
}

/// A message of the server, inflated if it was compressed.
struct Received {
    packed: bool,
    text: String,
}

impl Raw {
    async fn connect(server: &Server, version: Version, offer: Option<&str>) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
        let mut raw = Self { stream, read: Vec::new(), version, agreed: None };
        let extensions =
            offer.map(|offer| format!("Sec-WebSocket-Extensions: {offer}\r\n")).unwrap_or_default();
        let request = format!(
            "GET /socket/websocket?apikey={}&vsn={} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extensions}\r\n",
            token("anon"),
            version.vsn()
        );
        raw.stream.write_all(request.as_bytes()).await?;
        let end = raw.until(|read| read.windows(4).position(|end| end == b"\r\n\r\n")).await?;
        let head = String::from_utf8(raw.read.drain(..end + 4).collect())?;
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        raw.agreed = headers
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions"))
            .map(|(_, value)| value.to_owned());
        Ok(raw)
    }

    /// Reads until something is found in what was read.
    async fn until<T>(&mut self, find: impl Fn(&[u8]) -> Option<T>) -> Result<T> {
        time::timeout(PATIENCE, async {
            loop {
                if let Some(found) = find(&self.read) {
                    return Ok(found);
                }
                ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the connection has ended");
            }
        })
        .await
        .context("nothing came")?
    }

    /// The next frame: its first byte and its payload.
    async fn frame(&mut self) -> Result<(u8, Vec<u8>)> {
        let (start, end) = self
            .until(|read| {
                let (len, header) = match *read.get(1)? {
                    126 => (usize::from(u16::from_be_bytes(read.get(2..4)?.try_into().ok()?)), 4),
                    127 => (usize::try_from(u64::from_be_bytes(read.get(2..10)?.try_into().ok()?)).ok()?, 10),
                    len => (usize::from(len), 2),
                };
                (read.len() >= header + len).then_some((header, header + len))
            })
            .await?;
        let frame: Vec<u8> = self.read.drain(..end).collect();
        Ok((frame[0], frame[start..].to_vec()))
    }

    /// The next message that has a text in it.
    async fn message(&mut self, text: &str) -> Result<Received> {
        loop {
            let (first, payload) = self.frame().await?;
            ensure!(first & 0x0F < 8, "closed: {payload:?}");
            let packed = first & 0x40 != 0;
            ensure!(!packed || self.agreed.is_some(), "nothing was agreed");
            let payload = if packed { deflate::unpack(&payload, MOST)? } else { payload };
            let received = Received { packed, text: String::from_utf8(payload)? };
            if received.text.contains(text) {
                return Ok(received);
            }
        }
    }

    /// The code that it is closed with.
    async fn close_code(&mut self) -> Result<u16> {
        loop {
            let (first, payload) = self.frame().await?;
            if first == 0x88 {
                return Ok(u16::from_be_bytes(payload[..2].try_into()?));
            }
        }
    }

    async fn send(&mut self, first: u8, payload: &[u8]) -> Result<()> {
        let mut frame = vec![first, 0x80 | 127];
        frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        Ok(self.stream.write_all(&frame).await?)
    }

    fn text(&self, event: &str, payload: &Value) -> String {
        match self.version {
            Version::V1 => {
                json!({"topic": TOPIC, "event": event, "payload": payload, "ref": "1", "join_ref": "1"})
                    .to_string()
            }
            Version::V2 => json!(["1", "1", TOPIC, event, payload]).to_string(),
        }
    }

    async fn push(&mut self, event: &str, payload: &Value) -> Result<()> {
        let text = self.text(event, payload);
        self.send(0x81, text.as_bytes()).await
    }

    /// Joins, with row changes and presence.
    async fn join(&mut self) -> Result<()> {
        let watched = json!([{"event": "*", "schema": "public", "table": "test"}]);
        let config = json!({"postgres_changes": watched, "presence": {"enabled": true}});
        self.push("phx_join", &json!({"config": config})).await?;
        self.message("Subscribed to PostgreSQL").await.map(drop)
    }
}

/// A message as a client's library compresses it.
fn packed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 1024);
    let mut deflate = Compress::new(Compression::new(6), false);
    deflate.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
    out.truncate(out.len() - 4);
    out
}

fn broadcast(rows: usize) -> Value {
    let rows: Vec<Value> = (0..rows).map(|n| json!({"id": n, "hash": n * 7_919 % 9_973})).collect();
    json!({"type": "broadcast", "event": "e", "payload": {"rows": rows, "last": "yes"}})
}

#[tokio::test]
async fn nothing_is_compressed_unless_it_is_set_and_offered() -> Result<()> {
    let (server, _db) = start(ServerOptions::default()).await?;
    let mut off = Raw::connect(&server, Version::V2, OFFER).await?;
    assert_eq!(off.agreed, None);
    off.send(0xC1, &packed(b"[]")).await?;
    assert_eq!(off.close_code().await?, 1002);

    let (server, _db) = start(compressing()).await?;
    let agreed =
        async |offer| Ok::<_, anyhow::Error>(Raw::connect(&server, Version::V2, offer).await?.agreed);
    assert_eq!(agreed(OFFER).await?.as_deref(), Some(AGREED));
    assert_eq!(agreed(None).await?, None);
    assert_eq!(agreed(Some("permessage-deflate; unknown=1")).await?, None);
    let several = agreed(Some("x, permessage-deflate; server_max_window_bits=9")).await?;
    assert_eq!(several.unwrap(), format!("{AGREED}; server_max_window_bits=9"));
    Ok(())
}

/// Broadcasts, row changes and presence, for both serializers; beside them members who take no compressed frames.
#[tokio::test]
async fn what_many_get_is_compressed_once_for_those_who_take_it() -> Result<()> {
    let (server, db) = start(compressing()).await?;
    let small_window = Some("permessage-deflate; server_max_window_bits=10");
    let kinds = [
        (Version::V2, None, false),
        (Version::V1, OFFER, true),
        (Version::V2, OFFER, true),
        (Version::V2, OFFER, true),
        (Version::V2, OFFER, true),
        (Version::V2, small_window, false),
        (Version::V1, None, false),
    ];
    let mut sockets = Vec::new();
    for (version, offer, packs) in kinds {
        let mut raw = Raw::connect(&server, version, offer).await?;
        raw.join().await?;
        sockets.push((raw, packs));
    }
    let before = count(&server, "sent").await?;
    let said = broadcast(100);
    sockets[0].0.push("broadcast", &said).await?;
    for (raw, packs) in &mut sockets[1..] {
        let got = raw.message("\"last\":\"yes\"").await?;
        assert_eq!(got.packed, *packs);
        assert!(got.text.contains(&said["payload"]["rows"].to_string()));
    }
    assert_eq!(count(&server, "sent").await? - before, 2.0, "once per serializer");

    // A sender among those who take it gets no copy; what is small stays as it is.
    sockets[2].0.push("broadcast", &broadcast(1)).await?;
    assert!(!sockets[3].0.message("\"last\":\"yes\"").await?.packed);

    let before = count(&server, "sent").await?;
    db.sql("insert into public.test (details) values ('row ' || repeat('x', 1000))").await?;
    for (raw, packs) in &mut sockets {
        let got = raw.message("row xxx").await?;
        assert_eq!(got.packed, *packs);
        assert!(got.text.contains("\"binary_data\"") && got.text.contains(TOPIC));
    }
    assert_eq!(count(&server, "sent").await? - before, 1.0, "a row once, whatever is around it");

    let before = count(&server, "sent").await?;
    let meta = json!({"type": "presence", "event": "track", "payload": {"user": "y".repeat(1_000)}});
    sockets[6].0.push("presence", &meta).await?;
    for (raw, packs) in &mut sockets {
        assert_eq!(raw.message("yyyy").await?.packed, *packs);
    }
    assert_eq!(count(&server, "sent").await? - before, 2.0);
    Ok(())
}

/// In one frame and in several, small and large.
#[tokio::test]
async fn compressed_messages_of_clients_are_read() -> Result<()> {
    let (server, _db) = start(compressing()).await?;
    let mut listener = Raw::connect(&server, Version::V2, None).await?;
    listener.join().await?;
    let mut sender = Raw::connect(&server, Version::V2, OFFER).await?;
    let join = packed(sender.text("phx_join", &json!({"config": {}})).as_bytes());
    sender.send(0xC1, &join).await?;
    sender.message("\"status\":\"ok\"").await?;
    for rows in [3, 50_000, 10] {
        let said = broadcast(rows);
        let message = packed(sender.text("broadcast", &said).as_bytes());
        let (begin, end) = message.split_at(message.len() / 2);
        sender.send(0x41, begin).await?;
        sender.send(0x89, b"between").await?;
        sender.send(0x80, end).await?;
        sender.send(0xC1, &message).await?;
        for _ in 0..2 {
            let heard = listener.message("\"last\":\"yes\"").await?;
            assert!(heard.text.contains(&said["payload"]["rows"].to_string()));
        }
    }
    assert_eq!(count(&server, "received").await?, 7.0);
    Ok(())
}

/// Each costs the client its connection, and nobody else anything.
#[tokio::test]
async fn what_is_not_as_agreed_closes_the_socket() -> Result<()> {
    let (server, _db) = start(compressing()).await?;
    let mut other = server.socket(Version::V2, "anon").await?;
    let numbers = (0..1_500_000u64).flat_map(|n| format!("{},", n * 7_919 % 9_973).into_bytes());
    let large: Vec<u8> = numbers.take(5_000_001).collect();
    let bomb = packed(&vec![b'x'; 50_000_000]);
    for (name, frames, code) in [
        ("a bomb", vec![(0xC1, bomb)], 1009),
        ("too large", vec![(0xC1, packed(&large))], 1009),
        ("no deflate", vec![(0xC1, vec![0xFF; 100])], 1007),
        ("a compressed ping", vec![(0xC9, vec![0])], 1002),
        ("a compressed continuation", vec![(0x41, packed(b"[]")), (0xC0, vec![])], 1002),
    ] {
        let mut raw = Raw::connect(&server, Version::V2, OFFER).await?;
        for (first, payload) in frames {
            raw.send(first, &payload).await?;
        }
        assert_eq!(raw.close_code().await?, code, "{name}");
    }
    other.settle().await?;
    Ok(())
}

/// PyPI `realtime`, whose WebSocket library compresses whatever the server agrees to.
#[tokio::test]
async fn the_python_client_compresses_both_ways() -> Result<()> {
    let (server, db) = start(compressing().env("WEBSOCKET_COMPRESSION_MIN_BYTES", "100")).await?;
    let mut client = Client::python(&server, &json!([{"event": "*", "schema": "public", "table": "test"}]))?;
    client.ready().await?;
    let long = "é".repeat(2_000);
    db.sql(&format!("insert into public.test (details) values ('{long}')")).await?;
    assert_eq!(client.next("change").await?["new"]["details"], long);
    client.command(json!({"send": "cursor"})).await?;
    assert_eq!(client.next("broadcast").await?["event"], "cursor");
    ensure!(count(&server, "sent").await? > 0.0, "nothing was sent compressed");
    ensure!(count(&server, "received").await? > 0.0, "nothing was received compressed");
    Ok(())
}
