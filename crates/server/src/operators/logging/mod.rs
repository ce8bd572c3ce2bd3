//! Logs: to standard error, for people or as JSON (http_and_ops 9.6).
//!
//! Lines tell what happened, with the operators' code, the tenant and the id of the request. They contain no tokens,
//! secrets or values of rows; anything that looks like a token is masked in any case. Equal warnings that come too
//! often are left out and counted, so that one bad client cannot flood the log.

mod fields;
mod line;
mod sink;
#[cfg(test)]
mod tests;
mod throttle;
pub mod traces;

use std::io::IsTerminal as _;

use line::Format;
pub use sink::suppressed;
use sink::{Contexts, Counting, Lines};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{ConfigError, Env};

/// Notes on the span of a request which tenant it is for.
pub fn is_for(tenant: &str) {
    tracing::Span::current().record("external_id", tenant);
}

/// Logs and traces of a server. What is still to be sent is sent when it is dropped.
#[must_use = "traces end when it is dropped"]
#[derive(Debug)]
pub struct Guard(#[expect(dead_code, reason = "held for its drop")] Option<traces::Guard>);

/// Logs of a server: `LOG_LEVEL` (info), for people on a terminal, else one JSON object a line. Traces where
/// `OTEL_TRACES_EXPORTER` says so.
///
/// # Errors
/// [`ConfigError`] when a setting is no known word.
pub fn init(env: &Env) -> Result<Guard, ConfigError> {
    let terminal = std::io::stderr().is_terminal();
    let json = env.one_of("LOG_FORMAT", !terminal, &[("json", true), ("text", false)])?;
    let format = if json { Format::Json } else { Format::Text { color: terminal } };
    start(env, format, "info", "")
}

/// Logs of `realtime dev`: only what a person must know, unless `LOG_LEVEL` says otherwise.
///
/// # Errors
/// As [`init`].
pub fn init_for_people(env: &Env) -> Result<Guard, ConfigError> {
    let format = Format::Text { color: std::io::stderr().is_terminal() };
    // Its database is its own, and so is the superuser of it.
    start(env, format, "warn", ",realtime_postgres::rights=error")
}

fn start(env: &Env, format: Format, default: &'static str, further: &str) -> Result<Guard, ConfigError> {
    let level = level(env, default)?;
    let common = [("region", "REGION"), ("cluster", "CLUSTER")]
        .into_iter()
        .filter_map(|(name, variable)| Some((name, env.text(variable)?)))
        .collect();
    let lines = Lines::new(format, common, Box::new(sink::standard_error));
    let traces = traces::start(env)?;
    let (traces, guard) = traces.unzip();
    tracing_subscriber::registry()
        .with(Contexts)
        .with(Counting)
        .with(traces)
        .with(lines.with_filter(filter(level, further)))
        .init();
    Ok(Guard(guard))
}

/// The reference's level names; those that have no counterpart mean the nearest.
fn level(env: &Env, default: &'static str) -> Result<&'static str, ConfigError> {
    let words = [
        ("emergency", "error"),
        ("alert", "error"),
        ("critical", "error"),
        ("error", "error"),
        ("warning", "warn"),
        ("warn", "warn"),
        ("notice", "info"),
        ("info", "info"),
        ("debug", "debug"),
        ("trace", "trace"),
    ];
    env.one_of("LOG_LEVEL", default, &words)
}

/// Of this server's own lines and the warnings of libraries: those know no better than to print what they handle.
/// `further`: directives that begin with a comma.
fn filter(level: &str, further: &str) -> EnvFilter {
    let libraries = if level == "error" { "error" } else { "warn" };
    // A prefix: all crates of this server begin so.
    EnvFilter::new(format!("{libraries},realtime={level},pgwire_replication=off,async_nats=off{further}"))
}
