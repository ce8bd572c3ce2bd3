//! Broadcasts from the database: a trigger sends each row that is inserted to a private room.

use anyhow::{Result, ensure};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use realtime_testkit::{Server, TestDb, token};
use tokio::{
    process::Command,
    task::JoinSet,
    time::{self, Duration, Instant},
};

use crate::{
    binary::server_binary,
    changes::{database_cpu, postmaster},
    report, target,
    wire::{self, LIMIT, Reader, Writer, now_nanos, number_after},
};

/// A table of which each row is told in the room that it names.
const SCHEMA: &str = "
    create table public.told (id bigserial primary key, room int not null, sent_at bigint not null);
    create function public.tell() returns trigger language plpgsql security definer as $$ begin
        perform realtime.broadcast_changes('room-' || new.room, tg_op, tg_op, tg_table_name, tg_table_schema, new, null);
        return null; end $$;
    create trigger tell after insert on public.told for each row execute function public.tell();
    create policy reads on realtime.messages for select to anon using (true);";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Users, one socket each
    #[arg(long, default_value_t = 600)]
    users: usize,
    /// Users of a room
    #[arg(long, default_value_t = 6)]
    room: usize,
    /// Rows per second, one in a transaction; they go round the rooms
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seconds to measure
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    ensure!(
        options.room > 0 && options.rate > 0 && options.users.is_multiple_of(options.room),
        "the number of users must be a multiple of those of a room"
    );
    let db = TestDb::new().await?;
    let output =
        Command::new(server_binary()?).arg("migrate").env_clear().envs(db.env().await?).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    db.sql(SCHEMA).await?;
    let server = Server::start(server_binary()?, &db, target::options()).await?;
    let sockets = joined(&server, options).await?;
    let rooms = options.users / options.room;
    let messages = (options.rate * options.seconds) as usize;
    let postmaster = postmaster(&db).await?;
    let before = (server.usage()?.cpu_seconds, database_cpu(postmaster)?);
    let (mut readers, mut writers) = (JoinSet::new(), Vec::with_capacity(options.users));
    for (n, (reader, writer)) in sockets.into_iter().enumerate() {
        let expected = (n / options.room..messages).step_by(rooms).count() as u64;
        readers.spawn(read(reader, expected));
        writers.push(writer);
    }
    insert(&db, options.rate, messages, rooms).await?;
    let mut latencies = Histogram::<u64>::new(3)?;
    while let Some(reader) = readers.join_next().await {
        latencies.add(&reader??)?;
    }
    let after = (server.usage()?.cpu_seconds, database_cpu(postmaster)?);
    drop(writers);

    report::heading(&format!(
        "stored: {} users in private rooms of {}, {} rows a second",
        options.users, options.room, options.rate
    ));
    let count = messages as u64;
    report::cpu_per("server CPU per message", after.0 - before.0, count);
    report::cpu_per("server CPU per delivery", after.0 - before.0, latencies.len());
    report::cpu_per("database CPU per message, inserting included", after.1 - before.1, count);
    report::figure("deliveries", format!("{:.0}", latencies.len() as f64 / f64::from(options.seconds)), "/s");
    report::latencies("insert to client", &latencies);
    Ok(())
}

/// Users that have joined their rooms.
async fn joined(server: &Server, options: &Options) -> Result<Vec<(Reader, Writer)>> {
    let (port, room) = (server.port(), options.room);
    stream::iter(0..options.users)
        .map(|n| async move {
            let (mut reader, mut writer) = wire::connect_as(port, &token("anon")).await?;
            let config = r#"{"private":true,"broadcast":{"replication_ready":true}}"#;
            writer.join(&format!("realtime:room-{}", n / room), config).await?;
            reader.expect("Replication connection established").await?;
            anyhow::Ok((reader, writer))
        })
        .buffered(32)
        .try_collect()
        .await
}

/// Inserts rows at a steady pace; `sent_at` is taken just before the statement that commits.
async fn insert(db: &TestDb, rate: u32, messages: usize, rooms: usize) -> Result<()> {
    let sql = "insert into public.told (room, sent_at) values ($1, $2)";
    let statement = db.client().prepare(sql).await?;
    let mut ticks = time::interval(Duration::from_secs(1) / rate);
    for n in 0..messages {
        ticks.tick().await;
        let (room, now) = (i32::try_from(n % rooms)?, i64::try_from(now_nanos())?);
        db.client().execute(&statement, &[&room, &now]).await?;
    }
    Ok(())
}

/// Reads what is expected; latencies in microseconds.
async fn read(mut reader: Reader, expected: u64) -> Result<Histogram<u64>> {
    let mut latencies = Histogram::new(3)?;
    let until = Instant::now() + LIMIT + LIMIT;
    while latencies.len() < expected {
        let message = time::timeout_at(until, reader.next()).await??;
        // As `jsonb` writes it, or without the blank.
        let sent = number_after(message, b"\"sent_at\": ").or_else(|| number_after(message, b"\"sent_at\":"));
        if let Some(sent) = sent {
            latencies.record(now_nanos().saturating_sub(sent) / 1000)?;
        }
    }
    Ok(latencies)
}
