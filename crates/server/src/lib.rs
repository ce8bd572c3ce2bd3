//! The `realtime` server, around its channels: configuration, command line, node, transports, HTTP, dashboard.
//!
//! Arrows run one way: `run` → `http`, `dashboard` → `web` → `transport`, `operators` → `node` → `config`.

pub mod answers;
pub mod cli;
pub mod config;
pub mod dashboard;
pub mod dev;
pub mod diagnostics;
pub mod doctor;
pub mod explain;
pub mod http;
pub mod migrate;
pub mod node;
pub mod operators;
pub mod pages;
pub mod process;
pub mod remote;
pub mod run;
pub mod team_keys;
pub mod throttle;
pub mod transport;
pub mod turns;
pub mod watch;
pub mod web;
