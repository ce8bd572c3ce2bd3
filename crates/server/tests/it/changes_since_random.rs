//! Clients whose sockets are cut, a database that drops its connections, a server that is killed: each change comes to
//! each client at least once, in the order in which changes come first, or a gap is told before it (resume 2).
//!
//! `REALTIME_TEST_SEED` repeats a run, `REALTIME_TEST_SEEDS` says how many follow each other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, AtomicU16, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version, sign, unix_now};
use serde_json::json;
use tokio::time::{self, Duration, Instant};
use tokio_postgres::{Client, NoTls};

use crate::{BINARY, changes_images::TOPIC};

const CLIENTS: u64 = 6;

/// Changes that are written, give or take a transaction.
const CHANGES: i64 = 2_500;

/// How often the server is killed, the database drops its replication, and the database itself is killed.
const KILLS: usize = 2;
const DROPS: usize = 2;
const CRASHES: usize = 1;

/// What all share.
#[derive(Default)]
struct World {
    port: AtomicU16,
    /// Nobody is cut any more.
    quiet: AtomicBool,
    /// The last number that was committed.
    last: AtomicI64,
}

/// What came to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Change(i64),
    Gap,
}

/// A client that comes back whenever it is cut, until it has the last change.
async fn client(world: Arc<World>, seed: u64, number: u64) -> Result<(Vec<Came>, usize)> {
    let mut random = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let (mut came, mut since, mut cuts) = (Vec::new(), None::<String>, 0);
    let until = Instant::now() + 4 * PATIENCE;
    loop {
        ensure!(Instant::now() < until, "client {number} never got the last change: {:?}", came.last());
        let cut = Duration::from_millis(random.random_range(20..600));
        match visit(&world, number, cut, &mut since, &mut came).await {
            Ok(true) => return Ok((came, cuts)),
            Ok(false) => cuts += 1,
            // The server is down or going down.
            Err(_) => time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// One connection. Whether the last change has come.
async fn visit(
    world: &World,
    number: u64,
    cut: Duration,
    since: &mut Option<String>,
    came: &mut Vec<Came>,
) -> Result<bool> {
    let version = if number.is_multiple_of(2) { Version::V1 } else { Version::V2 };
    let claims = json!({"role": "authenticated", "sub": number.to_string(), "exp": unix_now() + 3600});
    let mut socket = Socket::connect(world.port.load(Ordering::SeqCst), version, &sign(&claims)).await?;
    let entry = match number % 3 {
        0 => json!({"event": "*", "schema": "public", "table": "steps", "since": since}),
        1 => json!({"event": "*", "schema": "public", "since": since}),
        _ => {
            let filter =
                since.as_ref().map_or("kind=eq.a".to_owned(), |since| format!("kind=eq.a,@since=eq.{since}"));
            json!({"event": "*", "schema": "public", "table": "steps", "filter": filter})
        }
    };
    socket.join(TOPIC, json!({"config": {"postgres_changes": [entry]}})).await?;
    let until = Instant::now() + cut;
    loop {
        let is_quiet = world.quiet.load(Ordering::SeqCst);
        let frame = match is_quiet {
            true => socket.frame().await?,
            false => match time::timeout_at(until, socket.frame()).await {
                Ok(frame) => frame?,
                Err(_) => return Ok(false),
            },
        };
        if frame.payload["status"] == "gap" {
            came.push(Came::Gap);
        }
        ensure!(frame.payload["status"] != "error", "refused: {}", frame.payload);
        if frame.event == "postgres_changes" {
            let data = &frame.payload["data"];
            let n = data["record"]["n"].as_i64().context("n")?;
            came.push(Came::Change(n));
            *since = data["commit_timestamp"].as_str().map(str::to_owned);
            if world.quiet.load(Ordering::SeqCst) && n == world.last.load(Ordering::SeqCst) {
                return Ok(true);
            }
        }
    }
}

/// What is wrong with what came. A change that has come before is the overlap; one that comes first has to follow the
/// last one that came first, unless a gap was told.
fn problem(came: &[Came], from: i64, last: i64) -> Option<String> {
    let (mut highest, mut gap) = (from, false);
    for what in came {
        match *what {
            Came::Gap => gap = true,
            Came::Change(n) if n > highest => {
                if n != highest + 1 && !gap {
                    return Some(format!("{n} came after {highest}"));
                }
                (highest, gap) = (n, false);
            }
            Came::Change(_) => {}
        }
    }
    (highest != last).then(|| format!("{highest} came last, not {last}"))
}

/// A connection to the database, which may be recovering, and the last number that it has.
async fn resume(url: &str) -> Result<(Client, i64)> {
    let until = Instant::now() + PATIENCE;
    loop {
        let connected = async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            let last = client.query_one("select max(n) from steps", &[]).await?.try_get(0)?;
            Ok((client, last))
        };
        match connected.await {
            Err::<_, tokio_postgres::Error>(error) if Instant::now() > until => return Err(error.into()),
            Err(_) => time::sleep(Duration::from_millis(50)).await,
            Ok(resumed) => return Ok(resumed),
        }
    }
}

async fn write(world: &World, url: &str, random: &mut StdRng) -> Result<()> {
    let (mut client, mut n) = resume(url).await?;
    while n < CHANGES {
        let rows = random.random_range(1..6);
        let mut sql = String::from("begin;");
        for _ in 0..rows {
            n += 1;
            match random.random_bool(0.6) {
                true => sql.push_str(&format!("insert into steps (n, kind) values ({n}, 'a');")),
                false => sql.push_str(&format!("update steps set n = {n} where id = 1;")),
            }
        }
        if client.batch_execute(&(sql + "commit")).await.is_err() {
            // Whether it was committed is found out when the database is back.
            (client, n) = resume(url).await?;
        }
        world.last.store(n, Ordering::SeqCst);
        time::sleep(Duration::from_micros(random.random_range(0..8_000))).await;
    }
    Ok(())
}

/// resume 2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_missed_in_silence() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let first = number("REALTIME_TEST_SEED").unwrap_or_else(|| rand::rng().random_range(0..1 << 40));
    for seed in first..first.saturating_add(number("REALTIME_TEST_SEEDS").unwrap_or(1)) {
        eprintln!("REALTIME_TEST_SEED={seed}");
        eprintln!("{}", run(seed).await.with_context(|| format!("seed {seed}"))?);
    }
    Ok(())
}

/// What has happened.
async fn run(seed: u64) -> Result<String> {
    let random = StdRng::seed_from_u64(seed);
    let mut db = TestDb::alone().await?;
    db.sql(
        "create table steps (id serial primary key, n bigint, kind text);
        grant select on steps to authenticated;
        insert into steps (n, kind) values (0, 'a');
        alter publication supabase_realtime add table steps;",
    )
    .await?;
    let url = db.url().await?;
    let suffix = db.name().trim_start_matches("test_")[..8].to_owned();
    let slot = format!("supabase_realtime_replication_slot_{suffix}");
    let options = || {
        ServerOptions::default()
            .env("SLOT_DURABLE", "true")
            .env("SLOT_NAME_SUFFIX", &suffix)
            .env("RESUME_DELAY_MS", "300")
            .env("TENANT_MAX_EVENTS_PER_SECOND", "100000000")
            .env("TENANT_MAX_JOINS_PER_SECOND", "100000000")
    };
    let mut server = Server::start(BINARY, &db, options()).await?;
    let world = Arc::new(World { port: AtomicU16::new(server.port()), ..World::default() });
    // Somebody watches before the first change: what comes is known from there on.
    let mut witness = server.socket(Version::V2, "authenticated").await?;
    witness.watch(TOPIC, json!([{"event": "*", "schema": "public", "table": "steps"}])).await?;
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| tokio::spawn(client(Arc::clone(&world), seed, number))).collect();
    time::sleep(Duration::from_millis(300)).await;
    let disturbances = async {
        let mut what = [vec!["kill"; KILLS], vec!["drop"; DROPS], vec!["crash"; CRASHES]].concat();
        rand::seq::SliceRandom::shuffle(&mut *what, &mut random.clone());
        for what in what {
            time::sleep(Duration::from_millis(1_000)).await;
            if what == "kill" {
                server.kill().await?;
                server = Server::start(BINARY, &db, options()).await?;
                world.port.store(server.port(), Ordering::SeqCst);
            } else if what == "crash" {
                db.crash().await?;
            } else {
                let sql = format!(
                    "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}'"
                );
                db.sql(&sql).await?;
            }
        }
        anyhow::Ok(server)
    };
    let mut writer = StdRng::seed_from_u64(seed.wrapping_add(1));
    let (server, written) = tokio::join!(disturbances, write(&world, &url, &mut writer));
    let server = server?;
    written?;
    time::sleep(Duration::from_millis(500)).await;
    world.quiet.store(true, Ordering::SeqCst);
    // Who was there already when it became quiet sees that by one more change.
    let last = world.last.load(Ordering::SeqCst) + 1;
    world.last.store(last, Ordering::SeqCst);
    db.sql(&format!("insert into steps (n, kind) values ({last}, 'a')")).await?;
    let (mut cuts, mut repeated, mut gaps) = (0, 0, 0);
    for (number, client) in clients.into_iter().enumerate() {
        let (came, cut) = client.await??;
        let first = came.iter().find_map(|what| if let Came::Change(n) = what { Some(*n) } else { None });
        let from = first.context("nothing came")? - 1;
        let problem = problem(&came, from, last);
        ensure!(problem.is_none(), "client {number}: {problem:?}");
        cuts += cut;
        gaps += came.iter().filter(|what| **what == Came::Gap).count();
        // What was told as missing did not come.
        repeated += i64::try_from(came.len())? - (last - from);
    }
    ensure!(cuts > 20, "{cuts} cuts are too few");
    drop(witness);
    server.stop().await?;
    let active = format!("select count(*) from pg_replication_slots where slot_name = '{slot}' and active");
    realtime_testkit::until("the slot is let go", async || {
        Ok(db.client().query_one(&active, &[]).await?.get::<_, i64>(0) == 0)
    })
    .await?;
    db.sql(&format!(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like '{slot}%'"
    ))
    .await?;
    Ok(format!("{last} changes, {CLIENTS} clients, {cuts} cuts, {gaps} gaps told, {repeated} repeated"))
}

#[test]
fn the_checker_finds_what_is_missing() {
    use Came::{Change, Gap};
    let changes = |numbers: &[i64]| numbers.iter().map(|n| Change(*n)).collect::<Vec<_>>();
    assert_eq!(problem(&changes(&[3, 4, 5]), 2, 5), None);
    assert_eq!(problem(&changes(&[3, 4, 4, 3, 5]), 2, 5), None, "an overlap");
    assert!(problem(&changes(&[3, 5]), 2, 5).is_some(), "lost");
    assert!(problem(&changes(&[3, 5, 4]), 2, 5).is_some(), "out of order");
    assert!(problem(&changes(&[3, 4]), 2, 5).is_some(), "the last is lost");
    assert_eq!(problem(&[Change(3), Gap, Change(5)], 2, 5), None);
    assert!(
        problem(&[Gap, Change(3), Change(4), Change(6)], 2, 6).is_some(),
        "a gap is told before what is missing"
    );
}
