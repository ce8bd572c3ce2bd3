//! Load generator: what the server costs, as CPU time per unit of work.
//!
//! Every scenario starts a private PostgreSQL and the real binary (`REALTIME_BIN`, else the one beside this
//! program), so build both with `--release`. CPU time is what the kernel charged to the processes: it depends
//! less on what else the machine does than elapsed time.

mod binary;
mod changes;
mod cluster;
mod compression;
mod connect;
mod encrypted;
mod fanout;
mod hostile;
mod ideal;
mod joins;
mod legacy;
mod live;
mod policies;
mod presence;
mod report;
mod rest;
mod resume;
mod rooms;
mod sse;
mod stored;
mod target;
mod wire;

use anyhow::Result;
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[derive(Debug, Parser)]
#[command(name = "realtime-bench", about = "What the server costs, as CPU time per unit of work")]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Sockets that connect, join one channel and stay: CPU per join, memory per socket
    Connect(connect::Options),
    /// Subscribers to a table and rows that change: CPU per row, latency from commit to client
    Changes(changes::Options),
    /// Row changes to subscribers that take compressed messages, beside those that do not: CPU and bytes per delivery
    Compression(compression::Options),
    /// Row-level security by policy and number of parties: CPU per row, rows per second
    Policies(policies::Options),
    /// Live rows: first rows, joins, deliveries, row-level security, views
    Live(live::Options),
    /// The first generation: topics of values, and rows that change: CPU per row
    Legacy(legacy::Options),
    /// Users that join private channels, each judged by policies: joins per second, CPU and queries per join
    Joins(joins::Options),
    /// One room, one publisher, many members: CPU per delivery, beside the ideal server's
    Fanout(fanout::Options),
    /// Each user in an echo channel and in a channel of six: CPU per delivery, latency
    Rooms(rooms::Options),
    /// Users that all come to one room at once: time until all know all, CPU and bytes per user
    Presence(presence::Options),
    /// Rooms over one, two and three nodes: CPU per delivery here and elsewhere, and of NATS
    Cluster(cluster::Options),
    /// Broadcasts over HTTP: CPU per request, beside the ideal server's
    Rest(rest::Options),
    /// A trigger that broadcasts each row that is inserted: CPU per message, latency
    Stored(stored::Options),
    /// Row changes over streams of events: CPU per delivery, beside that over WebSockets
    Sse(sse::Options),
    /// Clients that all come back at once: time until all have caught up, latency of the others
    Resume(resume::Options),
    /// Clients that misbehave: latency of the others, memory
    Hostile(hostile::Options),
    /// Those that attack in `hostile`, until the standard input ends
    #[command(hide = true)]
    HostileAttackers(hostile::Orders),
    /// The ideal server itself; prints its port
    Ideal(ideal::Options),
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    // Thousands of sockets need as many descriptors.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let runtime = match cli.scenario {
        Scenario::Ideal(_) => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        _ => tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
    };
    runtime.block_on(async {
        match cli.scenario {
            Scenario::Connect(options) => connect::run(&options).await,
            Scenario::Changes(options) => changes::run(&options).await,
            Scenario::Compression(options) => compression::run(&options).await,
            Scenario::Policies(options) => policies::run(&options).await,
            Scenario::Live(options) => live::run(&options).await,
            Scenario::Legacy(options) => legacy::run(&options).await,
            Scenario::Joins(options) => joins::run(&options).await,
            Scenario::Fanout(options) => fanout::run(&options).await,
            Scenario::Rooms(options) => rooms::run(&options).await,
            Scenario::Presence(options) => presence::run(&options).await,
            Scenario::Cluster(options) => cluster::run(&options).await,
            Scenario::Rest(options) => rest::run(&options).await,
            Scenario::Stored(options) => stored::run(&options).await,
            Scenario::Sse(options) => sse::run(&options).await,
            Scenario::Resume(options) => resume::run(&options).await,
            Scenario::Hostile(options) => hostile::run(&options).await,
            Scenario::HostileAttackers(orders) => hostile::obey(orders).await,
            Scenario::Ideal(options) => ideal::serve(options).await,
        }
    })
}
