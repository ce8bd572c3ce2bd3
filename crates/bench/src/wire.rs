//! A WebSocket client that does as little as possible: what is measured is the server.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use realtime_testkit::token;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time,
};

/// Longest anything may take before a run is given up.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The sending half of a socket.
pub(crate) struct Writer(pub(crate) OwnedWriteHalf);

/// The receiving half of a socket.
pub(crate) struct Reader {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
    /// What of the buffer was handed out.
    used: usize,
}

/// Connects and upgrades.
pub(crate) async fn connect(port: u16) -> Result<(Reader, Writer)> {
    connect_as(port, &token("anon")).await
}

/// The same with a token.
pub(crate) async fn connect_as(port: u16, token: &str) -> Result<(Reader, Writer)> {
    upgrade(port, token, "").await
}

/// The same, offering to take compressed messages.
pub(crate) async fn connect_compressed(port: u16) -> Result<(Reader, Writer)> {
    upgrade(port, &token("anon"), "Sec-WebSocket-Extensions: permessage-deflate\r\n").await
}

async fn upgrade(port: u16, token: &str, header: &str) -> Result<(Reader, Writer)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (stream, writer) = stream.into_split();
    let mut reader = Reader { stream, buffer: Vec::new(), used: 0 };
    let mut writer = Writer(writer);
    let request = format!(
        "GET /socket/websocket?apikey={}&vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{header}\r\n",
        token
    );
    writer.0.write_all(request.as_bytes()).await?;
    let answer = async {
        loop {
            reader.read().await?;
            if let Some(end) = reader.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                ensure!(reader.buffer.starts_with(b"HTTP/1.1 101"), "refused");
                reader.used = end + 4;
                return Ok(());
            }
        }
    };
    time::timeout(LIMIT, answer).await.context("no upgrade")??;
    Ok((reader, writer))
}

impl Writer {
    /// Sends a text message.
    pub(crate) async fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.0.write_all(&frame(1, text.as_bytes())).await?)
    }

    /// Joins a topic with a config; the ref is `join`.
    pub(crate) async fn join(&mut self, topic: &str, config: &str) -> Result<()> {
        self.send(&format!(r#"["1","join","{topic}","phx_join",{{"config":{config}}}]"#)).await
    }
}

/// A client's frame; its mask is zero, so that nothing has to be masked.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    match u16::try_from(payload.len()) {
        Ok(len) if len < 126 => out.push(0x80 | len as u8),
        Ok(len) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&len.to_be_bytes());
        }
        Err(_) => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

impl Reader {
    async fn read(&mut self) -> Result<()> {
        if self.used > 0 {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        self.buffer.reserve(4096);
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server closed the connection");
        Ok(())
    }

    /// The connection itself, with the other half. What was read and not handed out is left out.
    pub(crate) fn whole_stream(self, writer: Writer) -> Result<TcpStream> {
        Ok(self.stream.reunite(writer.0)?)
    }

    /// The next message. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<&[u8]> {
        loop {
            if let Some((start, end, opcode)) = self.whole() {
                if opcode == 8 {
                    bail!("closed with code {:?}", self.buffer.get(start..end).map(<[u8]>::to_vec));
                }
                self.used = end;
                return self.buffer.get(start..end).context("frame");
            }
            self.read().await?;
        }
    }

    /// The next frame as it travels: its bytes, and whether it is compressed. Cancel safe.
    pub(crate) async fn next_frame(&mut self) -> Result<(usize, bool)> {
        loop {
            if let Some((_, end, opcode)) = self.whole() {
                ensure!(opcode != 8, "the server closed the socket");
                let frame = self.buffer.get(self.used..end).context("frame")?;
                let packed = frame.first().is_some_and(|first| first & 0x40 != 0);
                let len = frame.len();
                self.used = end;
                return Ok((len, packed));
            }
            self.read().await?;
        }
    }

    /// Where the next whole frame's payload is.
    fn whole(&self) -> Option<(usize, usize, u8)> {
        let rest = self.buffer.get(self.used..)?;
        let (len, header) = match *rest.get(1)? {
            126 => (usize::from(u16::from_be_bytes(rest.get(2..4)?.try_into().ok()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(rest.get(2..10)?.try_into().ok()?)).ok()?, 10),
            len => (usize::from(len), 2),
        };
        let end = header + len;
        (rest.len() >= end)
            .then(|| (self.used + header, self.used + end, rest.first().copied().unwrap_or(0) & 15))
    }

    /// The next message that has this text in it.
    pub(crate) async fn expect(&mut self, text: &str) -> Result<()> {
        let found = async {
            loop {
                if find(self.next().await?, text.as_bytes()).is_some() {
                    return anyhow::Ok(());
                }
            }
        };
        time::timeout(LIMIT, found).await.with_context(|| format!("{text} did not come"))?
    }
}

/// Where `needle` begins.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Connects and joins.
pub(crate) async fn joined(port: u16, topic: &str, config: &str) -> Result<(Reader, Writer)> {
    let (mut reader, mut writer) = connect(port).await?;
    writer.join(topic, config).await?;
    reader.expect("\"status\":\"ok\"").await?;
    Ok((reader, writer))
}

/// Nanoseconds since 1970.
pub(crate) fn now_nanos() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// The number that follows `key` in a message.
pub(crate) fn number_after(message: &[u8], key: &[u8]) -> Option<u64> {
    let at = find(message, key)? + key.len();
    let digits: Vec<u8> = message.get(at..)?.iter().copied().take_while(u8::is_ascii_digit).collect();
    String::from_utf8(digits).ok()?.parse().ok()
}
