//! The nodes of the development cluster, and the NATS between them.
//!
//! Each node is a process of the same binary, so that one can be killed to see what the others do. Nodes have process
//! groups of their own, and end in order: nodes, NATS, PostgreSQL. None is left when this process is killed; see
//! [`process`] and [`Supervised`](realtime_localpg::Supervised).

mod console;
mod nats;
mod process;

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitStatus,
    time::Duration,
};

use console::{Order, Whom};
use futures_util::future::join_all;
use nats::Nats;
use nix::sys::signal::Signal;
use process::Process;
use tokio::{process::Command, sync::mpsc, time};

use super::{DevError, banner};

/// How long nodes may take to start serving.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long they may then take to find each other. After that the command goes on.
const MEET_LIMIT: Duration = Duration::from_secs(20);

/// How long a node may take to answer a question.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long nodes may take to stop. Longer than they take to tell their sockets.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Settings that have no use with the private NATS.
const OF_OTHER_SERVERS: [&str; 9] = [
    "NATS_USER",
    "NATS_PASSWORD",
    "NATS_TOKEN",
    "NATS_NKEY_SEED",
    "NATS_CREDENTIALS_FILE",
    "NATS_TLS",
    "NATS_TLS_CA_FILE",
    "NATS_TLS_CERT_FILE",
    "NATS_TLS_KEY_FILE",
];

/// The NATS servers, and the subjects that the nodes use.
pub(super) struct Bus {
    /// The private server, if we started one.
    nats: Option<Nats>,
    /// Its folder, if it is to run.
    dir: Option<PathBuf>,
    /// Addresses, for the nodes.
    url: String,
    /// Keeps the nodes apart from others on the same server.
    prefix: String,
}

impl Bus {
    /// Starts a private server, or uses existing ones.
    pub(super) async fn open(dir: PathBuf, url: Option<&str>) -> Result<Self, DevError> {
        let prefix = format!("realtime-dev-{:08x}", rand::random::<u32>());
        if let Some(url) = url {
            return Ok(Self { nats: None, dir: None, url: url.to_owned(), prefix });
        }
        banner::progress("Starting NATS");
        let nats = Nats::start(&dir, None).await?;
        let url = format!("nats://127.0.0.1:{}", nats.port());
        Ok(Self { nats: Some(nats), dir: Some(dir), url, prefix })
    }

    /// The settings of nodes that use it.
    pub(super) fn env(&self) -> Vec<(&'static str, String)> {
        let mut env = vec![("NATS_URL", self.url.clone()), ("NATS_SUBJECT_PREFIX", self.prefix.clone())];
        if self.dir.is_some() {
            env.extend(OF_OTHER_SERVERS.map(|name| (name, String::new())));
        }
        env
    }

    /// Addresses without secrets, and the process if we started it.
    pub(super) fn shown(&self) -> (String, Option<i32>) {
        let servers = realtime_cluster::parse_servers(&self.url).map(|(servers, _)| servers.join(","));
        (servers.unwrap_or_default(), self.nats.as_ref().map(|nats| nats.pid().as_raw()))
    }

    /// Stops the private server.
    pub(super) async fn close(self) {
        if let Some(nats) = self.nats {
            banner::progress("Stopping NATS");
            nats.stop().await;
        }
    }

    /// Returns how the private server has ended.
    async fn ended(&mut self) -> String {
        match &mut self.nats {
            Some(nats) => {
                let how = how(nats.ended().await.ok());
                self.nats = None;
                how
            }
            None => std::future::pending().await,
        }
    }
}

/// How a node is started.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Its name for people, and its `NODE_NAME`.
    pub(super) name: String,
    /// Its port.
    pub(super) port: u16,
    /// Its settings.
    pub(super) env: Vec<(&'static str, String)>,
}

struct Node {
    plan: Plan,
    process: Option<Process>,
    paused: bool,
}

/// The nodes.
pub(super) struct Fleet {
    nodes: Vec<Node>,
    binary: PathBuf,
    config: Option<PathBuf>,
    client: reqwest::Client,
    events: mpsc::UnboundedSender<Event>,
    happened: mpsc::UnboundedReceiver<Event>,
}

enum Event {
    /// A node has ended; the text says how.
    Ended(usize, String),
    /// A node that was started again serves now.
    Serves(usize),
}

impl Fleet {
    /// A fleet whose nodes do not run yet.
    ///
    /// # Errors
    /// If the HTTP client that asks them cannot be made.
    pub(super) fn new(plans: &[Plan], config: Option<&Path>) -> Result<Self, DevError> {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_LIMIT).build();
        let client = client.map_err(|error| DevError::Nodes(realtime_tls::describe(&error)))?;
        let (events, happened) = mpsc::unbounded_channel();
        let nodes = plans.iter().map(|plan| Node { plan: plan.clone(), process: None, paused: false });
        Ok(Self {
            nodes: nodes.collect(),
            binary: std::env::current_exe().map_err(|error| DevError::Nodes(error.to_string()))?,
            config: config.map(Path::to_owned),
            client,
            events,
            happened,
        })
    }

    /// Starts all nodes, and waits until they serve and know each other.
    pub(super) async fn begin(&mut self) -> Result<(), DevError> {
        banner::progress(&format!("Starting {} nodes", self.nodes.len()));
        for place in 0..self.nodes.len() {
            self.launch(place).map_err(|error| DevError::Nodes(error.to_string()))?;
        }
        self.meet().await
    }

    /// The processes, by place.
    pub(super) fn pids(&self) -> Vec<Option<i32>> {
        self.nodes.iter().map(|node| node.process.as_ref().map(|process| process.pid().as_raw())).collect()
    }

    fn launch(&mut self, place: usize) -> std::io::Result<()> {
        let Some(node) = self.nodes.get_mut(place) else { return Ok(()) };
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--until-stdin-ends"]).envs(node.plan.env.iter().map(|(k, v)| (*k, v)));
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        let events = self.events.clone();
        let at_end = move |status| {
            let _ = events.send(Event::Ended(place, how(status)));
        };
        node.process = Some(Process::start(&node.plan.name, command, at_end)?);
        node.paused = false;
        Ok(())
    }

    /// Waits until all nodes serve and know each other.
    async fn meet(&mut self) -> Result<(), DevError> {
        let Self { nodes, client, happened, .. } = self;
        let ports: Vec<u16> = nodes.iter().map(|node| node.plan.port).collect();
        let serve =
            time::timeout(START_LIMIT, join_all(ports.iter().map(|port| process::serves(client, *port))));
        tokio::select! {
            biased;
            Some(Event::Ended(place, how)) = happened.recv() => {
                let name = nodes.get(place).map_or("a node", |node| &*node.plan.name);
                return Err(DevError::Nodes(format!("{name} {how}")));
            }
            served = serve => {
                served.map_err(|_| DevError::Nodes(format!("they do not serve after {START_LIMIT:?}")))?;
            }
        }
        let count = ports.len();
        let meet = join_all(ports.iter().map(|port| process::sees(client, *port, count)));
        if time::timeout(MEET_LIMIT, meet).await.is_err() {
            banner::progress("The nodes do not know each other yet: is NATS reachable?");
        }
        Ok(())
    }

    /// Runs until `stop` is done: tells of nodes that end, and carries out commands.
    pub(super) async fn run(&mut self, bus: &mut Bus, mut stop: Pin<&mut impl Future<Output = ()>>) {
        let mut lines = console::lines();
        let mut typing = true;
        loop {
            tokio::select! {
                () = stop.as_mut() => return,
                Some(event) = self.happened.recv() => self.tell(event),
                how = bus.ended() => {
                    banner::tell(&format!("NATS {how}: every node is alone. Type  start nats  to start it again"));
                }
                line = lines.recv(), if typing => match line {
                    Some(line) if line.trim().is_empty() => {}
                    Some(line) => match Order::read(&line, self.nodes.len()) {
                        Some(order) => self.obey(bus, order).await,
                        None => banner::tell(&format!("Type  {}", banner::ORDERS)),
                    },
                    None => typing = false,
                },
            }
        }
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::Ended(place, how) => {
                let Some(node) = self.nodes.get_mut(place) else { return };
                node.process = None;
                let number = place + 1;
                let name = &node.plan.name;
                banner::tell(&format!("{name} {how}. Type  start {number}  to start it again"));
            }
            Event::Serves(place) => {
                let Some(node) = self.nodes.get(place) else { return };
                banner::tell(&format!("{} serves on port {}", node.plan.name, node.plan.port));
            }
        }
    }

    async fn obey(&mut self, bus: &mut Bus, order: Order) {
        match order {
            Order::List => self.list(bus),
            Order::Start(Whom::Node(place)) => self.start_again(place),
            Order::Start(Whom::Nats) => start_nats(bus).await,
            Order::Stop(Whom::Node(place)) => self.order(place, Process::stop),
            Order::Kill(Whom::Node(place)) => self.order(place, |node| node.signal(Signal::SIGKILL)),
            Order::Pause(Whom::Node(place)) => self.pause(place, true),
            Order::Resume(Whom::Node(place)) => self.pause(place, false),
            Order::Stop(Whom::Nats) => signal_nats(bus, Signal::SIGINT),
            Order::Kill(Whom::Nats) => signal_nats(bus, Signal::SIGKILL),
            Order::Pause(Whom::Nats) => signal_nats(bus, Signal::SIGSTOP),
            Order::Resume(Whom::Nats) => signal_nats(bus, Signal::SIGCONT),
        }
    }

    fn order(&self, place: usize, act: impl FnOnce(&Process)) {
        let Some(node) = self.nodes.get(place) else { return };
        match &node.process {
            Some(process) => act(process),
            None => banner::tell(&format!("{} does not run", node.plan.name)),
        }
    }

    fn pause(&mut self, place: usize, paused: bool) {
        self.order(place, |node| node.signal(if paused { Signal::SIGSTOP } else { Signal::SIGCONT }));
        if let Some(node) = self.nodes.get_mut(place)
            && node.process.is_some()
        {
            node.paused = paused;
            let state = if paused { "stands still" } else { "goes on" };
            banner::tell(&format!("{} {state}", node.plan.name));
        }
    }

    fn start_again(&mut self, place: usize) {
        let Some(node) = self.nodes.get(place) else { return };
        if node.process.is_some() {
            banner::tell(&format!("{} runs already", node.plan.name));
            return;
        }
        let (name, port) = (node.plan.name.clone(), node.plan.port);
        if let Err(error) = self.launch(place) {
            banner::tell(&format!("{name} cannot be started: {error}"));
            return;
        }
        let Some(process) = self.nodes.get(place).and_then(|node| node.process.as_ref()) else { return };
        banner::tell(&format!("{name} is started again (pid {})", process.pid()));
        let (events, client, ended) = (self.events.clone(), self.client.clone(), process.ended().clone());
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = process::serves(&client, port) => { let _ = events.send(Event::Serves(place)); }
            }
        });
    }

    fn list(&self, bus: &Bus) {
        for node in &self.nodes {
            let state = match &node.process {
                Some(process) if node.paused => format!("stands still (pid {})", process.pid()),
                Some(process) => format!("serves on port {} (pid {})", node.plan.port, process.pid()),
                None => "does not run".to_owned(),
            };
            banner::tell(&format!("{} {state}", node.plan.name));
        }
        let (url, pid) = bus.shown();
        banner::tell(&match pid {
            Some(pid) => format!("NATS serves at {url} (pid {pid})"),
            None if bus.dir.is_some() => "NATS does not run".to_owned(),
            None => format!("NATS is at {url}"),
        });
    }

    /// Stops all nodes at once, and waits for their end.
    pub(super) async fn stop(&mut self) {
        let running: Vec<_> = self.nodes.iter_mut().filter_map(|node| node.process.take()).collect();
        if running.is_empty() {
            return;
        }
        banner::progress("Stopping the nodes");
        running.iter().for_each(Process::stop);
        let ended = || join_all(running.iter().map(|process| process.ended().cancelled()));
        if time::timeout(STOP_LIMIT, ended()).await.is_err() {
            running.iter().for_each(|process| process.signal(Signal::SIGKILL));
            ended().await;
        }
    }
}

fn signal_nats(bus: &mut Bus, signal: Signal) {
    match &mut bus.nats {
        Some(nats) => nats.signal(signal),
        None => banner::tell("No NATS of this cluster's own runs"),
    }
}

async fn start_nats(bus: &mut Bus) {
    let Some(dir) = bus.dir.as_ref().filter(|_| bus.nats.is_none()) else {
        banner::tell("NATS runs already, or is not this cluster's own");
        return;
    };
    let port = bus.url.rsplit(':').next().and_then(|port| port.parse().ok());
    match Nats::start(dir, port).await {
        Ok(nats) => {
            banner::tell(&format!("NATS is started again (pid {})", nats.pid()));
            bus.nats = Some(nats);
        }
        Err(error) => banner::tell(&error.to_string()),
    }
}

/// How a process ended, for people.
pub(super) fn how(status: Option<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    /// A shell adds this to the number of the signal that ended its program.
    const OF_SHELL: i32 = 128;
    let signal =
        |number| Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |s| s.to_string());
    match status.map(|status| (status.signal(), status.code())) {
        Some((Some(number), _)) => format!("was ended by {}", signal(number)),
        Some((_, Some(0))) => "has stopped".to_owned(),
        Some((_, Some(code))) if code > OF_SHELL => format!("was ended by {}", signal(code - OF_SHELL)),
        Some((_, Some(code))) => format!("ended with code {code}"),
        _ => "has ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn ends_are_told() {
        for (status, text) in [
            (Some(9), "was ended by SIGKILL"),
            (Some(0), "has stopped"),
            (Some(64 << 8), "ended with code 64"),
            (Some(137 << 8), "was ended by SIGKILL"),
            (None, "has ended"),
        ] {
            assert_eq!(how(status.map(ExitStatus::from_raw)), text);
        }
    }
}
