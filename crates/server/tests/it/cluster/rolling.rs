//! One node after the other is ended and started again, under a steady load of all kinds.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use realtime_testkit::{Frame, PATIENCE, Socket, Version, token, until};
use serde_json::{Value, json};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{self, Duration, Instant, MissedTickBehavior},
};

use super::{Nodes, balancer::Balancer, presence::metas};
use crate::clients::Client;

const TOPIC: &str = "realtime:clients";

/// Clients that come back by themselves.
const CLIENTS: usize = 6;

/// Pause between two broadcasts of a client, and between two rows.
const PACE: Duration = Duration::from_millis(20);

/// A client and which of its connections it is.
type Speaker = (usize, usize);

/// What happened on one connection of a client, from its join on.
#[derive(Debug, Default)]
struct Visit {
    /// What had been said by each when it had joined.
    said_before: BTreeMap<Speaker, i64>,
    /// The last row that was committed when it watched.
    rows_before: Option<i64>,
    heard: BTreeMap<Speaker, Vec<i64>>,
    rows: Vec<i64>,
    /// Who is present: by ref, key and number of the connection.
    present: BTreeMap<String, (String, Value)>,
    /// What it was told of gaps and the like.
    told: Vec<String>,
    said: i64,
    /// How many of them the server has confirmed.
    confirmed: i64,
    /// Why it ended.
    end: Option<String>,
}

/// All that happened.
#[derive(Debug, Default)]
struct Log {
    /// By client, in order.
    visits: Vec<Vec<Visit>>,
}

impl Log {
    fn said(&self) -> impl Iterator<Item = (Speaker, &Visit)> {
        self.visits.iter().enumerate().flat_map(|(client, visits)| {
            visits.iter().enumerate().map(move |(n, visit)| ((client, n), visit))
        })
    }

    /// The connections that stand.
    fn current(&self) -> impl Iterator<Item = (Speaker, &Visit)> {
        self.said().filter(|(_, visit)| visit.end.is_none())
    }

    /// What somebody who is there has not got yet, of what was said on connections that have ended, or on all.
    fn missing(&self, all: bool, rows: i64) -> Option<String> {
        let there: Vec<_> = self.current().collect();
        if there.len() < CLIENTS {
            return Some(format!("{} clients", CLIENTS - there.len()));
        }
        let names: Vec<String> = there.iter().map(|((client, n), _)| format!("c{client} {n}")).collect();
        for (listener, visit) in there {
            for (speaker, of) in
                self.said().filter(|(speaker, of)| speaker.0 != listener.0 && (all || of.end.is_some()))
            {
                let from = visit.said_before.get(&speaker).copied().unwrap_or_default();
                let last = visit.heard.get(&speaker).and_then(|heard| heard.last()).copied().unwrap_or(-1);
                if of.confirmed > from && last + 1 < of.confirmed {
                    return Some(format!(
                        "{listener:?} has {last} of {speaker:?}, who said {}",
                        of.confirmed
                    ));
                }
            }
            if visit.rows.last().is_none_or(|last| *last < rows) {
                return Some(format!("{listener:?} has row {:?} of {rows}", visit.rows.last()));
            }
            let mut present: Vec<String> =
                visit.present.values().map(|(key, object)| format!("{key} {}", object["n"])).collect();
            present.sort();
            if present != names {
                return Some(format!("{listener:?} sees {present:?}, not {names:?}"));
            }
        }
        None
    }

    /// What is wrong on any connection, whole or not.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (listener, visit) in self.said() {
            for (speaker, heard) in &visit.heard {
                if let Some(pair) = heard.windows(2).find(|pair| pair[1] != pair[0] + 1) {
                    problems.push(format!(
                        "{listener:?} heard {speaker:?} lost, twice or out of order: {pair:?}"
                    ));
                }
                let from = visit.said_before.get(speaker).copied().unwrap_or_default();
                if heard.first().is_some_and(|first| *first > from) {
                    problems
                        .push(format!("{listener:?} heard {speaker:?} from {:?}, not {from}", heard.first()));
                }
            }
            if let Some(pair) = visit.rows.windows(2).find(|pair| pair[1] != pair[0] + 1) {
                problems.push(format!("{listener:?} got rows lost, twice or out of order: {pair:?}"));
            }
            if let (Some(before), Some(first)) = (visit.rows_before, visit.rows.first())
                && *first > before + 1
            {
                problems.push(format!("{listener:?} got rows from {first}, not {before}"));
            }
            problems.extend(visit.told.iter().map(|told| format!("{listener:?} was told: {told}")));
            if let Some(end) = visit.end.as_ref().filter(|end| !end.contains("1012")) {
                problems.push(format!("{listener:?} ended with {end}"));
            }
        }
        problems
    }
}

/// What all clients share.
struct Shared {
    log: Mutex<Log>,
    port: u16,
    /// The last row that was committed.
    rows: AtomicI64,
    /// Nobody says anything more.
    quiet: AtomicBool,
}

/// A client that connects again, by and by, when its socket ends.
async fn roam(shared: Arc<Shared>, client: usize) {
    loop {
        match visit(&shared, client).await {
            Ok(never) => match never {},
            Err(error) => {
                let mut log = shared.log.lock();
                if let Some(last) = log.visits[client].last_mut().filter(|last| last.end.is_none()) {
                    last.end = Some(format!("{error:#}"));
                }
            }
        }
        time::sleep(Duration::from_millis(50)).await;
    }
}

async fn visit(shared: &Shared, client: usize) -> Result<std::convert::Infallible> {
    let version = if client.is_multiple_of(2) { Version::V2 } else { Version::V1 };
    let mut socket = Socket::connect(shared.port, version, &token("anon")).await?;
    let config = json!({
        "broadcast": {"ack": true}, "presence": {"enabled": true, "key": format!("c{client}")},
        "postgres_changes": [{"event": "INSERT", "schema": "public", "table": "test"}]});
    let (reply, _) = socket.join(TOPIC, json!({ "config": config })).await?;
    // A node that goes down lets nobody in.
    anyhow::ensure!(reply["status"] == "ok", "{reply}");
    let n = {
        let mut log = shared.log.lock();
        let said_before = log.said().map(|(speaker, visit)| (speaker, visit.said)).collect();
        log.visits[client].push(Visit { said_before, ..Visit::default() });
        log.visits[client].len() - 1
    };
    let track = json!({"type": "presence", "event": "track", "payload": {"n": n}});
    socket.send(json!("1"), json!("track"), TOPIC, "presence", track).await?;
    let mut ticks = time::interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            frame = socket.frame() => {
                let rows = shared.rows.load(Ordering::SeqCst);
                let mut log = shared.log.lock();
                let visit = log.visits[client].last_mut().context("visit")?;
                note(visit, frame?, rows)?;
            }
            _ = ticks.tick(), if !shared.quiet.load(Ordering::SeqCst) => {
                let number = {
                    let mut log = shared.log.lock();
                    let visit = log.visits[client].last_mut().context("visit")?;
                    visit.said += 1;
                    visit.said - 1
                };
                let payload = json!({"client": client, "visit": n, "number": number});
                let message = json!({"type": "broadcast", "event": "e", "payload": payload});
                socket.send(json!("1"), json!(format!("b{number}")), TOPIC, "broadcast", message).await?;
            }
        }
    }
}

/// Writes a frame down.
fn note(visit: &mut Visit, frame: Frame, rows: i64) -> Result<()> {
    let Frame { event, payload, msg_ref, .. } = frame;
    match &*event {
        "broadcast" => {
            let number = |name: &str| payload["payload"][name].as_i64().with_context(|| payload.to_string());
            let speaker = (number("client")? as usize, number("visit")? as usize);
            visit.heard.entry(speaker).or_default().push(number("number")?);
        }
        "postgres_changes" => visit.rows.push(payload["data"]["record"]["id"].as_i64().context("id")?),
        "presence_state" => {
            visit.present = metas(&payload).into_iter().map(|(r, key, object)| (r, (key, object))).collect();
        }
        "presence_diff" => {
            // The first diff may tell of somebody whom the state no longer had.
            for (reference, ..) in metas(&payload["leaves"]) {
                visit.present.remove(&reference);
            }
            for (reference, key, object) in metas(&payload["joins"]) {
                if visit.present.insert(reference.clone(), (key, object)).is_some() {
                    visit.told.push(format!("{reference} came twice"));
                }
            }
        }
        "system" if payload["status"] != "ok" => visit.told.push(payload["message"].to_string()),
        "system" if payload["extension"] == "postgres_changes" => {
            visit.rows_before.get_or_insert(rows);
        }
        "phx_reply" => {
            let number = msg_ref.as_str().and_then(|text| text.strip_prefix('b')?.parse::<i64>().ok());
            if let Some(number) = number.filter(|_| payload["status"] == "ok") {
                visit.confirmed = number + 1;
            } else if payload["status"] != "ok" {
                visit.told.push(payload.to_string());
            }
        }
        _ => {}
    }
    Ok(())
}

async fn caught_up(shared: &Shared, all: bool) -> Result<()> {
    let rows = shared.rows.load(Ordering::SeqCst);
    let limit = Instant::now() + PATIENCE * 2;
    loop {
        let missing = shared.log.lock().missing(all, rows);
        let Some(missing) = missing else { return Ok(()) };
        anyhow::ensure!(Instant::now() < limit, "{missing}; {:#?}", shared.log.lock().problems());
        time::sleep(Duration::from_millis(20)).await;
    }
}

async fn subscribed(client: &mut Client) -> Result<()> {
    while client.next("status").await? != "SUBSCRIBED" {}
    Ok(())
}

fn write_rows(
    client: tokio_postgres::Client,
    shared: Arc<Shared>,
) -> JoinHandle<Result<(), tokio_postgres::Error>> {
    tokio::spawn(async move {
        while !shared.quiet.load(Ordering::SeqCst) {
            let row = client.query_one("insert into test (details) values ('x') returning id", &[]).await?;
            shared.rows.store(row.get::<_, i32>(0).into(), Ordering::SeqCst);
            time::sleep(PACE).await;
        }
        Ok(())
    })
}

/// protocol 93 among nodes: every node in turn gets SIGTERM while everybody talks, rows are written and people are
/// present. It ends in time and with success, its clients are closed with 1012 and go to the others; whoever stays
/// connected gets everything once and in order and is told of no gap; what a node has confirmed is heard by all that are
/// there; presence is the truth again; no row is lost with a permanent slot. An official client finds its way too.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_after_the_other() -> Result<()> {
    // Names of slots are those of the whole cluster of databases, which other tests use too.
    let suffix = format!("{:08x}", rand::random::<u32>());
    let env: &[(&str, &str)] = &[("SLOT_DURABLE", "true"), ("SLOT_NAME_SUFFIX", &suffix)];
    let mut nodes = Nodes::start_with(3, env).await?;
    let balancer = Balancer::start().await?;
    let ports = |nodes: &Nodes| nodes.nodes.iter().map(realtime_testkit::Server::port).collect::<Vec<_>>();
    balancer.serve(ports(&nodes));
    let visits = (0..CLIENTS).map(|_| Vec::new()).collect();
    let shared = Arc::new(Shared {
        log: Mutex::new(Log { visits }),
        port: balancer.port(),
        rows: AtomicI64::new(0),
        quiet: AtomicBool::new(false),
    });
    let url = format!("http://127.0.0.1:{}", balancer.port());
    let subscriptions = json!([{"event": "INSERT", "schema": "public", "table": "test"}]);
    let mut official = Client::javascript_at(&url, "2.0.0", &subscriptions, None)?;
    let mut roaming = JoinSet::new();
    for client in 0..CLIENTS {
        roaming.spawn(roam(Arc::clone(&shared), client));
    }
    let writer = write_rows(nodes.db.connect().await?, Arc::clone(&shared));
    subscribed(&mut official).await?;
    caught_up(&shared, false).await?;
    for turn in 0..3 {
        let rows = shared.rows.load(Ordering::SeqCst);
        until("everybody has talked for a while", || async {
            Ok(shared.rows.load(Ordering::SeqCst) > rows + 40)
        })
        .await?;
        let old = nodes.nodes.remove(0);
        nodes.links.remove(0);
        let begun = Instant::now();
        let log = old.stop_and_tell().await.with_context(|| format!("turn {turn}"))?;
        println!("turn {turn}: it took {:?} to end", begun.elapsed());
        assert!(!log.contains("did not end in time"), "{log}");
        balancer.serve(ports(&nodes));
        caught_up(&shared, false).await.with_context(|| format!("turn {turn}, two nodes"))?;
        nodes.add(env).await?;
        balancer.serve(ports(&nodes));
        nodes.see_each_other(3).await?;
        caught_up(&shared, false).await.with_context(|| format!("turn {turn}, three nodes"))?;
    }
    shared.quiet.store(true, Ordering::SeqCst);
    writer.await??;
    until("what was said is confirmed", || async {
        let log = shared.log.lock();
        let open = log.current().filter(|(_, visit)| visit.confirmed < visit.said).count();
        Ok(open == 0)
    })
    .await?;
    caught_up(&shared, true).await?;
    // The official client has come as far as the last row, whatever it missed while it had no connection.
    let last = shared.rows.load(Ordering::SeqCst);
    nodes.db.sql("insert into test (details) values ('last')").await?;
    while official.next("change").await?["new"]["id"].as_i64() <= Some(last) {}
    roaming.shutdown().await;
    let log = shared.log.lock();
    let visits: usize = log.visits.iter().map(Vec::len).sum();
    let (said, heard) = log.said().fold((0, 0), |(said, heard), (_, visit)| {
        (said + visit.said, heard + visit.heard.values().map(Vec::len).sum::<usize>())
    });
    println!("{visits} connections, {said} said, {heard} heard, {last} rows");
    assert_eq!(log.problems(), [""; 0]);
    assert!(visits >= CLIENTS + 3, "{visits}");
    Ok(())
}
