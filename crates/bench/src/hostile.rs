//! What clients that misbehave do to the others: each attack in turn, at full speed, for a time.

mod attacks;
mod victims;

use anyhow::{Context as _, Result};
use attacks::{Attack, Attackers};
pub(crate) use attacks::{Orders, obey};
use clap::{Args, ValueEnum as _};
use realtime_testkit::{Server, TestDb};
use tokio::time::{self, Duration};
use victims::Seen;

use crate::{binary::server_binary, report, target};

/// How long an attack goes on before anything is measured.
const WARM_UP: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Attacks to run, in this order; all of them if none is named
    #[arg(long, value_enum)]
    attack: Vec<Attack>,
    /// Megabytes that the server may hold for clients
    #[arg(long, default_value_t = 256)]
    memory_mb: u32,
    /// Before each attack, the same on another server of this machine with a PostgreSQL of its own: what the machine's
    /// work for it does to those who are measured, whatever the server under attack does
    #[arg(long)]
    twin: bool,
    /// Seconds after the attack before memory is looked at again: connections linger, and what they held is given back in
    /// steps
    #[arg(long, default_value_t = 20)]
    settle: u32,
    /// Port of a server on this machine that runs already; it takes the tokens of the tests. Its database is that of
    /// `DATABASE_URL`
    #[arg(long, requires = "pid")]
    port: Option<u16>,
    /// Its process, to see its memory
    #[arg(long)]
    pid: Option<u32>,
}

/// The server under attack.
struct Scene {
    port: u16,
    pid: u32,
    database: String,
    /// Those that the bench started end with it.
    _server: Option<(Server, TestDb)>,
}

impl Scene {
    async fn new(options: &Options) -> Result<Self> {
        if let (Some(port), Some(pid)) = (options.port, options.pid) {
            let database = std::env::var("DATABASE_URL").context("DATABASE_URL")?;
            return Ok(Self { port, pid, database, _server: None });
        }
        Self::on(TestDb::new().await?, options).await
    }

    /// One with a PostgreSQL of its own.
    async fn apart(options: &Options) -> Result<Self> {
        Self::on(TestDb::alone().await?, options).await
    }

    async fn on(db: TestDb, options: &Options) -> Result<Self> {
        let settings = target::options().env("MAX_CLIENT_MEMORY_MB", &options.memory_mb.to_string());
        let server = Server::start(server_binary()?, &db, settings).await?;
        let (port, pid, database) = (server.port(), server.pid(), db.url().await?);
        Ok(Self { port, pid, database, _server: Some((server, db)) })
    }

    /// Resident memory: the most there ever was, in bytes.
    fn peak(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        Ok(peak.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(resident.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Begins to look for the most memory anew.
    fn forget_peak(&self) {
        // A kernel that refuses shows the most of all attacks so far.
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5");
    }
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    report::heading(
        "hostile: p99 of those that behave in ms, lost messages of each kind and sockets of theirs that ended, memory of the server in MB",
    );
    report::row(&[
        "attack",
        "heartbeats",
        "broadcasts",
        "rows",
        "lost",
        "ended",
        "peak",
        "after",
        "closed",
        "errors",
    ]);
    let chosen = if options.attack.is_empty() {
        Attack::value_variants().to_vec()
    } else {
        [&[Attack::None], &*options.attack].concat()
    };
    for attack in chosen {
        let name = attack.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
        if options.twin && !matches!(attack, Attack::None | Attack::Elsewhere) {
            let twin = Scene::apart(options).await?;
            let scene = Scene::new(options).await?;
            show(&format!("{name}, twin"), measure(&scene, &twin, attack, options).await);
        }
        // Each against a server that nothing has happened to, if the bench can start one.
        let scene = Scene::new(options).await?;
        show(&name, measure(&scene, &scene, attack, options).await);
    }
    Ok(())
}

fn show(name: &str, measured: Result<Vec<String>>) {
    match measured {
        Ok(columns) => {
            let cells: Vec<&str> = [name].into_iter().chain(columns.iter().map(String::as_str)).collect();
            report::row(&cells);
        }
        Err(error) => report::row(&[name, &format!("failed: {error:#}")]),
    }
}

/// What those who behave on `scene` see while `attacked` is attacked.
async fn measure(scene: &Scene, attacked: &Scene, attack: Attack, options: &Options) -> Result<Vec<String>> {
    let victims = victims::Victims::new(scene.port, &scene.database).await?;
    scene.forget_peak();
    if !std::ptr::eq(scene, attacked) {
        // Attacks write to these tables.
        victims::tables(&attacked.database).await?;
    }
    let attackers = Attackers::start(attack, attacked.port, &attacked.database)?;
    time::sleep(WARM_UP).await;
    let seen = victims.measure(Duration::from_secs(options.seconds.into())).await?;
    let peak = scene.peak()?;
    let told = attackers.end().await?;
    time::sleep(Duration::from_secs(options.settle.into())).await;
    let Seen { heartbeats, broadcasts, rows, lost, ended } = seen;
    let p99 = |histogram: &hdrhistogram::Histogram<u64>| {
        format!("{:.1}", histogram.value_at_quantile(0.99) as f64 / 1e3)
    };
    let megabytes = |bytes: u64| (bytes / 1_000_000).to_string();
    Ok([
        p99(&heartbeats),
        p99(&broadcasts),
        p99(&rows),
        lost.map(|count| count.to_string()).join("/"),
        ended.to_string(),
        megabytes(peak),
        megabytes(scene.resident()?),
    ]
    .into_iter()
    .chain(told.split_whitespace().map(str::to_owned))
    .collect())
}
