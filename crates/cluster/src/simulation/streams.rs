//! Owners and followers of a database's stream: no follower misses anything in silence (30), whatever it wants of it.

use std::{ops::ControlFlow, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    task::JoinHandle,
    time::{self, Duration},
};

use super::{plan::Trick, world::World};
use crate::{
    Cluster, chance,
    stream::{Carried, Followed, Owned, Part},
};

/// Databases that are read.
const STREAMS: usize = 2;

const BEGIN: u8 = 0;
const WITHIN: u8 = 1;

/// Tables that the rows are of.
const TABLES: u32 = 5;

/// How long followers want the same, in milliseconds, at most.
const SAME: u64 = 3_000;

/// The table of a row: its neighbour may be of the same.
fn table(number: u64) -> u32 {
    u32::try_from(number / 2).unwrap_or_default() % TABLES
}

/// A database that a node reads for all.
pub(super) struct Stream {
    tenant: Arc<str>,
    /// The node that owns it.
    host: usize,
    owned: Owned,
    /// The number of the next event.
    next: u64,
}

/// What a follower has come to.
#[derive(Debug, Default)]
struct Seen {
    last: u64,
    ends: u64,
    /// Rows that came, and that were left out.
    rows: u64,
    left_out: u64,
    /// What must not have happened.
    broken: Option<String>,
}

/// A node that follows.
pub(super) struct Follower {
    host: usize,
    stream: usize,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl World {
    /// Some databases are read by a node each.
    pub(super) fn own_streams(&mut self) {
        for at in 0..STREAMS {
            let host = self.some_host();
            let tenant: Arc<str> = format!("database{at}").into();
            let owned = self.hosts[host].cluster.own(&tenant, 1, Bytes::new());
            self.streams.push(Stream { tenant, host, owned, next: 1 });
        }
        (0..self.hosts.len()).for_each(|host| self.follow_streams(host));
    }

    /// A node follows all of them that it does not own.
    pub(super) fn follow_streams(&mut self, host: usize) {
        for (at, stream) in self.streams.iter().enumerate().filter(|(_, stream)| stream.host != host) {
            let seen = Arc::<Mutex<Seen>>::default();
            let following = Following {
                cluster: self.hosts[host].cluster.clone(),
                tenant: Arc::clone(&stream.tenant),
                seen: Arc::clone(&seen),
                loses: self.plan.trick == Some(Trick::LoseRow),
                hides: self.plan.trick == Some(Trick::LeaveOut),
            };
            let follow = following.run();
            self.followers.push(Follower { host, stream: at, seen, task: tokio::spawn(follow) });
        }
    }

    /// A node is gone, and others own what it owned.
    pub(super) fn move_streams(&mut self, host: usize) {
        for follower in self.followers.iter().filter(|follower| follower.host == host) {
            follower.task.abort();
        }
        self.followers.retain(|follower| follower.host != host || follower.seen.lock().broken.is_some());
        let Some(new) = self.working().find(|other| *other != host) else { return };
        for (at, stream) in self.streams.iter_mut().enumerate().filter(|(_, stream)| stream.host == host) {
            for follower in self.followers.iter().filter(|one| one.host == new && one.stream == at) {
                follower.task.abort();
            }
            self.followers.retain(|one| one.host != new || one.stream != at);
            stream.host = new;
            stream.owned = self.hosts[new].cluster.own(&stream.tenant, stream.next, Bytes::new());
        }
    }

    /// A transaction is read.
    pub(super) fn read_transaction(&mut self, at: usize) {
        let Some(stream) = self.streams.get_mut(at).filter(|stream| !self.hosts[stream.host].is_still) else {
            return;
        };
        let rows = chance::draw() % 12;
        let mut carry = |part: fn(u64) -> Part, kind| {
            let mut event = BytesMut::new();
            event.put_u64(stream.next);
            event.put_u8(kind);
            event.put_bytes(0, 200);
            stream.owned.carry(part(stream.next), &event.freeze());
            stream.next += 1;
        };
        carry(|_| Part::Begin, BEGIN);
        carry(|_| Part::Within, WITHIN);
        (0..rows).for_each(|_| carry(|number| Part::Of(table(number)), WITHIN));
        carry(Part::End, WITHIN);
    }

    /// Checks what the followers have seen. `all`: what was read last has come to all. How many streams have ended, how many
    /// rows came, and how many were left out.
    pub(super) fn followed(&self, all: bool) -> Result<[u64; 3], String> {
        let mut sum = [0; 3];
        for Follower { host, stream, seen, .. } in &self.followers {
            let seen = seen.lock();
            if let Some(broken) = &seen.broken {
                return Err(format!("node {host} follows database {stream}: {broken}"));
            }
            let next = self.streams[*stream].next;
            if all && seen.last + 1 != next {
                return Err(format!(
                    "node {host} has come to {} of database {stream}, not to {next}",
                    seen.last
                ));
            }
            for (sum, more) in sum.iter_mut().zip([seen.ends, seen.rows, seen.left_out]) {
                *sum += more;
            }
        }
        Ok(sum)
    }

    pub(super) fn end_streams(&mut self) {
        self.followers.drain(..).for_each(|follower| follower.task.abort());
        self.streams.clear();
    }
}

/// A node that follows for ever, and again when the stream has ended.
struct Following {
    cluster: Cluster,
    tenant: Arc<str>,
    seen: Arc<Mutex<Seen>>,
    /// Loses a row, or takes one for left out: faults of the checks' own making.
    loses: bool,
    hides: bool,
}

/// What a follower expects.
#[derive(Default)]
struct Expected {
    /// The number of the next event.
    next: Option<u64>,
    /// The tables that it does not want, as the owner has taken notice of, and as it has said last.
    unwanted: Vec<u32>,
    asked: Vec<u32>,
}

impl Following {
    async fn run(mut self) {
        loop {
            let Ok(mut followed) = self.cluster.follow(&self.tenant).await else {
                time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let mut expected = Expected::default();
            loop {
                let patience = Duration::from_millis(chance::draw() % SAME);
                // What has come is taken first.
                match time::timeout(patience, self.take(&mut followed, &mut expected)).await {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => break,
                    Err(_) => want(&mut followed, &mut expected),
                }
            }
            self.seen.lock().ends += 1;
        }
    }

    /// Takes what comes until it is time to want something else.
    async fn take(&mut self, followed: &mut Followed, expected: &mut Expected) -> ControlFlow<()> {
        loop {
            let Ok(carried) = followed.next().await else { return ControlFlow::Break(()) };
            if self.loses && self.seen.lock().rows > 20 {
                self.loses = false;
                continue;
            }
            let carried = match carried {
                Carried::Event(event) if self.hides && expected.next.is_some() && event[8] == WITHIN => {
                    let number = event.split_at(8).0.try_into().map_or(0, u64::from_be_bytes);
                    Carried::Skipped { key: table(number), events: 1 }
                }
                carried => carried,
            };
            let mut seen = self.seen.lock();
            if let Err(broken) = expected.takes(&carried, &mut seen) {
                seen.broken.get_or_insert(broken);
            }
            followed.confirm(seen.last);
        }
    }
}

impl Expected {
    fn takes(&mut self, carried: &Carried, seen: &mut Seen) -> Result<(), String> {
        match carried {
            Carried::Event(event) => {
                let (number, kind) = event.split_at(8);
                let number = number.try_into().map_or(0, u64::from_be_bytes);
                let expected = self.next.replace(number + 1);
                seen.last = number;
                seen.rows += 1;
                if expected.map_or(kind[0] != BEGIN, |expected| number != expected) {
                    return Err(format!("{number} came instead of {expected:?}"));
                }
            }
            Carried::Skipped { key, events } => {
                let Some(first) = self.next else { return Err("rows are left out at the beginning".into()) };
                let next = first + u64::from(*events);
                self.next = Some(next);
                seen.last = next - 1;
                seen.left_out += u64::from(*events);
                if !self.unwanted.contains(key) {
                    return Err(format!("{events} rows of table {key} are left out, which is wanted"));
                }
                if let Some(other) = (first..next).find(|number| table(*number) != *key) {
                    return Err(format!("{other} is left out as one of table {key}"));
                }
            }
            Carried::Granted => self.unwanted = std::mem::take(&mut self.asked),
        }
        Ok(())
    }
}

/// Wants other tables from now on. Of some nothing is said.
fn want(followed: &mut Followed, expected: &mut Expected) {
    let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
    for table in 0..TABLES {
        match chance::draw() % 8 {
            0 => {}
            1..4 => wanted.push(table),
            _ => unwanted.push(table),
        }
    }
    if followed.want(wanted, unwanted.clone()) {
        expected.asked = unwanted;
    }
}
