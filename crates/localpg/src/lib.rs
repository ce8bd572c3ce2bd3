//! A private PostgreSQL cluster for development and tests.
//!
//! [`Cluster::start`] finds the server programs (or installs them), makes a data directory where there is
//! none, and runs a server that listens on the loopback interface only. The server ends with the process
//! that started it, even if that is killed.

mod cluster;
mod error;
mod find;
mod install;
mod owner;
mod port;
mod progress;
mod supervised;

pub use cluster::{Cluster, ClusterOptions};
pub use error::Error;
pub use port::free_port;
pub use progress::Progress;
pub use supervised::Supervised;
