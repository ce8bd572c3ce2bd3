//! The real server binary, as a process.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time,
};

use crate::{PATIENCE, SECRET, Socket, TestDb, Version, sign, token};

/// How a test server differs from the default.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    env: HashMap<String, String>,
}

impl ServerOptions {
    /// With what others set, which wins.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.env.extend(others.env);
        self
    }

    /// For tests that write as fast as the machine lets them, until something shows: no limit of events per second.
    #[must_use]
    pub fn fast() -> Self {
        Self::default().env("TENANT_MAX_EVENTS_PER_SECOND", "100000000")
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// A running server. Killed when dropped.
pub struct Server {
    child: Child,
    port: u16,
    log: Arc<Mutex<String>>,
}

/// An answer over HTTP.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// Body.
    pub body: String,
}

impl Answer {
    /// A header, empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// The answer to a request on a connection of its own.
///
/// # Errors
/// When there is none.
pub async fn http(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request.push_str("Host: localhost\r\n");
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(&[request.as_bytes(), body].concat()).await?;
    let mut answer = Vec::new();
    time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.context("no answer")??;
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").context("no head")?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("status")?.parse()?;
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers: HashMap<_, _> =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let chunked = headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked");
    let body = if chunked { unchunked(body)? } else { body.to_vec() };
    Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

/// What a body that was sent in chunks carries.
fn unchunked(mut body: &[u8]) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let line = body.windows(2).position(|part| part == b"\r\n").context("the body has no end")?;
        let length = usize::from_str_radix(std::str::from_utf8(&body[..line])?, 16)?;
        if length == 0 {
            return Ok(content);
        }
        let start = line + 2;
        content.extend_from_slice(body.get(start..start + length).context("a chunk has no end")?);
        body = body.get(start + length + 2..).context("a chunk has no end")?;
    }
}

/// What a server process has used.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// CPU time in seconds, user and system.
    pub cpu_seconds: f64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
}

impl Server {
    /// Starts a server on a test's database, with no back-off delays, and waits until it serves.
    ///
    /// # Errors
    /// When it does not serve in time; with its log.
    pub async fn start(binary: impl AsRef<Path>, db: &TestDb, options: ServerOptions) -> Result<Self> {
        let mut env: HashMap<String, String> = db.env().await?.into_iter().collect();
        env.extend(options.env);
        let server = Self::start_with(binary.as_ref(), env).await?;
        Ok(server)
    }

    /// Starts a server with these variables alone.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(binary: &Path, env: HashMap<String, String>) -> Result<Self> {
        let encrypted = env.contains_key("TLS_CERT_FILE");
        let mut command = Command::new(binary);
        command
            .env_clear()
            .envs([
                ("PORT", "0"),
                ("API_JWT_SECRET", SECRET),
                ("SEED_SELF_HOST", "true"),
                ("CONNECT_ERROR_BACKOFF_MS", "0"),
                ("CHANNEL_ERROR_BACKOFF_MS", "0"),
                ("TENANT_MAX_CONCURRENT_USERS", "100000"),
                ("LOG_FORMAT", "text"),
                // Tests wait for rows in the order in which they were written, on a machine that may be busy.
                ("POLICY_WAIT_MS", "5000"),
            ])
            .envs(env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{}", PathBuf::from(binary).display()))?;
        let stderr = child.stderr.take().context("no standard error")?;
        let log = Arc::new(Mutex::new(String::new()));
        let (announce, announced) = tokio::sync::oneshot::channel();
        tokio::spawn(follow(stderr, Arc::clone(&log), announce));
        let port = match time::timeout(PATIENCE, announced).await {
            Ok(Ok(port)) => port,
            _ => bail!("the server did not start: {}", read(&log)),
        };
        let server = Self { child, port, log };
        // It is not asked over TLS; it accepts connections from the moment on that it names its port.
        if !encrypted {
            server.wait_until_healthy().await?;
        }
        Ok(server)
    }

    async fn wait_until_healthy(&self) -> Result<()> {
        let healthy = async {
            while !self.get("/healthcheck").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                time::sleep(time::Duration::from_millis(20)).await;
            }
        };
        time::timeout(PATIENCE, healthy).await.with_context(|| format!("not healthy: {}", self.log()))
    }

    /// Waits until it has set its metadata database up: on a busy machine it serves before that.
    ///
    /// # Errors
    /// When that does not come about in time.
    pub async fn administered(&self) -> Result<()> {
        let bearer = format!("Bearer {}", sign(&json!({})));
        let limit = time::Instant::now() + PATIENCE;
        loop {
            let answer = self.http("GET", "/api/tenants", &[("Authorization", &bearer)], b"").await?;
            if answer.status == 200 {
                return Ok(());
            }
            if time::Instant::now() > limit {
                bail!("{answer:?}: {}", self.log());
            }
            time::sleep(time::Duration::from_millis(20)).await;
        }
    }

    /// The whole answer to a GET request.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, path: &str) -> Result<String> {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }

    /// The whole answer to a raw request that closes the connection.
    ///
    /// # Errors
    /// When there is none.
    pub async fn request(&self, request: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
        Ok(answer)
    }

    /// As [`http`] on this server.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        http(self.port, method, path, headers, body).await
    }

    /// Port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connected socket with a token of a role.
    ///
    /// # Errors
    /// When the handshake is refused.
    pub async fn socket(&self, version: Version, role: &str) -> Result<Socket> {
        Socket::connect(self.port, version, &token(role)).await
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Waits for a line of the log that contains a text, and gives it.
    ///
    /// # Errors
    /// When there is none in time; with the log.
    pub async fn logged(&self, text: &str) -> Result<String> {
        let limit = time::Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            if time::Instant::now() > limit {
                bail!("{text} was not logged: {}", self.log());
            }
            time::sleep(time::Duration::from_millis(10)).await;
        }
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// What the process has used so far.
    ///
    /// # Errors
    /// When `/proc` does not tell.
    pub fn usage(&self) -> Result<Usage> {
        let pid = self.pid();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
        let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("stat")?.parse::<f64>()?) };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse()?;
        // Linux counts in hundredths of a second for user space, whatever its clock.
        Ok(Usage { cpu_seconds: (ticks(11)? + ticks(12)?) / 100.0, resident_bytes: kilobytes * 1024 })
    }

    /// Kills it, as `kill -9` does, and waits for its end.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Sends it a signal, such as SIGKILL, SIGSTOP or SIGCONT.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid())?), signal)?)
    }

    /// A number of its own metrics, the sum over labels; for servers with `METRICS_JWT_SECRET` set to [`SECRET`].
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let bearer = format!("Bearer {}", sign(&json!({})));
        let answer = self.http("GET", "/metrics?scope=node", &[("authorization", &bearer)], b"").await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        let values = answer.body.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        Ok(values.sum())
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub async fn stop(self) -> Result<()> {
        self.stop_and_tell().await.map(drop)
    }

    /// The same; gives what it has logged.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub async fn stop_and_tell(mut self) -> Result<String> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        let status = time::timeout(PATIENCE, self.child.wait()).await.context("it did not stop")??;
        if !status.success() {
            bail!("it ended with {status}: {}", self.log());
        }
        Ok(self.log())
    }
}

fn read(log: &Mutex<String>) -> String {
    log.lock().clone()
}

/// Collects the log, and tells the port when the server names it.
async fn follow(
    stderr: tokio::process::ChildStderr,
    log: Arc<Mutex<String>>,
    announce: tokio::sync::oneshot::Sender<u16>,
) {
    let mut lines = BufReader::new(stderr).lines();
    let mut announce = Some(announce);
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(port) =
            line.split_once("serving port=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
            && let Some(announce) = announce.take()
        {
            let _ = announce.send(port);
        }
        let mut log = log.lock();
        log.push_str(&line);
        log.push('\n');
    }
}
