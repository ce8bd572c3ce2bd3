//! What a delivery costs over a stream of events, beside one over a WebSocket.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use realtime_testkit::{Server, TestDb, token};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time,
};

use crate::{
    binary::server_binary,
    report, target,
    wire::{self, LIMIT},
};

/// What each change is told by.
const WEBSOCKET: &[u8] = b"\"postgres_changes\",{\"ids\"";
const EVENT: &[u8] = b"event: INSERT\n";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Subscribers to a table
    #[arg(long, default_value_t = 100)]
    subscribers: usize,
    /// Rows to insert
    #[arg(long, default_value_t = 1000)]
    rows: usize,
    /// Rows per transaction
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Rounds, of which the middle one counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    ensure!(options.subscribers > 0 && options.rows > 0 && options.batch > 0, "nothing to do");
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..options.rounds.max(1) {
        for (events, costs) in [false, true].into_iter().zip(&mut costs) {
            costs.push(round(options, events).await?);
        }
    }
    let [mut websockets, mut events] = costs;
    let (websocket, event) = (report::median(&mut websockets), report::median(&mut events));
    report::heading(&format!(
        "sse: {} subscribers, {} rows, {} a transaction",
        options.subscribers, options.rows, options.batch
    ));
    report::figure("server CPU per delivery, WebSockets", format!("{websocket:.2}"), "µs");
    report::figure("server CPU per delivery, events", format!("{event:.2}"), "µs");
    report::figure("events ÷ WebSockets", format!("{:.2}", event / websocket), "");
    Ok(())
}

/// Microseconds of the server per delivery.
async fn round(options: &Options, events: bool) -> Result<f64> {
    let db = TestDb::new().await?;
    db.sql(
        "create table bench (id bigserial primary key, body text not null);
         grant select on bench to anon;
         alter publication supabase_realtime add table bench;",
    )
    .await?;
    let server = Server::start(server_binary()?, &db, target::options()).await?;
    let mut streams = Vec::new();
    for _ in 0..options.subscribers {
        streams.push(subscribe(server.port(), events).await?);
    }
    let mark = if events { EVENT } else { WEBSOCKET };
    // The first row makes the table known: that is not what is measured.
    db.sql("insert into bench (body) values ('first')").await?;
    for stream in &mut streams {
        count(stream, mark, 1).await?;
    }
    let before = server.usage()?.cpu_seconds;
    let mut readers = JoinSet::new();
    for mut stream in streams {
        let rows = options.rows;
        readers.spawn(async move { count(&mut stream, mark, rows).await });
    }
    let sql = "insert into bench (body) select repeat('x', 100) from generate_series(1, $1::bigint)";
    let statement = db.client().prepare(sql).await?;
    let mut inserted = 0;
    while inserted < options.rows {
        let batch = options.batch.min(options.rows - inserted);
        db.client().execute(&statement, &[&i64::try_from(batch)?]).await?;
        inserted += batch;
    }
    while let Some(reader) = readers.join_next().await {
        reader??;
    }
    let used = server.usage()?.cpu_seconds - before;
    Ok(used * 1e6 / (options.rows * options.subscribers) as f64)
}

/// A connection that gets the changes, from now on.
async fn subscribe(port: u16, events: bool) -> Result<TcpStream> {
    if !events {
        let (mut reader, mut writer) = wire::connect(port).await?;
        let entry = r#"{"event":"INSERT","schema":"public","table":"bench"}"#;
        writer.join("realtime:bench", &format!(r#"{{"postgres_changes":[{entry}]}}"#)).await?;
        reader.expect("Subscribed to PostgreSQL").await?;
        return reader.whole_stream(writer);
    }
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let path = format!("/sse/changes?schema=public&table=bench&event=INSERT&apikey={}", token("anon"));
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
    count(&mut stream, b"event: subscribed\n", 1).await?;
    Ok(stream)
}

/// Reads until a text has come so many times.
async fn count(stream: &mut TcpStream, text: &[u8], mut wanted: usize) -> Result<()> {
    let reading = async {
        let (mut buffer, mut kept) = (vec![0; 65_536], 0);
        while wanted > 0 {
            let read = stream.read(buffer.get_mut(kept..).context("buffer")?).await?;
            ensure!(read > 0, "the server closed the connection");
            let mut rest = buffer.get(..kept + read).context("buffer")?;
            while let Some(at) = wire::find(rest, text) {
                wanted = wanted.saturating_sub(1);
                rest = rest.get(at + text.len()..).unwrap_or_default();
            }
            // A text may be cut.
            let keep = rest.len().min(text.len() - 1);
            let end = kept + read;
            buffer.copy_within(end - keep..end, 0);
            kept = keep;
        }
        anyhow::Ok(())
    };
    time::timeout(LIMIT, reading).await.context("changes are missing")?
}
