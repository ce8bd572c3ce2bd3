//! `realtime dev --nodes N`: a cluster to play with.

use std::{
    collections::HashMap,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use realtime_testkit::{Nats, PATIENCE, free_port, http, until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time,
};
use tokio_postgres::NoTls;

use crate::{BINARY, clients::Client};

/// The command, as a person has it before him.
struct Dev {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// The first port.
    port: u16,
    /// What was shown after a name: `Token`, `Database`.
    shown: HashMap<String, String>,
    /// Processes by name: `node1`, `NATS`, `PostgreSQL`.
    pids: HashMap<String, i32>,
}

impl Dev {
    async fn start(dir: &Path, nodes: u16, further: &[&str]) -> Result<Self> {
        let port = free_ports(nodes)?;
        let mut child = command(dir, nodes, port, further)?.stderr(Stdio::null()).spawn()?;
        let input = child.stdin.take().context("stdin")?;
        let lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let mut dev = Self { child, input, lines, port, shown: HashMap::new(), pids: HashMap::new() };
        loop {
            let line = time::timeout(PATIENCE, dev.lines.next_line()).await.context("not ready")??;
            let line = line.context("it ended")?;
            if line.starts_with("Stop with Ctrl-C") {
                return Ok(dev);
            }
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                [name, "pid", pid, ..] => {
                    dev.pids.insert(name.to_owned(), pid.parse()?);
                }
                [name, value, ..] => {
                    dev.shown.insert(name.to_owned(), value.to_owned());
                }
                _ => {}
            }
        }
    }

    /// Waits for a line about what has happened.
    async fn tells(&mut self, text: &str) -> Result<()> {
        loop {
            let line = time::timeout(PATIENCE, self.lines.next_line()).await;
            let line = line.with_context(|| format!("it does not tell {text:?}"))??;
            if line.with_context(|| format!("it ended before {text:?}"))?.contains(text) {
                return Ok(());
            }
        }
    }

    async fn type_in(&mut self, line: &str) -> Result<()> {
        Ok(self.input.write_all(format!("{line}\n").as_bytes()).await?)
    }

    fn pid(&self, name: &str) -> Result<i32> {
        self.pids.get(name).copied().with_context(|| format!("no pid of {name}: {:?}", self.pids))
    }

    /// The nodes that a node's status page shows: all, and those that cannot be reached.
    async fn nodes(&self, node: u16) -> Result<(usize, usize)> {
        let answer = http(self.port + node - 1, "GET", "/status.json", &[], b"").await?;
        let report: Value = serde_json::from_str(&answer.body)?;
        let nodes = report["nodes"].as_array().context("nodes")?;
        Ok((nodes.len(), nodes.iter().filter(|node| node["status"] == "unreachable").count()))
    }

    async fn shows(&self, node: u16, count: usize, unreachable: usize) -> Result<()> {
        let shown = async || Ok(self.nodes(node).await? == (count, unreachable));
        until(&format!("node {node} shows {count} nodes, {unreachable} unreachable"), shown).await
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().context("it ended")?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Waits until nothing of it runs.
    async fn leaves_nothing(&mut self) -> Result<()> {
        time::timeout(PATIENCE, self.child.wait()).await.context("it does not end")??;
        for (name, pid) in &self.pids {
            until(&format!("{name} has ended"), async || Ok(!runs(*pid))).await?;
        }
        Ok(())
    }
}

/// What a process that was killed leaves for its parent to see does not count.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn command(dir: &Path, nodes: u16, port: u16, further: &[&str]) -> Result<Command> {
    let pg_port = free_port()?;
    let mut command = Command::new(BINARY);
    command.args(["dev", "--nodes", &nodes.to_string(), "--port", &port.to_string()]);
    command.args(["--pg-port", &pg_port.to_string()]).arg("--data-dir").arg(dir).args(further);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

/// The first of so many ports that nobody has: below those that connections are given by chance.
fn free_ports(count: u16) -> Result<u16> {
    for _ in 0..100 {
        let first = rand::random_range(20_000..30_000);
        if (first..first + count).all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok()) {
            return Ok(first);
        }
    }
    bail!("no free ports")
}

fn folder() -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::Builder::new().prefix("realtime-dev-").tempdir()?;
    // PostgreSQL may run as another user.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let data = dir.path().join("dev");
    Ok((dir, data))
}

async fn client(dev: &Dev, node: u16) -> Result<Client> {
    let token = dev.shown.get("Token").context("no token")?;
    let todos = json!([{"event": "*", "schema": "public", "table": "todos"}]);
    let url = format!("http://localhost:{}", dev.port + node - 1);
    let mut client = Client::javascript_as(token, &url, "2.0.0", &todos, None)?;
    client.ready().await?;
    Ok(client)
}

/// Waits until a client sees this many present.
async fn present(client: &mut Client, count: usize) -> Result<()> {
    while client.next("presence").await?.as_array().map(Vec::len) != Some(count) {}
    Ok(())
}

/// Three nodes exchange what supabase-js clients say, are killed and started again, and end together. Of a command that is
/// killed itself nothing is left either.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_to_play_with() -> Result<()> {
    let (_dir, data) = folder()?;
    let mut dev = Dev::start(&data, 3, &[]).await?;
    for node in 1..=3 {
        dev.shows(node, 3, 0).await?;
        assert!(runs(dev.pid(&format!("node{node}"))?));
    }
    let (mut first, mut third) = (client(&dev, 1).await?, client(&dev, 3).await?);
    first.command(json!({"send": "hello"})).await?;
    assert_eq!(third.next("broadcast").await?["event"], "hello");
    third.command(json!({"track": {"user": "c"}})).await?;
    present(&mut first, 1).await?;
    first.command(json!({"track": {"user": "a"}})).await?;
    present(&mut third, 2).await?;
    let (database, connection) = tokio_postgres::connect(&dev.shown["Database"], NoTls).await?;
    tokio::spawn(connection);
    database.batch_execute("insert into todos (task) values ('Say hello')").await?;
    for client in [&mut first, &mut third] {
        assert_eq!(client.next("change").await?["new"]["task"], "Say hello");
    }

    // One dies; the others tell, and go on.
    kill(Pid::from_raw(dev.pid("node2")?), Signal::SIGKILL)?;
    dev.tells("node2 was ended by SIGKILL. Type  start 2").await?;
    for node in [1, 3] {
        dev.shows(node, 3, 1).await?;
    }
    third.command(json!({"send": "still here"})).await?;
    assert_eq!(first.next("broadcast").await?["event"], "still here");
    // What is lost while another node takes the stream over is told: the row comes after that.
    drop((first, third));
    dev.type_in("start 2").await?;
    dev.tells("node2 serves on port").await?;
    dev.shows(1, 3, 0).await?;
    let (mut second, mut third) = (client(&dev, 2).await?, client(&dev, 3).await?);
    database.batch_execute("update todos set done = true").await?;
    for client in [&mut second, &mut third] {
        assert_eq!(client.next("change").await?["new"]["done"], true);
    }
    dev.type_in("pause 3").await?;
    dev.tells("node3 stands still").await?;
    dev.type_in("launch 3").await?;
    dev.tells("Type  kill, stop").await?;

    // One that stands still ends with the others.
    dev.signal(Signal::SIGTERM)?;
    dev.tells("Stopping PostgreSQL").await?;
    dev.leaves_nothing().await?;

    // A second time, with NATS that runs, and the command is killed.
    let nats = Nats::start(&[]).await?;
    let mut dev = Dev::start(&data, 2, &["--nats-url", &nats.url()]).await?;
    dev.shows(2, 2, 0).await?;
    dev.pid("PostgreSQL")?;
    ensure!(!dev.pids.contains_key("NATS"), "it is not ours");
    dev.signal(Signal::SIGKILL)?;
    dev.leaves_nothing().await?;

    // A port that is taken is named, and nothing stays behind.
    let port = free_ports(2)?;
    let taken = TcpListener::bind(("0.0.0.0", port + 1))?;
    let output = command(&data, 2, port, &["--nats-url", &nats.url()])?.stderr(Stdio::piped()).output();
    let output = time::timeout(PATIENCE, output).await.context("it does not end")??;
    drop(taken);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains(&format!("Cannot listen on port {}", port + 1)), "{errors}");
    assert_eq!(output.status.code(), Some(1));
    Ok(())
}

/// What cannot be is refused before anything is started.
#[tokio::test]
async fn as_many_ports_as_nodes() -> Result<()> {
    let (_dir, data) = folder()?;
    for port in [0, 65_530] {
        let output = command(&data, 9, port, &[])?.stderr(Stdio::piped()).output();
        let output = time::timeout(PATIENCE, output).await.context("it does not end")??;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(&format!("{port} leaves too few")), "{errors}");
    }
    let none = command(&data, 0, 4000, &[])?.stderr(Stdio::piped()).output().await?;
    assert_eq!(none.status.code(), Some(2));
    ensure!(!data.exists(), "nothing was made");
    Ok(())
}
