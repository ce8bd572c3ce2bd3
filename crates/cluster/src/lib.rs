//! Many nodes as one: what is said in rooms and who is present, carried over NATS.
//!
//! From below:
//!
//! - [`wire`]: what nodes write to each other (pure).
//! - [`members`]: which nodes there are (pure).
//! - [`track`]: what one node knows of another's state, and how it is repaired (pure; its invariants are written there).
//! - [`scope`]: the parts of a tenant that nodes say something about, and the buckets of its rooms (pure).
//! - [`rates`]: how often things happen that are limited, on all nodes together (pure).
//! - `chance`: what is random, and tables whose order is.
//! - `common`: what the parts of a tenant have in common: where other nodes listen.
//! - `link`: the connection to NATS, subjects, what is published and received.
//! - `outgoing`: the numbered streams of what this node says.
//! - `incoming`: what others say about the parts of tenants that this node listens to.
//! - `peers`: what is known about the other nodes.
//! - `questions`: what a node asks another for its operators.
//! - [`stream`]: one node reads a tenant's database for all.
//! - `histories`: what a node asks others when it gets the first member of a room.
//! - `node`: this node's state, and the tasks around it.
//! - [`Cluster`]: all of it, for the rest of the server.
//!
//! Subjects, failures and promises: `docs/cluster.md`.

mod asking;
mod chance;
mod cluster;
mod common;
mod config;
mod histories;
mod incoming;
mod link;
pub mod members;
mod node;
mod outgoing;
mod peers;
mod questions;
pub mod rates;
pub mod scope;
#[cfg(test)]
mod simulation;
mod status;
pub mod stream;
mod subjects;
pub mod track;
pub mod wire;

pub use cluster::{Cluster, Interest};
pub use config::{Credentials, NatsConfig, parse_servers};
pub use incoming::TenantSide;
pub use link::{ConnectError, ProbeError, probe};
pub use questions::{Answerer, AskError};
pub use status::{Contact, Metric, NodeStatus};
