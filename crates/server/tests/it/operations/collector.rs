//! A real HTTP listener that keeps what is sent to it.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::PATIENCE;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time,
};

/// A request as it came.
#[derive(Debug)]
pub struct Received {
    /// Method and target.
    pub line: String,
    /// Headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// Body.
    pub body: Vec<u8>,
}

/// A listener that answers all requests with one status, or never.
pub struct Collector {
    /// Where it listens.
    pub port: u16,
    requests: mpsc::UnboundedReceiver<Received>,
}

impl Collector {
    /// Listens. `None`: takes requests and does not answer.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(status: Option<u16>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (sender, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, status, sender.clone()));
            }
        });
        Ok(Self { port, requests })
    }

    /// The next request.
    ///
    /// # Errors
    /// When none comes.
    pub async fn next(&mut self) -> Result<Received> {
        time::timeout(PATIENCE, self.requests.recv()).await.context("no request")?.context("ended")
    }
}

async fn serve(
    mut stream: TcpStream,
    status: Option<u16>,
    sender: mpsc::UnboundedSender<Received>,
) -> Result<()> {
    let mut read = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            ensure!(stream.read_buf(&mut read).await? > 0, "closed");
        };
        let text = String::from_utf8(read[..head].to_vec())?;
        let mut lines = text.lines();
        let line = lines.next().context("line")?.to_owned();
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length: usize = headers.get("content-length").context("content-length")?.parse()?;
        while read.len() < head + 4 + length {
            ensure!(stream.read_buf(&mut read).await? > 0, "closed");
        }
        let body = read[head + 4..head + 4 + length].to_vec();
        read.drain(..head + 4 + length);
        let _ = sender.send(Received { line, headers, body });
        let Some(status) = status else { return std::future::pending().await };
        stream.write_all(format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
    }
}

impl Collector {
    /// A request that has come already.
    pub fn received(&mut self) -> Option<Received> {
        self.requests.try_recv().ok()
    }
}
