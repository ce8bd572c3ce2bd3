//! Load generator: what the server costs, as CPU time per unit of work.
//!
//! Every scenario starts a private PostgreSQL and the real binary (`REALTIME_BIN`, else the one beside this
//! program), so build both with `--release`. CPU time is what the kernel charged to the processes: it depends
//! less on what else the machine does than elapsed time.

mod changes;
mod connect;
mod report;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
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
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    // Thousands of sockets need as many descriptors.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        match cli.scenario {
            Scenario::Connect(options) => connect::run(&options).await,
            Scenario::Changes(options) => changes::run(&options).await,
        }
    })
}

/// The server binary under measurement.
fn server_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("REALTIME_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let path = own.parent().context("no parent directory")?.join("realtime");
    anyhow::ensure!(path.exists(), "{} is missing: build it with the same profile", path.display());
    Ok(path)
}
