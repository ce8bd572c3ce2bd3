//! The first generation's stream engine: topics of values, and rows that change.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version};
use serde_json::json;
use tokio::time::{self, Duration};

use crate::{binary::server_binary, report};

/// Topic of the row that ends a run.
const END: &str = "realtime:public:bench_end";

/// Topics that one socket joins.
const PER_SOCKET: usize = 500;

/// How long the last row may take.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Topics of distinct values of one column, each joined by one channel
    #[arg(long, default_value_t = 1)]
    topics: usize,
    /// Rows to insert
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    /// Rows per transaction
    #[arg(long, default_value_t = 1000)]
    batch: usize,
    /// Columns of the table beside the key
    #[arg(long, default_value_t = 12)]
    columns: usize,
    /// Every row has a value that is watched; else none has
    #[arg(long)]
    hit: bool,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    ensure!(options.rows > 0 && options.batch > 0 && options.columns > 0, "nothing to do");
    ensure!(!options.hit || options.topics > 0, "no topic to hit");
    let db = TestDb::new().await?;
    let columns: Vec<String> = (0..options.columns).map(|n| format!("c{n} bigint not null")).collect();
    db.sql(&format!(
        "create table bench (id bigserial primary key, {}); create table bench_end (id bigint primary key);
         alter publication supabase_realtime add table bench, bench_end",
        columns.join(", ")
    ))
    .await?;
    let server_options = ServerOptions::default()
        .env("API_JWT_SECRET", "")
        .env("SECURE_CHANNELS", "false")
        .env("LEGACY_PROFILE", "v1.0")
        .env("SOCKET_TIMEOUT", "infinity");
    let server = Server::start(server_binary()?, &db, server_options).await?;
    let reading = async {
        while !server.log().contains("reading the log") {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, reading).await.context("the log is not read")?;

    let url = format!("ws://127.0.0.1:{}/socket/websocket", server.port());
    let connect = async || -> Result<Socket> {
        Socket::try_connect(&url, &[], Version::V1).await?.ok().context("refused")
    };
    let mut end = connect().await?;
    end.join(END, json!({})).await?;
    let mut readers = Vec::new();
    for first in (0..options.topics).step_by(PER_SOCKET) {
        let mut socket = connect().await?;
        for value in first..(first + PER_SOCKET).min(options.topics) {
            socket.join(&format!("realtime:public:bench:c0=eq.{value}"), json!({})).await?;
        }
        readers.push(tokio::spawn(async move {
            let mut frames = 0_u64;
            while socket.message().await.is_ok() {
                frames += 1;
            }
            frames
        }));
    }

    let values: Vec<String> = (1..options.columns).map(|n| format!("n * {n}")).collect();
    // Below zero no value is watched.
    let watched = if options.hit { format!("n % {}", options.topics) } else { "-1 - n".to_owned() };
    let values: Vec<&str> = std::iter::once(&*watched).chain(values.iter().map(String::as_str)).collect();
    let names: Vec<String> = (0..options.columns).map(|n| format!("c{n}")).collect();
    let sql = format!(
        "insert into bench ({}) select {} from generate_series($1::bigint, $2::bigint) n",
        names.join(", "),
        values.join(", ")
    );
    let statement = db.client().prepare(&sql).await?;
    let (before, started) = (server.usage()?.cpu_seconds, time::Instant::now());
    for first in (0..options.rows).step_by(options.batch) {
        let last = (first + options.batch).min(options.rows) - 1;
        db.client().execute(&statement, &[&i64::try_from(first)?, &i64::try_from(last)?]).await?;
    }
    db.sql("insert into bench_end values (1)").await?;
    let ended = async {
        while !end.message().await?.to_text()?.contains("\"INSERT\"") {}
        anyhow::Ok(())
    };
    time::timeout(LIMIT, ended).await.context("the last row did not come")??;
    let (after, elapsed) = (server.usage()?.cpu_seconds, started.elapsed());
    server.stop().await?;
    let mut frames = 0;
    for reader in readers {
        frames += reader.await?;
    }
    let rows = options.rows as u64;
    report::heading(&format!(
        "legacy: {} topics, {} columns, {rows} rows, {} a transaction, hit {}",
        options.topics, options.columns, options.batch, options.hit
    ));
    report::cpu_per("server CPU per row", after - before, rows);
    report::figure("rows", format!("{:.0}", rows as f64 / elapsed.as_secs_f64()), "/s");
    report::figure("frames", frames, "");
    Ok(())
}
