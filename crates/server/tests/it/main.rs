//! The real binary on a real PostgreSQL, seen through sockets. Cases are numbered as in the specification.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod admin;
mod authority;
mod broadcast;
mod browser;
mod changes_alike;
mod changes_attacks;
mod changes_calls;
mod changes_compiled;
mod changes_compiled_attacks;
mod changes_compiled_conditions;
mod changes_compiled_definitions;
mod changes_compiled_memory;
mod changes_compiled_publication;
mod changes_compiled_random;
mod changes_compiled_rights;
mod changes_delivery;
mod changes_errors;
mod changes_events;
mod changes_every_event;
mod changes_filter_limits;
mod changes_filter_trees;
mod changes_filters;
mod changes_golden;
mod changes_held_up;
mod changes_images;
mod changes_lanes;
mod changes_life;
mod changes_looked_up;
mod changes_random;
mod changes_renames;
mod changes_rls;
mod changes_select;
mod changes_self_check;
mod changes_since;
mod changes_since_places;
mod changes_since_random;
mod changes_since_slot;
mod changes_slot;
mod changes_stream;
mod changes_tables;
mod changes_types;
mod changes_watchdog;
mod channels;
mod clients;
mod cluster;
mod command_line;
mod compression;
mod dashboard;
mod database_tls;
mod dev_nodes;
mod dialogues;
mod doctor;
mod drain;
mod examples;
mod explain;
mod handshake;
mod histories;
mod hostile_sql;
mod least_privilege;
mod legacy;
mod limits;
mod listener;
mod live_client;
mod live_clients;
mod live_functions;
mod live_life;
mod live_policies;
mod live_random;
mod live_rows;
mod live_since;
mod live_view_cases;
mod live_views;
mod longpoll;
mod memory;
mod metadata;
mod metrics;
mod migrate;
mod openapi;
mod operations;
mod presence;
mod private;
mod quick_start;
mod remote;
mod rest;
mod sse;
mod supabase_compose;
mod tokens;
mod unread;
mod watch;
mod webhooks;

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
