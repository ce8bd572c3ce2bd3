//! What a node does by itself: it sends, says that it is there, and notices who is not.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use tokio::time::{self, Duration, Instant, MissedTickBehavior};

use super::{Inner, Latencies};
use crate::{
    incoming::{Incoming, tell_gap},
    members::{Beat, Change},
    wire::{Direct, HEADER},
};

/// A node that does not answer is asked again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What was said so long before a connection was lost may have been lost with it: more than it takes to notice.
const DOUBTFUL: Duration = Duration::from_secs(30);

/// Tenants in one question.
const QUESTION: usize = 500;

/// Room that NATS needs of the largest message beside ours.
pub(crate) const MARGIN: usize = 64;

/// How long a ping may be out (http_and_ops 4.2).
const PING_LIMIT: Duration = Duration::from_secs(5);

/// Every how many heartbeats round trips are measured.
const MEASURE: u32 = 5;

/// Sends what this node has to say.
pub(super) async fn send(inner: Arc<Inner>) {
    loop {
        let stream = tokio::select! {
            stream = inner.outgoing.next() => stream,
            () = inner.stop.cancelled() => return,
        };
        let max = inner.max_payload().saturating_sub(MARGIN).max(HEADER + 1);
        let deliverable = inner.is_connected() && max > HEADER + 1;
        for message in inner.outgoing.take(&stream, max, deliverable, Instant::now()) {
            inner.publish(inner.subjects.tenant(&stream.tenant), message).await;
        }
        stream.published();
    }
}

/// Heartbeats, and all that is done by the clock.
pub(super) async fn live(inner: Arc<Inner>) {
    let interval = inner.config.heartbeat;
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beats = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let now = Instant::now();
                beats += 1;
                inner.say_beat(false, beats % MEASURE == 0).await;
                if beats % MEASURE == 1 {
                    inner.measure().await;
                }
                inner.give_up_pings(now);
                inner.expire(now);
                inner.sweep(now).await;
            }
            () = inner.resumed.notified() => inner.resume().await,
            () = inner.stop.cancelled() => return,
        }
    }
}

/// Notices when this process or its machine stood still: what others said meanwhile is still to be read.
pub(super) async fn mind_the_clock(inner: Arc<Inner>) {
    let interval = inner.config.heartbeat;
    loop {
        let before = Instant::now();
        tokio::select! {
            () = time::sleep(interval) => {}
            () = inner.stop.cancelled() => return,
        }
        let pause = before.elapsed().saturating_sub(interval);
        if pause > interval / 2 {
            inner.members.lock().excuse(pause);
            // Nor could they be answered.
            inner.latencies.lock().pings.clear();
        }
    }
}

impl Inner {
    pub(super) async fn say_beat(&self, bye: bool, latencies: bool) {
        if let Ok(beat) = serde_json::to_vec(&self.beat(bye, latencies)) {
            self.publish(self.subjects.nodes(), beat.into()).await;
        }
    }

    /// A heartbeat has come.
    pub(super) async fn heard(&self, beat: Beat) {
        let (name, version, id) = (beat.name.clone(), beat.version.clone(), beat.id);
        let change = self.members.lock().heard(beat, Instant::now());
        match change {
            None => {}
            Some(Change::Came(_)) => {
                tracing::info!(name, version, "a node has come");
                // It has to know us soon, to listen to us.
                self.say_beat(false, false).await;
                let interests = self.interests();
                self.ask(id, &interests).await;
            }
            Some(Change::Went(_)) => {
                tracing::info!(name, "a node has gone");
                self.forget(id);
            }
            Some(Change::Refused(_)) => {
                let code = "ClusterVersionMismatch";
                tracing::error!(
                    code,
                    name,
                    version,
                    "a node of another version is refused: nothing is exchanged with it"
                );
            }
            Some(Change::Namesake) => {
                let code = "ClusterNodeIdTaken";
                tracing::error!(code, name, "a node drew the same number: start this one again");
            }
        }
    }

    fn expire(&self, now: Instant) {
        let gone = self.members.lock().expire(now);
        for id in gone {
            let id_text = format!("{id:08x}");
            tracing::error!(code = "RealtimeNodeDisconnected", id = id_text, "a node is not heard any more");
            self.forget(id);
        }
    }

    fn forget(&self, id: u32) {
        for incoming in self.interests() {
            incoming.forget(&self.hub, id);
        }
        self.latencies.lock().measured.remove(&id);
    }

    /// Asks a node what is so there about tenants.
    async fn ask(&self, node: u32, interests: &[Arc<Incoming>]) {
        for some in interests.chunks(QUESTION) {
            let ask = self.asks.next();
            for incoming in some {
                incoming.ask(node, ask);
            }
            self.put_question(node, ask, some).await;
        }
    }

    /// Asks all nodes what is so there about a tenant.
    pub(super) async fn ask_all(&self, incoming: &Arc<Incoming>) {
        for node in self.others() {
            self.ask(node, std::slice::from_ref(incoming)).await;
        }
    }

    pub(super) async fn put_question(&self, node: u32, ask: u64, about: &[Arc<Incoming>]) {
        let tenants = about.iter().map(|incoming| Arc::clone(&incoming.tenant)).collect();
        self.tell(node, &Direct::Want { ask, tenants }).await;
    }

    /// The connection stands, for the first time or again.
    async fn resume(&self) {
        if !self.is_connected() {
            return;
        }
        let lost_at = self.lost_at.lock().take();
        self.say_beat(false, false).await;
        for (stream, mark) in self.outgoing.marks(lost_at.map(|at| at - DOUBTFUL)) {
            self.publish(self.subjects.tenant(&stream.tenant), mark).await;
        }
        let interests = self.interests();
        for incoming in &interests {
            // Before the first connection nothing was heard either.
            if incoming.alone.swap(false, Ordering::SeqCst) || lost_at.is_some() {
                incoming.missed();
            }
        }
        for node in self.others() {
            self.ask(node, &interests).await;
        }
    }

    /// What is due from time to time.
    async fn sweep(&self, now: Instant) {
        self.outgoing.forget_idle(now);
        for (stream, mark) in self.outgoing.marks(None) {
            self.publish(self.subjects.tenant(&stream.tenant), mark).await;
        }
        let mut gaps: HashSet<Arc<str>> = HashSet::new();
        for incoming in self.interests() {
            self.outgoing.users(&incoming.tenant, incoming.side().users());
            if incoming.take_owed() {
                tracing::warn!(tenant = &*incoming.tenant, "messages from other nodes may have been missed");
                gaps.insert(Arc::clone(&incoming.tenant));
            }
            for node in incoming.unanswered(ASK_AGAIN, now) {
                if self.members.lock().contains(node) {
                    self.ask(node, std::slice::from_ref(&incoming)).await;
                } else {
                    incoming.forget(&self.hub, node);
                }
            }
            self.end_if_idle(&incoming, now);
        }
        if !gaps.is_empty() {
            tell_gap(&self.hub, |room| gaps.contains(&room.tenant));
        }
    }

    fn end_if_idle(&self, incoming: &Arc<Incoming>, now: Instant) {
        let is_idle = || {
            let since = *incoming.idle_since.lock();
            incoming.holders.load(Ordering::Relaxed) == 0
                && since.is_some_and(|since| now.saturating_duration_since(since) > self.config.linger)
        };
        if is_idle() {
            let mut all = self.incoming.write();
            // Nobody has come for it before the table was locked.
            if is_idle() {
                all.remove(&incoming.tenant);
                incoming.stop.cancel();
                self.outgoing.users(&incoming.tenant, 0);
            }
        }
    }

    /// Measures round trips.
    async fn measure(&self) {
        for node in self.others() {
            let number = {
                let mut latencies = self.latencies.lock();
                latencies.next += 1;
                let number = latencies.next;
                latencies.pings.insert(number, (node, Instant::now()));
                number
            };
            self.tell(node, &Direct::Ping(number)).await;
        }
    }

    pub(super) fn pong(&self, number: u64) {
        let mut latencies = self.latencies.lock();
        if let Some((node, since)) = latencies.pings.remove(&number) {
            latencies.measured.insert(node, Some(since.elapsed().as_secs_f64() * 1000.0));
        }
    }

    /// Gives up pings that were not answered.
    fn give_up_pings(&self, now: Instant) {
        let members = self.members.lock();
        let mut latencies = self.latencies.lock();
        let Latencies { pings, measured, .. } = &mut *latencies;
        pings.retain(|_, (node, since)| {
            let waits = now.saturating_duration_since(*since) < PING_LIMIT;
            if !waits && members.contains(*node) {
                measured.insert(*node, None);
            }
            waits
        });
    }
}
