//! Why `realtime dev` could not start.

use std::{io, path::PathBuf};

use crate::config::ConfigError;

/// Why `realtime dev` could not start.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The data directory cannot be used.
    #[error("Cannot use {path}: {error}")]
    DataDir {
        /// The directory or a file in it.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// PostgreSQL does not run.
    #[error(transparent)]
    Postgres(#[from] realtime_localpg::Error),
    /// The sample table could not be made.
    #[error("Cannot set up the sample database: {0}")]
    Sample(#[from] tokio_postgres::Error),
    /// A setting in the environment cannot be used.
    #[error("Wrong setting: {0}")]
    Config(#[from] ConfigError),
    /// The port cannot be taken.
    #[error("Cannot listen on port {port}: {error}")]
    Listen {
        /// The port.
        port: u16,
        /// What the operating system says.
        error: io::Error,
    },
    /// There are not so many ports.
    #[error("{nodes} nodes need ports of their own, from --port on: {port} leaves too few")]
    Ports {
        /// The first.
        port: u16,
        /// How many are needed.
        nodes: u8,
    },
    /// The program of NATS is nowhere to be found.
    #[error(
        "More than one node need NATS, and nats-server was not found. Install it (apt install nats-server, brew install \
         nats-server, or a release from https://github.com/nats-io/nats-server/releases in a folder of the PATH), or name \
         one that runs: --nats-url nats://HOST:4222"
    )]
    NoNats,
    /// NATS does not run.
    #[error("NATS did not start: {detail} (its log: {log})")]
    Nats {
        /// Its log.
        log: PathBuf,
        /// What it said last.
        detail: String,
    },
    /// The nodes do not run.
    #[error("Cannot start the nodes: {0}")]
    Nodes(String),
}
