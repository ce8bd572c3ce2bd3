//! One node after the other is ended and started again: who comes back with `since` misses no row change that it is not
//! told of (resume 10).

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Result, ensure};
use parking_lot::Mutex;
use realtime_testkit::{Socket, Version, token, until};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{self, Duration},
};

use super::{Nodes, balancer::Balancer};
use crate::live_client::{LiveClient, Map, Rows, select};

const CLIENTS: usize = 4;

/// Pause between two rows.
const PACE: Duration = Duration::from_millis(20);

/// What a client has had, on all of its connections.
#[derive(Debug, Default)]
struct Had {
    /// The rows that were inserted, in the order of their first arrival.
    inserted: Vec<i64>,
    /// The list that it keeps.
    list: Map,
    /// What it was told of gaps and warnings, and the last row that it had by then.
    told: Vec<(Option<i64>, Value)>,
    /// The last row that it had at each connection that went on where it was, and how often its list began anew.
    returns: Vec<Option<i64>>,
    anew: usize,
}

struct Shared {
    port: u16,
    had: Mutex<Vec<Had>>,
    /// Whether no more rows are to be written.
    is_over: AtomicBool,
}

/// A client that connects again by itself, and goes on where it was: a binding of inserts, and a live one.
async fn roam(shared: Arc<Shared>, client: usize) {
    let mut before: Option<Vec<Rows>> = None;
    loop {
        match connect(&shared, client, before.as_deref()).await {
            Ok(mut connected) => {
                if before.is_some() {
                    returns(&mut shared.had.lock()[client]);
                }
                while connected.step().await.is_ok() {
                    note(&mut shared.had.lock()[client], &mut connected);
                }
                before = Some(connected.rows);
            }
            // A node that goes down lets nobody in.
            Err(_) => time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn returns(had: &mut Had) {
    had.returns.push(had.inserted.last().copied());
}

async fn connect(shared: &Shared, client: usize, before: Option<&[Rows]>) -> Result<LiveClient> {
    let version = if client.is_multiple_of(2) { Version::V2 } else { Version::V1 };
    let socket = Socket::connect(shared.port, version, &token("anon")).await?;
    let bindings = json!([
        {"event": "INSERT", "schema": "public", "table": "test"},
        {"event": "*", "schema": "public", "table": "test", "live": true},
    ]);
    match before {
        Some(before) => LiveClient::back(socket, bindings, before.to_vec(), None).await,
        None => LiveClient::join(socket, bindings, &[&[], &["id"]], None).await,
    }
}

fn note(had: &mut Had, client: &mut LiveClient) {
    for system in client.systems.drain(..) {
        had.anew += usize::from(system["message"] == "Live rows begin anew");
        if system["status"] != "ok" {
            had.told.push((had.inserted.last().copied(), system));
        }
    }
    for data in client.plain.drain(..) {
        let id = data["record"]["id"].as_i64().unwrap_or_default();
        // A node that is behind when somebody comes may tell what was before, too: behind a gap that was told also what was missed
        // with an earlier one.
        let last = had.inserted.last().copied();
        let begins_anew = had.told.last().is_some_and(|(told_at, _)| *told_at == last);
        let floor = if begins_anew { last } else { had.inserted.first().copied() };
        if floor.is_none_or(|floor| id > floor) && !had.inserted.contains(&id) {
            had.inserted.push(id);
        }
    }
    had.list.clone_from(&client.rows[1].map);
}

/// resume 10, with permanent slots: each insert arrives at each client, in order, whichever node it comes back to, or a gap is
/// told; and each list is what `select` shows.
#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_missed_while_nodes_are_replaced() -> Result<()> {
    let suffix = format!("{:08x}", rand::random::<u32>());
    let env: &[(&str, &str)] = &[("SLOT_DURABLE", "true"), ("SLOT_NAME_SUFFIX", &suffix)];
    let mut nodes = Nodes::start_with(3, env).await?;
    let balancer = Balancer::start().await?;
    let ports = |nodes: &Nodes| nodes.nodes.iter().map(realtime_testkit::Server::port).collect::<Vec<_>>();
    balancer.serve(ports(&nodes));
    let had = Mutex::new((0..CLIENTS).map(|_| Had::default()).collect());
    let shared = Arc::new(Shared { port: balancer.port(), had, is_over: AtomicBool::new(false) });
    let mut roaming = JoinSet::new();
    for client in 0..CLIENTS {
        roaming.spawn(roam(Arc::clone(&shared), client));
    }
    let (writer, is_over) = (nodes.db.connect().await?, Arc::clone(&shared));
    let writing = tokio::spawn(async move {
        // A list that stays short: each row goes again.
        let sql = "with gone as (delete from test where id < $1::int - 20)
            insert into test (id, details) values ($1::int, 'x')";
        for id in 1.. {
            if is_over.is_over.load(Ordering::SeqCst) {
                return Ok(id);
            }
            writer.execute(sql, &[&id]).await?;
            time::sleep(PACE).await;
        }
        anyhow::Ok(0)
    });
    let newest = || {
        let had = shared.had.lock();
        had.iter().filter_map(|had| had.inserted.last()).max().copied().unwrap_or_default()
    };
    let have_more =
        |than| shared.had.lock().iter().all(|had| had.inserted.last().is_some_and(|own| *own > than));
    until("all have got rows", async || Ok(have_more(0))).await?;
    for turn in 0..3 {
        let returns = shared.had.lock().iter().map(|had| had.returns.len()).sum::<usize>();
        let old = nodes.nodes.remove(0);
        nodes.links.remove(0);
        balancer.serve(ports(&nodes));
        old.stop().await?;
        let before = newest();
        until("all go on without it", async || Ok(have_more(before))).await?;
        nodes.add(env).await?;
        balancer.serve(ports(&nodes));
        nodes.see_each_other(3).await?;
        println!("turn {turn}: {returns} returns before");
    }
    // Whoever connects from now on comes to a node that has just begun.
    let last_nodes = ports(&nodes).split_off(2);
    balancer.serve(last_nodes);
    for _ in 0..2 {
        let old = nodes.nodes.remove(0);
        nodes.links.remove(0);
        old.stop().await?;
    }
    let before = newest();
    until("all go on there", async || Ok(have_more(before))).await?;
    shared.is_over.store(true, Ordering::SeqCst);
    let end: i32 = writing.await??;
    nodes.db.sql(&format!("insert into test (id, details) values ({end}, 'last')")).await?;
    let list = select(&nodes.db, "select * from public.test", &["id"]).await?;
    until("all have all", async || {
        Ok(shared.had.lock().iter().all(|had| had.inserted.last() == Some(&end.into()) && had.list == list))
    })
    .await?;
    roaming.shutdown().await;
    for (client, had) in shared.had.lock().iter().enumerate() {
        println!(
            "client {client}: {} rows, {} lists anew, returns at {:?}, told {:?}",
            had.inserted.len(),
            had.anew,
            had.returns,
            had.told
        );
    }
    for (client, had) in shared.had.lock().iter().enumerate() {
        let all: BTreeSet<i64> = had.inserted.iter().copied().collect();
        assert!(had.inserted.iter().eq(&all), "client {client}: {:?}", had.inserted);
        // A node that has just begun may not have what was before: then that is told.
        let is_told = |(_, told): &(_, Value)| told["code"] == "ChangesNotKept";
        ensure!(had.told.iter().all(is_told), "client {client} was told {:?}", had.told);
        if had.told.is_empty() {
            let first = all.first().copied().unwrap_or_default();
            assert!(all.iter().copied().eq(first..=end.into()), "client {client}: {all:?}");
        }
    }
    let returns: usize = shared.had.lock().iter().map(|had| had.returns.len()).sum();
    ensure!(returns >= CLIENTS, "{returns}");
    Ok(())
}
