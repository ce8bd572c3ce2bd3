//! Why a database cannot be reached.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::ip_version::IpVersion;

/// Why TLS cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or is not a PEM file of the right kind.
    #[error("{what} {}: {problem}", path.display())]
    File {
        /// What the file should hold.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The system trusts no authority, and none was named.
    #[error("No trusted certificate authorities are installed on this system; name a CA file")]
    NoRoots,
    /// The library refuses the configuration.
    #[error("{0}")]
    Refused(String),
}

impl TlsError {
    pub(crate) fn file(what: &'static str, path: &Path, problem: impl fmt::Display) -> Self {
        Self::File { what, path: path.to_owned(), problem: problem.to_string() }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host's name cannot be resolved.
    #[error("The database's host {host} cannot be found: {problem}")]
    Name {
        /// The name.
        host: String,
        /// What the resolver says.
        problem: String,
    },
    /// The host has no address of the wanted version.
    #[error("The database's host {host} has no {version} address")]
    NoAddress {
        /// The name.
        host: String,
        /// What is wanted.
        version: IpVersion,
    },
    /// No connection, or a broken one.
    #[error("Cannot connect to the database: {0}")]
    Io(#[from] io::Error),
    /// The server has no TLS.
    #[error("The database's server does not support TLS, which is required")]
    NoTls,
    /// The server's certificate or its TLS is refused, or ours by it.
    #[error("TLS to the database failed: {0}")]
    Handshake(io::Error),
}
