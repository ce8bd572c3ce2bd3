//! Thousands of messages while everything that can break does, and a checker that reads what everybody got.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use realtime_testkit::{PATIENCE, Socket, Version, until};
use serde_json::json;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{self, Duration, Instant},
};

use super::{Nodes, say};

const NODES: usize = 3;
const ROOMS: usize = 2;

/// Messages of each sender between two events, at least.
const PHASE: usize = 340;

/// What a listener got, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Got {
    /// A message: its sender and its number.
    Message(usize, usize),
    /// It was told that it may have missed something.
    Gap,
}

/// What was done. A sender is the only one in its room on its node.
#[derive(Debug, Default)]
struct History {
    /// Of each sender's messages: whether it was sent while something was broken.
    sent: Vec<Vec<bool>>,
    /// What each listener got. Listeners are numbered as senders are.
    got: Vec<Vec<Got>>,
}

fn place(number: usize) -> (usize, usize) {
    (number % NODES, number / NODES)
}

impl History {
    /// What is wrong with it. `gone`: a node whose sockets ended before all was said.
    fn problems(&self, gone: Option<usize>) -> Vec<String> {
        let mut problems = Vec::new();
        for (listener, got) in self.got.iter().enumerate() {
            let (node, room) = place(listener);
            for (sender, sent) in self.sent.iter().enumerate() {
                let (other, same_room) = (place(sender).0, place(sender).1 == room);
                let numbers: Vec<(usize, usize)> = got
                    .iter()
                    .enumerate()
                    .filter_map(|(at, got)| match got {
                        Got::Message(from, number) if *from == sender => Some((at, *number)),
                        _ => None,
                    })
                    .collect();
                if !same_room {
                    if !numbers.is_empty() {
                        problems.push(format!("{listener} heard {sender}, who is in another room"));
                    }
                    continue;
                }
                if let Some(pair) = numbers.windows(2).find(|pair| pair[0].1 >= pair[1].1) {
                    problems.push(format!("{listener} heard {sender} out of order or twice: {pair:?}"));
                    continue;
                }
                if gone == Some(node) {
                    continue;
                }
                // Where nothing was heard before, holes count from the beginning.
                let heard: HashMap<usize, usize> =
                    numbers.iter().map(|(at, number)| (*number, *at)).collect();
                let mut last_heard_at = 0;
                for (number, broken) in sent.iter().enumerate() {
                    if let Some(at) = heard.get(&number) {
                        last_heard_at = *at;
                        continue;
                    }
                    if node == other {
                        problems.push(format!("{listener} missed {number} of {sender}, on its own node"));
                    } else if !broken {
                        problems.push(format!("{listener} missed {number} of {sender}, when all was well"));
                    } else if !got[last_heard_at..].contains(&Got::Gap) {
                        problems.push(format!("{listener} missed {number} of {sender}, and was not told"));
                    }
                }
            }
        }
        problems.truncate(20);
        problems
    }
}

/// The checker finds what it is for.
#[test]
fn the_checker_sees_what_is_wrong() {
    let all = |count| (0..count).map(|n| Got::Message(0, n)).collect::<Vec<_>>();
    let history = |sent: &[bool], got: Vec<Got>| {
        let mut history = History { sent: vec![vec![]; 6], got: vec![vec![]; 6] };
        history.sent[0] = sent.to_vec();
        history.got[0] = all(sent.len());
        history.got[2] = all(sent.len());
        history.got[1] = got;
        history.problems(None)
    };
    let (fine, broken) = ([false; 3], [false, true, true]);
    assert!(history(&fine, all(3)).is_empty());
    assert!(history(&fine, all(2))[0].contains("when all was well"));
    assert!(history(&broken, all(1))[0].contains("was not told"));
    assert!(history(&broken, vec![Got::Gap, Got::Message(0, 0)])[0].contains("was not told"));
    assert!(history(&broken, vec![Got::Message(0, 0), Got::Gap]).is_empty());
    let twice = vec![Got::Message(0, 0), Got::Message(0, 1), Got::Message(0, 1), Got::Message(0, 2)];
    assert!(history(&fine, twice)[0].contains("out of order or twice"));
    assert!(history(&fine, [all(3), vec![Got::Message(4, 0)]].concat())[0].contains("another room"));
}

fn topic(room: usize) -> String {
    format!("realtime:room{room}")
}

type Heard = Arc<Mutex<Vec<Got>>>;

/// Writes down what a socket gets until it ends.
fn listen(mut socket: Socket, heard: Heard) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let frame = match time::timeout(PATIENCE * 10, socket.frame()).await {
                Ok(Ok(frame)) => frame,
                _ => return,
            };
            let got = match &*frame.event {
                "broadcast" => {
                    let payload = &frame.payload["payload"];
                    let number = |name: &str| payload[name].as_u64().unwrap_or(u64::MAX) as usize;
                    Got::Message(number("sender"), number("number"))
                }
                "system" => Got::Gap,
                _ => continue,
            };
            heard.lock().push(got);
        }
    })
}

/// A sender and what it has said.
struct Sender {
    number: usize,
    socket: Socket,
    sent: Sent,
    rng: StdRng,
}

/// Of each message whether it was sent while something was broken.
type Sent = Arc<Mutex<Vec<bool>>>;

/// What senders are told.
#[derive(Default)]
struct Signs {
    /// Something is broken, or will be in a moment.
    broken: AtomicBool,
    /// Enough was said.
    enough: AtomicBool,
}

impl Sender {
    /// Says so many things or more, until it is enough, each marked by whether something was broken before or after it
    /// was sent.
    async fn speak(&mut self, count: usize, signs: &Signs) -> Result<()> {
        let mut spoken = 0;
        while spoken < count || !signs.enough.load(Ordering::SeqCst) {
            self.say_one(signs).await?;
            spoken += 1;
            if self.rng.random_ratio(1, 3) {
                time::sleep(Duration::from_millis(self.rng.random_range(1..25))).await;
            }
        }
        Ok(())
    }

    async fn say_one(&mut self, signs: &Signs) -> Result<()> {
        let before = signs.broken.load(Ordering::SeqCst);
        let payload = json!({
            "sender": self.number,
            "number": self.sent.lock().len(),
            "filler": "x".repeat(self.rng.random_range(0..600)),
        });
        say(&mut self.socket, &topic(place(self.number).1), "e", payload).await?;
        self.sent.lock().push(before || signs.broken.load(Ordering::SeqCst));
        Ok(())
    }
}

/// One thing that breaks. All but the last are mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    Cut(usize),
    Silence(usize),
    Freeze(usize),
    /// NATS is killed and started again.
    Nats,
    Kill(usize),
}

async fn strike(nodes: &mut Nodes, fault: Fault) -> Result<()> {
    match fault {
        Fault::Nothing => time::sleep(Duration::from_millis(500)).await,
        Fault::Cut(node) => {
            nodes.links[node].cut();
            time::sleep(Duration::from_millis(700)).await;
            nodes.links[node].mend();
        }
        Fault::Silence(node) => {
            nodes.links[node].silence();
            // Long enough to be noticed.
            until("the node has noticed", || async {
                Ok(nodes.nodes[node].metric("realtime_cluster_connected").await? == 0.0)
            })
            .await?;
            nodes.links[node].mend();
        }
        Fault::Freeze(node) => {
            nodes.nodes[node].signal(Signal::SIGSTOP)?;
            time::sleep(Duration::from_millis(5500)).await;
            nodes.nodes[node].signal(Signal::SIGCONT)?;
        }
        Fault::Nats => nodes.nats.restart().await?,
        Fault::Kill(node) => nodes.nodes[node].signal(Signal::SIGKILL)?,
    }
    Ok(())
}

/// Waits until everybody has heard what was said while all was well.
async fn heard_so_far(sent: &[Sent], heard: &[Heard]) -> Result<()> {
    for (sender, sent) in sent.iter().enumerate() {
        let Some(last) = sent.lock().iter().rposition(|broken| !broken) else { continue };
        for (_, heard) in heard.iter().enumerate().filter(|(number, _)| place(*number).1 == place(sender).1) {
            let message = Got::Message(sender, last);
            until("what was said is heard", || async { Ok(heard.lock().contains(&message)) }).await?;
        }
    }
    Ok(())
}

/// Waits until the nodes that are left are connected, know each other, and hear each other again.
async fn recovered(nodes: &Nodes, gone: Option<usize>) -> Result<()> {
    let left: Vec<usize> = (0..NODES).filter(|node| Some(*node) != gone).collect();
    for node in &left {
        until("it is connected", || async {
            Ok(nodes.nodes[*node].metric("realtime_cluster_connected").await? == 1.0)
        })
        .await?;
        nodes.sees(&nodes.nodes[*node], left.len()).await?;
    }
    // Told of all that was missed: a heartbeat for the mark, one for the telling.
    let mut probes = Vec::new();
    for node in &left {
        probes.push(nodes.join(*node, Version::V2, "realtime:probe", json!({})).await?);
    }
    for from in 0..probes.len() {
        for to in (0..probes.len()).filter(|to| *to != from) {
            let limit = Instant::now() + PATIENCE;
            // The subscription of a node that has just come back may take a moment. Any mark will do: those who make them
            // have come after the fault.
            loop {
                let mark = json!({ "from": from });
                say(&mut probes[from], "realtime:probe", "probe", mark.clone()).await?;
                let heard = time::timeout(Duration::from_millis(300), async {
                    loop {
                        let frame = probes[to].frame().await?;
                        if frame.event == "broadcast" && frame.payload["payload"] == mark {
                            return Ok::<_, anyhow::Error>(());
                        }
                    }
                });
                if heard.await.is_ok_and(|heard| heard.is_ok()) {
                    break;
                }
                anyhow::ensure!(Instant::now() < limit, "{to} does not hear {from}");
            }
        }
    }
    Ok(())
}

/// More than 10,000 messages of six senders, while each node in turn loses NATS, stands still, and at last is killed;
/// what docs/delivery.md promises holds: in order, nothing twice, nothing missing on one's own node or when all is well,
/// and no gap that is not told.
#[tokio::test]
async fn whatever_breaks_no_gap_is_silent() -> Result<()> {
    let seed: u64 =
        std::env::var("REALTIME_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(2026);
    println!("REALTIME_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut nodes = Nodes::start(NODES).await?;
    let heard: Vec<Heard> = (0..NODES * ROOMS).map(|_| Heard::default()).collect();
    let mut senders = Vec::new();
    for (number, heard) in heard.iter().enumerate() {
        let (node, room) = place(number);
        let version = if rng.random() { Version::V1 } else { Version::V2 };
        listen(nodes.join(node, version, &topic(room), json!({})).await?, Arc::clone(heard));
    }
    for number in 0..NODES * ROOMS {
        let (node, room) = place(number);
        let socket = nodes.join(node, Version::V2, &topic(room), json!({})).await?;
        senders.push(Sender {
            number,
            socket,
            sent: Sent::default(),
            rng: StdRng::seed_from_u64(rng.random()),
        });
    }
    let sent: Vec<Sent> = senders.iter().map(|sender| Arc::clone(&sender.sent)).collect();
    let victim = rng.random_range(0..NODES);
    let others = [(victim + 1) % NODES, (victim + 2) % NODES];
    let faults = [
        Fault::Nothing,
        Fault::Cut(victim),
        Fault::Freeze(others[0]),
        Fault::Silence(others[1]),
        Fault::Nats,
        Fault::Kill(victim),
    ];
    let signs = Arc::new(Signs::default());
    let mut gone = None;
    for fault in faults {
        if let Fault::Kill(node) = fault {
            gone = Some(node);
        }
        let mut speaking = JoinSet::new();
        for mut sender in senders.drain(..) {
            let signs = Arc::clone(&signs);
            speaking.spawn(async move {
                let spoken = sender.speak(PHASE, &signs).await;
                (sender, spoken)
            });
        }
        time::sleep(Duration::from_millis(rng.random_range(100..400))).await;
        if fault != Fault::Nothing {
            signs.broken.store(true, Ordering::SeqCst);
            // What is on its way when something breaks may be lost: it was not said when all was well.
            heard_so_far(&sent, &heard).await.with_context(|| format!("before {fault:?}"))?;
        }
        strike(&mut nodes, fault).await.with_context(|| format!("{fault:?}"))?;
        recovered(&nodes, gone).await.with_context(|| format!("{fault:?}"))?;
        signs.broken.store(false, Ordering::SeqCst);
        signs.enough.store(true, Ordering::SeqCst);
        while let Some(spoken) = speaking.join_next().await {
            let (sender, outcome) = spoken?;
            if Some(place(sender.number).0) != gone {
                outcome.with_context(|| format!("{fault:?}"))?;
            }
            senders.push(sender);
        }
        signs.enough.store(false, Ordering::SeqCst);
    }
    // The last words of those who are left, when all is well: when they have been heard, all before them has been.
    let mut last: HashMap<usize, usize> = HashMap::new();
    for sender in &mut senders {
        if Some(place(sender.number).0) != gone {
            sender.say_one(&signs).await?;
            last.insert(sender.number, sender.sent.lock().len() - 1);
        }
    }
    for (listener, heard) in heard.iter().enumerate() {
        let (node, room) = place(listener);
        if Some(node) == gone {
            continue;
        }
        let wanted = last.iter().filter(|(sender, _)| place(**sender).1 == room);
        let wanted: Vec<Got> = wanted.map(|(sender, number)| Got::Message(*sender, *number)).collect();
        until("the last words are heard", || async {
            let heard = heard.lock();
            Ok(wanted.iter().all(|message| heard.contains(message)))
        })
        .await?;
    }
    let judge = || {
        let mut history = History {
            sent: sent.iter().map(|sent| sent.lock().clone()).collect(),
            got: heard.iter().map(|heard| heard.lock().clone()).collect(),
        };
        // What a killed node had not sent is nobody's loss to tell: it cannot say that there was more.
        for number in (0..NODES * ROOMS).filter(|number| Some(place(*number).0) == gone) {
            let heard_last = history.got.iter().flatten().filter_map(|got| match got {
                Got::Message(from, heard) if *from == number => Some(*heard),
                _ => None,
            });
            let known = heard_last.max().map_or(0, |last| last + 1);
            history.sent[number].truncate(known);
        }
        let problems = history.problems(gone);
        (history, problems)
    };
    // Gaps that are owed are told with a heartbeat, which may take a moment.
    let limit = Instant::now() + PATIENCE;
    let (history, problems) = loop {
        let (history, problems) = judge();
        if problems.is_empty() || Instant::now() > limit {
            break (history, problems);
        }
        time::sleep(Duration::from_millis(200)).await;
    };
    let count = |got: &Got| matches!(got, Got::Message(..));
    let sent: usize = history.sent.iter().map(Vec::len).sum();
    let received: usize = history.got.iter().flatten().filter(|got| count(got)).count();
    let gaps: usize = history.got.iter().flatten().filter(|got| !count(got)).count();
    println!("{sent} messages sent, {received} received, {gaps} gaps told");
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(sent > 10_000, "{sent}");
    Ok(())
}
