//! Subscriptions of channels to row changes, with a real PostgreSQL and the worker's own steps.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod dropped;
mod overtaken;
mod returning;
mod support;
