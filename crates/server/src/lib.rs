//! The `realtime` server: configuration, command line, HTTP, WebSocket transport, channels.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod dashboard;
pub mod dev;
pub mod driver;
pub mod http;
pub mod life;
pub mod limits;
pub mod logging;
mod metadata;
pub mod metrics;
pub mod migrate;
mod resolve;
pub mod routes;
pub mod session;
pub mod set_up;
mod sharing;
mod sink;
pub mod socket;
pub mod sockets;
pub mod startup;
pub mod status;
pub mod tenant_runtime;
pub mod ws;
