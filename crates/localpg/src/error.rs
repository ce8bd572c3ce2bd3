//! Why a cluster does not run.

use std::{io, path::PathBuf};

/// Why a cluster does not run. The text tells a person what to do where there is something to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server programs are nowhere to be found.
    #[error(
        "PostgreSQL's server programs (initdb, postgres) were not found. Install PostgreSQL 14 or newer, for example with: {hint}"
    )]
    NotFound {
        /// A command that installs them.
        hint: &'static str,
    },
    /// A folder was named that does not hold them.
    #[error("{0} does not hold PostgreSQL's server programs (initdb, postgres)")]
    NoPrograms(PathBuf),
    /// The programs are too old.
    #[error("PostgreSQL {found} is too old, 14 or newer is needed")]
    TooOld {
        /// What was found.
        found: String,
    },
    /// Installing them failed.
    #[error("Installing PostgreSQL failed: {0}")]
    Install(String),
    /// There is no unprivileged user to run the server as.
    #[error(
        "PostgreSQL's server does not run as root, and there is no user `postgres` or `nobody` to run it as"
    )]
    NoUser,
    /// Something with the data directory.
    #[error("Cannot use {path}: {error}")]
    DataDir {
        /// The directory or a file in it.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// A program could not be run, or failed.
    #[error("{program} failed: {detail}")]
    Program {
        /// The program.
        program: &'static str,
        /// What it said.
        detail: String,
    },
    /// A server on this data directory runs already.
    #[error(
        "A PostgreSQL server (process {pid}) already runs on {path}. Stop it, or choose another directory"
    )]
    AlreadyRunning {
        /// Its process.
        pid: i32,
        /// The data directory.
        path: PathBuf,
    },
    /// The server ended or did not answer; the end of its log.
    #[error("PostgreSQL did not start: {0}")]
    NotReady(String),
}
