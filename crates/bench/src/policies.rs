//! Row-level security: what a row costs, by policy and by how many parties watch (row_security 4).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use realtime_testkit::{Server, ServerOptions, TestDb, sign, unix_now};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{self, Duration, Instant},
};

use crate::{
    binary::server_binary,
    changes::{database_cpu, postmaster},
    report,
    wire::{self, LIMIT, Reader, Writer, find, now_nanos, number_after},
};

/// Channels of one socket: each has a token of its own, so each is a party.
const CHANNELS: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The policy
    #[arg(long, value_enum, default_value_t = Policy::Uid)]
    policy: Policy,
    /// Parties, one channel each
    #[arg(long, default_value_t = 500)]
    parties: usize,
    /// Rows to insert
    #[arg(long, default_value_t = 20_000)]
    rows: usize,
    /// Rows per transaction
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Transactions per second; 0 for as many as the database takes
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Parties of a room, for policies about rooms
    #[arg(long, default_value_t = 20)]
    room: usize,
    /// A membership changes once a second meanwhile
    #[arg(long)]
    churn: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// No row-level security: a filter `room=eq.N` each
    None,
    /// The claims' `sub` is the owner's text
    Claim,
    /// `(select auth.uid()) = owner`
    Uid,
    /// The room is among those of a subquery
    Member,
    /// `is_member(room)` in SQL
    Sql,
    /// The same in PL/pgSQL
    Plpgsql,
    /// A function that cannot be read: it builds its statement from its argument
    Opaque,
}

impl Policy {
    const fn text(self) -> &'static str {
        match self {
            Self::None => "true",
            Self::Claim => "(current_setting('request.jwt.claims', true)::json ->> 'sub') = owner::text",
            Self::Uid => "(select auth.uid()) = owner",
            Self::Member => "room in (select m.room from public.members m where m.who = auth.uid())",
            Self::Sql => "public.is_member(room)",
            Self::Plpgsql => "public.is_member_too(room)",
            Self::Opaque => "public.opaque(owner)",
        }
    }

    /// Whether a row goes to all of a room, not to one party.
    const fn is_of_rooms(self) -> bool {
        matches!(self, Self::None | Self::Member | Self::Sql | Self::Plpgsql)
    }
}

const SCHEMA: &str = "
    create schema auth; grant usage on schema auth to authenticated;
    create function auth.uid() returns uuid language sql stable as
        $$ select nullif(current_setting('request.jwt.claims', true)::jsonb ->> 'sub', '')::uuid $$;
    create table members (room int, who uuid, primary key (room, who));
    create index on members (who);
    create function is_member(r int) returns bool language sql stable security definer as
        $$ select exists (select from public.members m where m.room = r and m.who = auth.uid()) $$;
    create function is_member_too(r int) returns bool language plpgsql stable security definer as
        $$ begin return exists (select from public.members m where m.room = r and m.who = auth.uid()); end $$;
    create function opaque(owner uuid) returns bool language plpgsql stable as $$
        declare found bool; begin execute format('select %L = auth.uid()', owner) into found; return found; end $$;
    create table bench (id bigserial primary key, owner uuid not null, room int not null, body text not null,
        sent_at bigint not null);
    grant select on all tables in schema public to authenticated;
    alter publication supabase_realtime add table bench, members;";

fn user(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

type Latencies = Arc<Mutex<Histogram<u64>>>;

struct Bench {
    db: TestDb,
    server: Server,
    received: Arc<AtomicU64>,
    /// From commit to client, in microseconds; one for each socket.
    latencies: Vec<Latencies>,
    _readers: JoinSet<Result<()>>,
    _writers: Vec<Writer>,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    ensure!(
        options.parties > 0 && options.rows > 0 && options.batch > 0 && options.room > 0,
        "nothing to do"
    );
    let bench = Bench::start(options).await?;
    // The first rows have the policies compiled and the parties asked: that is not what is measured.
    let each =
        if options.policy.is_of_rooms() { options.parties.div_ceil(options.room) } else { options.parties };
    bench.insert(each, each).await?;
    bench.arrived(options.deliveries(each), Duration::from_secs(120)).await?;
    for of_socket in &bench.latencies {
        of_socket.lock().clear();
    }
    let postmaster = postmaster(&bench.db).await?;
    let asked = bench.server.metric("realtime_changes_checks").await?;
    let before = (bench.server.usage()?.cpu_seconds, database_cpu(postmaster)?);
    let started = Instant::now();
    let churn = options.churn.then(|| bench.db.connect());
    let churn = match churn {
        Some(client) => Some(tokio::spawn(churn_memberships(client.await?, options.parties))),
        None => None,
    };
    bench.write(options).await?;
    let expected = options.deliveries(each) + options.deliveries(options.rows);
    bench.arrived(expected, LIMIT).await?;
    let elapsed = started.elapsed();
    let after = (bench.server.usage()?.cpu_seconds, database_cpu(postmaster)?);
    let asked = bench.server.metric("realtime_changes_checks").await? - asked;
    if let Some(churn) = churn {
        churn.abort();
    }
    let mut latencies = Histogram::<u64>::new(3)?;
    for of_socket in &bench.latencies {
        latencies.add(&*of_socket.lock())?;
    }
    let resident = bench.server.usage()?.resident_bytes;
    let (rows, deliveries) = (options.rows as u64, options.deliveries(options.rows));
    report::heading(&format!(
        "policies: {:?}, {} parties, {rows} rows, {} a transaction, rate {}{}",
        options.policy,
        options.parties,
        options.batch,
        options.rate,
        if options.churn { ", a membership changes once a second" } else { "" }
    ));
    report::figure("resident memory of the server", resident / 1024, "KiB");
    report::cpu_per("server CPU per row", after.0 - before.0, rows);
    report::cpu_per("server CPU per delivery", after.0 - before.0, deliveries);
    report::cpu_per("database CPU per row, inserting included", after.1 - before.1, rows);
    report::figure("rows", format!("{:.0}", rows as f64 / elapsed.as_secs_f64()), "/s");
    report::figure("deliveries", format!("{:.0}", deliveries as f64 / elapsed.as_secs_f64()), "/s");
    if options.rate > 0 {
        report::latencies("commit to client", &latencies);
    }
    report::figure("parties that the database was asked for, by batch", asked, "");
    Ok(())
}

impl Options {
    /// How many deliveries some rows make.
    fn deliveries(&self, rows: usize) -> u64 {
        if !self.policy.is_of_rooms() {
            return rows as u64;
        }
        // Rows go round the rooms; the last one may be smaller.
        let rooms = self.parties.div_ceil(self.room);
        let size = |room: usize| self.room.min(self.parties - room * self.room) as u64;
        (0..rows).map(|row| size(row % rooms)).sum()
    }
}

impl Bench {
    async fn start(options: &Options) -> Result<Self> {
        let db = TestDb::new().await?;
        db.sql(SCHEMA).await?;
        db.sql(&format!(
            "insert into members select n / {}, ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
             from generate_series(0, {} - 1) n; analyze members",
            options.room, options.parties
        ))
        .await?;
        if options.policy != Policy::None {
            db.sql(&format!(
                "alter table bench enable row level security;
                 create policy own on bench to authenticated using ({})",
                options.policy.text()
            ))
            .await?;
        }
        let server_options = ServerOptions::default()
            .env("TENANT_MAX_EVENTS_PER_SECOND", "1000000000")
            .env("TENANT_MAX_JOINS_PER_SECOND", "1000000000")
            .env("TENANT_MAX_CHANNELS_PER_CLIENT", "1000")
            .env("METRICS_JWT_SECRET", realtime_testkit::SECRET);
        let server = Server::start(server_binary()?, &db, server_options).await?;
        let received = Arc::new(AtomicU64::new(0));
        let (mut readers, mut writers, mut latencies) = (JoinSet::new(), Vec::new(), Vec::new());
        for first in (0..options.parties).step_by(CHANNELS) {
            let parties = first..(first + CHANNELS).min(options.parties);
            let (reader, writer) = watch(&server, options, parties).await?;
            let of_socket: Latencies = Arc::new(Mutex::new(Histogram::new(3)?));
            readers.spawn(read(reader, Arc::clone(&received), Arc::clone(&of_socket)));
            latencies.push(of_socket);
            writers.push(writer);
        }
        Ok(Self { db, server, received, latencies, _readers: readers, _writers: writers })
    }

    /// Waits until so many deliveries have come.
    async fn arrived(&self, deliveries: u64, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        while self.received.load(Ordering::Relaxed) < deliveries {
            let came = self.received.load(Ordering::Relaxed);
            ensure!(Instant::now() < until, "{came} of {deliveries} deliveries came");
            time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Rows whose owners and rooms go round.
    async fn insert(&self, rows: usize, each: usize) -> Result<()> {
        let sql = "insert into bench (owner, room, body, sent_at)
            select ('00000000-0000-4000-8000-' || lpad((n % $2)::text, 12, '0'))::uuid, n % $2, repeat('x', 100), $3
            from generate_series(0, $1::bigint - 1) n";
        let (rows, each, now) = (i64::try_from(rows)?, i64::try_from(each)?, i64::try_from(now_nanos())?);
        self.db.client().execute(sql, &[&rows, &each, &now]).await?;
        Ok(())
    }

    async fn write(&self, options: &Options) -> Result<()> {
        let each = if options.policy.is_of_rooms() {
            options.parties.div_ceil(options.room)
        } else {
            options.parties
        };
        let sql = "insert into bench (owner, room, body, sent_at)
            select ('00000000-0000-4000-8000-' || lpad((n % $3)::text, 12, '0'))::uuid, n % $3, repeat('x', 100), $4
            from generate_series($1::bigint, $2::bigint) n";
        let statement = self.db.client().prepare(sql).await?;
        let mut ticks = time::interval(Duration::from_secs_f64(1.0 / f64::from(options.rate.max(1))));
        let each = i64::try_from(each)?;
        let mut next = 0;
        while next < options.rows {
            if options.rate > 0 {
                ticks.tick().await;
            }
            let last = (next + options.batch).min(options.rows);
            let (first, end, now) =
                (i64::try_from(next)?, i64::try_from(last - 1)?, i64::try_from(now_nanos())?);
            self.db.client().execute(&statement, &[&first, &end, &each, &now]).await?;
            next = last;
        }
        Ok(())
    }
}

/// A socket whose channels are parties of their own.
async fn watch(
    server: &Server,
    options: &Options,
    parties: std::ops::Range<usize>,
) -> Result<(Reader, Writer)> {
    let (mut reader, mut writer) = wire::connect(server.port()).await?;
    for n in parties {
        let token = sign(&json!({"role": "authenticated", "sub": user(n), "exp": unix_now() + 3600}));
        let mut subscription = json!({"event": "INSERT", "schema": "public", "table": "bench"});
        if options.policy == Policy::None {
            subscription["filter"] = json!(format!("room=eq.{}", n / options.room));
        }
        let payload = json!({"config": {"postgres_changes": [subscription]}, "access_token": token});
        writer.send(&format!(r#"["1","{n}","realtime:{n}","phx_join",{payload}]"#)).await?;
        reader.expect("Subscribed to PostgreSQL").await?;
    }
    Ok((reader, writer))
}

/// Counts rows until it is stopped.
async fn read(mut reader: Reader, received: Arc<AtomicU64>, latencies: Latencies) -> Result<()> {
    loop {
        let message = reader.next().await?;
        let head = message.get(..message.len().min(200)).unwrap_or_default();
        if find(head, b"postgres_changes").is_none() {
            continue;
        }
        if let Some(sent_at) = number_after(message, b"\"sent_at\":") {
            latencies.lock().record(now_nanos().saturating_sub(sent_at) / 1000)?;
        }
        received.fetch_add(1, Ordering::Relaxed);
    }
}

/// Somebody joins a room and leaves it, by turns, once a second.
async fn churn_memberships(client: tokio_postgres::Client, parties: usize) -> Result<()> {
    let mut ticks = time::interval(Duration::from_secs(1));
    for turn in 0usize.. {
        ticks.tick().await;
        let who = user(turn / 2 % parties);
        let sql = match turn % 2 {
            0 => format!("insert into members values (1000000, '{who}')"),
            _ => format!("delete from members where room = 1000000 and who = '{who}'"),
        };
        client.batch_execute(&sql).await?;
    }
    Ok(())
}
