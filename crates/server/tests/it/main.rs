//! The real binary on a real PostgreSQL, seen through sockets. Cases are numbered as in the specification.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod changes_errors;
mod changes_events;
mod changes_filters;
mod changes_life;
mod changes_rls;
mod channels;
mod clients;
mod command_line;
mod handshake;
mod migrate;

use anyhow::Result;
use realtime_testkit::{Server, ServerOptions, TestDb};

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_realtime");

/// A server on a database with fixture A.
async fn server() -> Result<(Server, TestDb)> {
    let db = TestDb::with_fixture_a().await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    Ok((server, db))
}
