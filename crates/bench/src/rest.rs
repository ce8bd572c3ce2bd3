//! Broadcasts over HTTP to a small room.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use realtime_testkit::token;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use crate::{
    report,
    target::Target,
    wire::{self, LIMIT, Reader},
};

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Options {
    /// Members of the room
    #[arg(long, default_value_t = 10)]
    members: usize,
    /// Requests, one after the other on one connection
    #[arg(long, default_value_t = 5000)]
    requests: usize,
    /// Runs of each server, in turn; the medians are compared
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    report::heading(&format!("rest: {} requests, {} members", options.requests, options.members));
    let (mut real, mut ideal) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        ideal.push(measure(&Target::ideal(false).await?, options).await?);
        real.push(measure(&Target::real().await?, options).await?);
    }
    let (real, ideal) = (report::median(&mut real), report::median(&mut ideal));
    report::figure("server CPU per request", format!("{real:.1}"), "µs");
    report::figure("ideal server's CPU per request", format!("{ideal:.1}"), "µs");
    report::figure("ratio", format!("{:.2}", real / ideal), "");
    Ok(())
}

async fn measure(target: &Target, options: &Options) -> Result<f64> {
    let mut members = Vec::new();
    for _ in 0..options.members {
        members.push(wire::joined(target.port(), "realtime:bench", "{}").await?);
    }
    let (mut readers, writers): (Vec<Reader>, Vec<_>) = members.into_iter().unzip();
    let mut stream = TcpStream::connect(("127.0.0.1", target.port())).await?;
    stream.set_nodelay(true)?;
    let body = r#"{"messages":[{"topic":"bench","event":"e","payload":{"text":"hello, world"}}]}"#;
    let request = format!(
        "POST /api/broadcast HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        token("anon"),
        body.len()
    );
    let mut answer = Vec::new();
    let before = target.cpu_seconds()?;
    for _ in 0..options.requests {
        stream.write_all(request.as_bytes()).await?;
        answer.clear();
        while wire::find(&answer, b"\r\n\r\n").is_none() {
            ensure!(stream.read_buf(&mut answer).await? > 0, "connection closed");
        }
        ensure!(answer.starts_with(b"HTTP/1.1 202"), "{}", String::from_utf8_lossy(&answer));
        for reader in &mut readers {
            time::timeout(LIMIT, reader.next()).await.context("a broadcast is missing")??;
        }
    }
    let cpu = (target.cpu_seconds()? - before) * 1e6 / options.requests as f64;
    drop(writers);
    Ok(cpu)
}
