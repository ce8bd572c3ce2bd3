//! What a person is told while a cluster starts.

use std::{fmt, path::PathBuf};

/// A step of starting a cluster; `Display` is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The server programs are being installed.
    Installing,
    /// A data directory is being made.
    Initializing(PathBuf),
    /// The server is being started.
    Starting,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installing => f.write_str("Installing PostgreSQL (once)"),
            Self::Initializing(dir) => write!(f, "Making a PostgreSQL cluster in {} (once)", dir.display()),
            Self::Starting => f.write_str("Starting PostgreSQL"),
        }
    }
}
