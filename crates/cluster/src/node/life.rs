//! What a node does by itself: it sends, says that it is alive, and notices nodes that are not.

use std::sync::{Arc, atomic::Ordering};

use realtime_hub::RoomKey;
use realtime_protocol::ErrorCode;
use tokio::time::{self, Duration, Instant, MissedTickBehavior};

use super::{Latencies, Node};
use crate::{
    chance::{Map, Set},
    incoming::{Incoming, tell_gap},
    link::MARGIN,
    members::{Beat, Change},
    scope::{Parts, Scope},
    wire::{Asked, Direct, HEADER},
};

/// A node that does not answer is asked again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Messages of this time before a connection was lost may be lost too: it is longer than it takes to notice the loss.
const DOUBTFUL: Duration = Duration::from_secs(30);

/// Tenants in one question.
const QUESTION: usize = 500;

/// How long a ping may be out (http_and_ops 4.2).
const PING_LIMIT: Duration = Duration::from_secs(5);

/// Every how many heartbeats round trips are measured.
const MEASURE: u32 = 5;

/// Sends what this node has to say.
pub(crate) async fn send(node: Arc<Node>) {
    loop {
        let stream = tokio::select! {
            biased;
            () = node.link.stop.cancelled() => return,
            stream = node.outgoing.next() => stream,
        };
        let max = node.link.max_payload().saturating_sub(MARGIN).max(HEADER + 1);
        let deliverable = node.link.is_connected() && max > HEADER + 1;
        for message in node.outgoing.take(&stream, max, deliverable, Instant::now()) {
            node.link.publish(node.link.subjects.scope(&stream.scope), message).await;
        }
        stream.published();
    }
}

/// Sends heartbeats, and does all that is done by the clock.
pub(crate) async fn live(node: Arc<Node>) {
    let interval = node.link.config.heartbeat;
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beats = 0;
    loop {
        tokio::select! {
            biased;
            () = node.link.stop.cancelled() => return,
            () = node.link.resumed.notified() => node.resume().await,
            _ = ticks.tick() => {
                let now = Instant::now();
                beats += 1;
                node.say_beat(false, beats % MEASURE == 0).await;
                if beats % MEASURE == 1 {
                    node.measure().await;
                }
                node.give_up_pings(now);
                node.expire(now);
                node.sweep(now).await;
            }
        }
    }
}

/// Notices when this process or its machine stood still: then messages of others have still to be read.
pub(crate) async fn mind_the_clock(node: Arc<Node>) {
    let interval = node.link.config.heartbeat;
    loop {
        let before = Instant::now();
        tokio::select! {
            biased;
            () = time::sleep(interval) => {}
            () = node.link.stop.cancelled() => return,
        }
        let pause = before.elapsed().saturating_sub(interval);
        if pause > interval / 2 {
            node.peers.members.lock().excuse(pause);
            // Answers to pings could not be heard either.
            node.latencies.lock().pings.clear();
        }
    }
}

impl Node {
    pub(crate) async fn say_beat(&self, bye: bool, latencies: bool) {
        if let Ok(beat) = serde_json::to_vec(&self.beat(bye, latencies)) {
            self.link.publish(self.link.subjects.nodes(), beat.into()).await;
        }
    }

    /// A heartbeat has come.
    pub(crate) async fn heard(&self, beat: Beat) {
        let (name, version, id) = (beat.name.clone(), beat.version.clone(), beat.id);
        let change = self.peers.members.lock().heard(beat, Instant::now());
        match change {
            None => {}
            Some(Change::Came(_)) => {
                tracing::info!(name, version, "a node has come");
                // It has to hear from us soon, to listen to us.
                self.say_beat(false, false).await;
                self.ask(id, &self.peers.all_listened()).await;
            }
            Some(Change::Went(_)) => {
                tracing::info!(name, "a node has gone");
                self.forget(id);
            }
            Some(Change::Refused(_)) => {
                let code = ErrorCode::ClusterVersionMismatch.as_str();
                let own = self.link.config.version;
                tracing::error!(
                    code,
                    name,
                    version,
                    own,
                    "refused a node of another version: nothing is exchanged with it"
                );
            }
            Some(Change::Namesake) => {
                let code = ErrorCode::ClusterNodeIdTaken.as_str();
                tracing::error!(code, name, "another node drew the same number: restart this one");
            }
        }
    }

    fn expire(&self, now: Instant) {
        let gone: Vec<(u32, String)> = {
            let mut members = self.peers.members.lock();
            let gone = members.expire(now);
            gone.into_iter().map(|id| (id, members.name_of_lost(id).unwrap_or_default().to_owned())).collect()
        };
        for (id, name) in gone {
            let id_text = format!("{id:08x}");
            let code = ErrorCode::RealtimeNodeDisconnected.as_str();
            let limit = self.link.config.node_timeout;
            let reason = "no heartbeat has come within CLUSTER_NODE_TIMEOUT_MS";
            tracing::error!(code, id = id_text, name, reason, ?limit, "lost contact with a node");
            self.forget(id);
        }
    }

    fn forget(&self, id: u32) {
        for incoming in self.peers.all_listened() {
            incoming.forget(&self.hub, id);
        }
        self.latencies.lock().measured.remove(&id);
    }

    /// Asks a node about its state of what this node listens to.
    async fn ask(&self, node: u32, interests: &[Arc<Incoming>]) {
        let ask = self.asks.next();
        for incoming in interests {
            incoming.ask(node, ask);
        }
        self.put_question(node, ask, interests).await;
    }

    /// Asks all nodes about their state of something.
    pub(crate) async fn ask_all(&self, incoming: &Arc<Incoming>) {
        let ask = self.asks.next();
        let others = self.peers.others();
        // All of them before the first can answer: what waits for the answers waits for all.
        for node in &others {
            incoming.ask(*node, ask);
        }
        incoming.all_asked();
        for node in others {
            self.put_question(node, ask, std::slice::from_ref(incoming)).await;
        }
    }

    /// Puts a question to a node; it is told with it what this node listens to.
    pub(crate) async fn put_question(&self, node: u32, ask: u64, about: &[Arc<Incoming>]) {
        let mut tenants: Map<&Arc<str>, Parts> = Map::default();
        for incoming in about {
            tenants.entry(&incoming.scope.tenant).or_default().add(incoming.scope.part);
        }
        let asked = |(tenant, parts): (&Arc<str>, Parts)| {
            let listens = self.outgoing.listens(tenant);
            Asked { tenant: Arc::clone(tenant), parts, listens }
        };
        let asked: Vec<Asked> = tenants.into_iter().map(asked).collect();
        for some in asked.chunks(QUESTION) {
            self.tell(node, &Direct::Want { ask, about: some.to_vec() }).await;
        }
    }

    /// There is a connection, for the first time or again.
    async fn resume(&self) {
        if !self.link.is_connected() {
            return;
        }
        let lost_at = self.link.take_lost_at();
        self.say_beat(false, false).await;
        let interests = self.peers.all_listened();
        for incoming in &interests {
            // Before the first connection nothing was heard either.
            if incoming.alone.swap(false, Ordering::SeqCst) || lost_at.is_some() {
                incoming.missed();
                incoming.unsettle();
            }
        }
        for node in self.peers.others() {
            self.ask(node, &interests).await;
        }
        for (stream, mark) in self.outgoing.marks(lost_at.map(|at| at - DOUBTFUL), Instant::now()) {
            self.link.publish(self.link.subjects.scope(&stream.scope), mark).await;
        }
    }

    /// Does what is due from time to time.
    async fn sweep(&self, now: Instant) {
        let interests = self.peers.all_listened();
        for incoming in interests.iter().filter(|incoming| incoming.is_whole()) {
            self.outgoing.users(&incoming.scope.tenant, incoming.side().take_most_users());
            let others = incoming.populated().len();
            if others > 0 {
                let (rates, limits) = incoming.side().rates();
                self.outgoing.rates(&incoming.scope.tenant, rates, &limits, others + 1);
            }
            self.outgoing.mark_again(&incoming.scope.tenant, incoming.take_regained().iter());
        }
        self.outgoing.forget_idle(now);
        for (stream, mark) in self.outgoing.marks(None, now) {
            self.link.publish(self.link.subjects.scope(&stream.scope), mark).await;
        }
        self.tell_gaps(&interests);
        let is_settled = self.link.settles_in().is_some_and(|rest| rest.is_zero());
        for incoming in &interests {
            if is_settled {
                incoming.settle();
            }
            self.end_if_idle(incoming, now);
        }
        self.ask_again(&interests, now).await;
    }

    /// Puts questions again that were not answered. A node that is not heard either is forgotten.
    async fn ask_again(&self, interests: &[Arc<Incoming>], now: Instant) {
        let mut silent: Map<u32, Vec<Arc<Incoming>>> = Map::default();
        let known: Set<u32> = self.peers.others().into_iter().collect();
        let limit = self.link.config.node_timeout;
        for incoming in interests {
            for node in incoming.strangers(&known, limit, now) {
                incoming.forget(&self.hub, node);
            }
            for node in incoming.unanswered(ASK_AGAIN, now) {
                silent.entry(node).or_default().push(Arc::clone(incoming));
            }
        }
        for (node, about) in silent {
            if self.peers.hears(node) {
                self.ask(node, &about).await;
            } else {
                about.iter().for_each(|incoming| incoming.forget(&self.hub, node));
            }
        }
    }

    /// Tells the members of rooms what they have not been told yet: that something was missed.
    fn tell_gaps(&self, interests: &[Arc<Incoming>]) {
        let mut gaps: Set<&Scope> = Set::default();
        for incoming in interests {
            if incoming.take_owed() {
                let tenant = &*incoming.scope.tenant;
                let code = ErrorCode::RealtimeNodeDisconnected.as_str();
                tracing::warn!(
                    tenant,
                    code,
                    "messages from other nodes may have been missed; the channels are told"
                );
                gaps.insert(&incoming.scope);
            }
        }
        if !gaps.is_empty() {
            tell_gap(&self.hub, |room| gaps.contains(&Scope::of_room(&room.tenant, &room.topic)));
        }
    }

    fn end_if_idle(&self, incoming: &Arc<Incoming>, now: Instant) {
        let linger = self.link.config.linger.max(incoming.side().kept_for());
        let is_idle = || {
            let since = *incoming.idle_since.lock();
            incoming.holders.load(Ordering::Relaxed) == 0
                && since.is_some_and(|since| now.saturating_duration_since(since) > linger)
        };
        if is_idle() {
            let mut all = self.peers.incoming.write();
            // Nobody has taken an interest before the table was locked.
            if is_idle() {
                all.remove(&incoming.scope);
                incoming.stop.cancel();
                if incoming.is_whole() {
                    self.outgoing.users(&incoming.scope.tenant, 0);
                    self.outgoing.still(&incoming.scope.tenant);
                } else {
                    self.outgoing.listen(&incoming.scope, false);
                    let of = |room: &RoomKey| Scope::of_room(&room.tenant, &room.topic) == incoming.scope;
                    self.hub.doubt_histories(of, true);
                }
            }
        }
    }

    /// Measures round trips.
    async fn measure(&self) {
        for node in self.peers.others() {
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
        let members = self.peers.members.lock();
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
