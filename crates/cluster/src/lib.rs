//! Many nodes as one: what is said in rooms and who is present, carried over NATS.
//!
//! - [`wire`]: what nodes write to each other (pure).
//! - [`members`]: which nodes there are (pure).
//! - [`track`]: what one node knows of another's state, and how it is mended (pure; the invariants stand there).
//! - `outgoing`: the numbered streams of what this node says.
//! - `incoming`: what others say about a tenant that this node has sockets of.
//! - `questions`: what a node asks another for its operators.
//! - [`stream`]: one node reads a tenant's database for all.
//! - `node`: the connection, and the tasks around it.
//!
//! Subjects, failures and what is promised at each: `docs/cluster.md`.

mod config;
mod incoming;
pub mod members;
mod node;
mod outgoing;
mod questions;
pub mod stream;
mod subjects;
pub mod track;
pub mod wire;

pub use config::{Credentials, NatsConfig, parse_servers};
pub use incoming::TenantSide;
pub use node::{Cluster, ConnectError, Contact, Interest, NodeStatus};
pub use questions::{Answerer, AskError};
