//! The `realtime` server: configuration, command line, HTTP, WebSocket transport, channels.

pub mod app;
pub mod cli;
pub mod config;
pub mod dev;
pub mod driver;
pub mod http;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod migrate;
pub mod routes;
pub mod session;
mod sharing;
mod sink;
pub mod socket;
pub mod sockets;
pub mod startup;
pub mod tenant_runtime;
pub mod ws;
