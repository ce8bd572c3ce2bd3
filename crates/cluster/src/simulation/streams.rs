//! Owners and followers of a database's stream: no follower misses anything in silence (30).

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    task::JoinHandle,
    time::{self, Duration},
};

use super::world::World;
use crate::{
    Cluster,
    stream::{Owned, Part},
};

/// Databases that are read.
const STREAMS: usize = 2;

const BEGIN: u8 = 0;
const WITHIN: u8 = 1;

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
            let follow =
                follow(self.hosts[host].cluster.clone(), Arc::clone(&stream.tenant), Arc::clone(&seen));
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
        for (part, kind) in [(Part::Begin, BEGIN), (Part::Within, WITHIN), (Part::End(stream.next), WITHIN)] {
            let mut event = BytesMut::new();
            event.put_u64(stream.next);
            event.put_u8(kind);
            event.put_bytes(0, 200);
            stream.owned.carry(part, &event.freeze());
            stream.next += 1;
        }
    }

    /// Checks what the followers have seen. `all`: what was read last has come to all.
    pub(super) fn followed(&self, all: bool) -> Result<u64, String> {
        let mut ends = 0;
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
            ends += seen.ends;
        }
        Ok(ends)
    }

    pub(super) fn end_streams(&mut self) {
        self.followers.drain(..).for_each(|follower| follower.task.abort());
        self.streams.clear();
    }
}

/// Follows for ever, and again when it has ended.
async fn follow(cluster: Cluster, tenant: Arc<str>, seen: Arc<Mutex<Seen>>) {
    loop {
        let Ok(mut followed) = cluster.follow(&tenant).await else {
            time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let mut expected = None;
        while let Ok(event) = followed.next().await {
            let (number, kind) = event.split_at(8);
            let number = number.try_into().map_or(0, u64::from_be_bytes);
            let mut seen = seen.lock();
            if expected.map_or(kind[0] != BEGIN, |expected| number != expected) {
                seen.broken.get_or_insert_with(|| format!("{number} came instead of {expected:?}"));
            }
            expected = Some(number + 1);
            seen.last = number;
            followed.confirm(number);
        }
        seen.lock().ends += 1;
    }
}
