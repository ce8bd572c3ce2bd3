//! A real NATS server, and links to it that can be cut.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{self, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    process::{Child, Command},
    sync::watch,
    time,
};

use crate::{PATIENCE, free_port};

/// A running NATS server. Killed when dropped.
pub struct Nats {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    _dir: tempfile::TempDir,
}

impl Nats {
    /// Starts a server on a free port, with further arguments.
    ///
    /// # Errors
    /// When `nats-server` is not installed or does not start.
    pub async fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_at(free_port()?, arguments).await
    }

    /// The same on a port that others were told of before.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_at(port: u16, arguments: &[&str]) -> Result<Self> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let (child, dir) = Self::run(port, &arguments).await?;
        Ok(Self { child, port, arguments, _dir: dir })
    }

    /// Kills it and starts it again on the same port.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.child.kill().await?;
        (self.child, self._dir) = Self::run(self.port, &self.arguments).await?;
        Ok(())
    }

    async fn run(port: u16, arguments: &[String]) -> Result<(Child, tempfile::TempDir)> {
        let dir = tempfile::Builder::new().prefix("realtime-nats-").tempdir()?;
        let binary = ["/usr/sbin/nats-server", "/usr/local/bin/nats-server"]
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
            .unwrap_or("nats-server");
        let child = Command::new(binary)
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "--ports_file_dir"])
            .arg(dir.path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{binary}: is it installed?"))?;
        time::timeout(PATIENCE, announced(dir.path())).await.context("NATS did not start")??;
        Ok((child, dir))
    }

    /// Has it read its configuration file again.
    ///
    /// # Errors
    /// When it is gone.
    pub fn reload(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGHUP)?)
    }

    /// The port of clients.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

/// Waits until the server has written down that it listens, and does.
async fn announced(dir: &std::path::Path) -> Result<()> {
    loop {
        for entry in std::fs::read_dir(dir)? {
            // It may be gone again, or half written.
            let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
            let Ok(ports) = serde_json::from_str::<Value>(&text) else { continue };
            let url = ports["nats"][0].as_str().context("nats")?;
            let port: u16 = url.rsplit(':').next().context("port")?.parse()?;
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(());
            }
        }
        time::sleep(time::Duration::from_millis(10)).await;
    }
}

const WHOLE: u8 = 0;
const CUT: u8 = 1;
const SILENT: u8 = 2;
const STALLED: u8 = 3;

/// A way to a port of this machine, which can be cut.
pub struct Link {
    port: u16,
    state: Arc<AtomicU8>,
    changed: watch::Sender<u64>,
}

impl Link {
    /// Opens a way to a port.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn to(target: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(AtomicU8::new(WHOLE));
        let changed = watch::Sender::new(0);
        let (accept_state, accept_changed) = (Arc::clone(&state), changed.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if accept_state.load(Ordering::Relaxed) == CUT {
                    continue;
                }
                let (state, changed) = (Arc::clone(&accept_state), accept_changed.subscribe());
                tokio::spawn(async move {
                    if let Ok(other) = TcpStream::connect(("127.0.0.1", target)).await {
                        carry(stream, other, state, changed).await;
                    }
                });
            }
        });
        Ok(Self { port, state, changed })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Ends all connections and lets no new one come about.
    pub fn cut(&self) {
        self.set(CUT);
    }

    /// Swallows everything; connections stay open.
    pub fn silence(&self) {
        self.set(SILENT);
    }

    /// Takes nothing any more: what is sent waits with who sends it, as when no packet is acknowledged. Connections stay
    /// open, and new ones are as mute.
    pub fn stall(&self) {
        self.set(STALLED);
    }

    /// Lets connections through again. Those that were silenced or stalled end, for bytes of theirs are lost.
    pub fn mend(&self) {
        self.set(CUT);
        self.set(WHOLE);
    }
}

/// Carries a connection until it ends or is cut.
async fn carry(a: TcpStream, b: TcpStream, state: Arc<AtomicU8>, mut changed: watch::Receiver<u64>) {
    let _ = (a.set_nodelay(true), b.set_nodelay(true));
    let (a_read, a_write) = a.into_split();
    let (b_read, b_write) = b.into_split();
    let born = *changed.borrow_and_update();
    let silenced = Arc::clone(&state);
    let cut = async {
        // Once silenced, it ends with the next change; else when it is cut.
        loop {
            let was_silent = [SILENT, STALLED].contains(&state.load(Ordering::Relaxed));
            if changed.changed().await.is_err() || was_silent || state.load(Ordering::Relaxed) == CUT {
                return;
            }
            if state.load(Ordering::Relaxed) == WHOLE && *changed.borrow() > born {
                return;
            }
        }
    };
    tokio::select! {
        _ = copy(a_read, b_write, &silenced) => {}
        _ = copy(b_read, a_write, &silenced) => {}
        () = cut => {}
    }
}

async fn copy(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, state: &AtomicU8) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        while state.load(Ordering::Relaxed) == STALLED {
            time::sleep(time::Duration::from_millis(10)).await;
        }
        let count = from.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        if state.load(Ordering::Relaxed) != SILENT {
            to.write_all(bytes).await?;
        }
    }
}

/// Waits until something is so, looking again and again.
///
/// # Errors
/// When it does not become so in time, or looking fails.
pub async fn until<F: Future<Output = Result<bool>>>(what: &str, mut look: impl FnMut() -> F) -> Result<()> {
    let limit = time::Instant::now() + PATIENCE;
    while !look().await? {
        if time::Instant::now() > limit {
            bail!("{what}: it never was so");
        }
        time::sleep(time::Duration::from_millis(20)).await;
    }
    Ok(())
}
