//! The private NATS of the development cluster.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use realtime_localpg::Supervised;
use serde::Deserialize;
use tokio::time::{self, Instant};

use super::super::DevError;

/// How long it may take to accept connections.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How long it may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Pause between two looks whether it is ready.
const POLL: Duration = Duration::from_millis(20);

/// The program.
const PROGRAM: &str = "nats-server";

/// Folders beside those of the PATH. Debian's `/usr/sbin` is not in everyone's PATH.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin"];

/// A running server that listens on the loopback interface only. It ends with this process.
pub(super) struct Nats {
    server: Supervised,
    port: u16,
    pid: Pid,
}

/// The file that the server writes when it is ready.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl Nats {
    /// Starts it, on a free port unless one is given. Its log is in `dir`.
    pub(super) async fn start(dir: &Path, port: Option<u16>) -> Result<Self, DevError> {
        let program = find().ok_or(DevError::NoNats)?;
        let ports = dir.join("ports");
        let unusable = |error| DevError::DataDir { path: ports.clone(), error };
        // Removes the file of the last run.
        match fs::remove_dir_all(&ports) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
            _ => fs::create_dir_all(&ports).map_err(unusable)?,
        }
        let log = dir.join("nats.log");
        let mut command = Supervised::command(&program, &log, None);
        command.args(["--addr", "127.0.0.1", "--port"]);
        let failed = |detail: String| DevError::Nats { log: log.clone(), detail };
        // Not a port that outgoing connections can get: the server must get it again after a restart.
        let port =
            port.map_or_else(realtime_localpg::free_port, Ok).map_err(|error| failed(error.to_string()))?;
        command.arg(port.to_string()).arg("--ports_file_dir").arg(&ports);
        let mut server = Supervised::start(command).map_err(|error| failed(error.to_string()))?;
        let limit = Instant::now() + START_LIMIT;
        loop {
            if let Some((pid, port)) = announced(&ports)
                && tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
            {
                return Ok(Self { server, port, pid });
            }
            if server.has_ended() || Instant::now() > limit {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(failed(said.lines().last().unwrap_or("it says nothing").to_owned()));
            }
            time::sleep(POLL).await;
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal, unless it has ended.
    pub(super) fn signal(&mut self, signal: Signal) {
        if !self.server.has_ended() {
            let _ = kill(self.pid, signal);
        }
    }

    /// Returns when it has ended. Cancel safe.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.server.wait().await
    }

    /// Stops it, even if it is paused.
    pub(super) async fn stop(mut self) {
        self.signal(Signal::SIGCONT);
        if self.server.stop(STOP_LIMIT).await.is_err() {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

/// Where the program is.
fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.into_iter().map(PathBuf::from));
    folders.map(|folder| folder.join(PROGRAM)).find(|program| program.is_file())
}

/// The process and the port from the file that the server writes. The file's name has the number of the process.
fn announced(dir: &Path) -> Option<(Pid, u16)> {
    let file = fs::read_dir(dir).ok()?.flatten().next()?.path();
    let pid = file.file_stem()?.to_str()?.rsplit('_').next()?.parse().ok()?;
    // The file may be half written.
    let ports: Ports = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    let port = ports.nats.first()?.rsplit(':').next()?.parse().ok()?;
    Some((Pid::from_raw(pid), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_writes_down_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(announced(dir.path()), None);
        let file = dir.path().join("nats-server_4711.ports");
        fs::write(&file, r#"{"nats":["#).unwrap();
        assert_eq!(announced(dir.path()), None);
        fs::write(&file, r#"{"nats":["nats://127.0.0.1:41234"]}"#).unwrap();
        assert_eq!(announced(dir.path()), Some((Pid::from_raw(4711), 41234)));
    }
}
