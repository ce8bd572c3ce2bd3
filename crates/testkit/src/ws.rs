//! A channel client that shows every frame.

use std::collections::VecDeque;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::PATIENCE;

/// How long a socket that reads frames says nothing: the server closes one that it has not heard of for a minute, whatever
/// it is told meanwhile.
const SILENCE: time::Duration = time::Duration::from_secs(20);

/// Serializer of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.0.0
    V1,
    /// 2.0.0
    V2,
}

impl Version {
    /// Both, for tests that run with each.
    pub const BOTH: [Self; 2] = [Self::V1, Self::V2];

    /// As the `vsn` parameter has it.
    #[must_use]
    pub const fn vsn(self) -> &'static str {
        match self {
            Self::V1 => "1.0.0",
            Self::V2 => "2.0.0",
        }
    }
}

/// A frame from the server, whatever the serializer.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Always null in version 1.
    pub join_ref: Value,
    /// Reference.
    pub msg_ref: Value,
    /// Topic.
    pub topic: String,
    /// Event.
    pub event: String,
    /// Payload.
    pub payload: Value,
}

/// A refused handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// Content type, if any.
    pub content_type: Option<String>,
    /// Body.
    pub body: String,
}

/// A connected socket.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    version: Version,
    next_ref: u64,
    /// Frames that were read while another was waited for.
    seen: VecDeque<Frame>,
    /// When it last said something.
    spoken: time::Instant,
}

impl Socket {
    /// Connects with a token as `apikey`.
    ///
    /// # Errors
    /// When the handshake is refused.
    pub async fn connect(port: u16, version: Version, token: &str) -> Result<Self> {
        let url = format!("ws://127.0.0.1:{port}/socket/websocket?apikey={token}&vsn={}", version.vsn());
        match Self::try_connect(&url, &[], version).await? {
            Ok(socket) => Ok(socket),
            Err(refused) => bail!("refused: {refused:?}"),
        }
    }

    /// Connects to any address with any headers, and shows a refusal.
    ///
    /// # Errors
    /// When there is no HTTP answer at all.
    pub async fn try_connect(
        url: &str,
        headers: &[(&'static str, &str)],
        version: Version,
    ) -> Result<Result<Self, Refused>> {
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value)?);
        }
        match time::timeout(PATIENCE, Box::pin(connect_async(request))).await? {
            Ok((stream, _)) => {
                let spoken = time::Instant::now();
                Ok(Ok(Self { stream, version, next_ref: 0, seen: VecDeque::new(), spoken }))
            }
            Err(Error::Http(answer)) => Ok(Err(Refused {
                status: answer.status().as_u16(),
                content_type: answer
                    .headers()
                    .get("content-type")
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned),
                body: String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned(),
            })),
            Err(error) => Err(error.into()),
        }
    }

    /// Serializer.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// A reference that was not used yet.
    pub fn next_ref(&mut self) -> String {
        self.next_ref += 1;
        self.next_ref.to_string()
    }

    /// Sends text as it is.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send_text(&mut self, text: impl Into<String>) -> Result<()> {
        self.send_message(Message::text(text.into())).await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send_binary(&mut self, bytes: impl Into<Bytes>) -> Result<()> {
        self.send_message(Message::Binary(bytes.into())).await
    }

    /// Sends a WebSocket message of any kind.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send_message(&mut self, message: Message) -> Result<()> {
        self.spoken = time::Instant::now();
        Ok(self.stream.send(message).await?)
    }

    /// Sends a message in the socket's serializer.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send(
        &mut self,
        join_ref: Value,
        msg_ref: Value,
        topic: &str,
        event: &str,
        payload: Value,
    ) -> Result<()> {
        let text = match self.version {
            Version::V1 => {
                json!({"topic": topic, "event": event, "payload": payload, "ref": msg_ref, "join_ref": join_ref})
            }
            Version::V2 => json!([join_ref, msg_ref, topic, event, payload]),
        };
        self.send_text(text.to_string()).await
    }

    /// Joins a topic; returns the reply and the reference it was joined with.
    ///
    /// # Errors
    /// When there is no reply.
    pub async fn join(&mut self, topic: &str, payload: Value) -> Result<(Value, String)> {
        let reference = self.next_ref();
        self.send(json!(reference), json!(reference), topic, "phx_join", payload).await?;
        Ok((self.reply(&reference).await?, reference))
    }

    /// Joins a topic to watch the database, and waits until it is subscribed; returns the ids.
    ///
    /// # Errors
    /// When the join or the subscription fails.
    pub async fn watch(&mut self, topic: &str, subscriptions: Value) -> Result<Vec<u64>> {
        let (reply, _) = self.join(topic, json!({"config": {"postgres_changes": subscriptions}})).await?;
        if reply["status"] != "ok" {
            bail!("join failed: {reply}");
        }
        let system = self.event(topic, "system").await?;
        if system["status"] != "ok" {
            bail!("subscription failed: {system}");
        }
        let ids = reply["response"]["postgres_changes"].as_array().context("postgres_changes")?;
        ids.iter().map(|entry| entry["id"].as_u64().context("id")).collect()
    }

    /// The payload of the reply to a message.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn reply(&mut self, reference: &str) -> Result<Value> {
        let frame = self.expect(|frame| frame.event == "phx_reply" && frame.msg_ref == reference).await?;
        Ok(frame.payload)
    }

    /// The payload of the next event of this name on a topic.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn event(&mut self, topic: &str, event: &str) -> Result<Value> {
        Ok(self.expect(|frame| frame.topic == topic && frame.event == event).await?.payload)
    }

    /// The first frame that fits, now or later. Others stay.
    ///
    /// # Errors
    /// When none comes in time; names what came.
    pub async fn expect(&mut self, fits: impl Fn(&Frame) -> bool) -> Result<Frame> {
        if let Some(at) = self.seen.iter().position(&fits) {
            return self.seen.remove(at).context("seen");
        }
        let limit = time::Instant::now() + PATIENCE;
        loop {
            let Ok(frame) = time::timeout_at(limit, self.next()).await else {
                bail!("the frame did not come; these did: {:#?}", self.seen);
            };
            let frame = frame.with_context(|| format!("closed; these frames came: {:#?}", self.seen))?;
            if fits(&frame) {
                return Ok(frame);
            }
            self.seen.push_back(frame);
        }
    }

    /// The next frame, in order.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn frame(&mut self) -> Result<Frame> {
        match self.seen.pop_front() {
            Some(frame) => Ok(frame),
            None => time::timeout(PATIENCE, self.next()).await.context("no frame came")?,
        }
    }

    /// Everything that has come by the time a heartbeat is answered: what was asked for before is there.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn settle(&mut self) -> Result<Vec<Frame>> {
        let reference = format!("settle-{}", self.next_ref());
        self.send(Value::Null, json!(reference), "phoenix", "heartbeat", json!({})).await?;
        self.expect(|frame| frame.topic == "phoenix" && frame.msg_ref == reference).await?;
        Ok(self.seen.drain(..).collect())
    }

    async fn next(&mut self) -> Result<Frame> {
        loop {
            if self.spoken.elapsed() >= SILENCE {
                // If that is not possible any more, reading tells why.
                let _ = self.send_message(Message::Ping(Bytes::new())).await;
            }
            let Ok(message) = time::timeout_at(self.spoken + SILENCE, self.message()).await else { continue };
            match message? {
                Message::Text(text) => return self.decode(&text),
                Message::Binary(frame) => return user_broadcast(&frame),
                Message::Close(frame) => {
                    bail!("the server closed the socket: {:?}", frame.map(|frame| u16::from(frame.code)))
                }
                _ => {}
            }
        }
    }

    /// The next WebSocket message of any kind.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn message(&mut self) -> Result<Message> {
        Ok(self.stream.next().await.context("the connection is gone")??)
    }

    /// The code the server closes the socket with.
    ///
    /// # Errors
    /// When it does not.
    pub async fn close_code(&mut self) -> Result<u16> {
        let closed = async {
            loop {
                if let Message::Close(frame) = self.message().await? {
                    return Ok(u16::from(frame.context("no code")?.code));
                }
            }
        };
        time::timeout(PATIENCE * 5, closed).await.context("it was not closed")?
    }

    fn decode(&self, text: &str) -> Result<Frame> {
        let value: Value = serde_json::from_str(text).with_context(|| text.to_owned())?;
        let field = |name: &str, at: usize| match self.version {
            Version::V1 => value.get(name).cloned(),
            Version::V2 => value.get(at).cloned(),
        };
        let text = |name: &str, at: usize| {
            field(name, at)
                .and_then(|value| value.as_str().map(str::to_owned))
                .with_context(|| format!("{name} in {value}"))
        };
        if self.version == Version::V1 && value.get("join_ref").is_some() {
            bail!("join_ref in a frame of version 1: {value}");
        }
        Ok(Frame {
            join_ref: if self.version == Version::V1 {
                Value::Null
            } else {
                field("", 0).context("join_ref")?
            },
            msg_ref: field("ref", 1).with_context(|| format!("ref in {value}"))?,
            topic: text("topic", 2)?,
            event: text("event", 3)?,
            payload: field("payload", 4).context("payload")?,
        })
    }
}

/// A binary frame of kind 4 (protocol 2.3). Its payload shows the encoding, and bytes as numbers.
fn user_broadcast(frame: &[u8]) -> Result<Frame> {
    let [4, topic, event, meta, encoding, rest @ ..] = frame else { bail!("not of kind 4: {frame:?}") };
    let (topic, rest) = rest.split_at_checked((*topic).into()).context("topic")?;
    let (event, rest) = rest.split_at_checked((*event).into()).context("event")?;
    let (meta, body) = rest.split_at_checked((*meta).into()).context("metadata")?;
    let body = if *encoding == 1 { serde_json::from_slice(body)? } else { json!(body) };
    let event = std::str::from_utf8(event)?;
    let mut payload = json!({"type": "broadcast", "event": event, "payload": body, "encoding": encoding});
    if !meta.is_empty() {
        payload["meta"] = serde_json::from_slice(meta)?;
    }
    Ok(Frame {
        join_ref: Value::Null,
        msg_ref: Value::Null,
        topic: std::str::from_utf8(topic)?.to_owned(),
        event: "broadcast".to_owned(),
        payload,
    })
}
