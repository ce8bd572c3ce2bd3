//! Those that behave: what they wait for, whatever others do.

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{self, Duration, Instant, MissedTickBehavior},
};
use tokio_postgres::{Client, NoTls};

use crate::wire::{self, Reader, Writer, now_nanos, number_after};

/// Sockets that send heartbeats.
const BEATING: usize = 20;
const BEAT: Duration = Duration::from_millis(200);

/// How often those that only listen send one: clients of the project do every 25 seconds, and the server closes what has
/// been silent for a minute.
const KEEP: Duration = Duration::from_secs(20);

/// Pairs of one that talks and one that listens.
const PAIRS: usize = 10;
const TALK: Duration = Duration::from_millis(100);

/// Sockets that watch rows, each of two kilobytes.
const WATCHING: usize = 5;
const ROW: Duration = Duration::from_millis(50);
const ROW_BYTES: i32 = 2_000;

/// What has not come so long after the end is lost, and counts as late as that.
const GRACE: Duration = Duration::from_secs(20);

/// A silence after which nothing more is waited for.
const QUIET: Duration = Duration::from_secs(5);

/// What a victim sends to measure, and the text before its time in the answer.
#[derive(Clone, Copy)]
enum Kind {
    Heartbeat,
    Broadcast,
    Row,
}

impl Kind {
    fn mark(self) -> &'static [u8] {
        match self {
            Self::Heartbeat => b"[null,\"",
            Self::Broadcast => b"\"t\":",
            Self::Row => b"\"sent_at\":",
        }
    }
}

pub(crate) struct Victims {
    beating: Vec<(Reader, Writer)>,
    talking: Vec<(Reader, Writer)>,
    listening: Vec<(Reader, Writer)>,
    watching: Vec<(Reader, Writer)>,
    database: Client,
}

/// What they saw, in microseconds.
pub(crate) struct Seen {
    pub(crate) heartbeats: Histogram<u64>,
    pub(crate) broadcasts: Histogram<u64>,
    pub(crate) rows: Histogram<u64>,
    /// Heartbeats, broadcasts and rows that did not come.
    pub(crate) lost: [u64; 3],
    /// Sockets that the server closed.
    pub(crate) ended: u64,
}

/// A connection to the database at `url`.
pub(crate) async fn database(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Makes the tables that those who behave and those who attack use; gives the connection.
pub(crate) async fn tables(url: &str) -> Result<Client> {
    let database = database(url).await?;
    database
        .batch_execute(
            "create table if not exists public.watched (id bigserial primary key, sent_at bigint not null, body text);
             create table if not exists public.large (id bigserial primary key, body text);
             grant select on public.watched, public.large to anon;
             drop publication if exists supabase_realtime;
             create publication supabase_realtime for table public.watched, public.large;",
        )
        .await?;
    Ok(database)
}

impl Victims {
    pub(crate) async fn new(port: u16, url: &str) -> Result<Self> {
        let database = tables(url).await?;
        let (mut beating, mut talking, mut listening, mut watching) = (vec![], vec![], vec![], vec![]);
        for n in 0..BEATING {
            beating.push(wire::joined(port, &format!("realtime:beat-{n}"), "{}").await?);
        }
        for n in 0..PAIRS {
            let topic = format!("realtime:pair-{n}");
            talking.push(wire::joined(port, &topic, "{}").await?);
            listening.push(wire::joined(port, &topic, "{}").await?);
        }
        let config = r#"{"postgres_changes":[{"event":"INSERT","schema":"public","table":"watched"}]}"#;
        for n in 0..WATCHING {
            let (mut reader, writer) = wire::joined(port, &format!("realtime:watch-{n}"), config).await?;
            reader.expect("Subscribed to PostgreSQL").await?;
            watching.push((reader, writer));
        }
        Ok(Self { beating, talking, listening, watching, database })
    }

    pub(crate) async fn measure(self, span: Duration) -> Result<Seen> {
        let end = Instant::now() + span;
        let Self { beating, talking, listening, watching, database } = self;
        let (mut readers, mut writers) = (JoinSet::new(), JoinSet::new());
        let mut open = Vec::new();
        for (reader, writer) in beating {
            readers.spawn(read(reader, Kind::Heartbeat, end + GRACE));
            writers.spawn(beat(writer, end));
        }
        for (n, (reader, writer)) in talking.into_iter().enumerate() {
            open.push(reader);
            writers.spawn(talk(writer, n, end));
        }
        // Dropped, and so ended, when all that was sent has had its time.
        let mut quiet = JoinSet::new();
        for (reader, writer) in listening {
            readers.spawn(read(reader, Kind::Broadcast, end + GRACE));
            quiet.spawn(keep(writer));
        }
        for (reader, writer) in watching {
            readers.spawn(read(reader, Kind::Row, end + GRACE));
            quiet.spawn(keep(writer));
        }
        let rows = insert(&database, end).await?;
        let mut sent = [0, 0, rows * WATCHING as u64];
        while let Some(writer) = writers.join_next().await {
            let (writer, kind, count) = writer??;
            sent[kind as usize] += count;
            quiet.spawn(keep(writer));
        }
        // All that was sent has a time to arrive; readers end when nothing has come for a while.
        let mut seen = Seen {
            heartbeats: Histogram::new(3)?,
            broadcasts: Histogram::new(3)?,
            rows: Histogram::new(3)?,
            lost: [0; 3],
            ended: 0,
        };
        while let Some(reader) = readers.join_next().await {
            let (kind, latencies, open) = reader??;
            seen.ended += u64::from(!open);
            match kind {
                Kind::Heartbeat => seen.heartbeats.add(&latencies)?,
                Kind::Broadcast => seen.broadcasts.add(&latencies)?,
                Kind::Row => seen.rows.add(&latencies)?,
            }
        }
        let arrived = [seen.heartbeats.len(), seen.broadcasts.len(), seen.rows.len()];
        seen.lost = std::array::from_fn(|kind| sent[kind].saturating_sub(arrived[kind]));
        Ok(seen)
    }
}

/// Ticks that keep their times however late one is: what waits counts.
fn ticks(period: Duration) -> time::Interval {
    let mut ticks = time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}

async fn beat(mut writer: Writer, end: Instant) -> Result<(Writer, Kind, u64)> {
    let (mut ticks, mut count) = (ticks(BEAT), 0);
    while ticks.tick().await < end {
        writer.send(&format!(r#"[null,"{}","phoenix","heartbeat",{{}}]"#, now_nanos())).await?;
        count += 1;
    }
    Ok((writer, Kind::Heartbeat, count))
}

/// Keeps a socket open.
async fn keep(mut writer: Writer) -> Result<()> {
    let mut ticks = ticks(KEEP);
    loop {
        ticks.tick().await;
        writer.send(r#"[null,"k","phoenix","heartbeat",{}]"#).await?;
    }
}

async fn talk(mut writer: Writer, n: usize, end: Instant) -> Result<(Writer, Kind, u64)> {
    let (mut ticks, mut count) = (ticks(TALK), 0);
    while ticks.tick().await < end {
        let now = now_nanos();
        writer
            .send(&format!(
                r#"["1","m","realtime:pair-{n}","broadcast",{{"type":"broadcast","event":"e","payload":{{"t":{now}}}}}]"#
            ))
            .await?;
        count += 1;
    }
    Ok((writer, Kind::Broadcast, count))
}

async fn insert(database: &Client, end: Instant) -> Result<u64> {
    let sql = "insert into public.watched (sent_at, body) values ($1, repeat('a', $2))";
    let statement = database.prepare(sql).await.context("prepare")?;
    let (mut ticks, mut count) = (ticks(ROW), 0);
    while ticks.tick().await < end {
        let now = i64::try_from(now_nanos())?;
        database.execute(&statement, &[&now, &ROW_BYTES]).await?;
        count += 1;
    }
    Ok(count)
}

/// Reads until nothing has come for [`QUIET`] after the end, and tells whether the socket is still open. A reader whose
/// socket ends has seen what it has seen.
async fn read(mut reader: Reader, kind: Kind, late: Instant) -> Result<(Kind, Histogram<u64>, bool)> {
    let mut latencies = Histogram::new(3)?;
    loop {
        let quiet = Instant::now().max(late - GRACE) + QUIET;
        match time::timeout_at(quiet.min(late), reader.next()).await {
            Ok(Ok(message)) => {
                if let Some(sent) = number_after(message, kind.mark()) {
                    let _ = latencies.record(now_nanos().saturating_sub(sent) / 1_000);
                }
            }
            Ok(Err(_)) => return Ok((kind, latencies, false)),
            Err(_) => return Ok((kind, latencies, true)),
        }
    }
}
