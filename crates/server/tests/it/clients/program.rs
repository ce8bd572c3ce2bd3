//! The programs in `clients` that use an official client, and how a test talks to them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{PATIENCE, Server, token};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time,
};

/// A program that shows what a user of an official client sees.
pub struct Client {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

/// A folder of `clients`.
pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../clients").join(name)
}

/// A program in a folder of `clients`, to be run by Node.js with the packages that are installed there.
pub fn node_in(dir: &str) -> Result<Command> {
    let path = folder(dir);
    ensure!(path.join("node_modules").exists(), "run `npm ci` in clients/{dir}, or scripts/test");
    let mut command = Command::new("node");
    command.current_dir(path);
    Ok(command)
}

/// A program in a folder of `clients`, to be run by Python with the packages of an environment in another one.
pub fn python_in(dir: &str, environment: &str) -> Result<Command> {
    let interpreter = folder(environment).join(".venv/bin/python");
    ensure!(
        interpreter.exists(),
        "make clients/{environment}/.venv from requirements.txt, or run scripts/test"
    );
    let mut command = Command::new(interpreter);
    command.current_dir(folder(dir));
    Ok(command)
}

impl Client {
    pub(super) fn javascript(server: &Server, vsn: &str, subscriptions: &Value) -> Result<Self> {
        Self::javascript_at(&format!("http://localhost:{}", server.port()), vsn, subscriptions, None)
    }

    /// `clients/js/watch.mjs` at any address, with a file of an authority to trust.
    pub fn javascript_at(url: &str, vsn: &str, subscriptions: &Value, ca: Option<&Path>) -> Result<Self> {
        Self::javascript_as(&token("anon"), url, vsn, subscriptions, ca)
    }

    /// `clients/js/watch.mjs` at any address, with any token.
    pub fn javascript_as(
        token: &str,
        url: &str,
        vsn: &str,
        subscriptions: &Value,
        ca: Option<&Path>,
    ) -> Result<Self> {
        let mut command = node_in("js")?;
        command.args(["watch.mjs", url, token, vsn, &subscriptions.to_string()]);
        command.envs(ca.map(|ca| ("NODE_EXTRA_CA_CERTS", ca)));
        Self::start(command)
    }

    /// `clients/js/watch.mjs` at a tenant's own address, with a token of its own.
    pub(super) fn of_tenant(
        server: &Server,
        external_id: &str,
        token: &str,
        subscriptions: &Value,
    ) -> Result<Self> {
        let url = format!("http://{external_id}.localhost:{}", server.port());
        let mut command = node_in("js")?;
        command.args(["--import", "./localhost.mjs", "watch.mjs"]);
        command.args([&url, token, "2.0.0", &subscriptions.to_string()]);
        Self::start(command)
    }

    /// `clients/python/watch.py`, which watches rows.
    pub fn python(server: &Server, subscriptions: &Value) -> Result<Self> {
        let url = format!("ws://localhost:{}", server.port());
        let mut command = python_in("python", "python")?;
        command.args(["watch.py", &url, &token("anon"), &subscriptions.to_string()]);
        Self::start(command)
    }

    /// A program of `clients/js` that talks in the channel `talk`; presence has the key `key`.
    pub(super) fn talk(server: &Server, program: &[&str], key: &str, vsn: Option<&str>) -> Result<Self> {
        let url = format!("http://localhost:{}", server.port());
        let mut command = node_in("js")?;
        command.args(program).args([&url, &token("anon"), key]).args(vsn);
        Self::start(command)
    }

    pub(super) fn talk_python(server: &Server, key: &str) -> Result<Self> {
        let url = format!("ws://localhost:{}", server.port());
        let mut command = python_in("python", "python")?;
        command.args(["talk.py", &url, &token("anon"), key]);
        Self::start(command)
    }

    /// `clients/js/private.mjs` with a token of a role.
    pub(super) fn private(
        server: &Server,
        vsn: &str,
        role: &str,
        topic: &str,
        broadcast: &Value,
        presence: bool,
    ) -> Result<Self> {
        let url = format!("http://localhost:{}", server.port());
        let mut command = node_in("js")?;
        command.arg("private.mjs").args([
            &url,
            &token("anon"),
            vsn,
            &token(role),
            topic,
            &broadcast.to_string(),
            &presence.to_string(),
        ]);
        Self::start(command)
    }

    /// The status that follows, with the error's text.
    pub(super) async fn status(&mut self) -> Result<(String, Value)> {
        let limit = time::Instant::now() + PATIENCE;
        let line = time::timeout_at(limit, self.lines.next_line()).await.context("no status")??;
        let value: Value = serde_json::from_str(&line.context("the client ended")?)?;
        let status = value["status"].as_str().with_context(|| format!("no status: {value}"))?;
        Ok((status.to_owned(), value["error"].clone()))
    }

    /// Waits until this is present, and nobody else.
    pub(super) async fn sees(&mut self, who: &Value) -> Result<()> {
        let mut last = Value::Null;
        loop {
            let seen = self.next("presence").await.with_context(|| format!("last saw {last}, not {who}"))?;
            if seen == *who {
                return Ok(());
            }
            last = seen;
        }
    }

    /// Starts a program.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let input = child.stdin.take().context("stdin")?;
        let lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        Ok(Self { child, input, lines })
    }

    /// The value of the next line that has this key.
    pub async fn next(&mut self, key: &str) -> Result<Value> {
        let limit = time::Instant::now() + PATIENCE;
        loop {
            let line = time::timeout_at(limit, self.lines.next_line())
                .await
                .with_context(|| format!("no {key}"))??;
            let Some(line) = line else {
                let mut errors = String::new();
                if let Some(stderr) = &mut self.child.stderr {
                    stderr.read_to_string(&mut errors).await?;
                }
                anyhow::bail!("the client ended: {errors}");
            };
            let mut value: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            ensure!(value.get("refused").is_none() && value.get("timeout").is_none(), "{value}");
            if let Some(found) = value.get_mut(key) {
                return Ok(found.take());
            }
        }
    }

    /// Tells it to do something.
    pub async fn command(&mut self, command: Value) -> Result<()> {
        Ok(self.input.write_all(format!("{command}\n").as_bytes()).await?)
    }

    /// Waits until the client takes itself for subscribed and the database is being watched.
    pub async fn ready(&mut self) -> Result<()> {
        assert_eq!(self.next("status").await?, "SUBSCRIBED");
        let system = self.next("system").await?;
        assert_eq!(
            (&system["status"], &system["message"]),
            (&json!("ok"), &json!("Subscribed to PostgreSQL"))
        );
        Ok(())
    }
}
