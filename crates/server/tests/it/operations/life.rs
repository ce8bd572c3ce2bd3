//! Signals (http_and_ops 8, 64).

use anyhow::Result;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use realtime_testkit::Version;
use serde_json::json;

use super::line;

/// http_and_ops 64: SIGTERM ends a server, with a word to its sockets; other signals change nothing
#[tokio::test]
async fn only_the_signals_to_stop_stop() -> Result<()> {
    let (server, _db) = crate::server().await?;
    let pid = Pid::from_raw(i32::try_from(server.pid())?);
    let mut socket = server.socket(Version::V2, "anon").await?;
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM] {
        kill(pid, signal)?;
        let topic = format!("realtime:{}", signal.as_str());
        assert_eq!(socket.join(&topic, json!({"config": {}})).await?.0["status"], "ok", "{signal}");
    }
    line(&server, |line| line.contains("SIGHUP")).await?;
    kill(pid, Signal::SIGTERM)?;
    assert_eq!(socket.close_code().await?, 1012);
    Ok(())
}
