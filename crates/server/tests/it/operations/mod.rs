//! Operating a server: what every answer has, the log, traces, pushed metrics, signals (http_and_ops 0, 3, 9, 11).

mod board;
mod collector;
mod http;
mod life;
mod log;
mod page;
mod push;
mod traces;

use anyhow::{Context as _, Result};
use realtime_testkit::{PATIENCE, Server};
use tokio::time;

/// Waits until the log has a line that fits, and gives it.
async fn line(server: &Server, fits: impl Fn(&str) -> bool) -> Result<String> {
    let found = async {
        loop {
            if let Some(line) = server.log().lines().find(|line| fits(line)) {
                return line.to_owned();
            }
            time::sleep(time::Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, found).await.with_context(|| format!("no such line in {}", server.log()))
}
