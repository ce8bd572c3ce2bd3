//! A node: a process of the same binary.
//!
//! It serves until its standard input ends (`serve --until-stdin-ends`). So it stops gracefully when this process
//! ends, for whatever reason. A pipe works on every system. The signal that a kernel can send at the parent's death
//! exists on Linux only, and comes when the thread ends that started the node.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::Command,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::super::banner;

/// Pause between two looks whether a node serves.
const POLL: Duration = Duration::from_millis(50);

/// A running process. Dropping it lets the process stop.
pub(super) struct Process {
    pid: Pid,
    signals: mpsc::UnboundedSender<Signal>,
    /// Cancelled when it has ended.
    ended: CancellationToken,
}

impl Process {
    /// Starts a command, and shows its output with its name before each line. `at_end` is called once, after the
    /// process has ended and all its output was shown.
    pub(super) fn start(
        name: &str,
        mut command: Command,
        at_end: impl FnOnce(Option<ExitStatus>) + Send + 'static,
    ) -> std::io::Result<Self> {
        // A process group of its own: Ctrl-C in a terminal reaches only us, and we stop the nodes before the rest.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let pid = pid.ok_or_else(|| std::io::Error::other("it ended at once"))?;
        let shown = [
            child.stdout.take().map(|output| show(name.to_owned(), output)),
            child.stderr.take().map(|output| show(name.to_owned(), output)),
        ];
        let (signals, mut orders) = mpsc::unbounded_channel();
        let ended = CancellationToken::new();
        let end = ended.clone();
        // Waiting would close the child's input, which would end it.
        let mut lifeline = child.stdin.take();
        tokio::spawn(async move {
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status.ok(),
                    order = orders.recv(), if lifeline.is_some() => match order {
                        // Nobody has waited for it yet, so the number is still its own.
                        Some(signal) => { let _ = kill(pid, signal); }
                        None => lifeline = None,
                    },
                }
            };
            for shown in shown.into_iter().flatten() {
                let _ = shown.await;
            }
            end.cancel();
            at_end(status);
        });
        Ok(Self { pid, signals, ended })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal, unless it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = self.signals.send(signal);
    }

    /// Asks it to stop, even if it is paused.
    pub(super) fn stop(&self) {
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGCONT);
    }

    /// Cancelled when it has ended.
    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}

/// Shows the output of a process.
fn show(name: String, output: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(output).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            banner::said(&name, &String::from_utf8_lossy(&line));
        }
    })
}

/// Returns when a node serves on a port. Cancel safe.
pub(super) async fn serves(client: &reqwest::Client, port: u16) {
    let url = format!("http://127.0.0.1:{port}/healthcheck");
    while !client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
        tokio::time::sleep(POLL).await;
    }
}

/// Returns when a node knows of so many nodes, itself included. Cancel safe.
pub(super) async fn sees(client: &reqwest::Client, port: u16, count: usize) {
    let url = format!("http://127.0.0.1:{port}/status.json");
    let look = async || -> Option<usize> {
        let report = client.get(&url).send().await.ok()?.bytes().await.ok()?;
        let report: serde_json::Value = serde_json::from_slice(&report).ok()?;
        Some(report.get("nodes")?.as_array()?.len())
    };
    while look().await != Some(count) {
        tokio::time::sleep(POLL).await;
    }
}
