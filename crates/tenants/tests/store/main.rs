//! The metadata database, on a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod crud;
mod directory;
mod flags;
mod schema;
mod secrets;
mod seed;
mod support;
