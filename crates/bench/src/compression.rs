//! Row changes to subscribers that take compressed messages, beside those that do not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use realtime_testkit::{Server, TestDb};
use tokio::{
    task::JoinSet,
    time::{self, Duration},
};

use crate::{
    binary::server_binary,
    report,
    target::options as generous,
    wire::{self, LIMIT, Reader, Writer},
};

const TOPIC: &str = "realtime:bench";

/// How long the server has to take in the first row.
const SETTLE: Duration = Duration::from_secs(1);

/// Rows that may be written before they have been read.
const AHEAD: usize = 500;

/// Of these the text of rows is made, with numbers between: it compresses as what people write does, not as one letter.
const WORDS: &str = "order customer invoice delivered waiting for payment the a of and to in is on with street \
    number open closed new changed by user name value total price tax note please call again tomorrow";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Subscribers that see every row, one socket each
    #[arg(long, default_value_t = 100)]
    subscribers: usize,
    /// Rows to insert
    #[arg(long, default_value_t = 2000)]
    rows: usize,
    /// Rows per transaction
    #[arg(long, default_value_t = 10)]
    batch: usize,
    /// Bytes of text in a row
    #[arg(long, default_value_t = 300)]
    payload: usize,
    /// Runs with and without compression, in turn; the medians are compared
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// What a run took.
struct Run {
    /// CPU of the server per row, in microseconds.
    per_row: f64,
    /// Bytes of a row's frame.
    bytes: f64,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    ensure!(options.subscribers > 0 && options.rows > 0 && options.batch > 0, "nothing to do");
    let db = TestDb::new().await?;
    db.sql(
        "create table public.bench (id bigserial primary key, customer int not null, state text not null,
            changed_at timestamptz not null default now(), body text not null);
         grant select on public.bench to anon;
         alter publication supabase_realtime add table public.bench;",
    )
    .await?;
    let server_options = generous().env("WEBSOCKET_COMPRESSION", "true");
    let server = Server::start(server_binary()?, &db, server_options).await?;
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..options.rounds {
        for (compressed, runs) in [false, true].into_iter().zip(&mut runs) {
            runs.push(measure(&server, &db, options, compressed).await?);
        }
    }
    report::heading(&format!(
        "compression: {} subscribers, {} rows with {} bytes of text, {} a transaction",
        options.subscribers, options.rows, options.payload, options.batch
    ));
    for (name, runs) in ["plain", "compressed"].into_iter().zip(&runs) {
        let median = |of: fn(&Run) -> f64| report::median(&mut runs.iter().map(of).collect::<Vec<_>>());
        let per_row = median(|run| run.per_row);
        report::figure(&format!("{name}: bytes per delivery"), format!("{:.0}", median(|run| run.bytes)), "");
        report::figure(&format!("{name}: server CPU per row"), format!("{per_row:.1}"), "µs");
        let per_delivery = per_row / options.subscribers as f64;
        report::figure(&format!("{name}: server CPU per delivery"), format!("{per_delivery:.2}"), "µs");
    }
    Ok(())
}

async fn measure(server: &Server, db: &TestDb, options: &Options, compressed: bool) -> Result<Run> {
    let sockets: Vec<(Reader, Writer)> = stream::iter(0..options.subscribers)
        .map(|_| subscribe(server.port(), compressed))
        .buffered(16)
        .try_collect()
        .await?;
    // The first row makes the table known and attaches the subscriptions: that is not what is measured.
    let texts: Vec<String> = (0..options.batch).map(|n| text(n, options.payload)).collect();
    insert(db, texts.get(..1).context("text")?, 0).await?;
    time::sleep(SETTLE).await;
    let received = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    let mut writers = Vec::new();
    for (reader, writer) in sockets {
        writers.push(writer);
        readers.spawn(read(reader, options.rows, compressed, Arc::clone(&received)));
    }
    // All have the first row.
    while received.load(Ordering::Relaxed) < options.subscribers {
        time::sleep(Duration::from_millis(1)).await;
    }
    let before = server.usage()?.cpu_seconds;
    let mut written = 0;
    while written < options.rows {
        let batch = options.batch.min(options.rows - written);
        insert(db, texts.get(..batch).context("texts")?, written).await?;
        written += batch;
        while written.saturating_sub(AHEAD) * options.subscribers > received.load(Ordering::Relaxed) {
            time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut bytes = 0;
    while let Some(reader) = readers.join_next().await {
        bytes += reader??;
    }
    let cpu = server.usage()?.cpu_seconds - before;
    let deliveries = options.subscribers * options.rows;
    Ok(Run { per_row: cpu * 1e6 / options.rows as f64, bytes: bytes as f64 / deliveries as f64 })
}

async fn subscribe(port: u16, compressed: bool) -> Result<(Reader, Writer)> {
    let (mut reader, mut writer) =
        if compressed { wire::connect_compressed(port).await? } else { wire::connect(port).await? };
    let watched = r#"{"postgres_changes":[{"event":"*","schema":"public","table":"bench"}]}"#;
    writer.join(TOPIC, watched).await?;
    reader.expect("Subscribed to PostgreSQL").await?;
    Ok((reader, writer))
}

/// Reads the first row and all others; bytes of these.
async fn read(
    mut reader: Reader,
    rows: usize,
    compressed: bool,
    received: Arc<AtomicUsize>,
) -> Result<usize> {
    let mut bytes = 0;
    for n in 0..=rows {
        let frame = time::timeout(LIMIT, reader.next_frame()).await.context("a row is missing")??;
        ensure!(frame.1 == compressed, "a frame of {} bytes is not as agreed", frame.0);
        bytes += if n == 0 { 0 } else { frame.0 };
        received.fetch_add(1, Ordering::Relaxed);
    }
    Ok(bytes)
}

async fn insert(db: &TestDb, texts: &[String], from: usize) -> Result<()> {
    let from = i32::try_from(from)?;
    let sql = "insert into public.bench (customer, state, body)
        select $2 + n, 'waiting', body from unnest($1::text[]) with ordinality as rows (body, n)";
    let statement = db.client().prepare(sql).await?;
    db.client().execute(&statement, &[&texts, &i64::from(from)]).await?;
    Ok(())
}

/// So many bytes of words and numbers.
fn text(n: usize, bytes: usize) -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut state = n as u64 + 1;
    let mut text = String::new();
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let drawn = usize::try_from(state >> 33).unwrap_or_default();
        match words.get(drawn % (words.len() + 8)) {
            Some(word) => text.push_str(word),
            None => text.push_str(&drawn.to_string()),
        }
        text.push(' ');
    }
    text.truncate(bytes);
    text
}
