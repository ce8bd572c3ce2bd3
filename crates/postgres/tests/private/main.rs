//! Private topics against real PostgreSQL: set-up, policies, sending, replay, retention, connections.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod abandoned;
mod authorize;
mod authorize_errors;
mod crowding;
mod life;
mod look;
mod replay;
mod retention;
mod schema;
mod sending;
mod slots;
mod stream;
mod succession;
mod support;
