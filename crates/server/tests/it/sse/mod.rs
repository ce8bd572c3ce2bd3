//! Streams of server-sent events (resume 5, cases 7 and 8), read with `curl` and with Chromium.

mod ends;
mod places;
mod restarts;
mod streams;

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{PATIENCE, Server, sign, unix_now};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time,
};

/// An event as a client reads it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: Value,
    /// The id that the client would come back with.
    pub(crate) id: String,
}

impl Event {
    /// The type and the id of the row, of a change.
    pub(crate) fn row(&self) -> (String, i64) {
        let record = if self.name == "DELETE" { &self.data["old_record"] } else { &self.data["record"] };
        (self.name.clone(), record["id"].as_i64().unwrap_or(-1))
    }
}

/// A stream that `curl -N` reads.
pub(crate) struct Curl {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pub(crate) status: u16,
    /// Lines of the head.
    pub(crate) head: Vec<String>,
    pub(crate) last_id: String,
}

impl Curl {
    pub(crate) async fn open(server: &Server, path: &str, headers: &[&str]) -> Result<Self> {
        let url = format!("http://localhost:{}{path}", server.port());
        Self::of(&url, headers).await
    }

    pub(crate) async fn of(url: &str, headers: &[&str]) -> Result<Self> {
        let mut command = Command::new("curl");
        command.args(["-sN", "-k", "-i", url]);
        for header in headers {
            command.args(["-H", header]);
        }
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let head = async {
            let mut head = Vec::new();
            while let Some(line) = lines.next_line().await? {
                if line.trim_end().is_empty() {
                    break;
                }
                head.push(line.trim_end().to_owned());
            }
            anyhow::Ok(head)
        };
        let head = time::timeout(PATIENCE, head).await.context("no head")??;
        let status = head.first().and_then(|line| line.split(' ').nth(1)).context("status")?.parse()?;
        Ok(Self { child, lines, status, head, last_id: String::new() })
    }

    /// The rest of what comes, of an answer that ends.
    pub(crate) async fn body(mut self) -> Result<String> {
        let rest = async {
            let mut body = String::new();
            while let Some(line) = self.lines.next_line().await? {
                body.push_str(&line);
                body.push('\n');
            }
            anyhow::Ok(body)
        };
        time::timeout(PATIENCE, rest).await.context("it does not end")?
    }

    /// The next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>> {
        time::timeout(PATIENCE, self.read()).await.context("no event")?
    }

    async fn read(&mut self) -> Result<Option<Event>> {
        let (mut name, mut data) = ("message".to_owned(), None);
        while let Some(line) = self.lines.next_line().await? {
            match line.split_once(": ") {
                Some(("event", value)) => value.clone_into(&mut name),
                Some(("id", value)) => value.clone_into(&mut self.last_id),
                Some(("data", value)) => data = Some(serde_json::from_str(value)?),
                _ if line.is_empty() => {
                    if let Some(data) = data.take() {
                        return Ok(Some(Event { name, data, id: self.last_id.clone() }));
                    }
                    "message".clone_into(&mut name);
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// The next event of this name; what else comes is left out.
    pub(crate) async fn expect(&mut self, name: &str) -> Result<Event> {
        loop {
            let event = self.next().await?.with_context(|| format!("the stream ended before {name}"))?;
            if event.name == name {
                return Ok(event);
            }
        }
    }

    /// The next changes, each with its type and the id of its row.
    pub(crate) async fn rows(&mut self, count: usize) -> Result<Vec<(String, i64)>> {
        let mut rows = Vec::new();
        while rows.len() < count {
            let event = self.next().await?.context("the stream ended")?;
            if matches!(&*event.name, "INSERT" | "UPDATE" | "DELETE") {
                rows.push(event.row());
            } else {
                ensure!(event.name == "subscribed" || event.name == "caught_up", "{event:?}");
            }
        }
        Ok(rows)
    }

    /// Ends the client; the id that it would come back with.
    pub(crate) async fn kill(mut self) -> Result<String> {
        self.child.kill().await?;
        Ok(self.last_id)
    }
}

/// The headers of somebody who has rows of their own.
pub(crate) fn bearer(me: &str) -> String {
    let claims = json!({"role": "authenticated", "me": me, "sub": me, "exp": unix_now() + 3600});
    format!("Authorization: Bearer {}", sign(&claims))
}

pub(crate) fn insert(id: i64) -> (String, i64) {
    ("INSERT".to_owned(), id)
}
