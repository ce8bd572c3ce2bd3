//! Logs: to standard error, human or JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{ConfigError, Env};

/// Logs of a server: `LOG_LEVEL` (info), for people on a terminal, else one JSON object a line.
///
/// # Errors
/// [`ConfigError`] when `LOG_LEVEL` or `LOG_FORMAT` is no known word.
pub fn init(env: &Env) -> Result<(), ConfigError> {
    let terminal = std::io::stderr().is_terminal();
    let json = env.one_of("LOG_FORMAT", !terminal, &[("json", true), ("text", false)])?;
    let builder =
        fmt().with_env_filter(filter(env, "info")?).with_writer(std::io::stderr).with_ansi(terminal);
    if json {
        builder.json().flatten_event(true).with_target(false).init();
    } else {
        builder.with_target(false).init();
    }
    Ok(())
}

/// Logs of `realtime dev`: only what a person must know, unless `LOG_LEVEL` says otherwise.
///
/// # Errors
/// As [`init`].
pub fn init_for_people(env: &Env) -> Result<(), ConfigError> {
    fmt()
        .with_env_filter(filter(env, "warn")?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
}

/// The reference's level names; those that have no counterpart mean the nearest.
fn filter(env: &Env, default: &'static str) -> Result<EnvFilter, ConfigError> {
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
    let level = env.one_of("LOG_LEVEL", default, &words)?;
    Ok(EnvFilter::new(format!(
        "{level},hyper=warn,tokio_postgres=warn,pgwire_replication=off,async_nats=off"
    )))
}
