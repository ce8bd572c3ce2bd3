//! Channels: the sessions of clients, what they share per tenant, and how messages reach them.
//!
//! A [`Session`](session::Session) is a state machine without I/O. A [`Driver`](driver::Driver) keeps its timers and
//! slow steps. The sessions of a tenant share a [`TenantRuntime`](tenant_runtime::TenantRuntime).

pub mod address;
mod allowance;
pub mod budget;
mod client;
pub mod counters;
pub mod database;
mod diffs;
pub mod driver;
pub mod effect;
pub mod first_generation;
pub mod history;
pub mod limits;
pub mod notices;
mod packing;
pub mod patience;
mod posting;
pub mod publish;
mod renewal;
pub mod routes;
pub mod session;
pub mod sharing;
pub mod sink;
pub mod sockets;
pub mod tenant_runtime;
pub mod token;
mod watch;
pub mod webhooks;
