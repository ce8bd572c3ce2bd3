//! What goes wrong in a run.

use rand::{Rng as _, seq::IndexedRandom as _};
use realtime_hub::Bus as _;

use super::world::World;
use crate::rates::Rates;

impl World {
    /// Something goes wrong.
    pub(super) async fn fail(&mut self) {
        let now = self.now();
        let timeout = u64::try_from(self.plan.node_timeout.as_millis()).unwrap_or(0);
        // Mostly for a moment, sometimes for longer than nodes are waited for.
        let ms = match self.rng.random_range(0..3) {
            0 => self.rng.random_range(1..200),
            1 => self.rng.random_range(200..timeout),
            _ => self.rng.random_range(timeout..3 * timeout),
        };
        let host = self.some_host();
        let is_troubled = self.hosts[host].troubled_until > now;
        let peer = self.hosts[host].peer;
        let what = self.rng.random_range(0..9);
        match what {
            0..3 => self.break_routes(ms),
            3 if !is_troubled => {
                // The network swallows everything for a while, or the connection ends at once.
                let notices =
                    if self.rng.random_range(0..2) == 0 { 0 } else { self.rng.random_range(0..8_000) };
                self.note(format!("node {host} is cut off for {notices} ms unnoticed, then for a moment"));
                self.net.cut(peer, notices, ms.min(4_000));
                self.trouble(host, notices + ms.min(4_000) + 50);
            }
            4 | 5 if !is_troubled => {
                self.hosts[host].is_still = true;
                self.hosts[host].cluster.node().link.gate.shut();
                self.note(format!("node {host} stands still for {ms} ms"));
                // What its client takes may be more than its tasks do: it drops what it has no room for.
                if self.rng.random_range(0..2) == 0 {
                    self.net.stand_still(peer, true);
                }
                self.trouble(host, ms);
            }
            6 if !is_troubled => {
                self.note(format!("node {host} becomes slow"));
                let delay = self.rng.random_range(1_000..100_000);
                self.net.slow(peer, (delay, delay));
            }
            7 if !is_troubled && self.working().count() > 2 => self.end(host).await,
            _ => {}
        }
    }

    fn note(&mut self, what: String) {
        self.log.push((self.now(), what));
    }

    /// Something is not as it should be with a node.
    fn trouble(&mut self, host: usize, ms: u64) {
        let now = self.now();
        self.hosts[host].troubled_until = now + ms * 1_000;
        self.faults.push((now, now + ms * 1_000));
    }

    /// Routes between servers break: one, or all of some servers, which are apart then.
    fn break_routes(&mut self, ms: u64) {
        let now = self.now();
        let servers: Vec<usize> = (0..self.plan.servers).collect();
        let Some(one) = servers.choose(&mut self.rng).copied() else { return };
        let alone = self.rng.random_range(0..2) == 0;
        let other = *servers.choose(&mut self.rng).unwrap_or(&one);
        for to in servers.into_iter().filter(|to| *to != one && (alone || *to == other)) {
            self.note(format!("the route between {one} and {to} breaks for {ms} ms"));
            self.net.break_route(one, to, ms);
            self.faults.push((now, now + ms * 1_000));
        }
    }

    /// A node is killed, or ends in good order; another one is started.
    async fn end(&mut self, host: usize) {
        let now = self.now();
        let in_order = self.rng.random_range(0..2) == 0;
        self.note(format!("node {host} ends, in order: {in_order}"));
        self.remove_all(host);
        self.hosts[host].gone = Some(now);
        self.move_streams(host);
        let at = &mut self.hosts[host];
        let (cluster, peer) = (at.cluster.clone(), at.peer);
        if in_order {
            cluster.leave().await;
        } else {
            at.unread_since = Some(self.net.unread_since(peer).unwrap_or(now));
        }
        cluster.node().link.gate.shut();
        let net = std::sync::Arc::clone(&self.net);
        tokio::spawn(async move {
            if in_order {
                // What it has written is under way, and arrives.
                tokio::time::sleep(tokio::time::Duration::from_millis(300)).await;
            }
            net.remove(peer);
        });
        self.start();
        self.follow_streams(self.hosts.len() - 1);
    }

    /// What was to last for a while is over, where it is.
    pub(super) fn go_on(&mut self) {
        let now = self.now();
        for host in self.hosts.iter_mut().filter(|host| host.gone.is_none()) {
            if host.is_still && host.troubled_until <= now {
                host.is_still = false;
                self.net.stand_still(host.peer, false);
                host.cluster.node().link.gate.open();
            }
            if host.is_still {
                continue;
            }
            // Without a socket there is no traffic, after a moment.
            for side in host.sides.values().filter(|side| crate::TenantSide::users(&***side) == 0) {
                let mut idle = side.idle_since.lock();
                if now - *idle.get_or_insert(now) > 1_000_000 {
                    *side.rates.lock() = Rates::default();
                    *idle = None;
                }
            }
        }
    }

    /// Frees what nodes hold on to, as nothing else ends their circle.
    pub(super) fn end_all(&mut self) {
        self.end_streams();
        self.there.clear();
        self.parties.clear();
        for host in &self.hosts {
            host.cluster.node().peers.incoming.write().clear();
            host.cluster.node().outgoing.forget_all();
            let _ = host.cluster.backlog();
        }
    }
}
