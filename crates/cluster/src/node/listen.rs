//! What this node hears from NATS.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use realtime_hub::Congestion;
use tokio::time::{self, Duration, Instant};

use super::Node;
use crate::{
    incoming::Incoming,
    link::Subscriber,
    members::Beat,
    outgoing::Snapshot,
    scope::{Parts, Scope},
    wire::{Asked, Blank, Direct, Told},
};

/// Bytes of a tenant's messages that may wait for rooms that cannot keep up. Beyond it messages are lost, which shows
/// as a gap.
const MAX_WAITING: usize = 16_000_000;

/// How long messages of a bucket wait for a room.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(5);

/// How long the first socket of a tenant, and the first member of a bucket, waits for the state of other nodes. What becomes
/// known later is told then, which is right too, only in more frames.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);

/// Size of the parts of an answer, unless NATS takes less.
const PART: usize = 256 * 1024;

/// Answers without a state in one message.
const BLANKS: usize = 500;

/// Bytes that a part needs beside the records.
const TOLD: usize = 512;

/// Hears the heartbeats of all nodes.
pub(crate) async fn beats(node: Arc<Node>) {
    let Some(mut messages) = node.link.subscribe(node.link.subjects.nodes()).await else { return };
    node.link.resumed.notify_one();
    while let Some(message) = node.link.next(&mut messages).await {
        node.link.received(&message);
        match serde_json::from_slice::<Beat>(&message) {
            Ok(beat) => node.heard(beat).await,
            Err(error) => tracing::debug!(%error, "cannot read a heartbeat"),
        }
    }
}

/// Hears questions and answers for this node.
pub(crate) async fn direct(node: Arc<Node>) {
    let Some(mut messages) = node.link.subscribe(node.link.subjects.node(node.link.id)).await else { return };
    while let Some(message) = node.link.next(&mut messages).await {
        node.link.received(&message);
        match Direct::decode(message) {
            Ok((from, Direct::Want { ask, about })) => {
                note_listener(&node, from, &about).await;
                node.link.spawn(answer(Arc::clone(&node), from, ask, about));
            }
            Ok((from, Direct::Told(told))) => {
                let incoming = node.peers.listened(&told.scope);
                if let Some(incoming) = incoming
                    && let Err(error) = incoming.told(&node.hub, from, told, node.peers.began(from))
                {
                    node.link.malformed(error);
                }
            }
            Ok((from, Direct::Blank { ask, about })) => {
                for Blank { tenant, parts, as_of, unheard } in about {
                    for part in parts.iter() {
                        let incoming = node.peers.listened(&Scope { tenant: Arc::clone(&tenant), part });
                        if let Some(incoming) = incoming {
                            incoming.blank(&node.hub, from, ask, as_of, unheard);
                        }
                    }
                }
            }
            Ok((from, Direct::Ping(number))) => node.tell(from, &Direct::Pong(number)).await,
            Ok((_, Direct::Pong(number))) => node.pong(number),
            Err(error) => node.link.malformed(error),
        }
    }
}

/// Notes what a node listens to, before it is answered: the answer proves that it is known.
async fn note_listener(node: &Arc<Node>, from: u32, about: &[Asked]) {
    for Asked { tenant, parts, listens } in about {
        let Some(incoming) = node.peers.listened(&Scope::whole(tenant)) else { continue };
        if let Some(ask) = incoming.listens(&node.asks, from, *parts, *listens) {
            node.put_question(from, ask, &[incoming]).await;
        }
    }
}

/// Tells a node this node's state of parts of tenants.
async fn answer(node: Arc<Node>, to: u32, ask: u64, about: Vec<Asked>) {
    let mut blanks = Vec::new();
    for Asked { tenant, parts, .. } in about {
        let whole = node.peers.listened(&Scope::whole(&tenant)).filter(|_| parts.whole);
        if let Some(incoming) = whole {
            // Users who came since the last heartbeat count too.
            node.outgoing.users(&tenant, incoming.side().users());
        }
        for part in parts.iter() {
            let scope = Scope { tenant: Arc::clone(&tenant), part };
            match node.outgoing.snapshot(&scope) {
                Snapshot { as_of, unheard, records: Some(records) } => {
                    let told =
                        Told { ask, scope, as_of, unheard, offset: 0, last: false, records: Bytes::new() };
                    tell_state(&node, to, told, records).await;
                }
                Snapshot { as_of, unheard, records: None } => {
                    let mut parts = Parts::default();
                    parts.add(part);
                    blanks.push(Blank { tenant: Arc::clone(&tenant), parts, as_of, unheard });
                }
            }
        }
    }
    // Those of one tenant that can be told together are.
    blanks.dedup_by(|next, first| {
        let same = first.tenant == next.tenant && first.as_of == next.as_of && first.unheard == next.unheard;
        if same {
            first.parts.buckets |= next.parts.buckets;
        }
        same
    });
    for some in blanks.chunks(BLANKS) {
        node.tell(to, &Direct::Blank { ask, about: some.to_vec() }).await;
    }
}

/// Tells a state in parts.
async fn tell_state(node: &Node, to: u32, mut told: Told, mut records: Bytes) {
    let max = node.link.max_payload().saturating_sub(TOLD).clamp(1, PART);
    loop {
        let part = records.split_to(max.min(records.len()));
        let length = part.len() as u64;
        told.last = records.is_empty();
        told.records = part;
        let is_last = told.last;
        node.tell(to, &Direct::Told(told.clone())).await;
        if is_last {
            return;
        }
        told.offset += length;
    }
}

/// Hears what is said about a part of a tenant, while this node has sockets of the tenant, or members in the bucket.
pub(crate) async fn scope(node: Arc<Node>, incoming: Arc<Incoming>) {
    note_isolation(&node, &incoming);
    let answered_by = Instant::now() + FIRST_ANSWERS;
    let Some(mut messages) = subscribe(&node, &incoming, answered_by).await else { return };
    let begin = begin(&node, &incoming);
    tokio::pin!(begin);
    let mut begun = false;
    let mut waiting = Waiting::default();
    loop {
        tokio::select! {
            biased;
            () = incoming.stop.cancelled() => break,
            () = node.link.stop.cancelled() => break,
            message = messages.next() => match message {
                Some(message) => waiting.push(&node, &incoming, message.payload),
                None => break,
            },
            () = &mut begin, if !begun => begun = true,
            () = waiting.relieved() => {}
            () = time::sleep_until(answered_by), if !*incoming.ready.borrow() => incoming.be_ready(),
        }
        while let Some(message) = waiting.pop(&incoming) {
            hear(&node, &incoming, message, &mut waiting).await;
        }
    }
    waiting.end(&incoming);
    incoming.forget_all(&node.hub);
}

/// Lets nobody wait for other nodes while there is no connection: nothing would be heard. The members are told once there
/// is one.
fn note_isolation(node: &Node, incoming: &Incoming) {
    if node.link.is_connected() {
        return;
    }
    incoming.alone.store(true, Ordering::SeqCst);
    // Looked at again: a connection that was made in between has not seen the note.
    if !node.link.is_connected() {
        incoming.be_ready();
    }
}

/// Subscribes to the messages. Sockets wait for it until `answered_by` at most: the client may not get to it before
/// there is a connection.
async fn subscribe(node: &Node, incoming: &Incoming, answered_by: Instant) -> Option<Subscriber> {
    let subscribing = node.link.subscribe(node.link.subjects.scope(&incoming.scope));
    tokio::pin!(subscribing);
    let subscribed = loop {
        tokio::select! {
            biased;
            () = incoming.stop.cancelled() => return None,
            subscribed = &mut subscribing => break subscribed,
            () = time::sleep_until(answered_by), if !*incoming.ready.borrow() => incoming.be_ready(),
        }
    };
    if subscribed.is_none() {
        incoming.be_ready();
    }
    subscribed
}

/// Asks all nodes, once they are known and the server has read the subscription: what they say after their answers is heard.
async fn begin(node: &Node, incoming: &Arc<Incoming>) {
    node.link.settled().await;
    node.link.barrier().await;
    node.ask_all(incoming).await;
}

/// Takes a message.
async fn hear(node: &Node, incoming: &Arc<Incoming>, message: Bytes, waiting: &mut Waiting) {
    match incoming.envelope(&node.hub, &node.asks, message.clone()) {
        Ok(outcome) => {
            waiting.jams = outcome.congested;
            waiting.jammed_until = Instant::now() + WAIT_FOR_ROOM;
            node.gaps.fetch_add(outcome.gap.into(), Ordering::Relaxed);
            if let (Some(ask), Some(from)) = (outcome.ask, sender(&message)) {
                node.put_question(from, ask, std::slice::from_ref(incoming)).await;
            }
        }
        Err(error) => node.link.malformed(error),
    }
}

/// The node that sent an envelope.
fn sender(message: &Bytes) -> Option<u32> {
    crate::wire::Header::decode(&mut message.clone()).ok().map(|header| header.node)
}

/// Messages of a part of a tenant that wait for rooms that could not keep up. Empty most of the time.
struct Waiting {
    messages: VecDeque<Bytes>,
    jams: Vec<Congestion>,
    jammed_until: Instant,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { messages: VecDeque::new(), jams: Vec::new(), jammed_until: Instant::now() }
    }
}

impl Waiting {
    fn push(&mut self, node: &Node, incoming: &Incoming, message: Bytes) {
        node.link.received(&message);
        if incoming.common.wait(message.len(), MAX_WAITING) {
            self.messages.push_back(message);
        }
    }

    /// The next message, if rooms can take it.
    fn pop(&mut self, incoming: &Incoming) -> Option<Bytes> {
        if !self.jams.is_empty() {
            if Instant::now() < self.jammed_until && !self.jams.iter().all(Congestion::is_over) {
                return None;
            }
            self.jams.clear();
        }
        let message = self.messages.pop_front()?;
        incoming.common.relieve(message.len());
        Some(message)
    }

    /// Nothing waits any longer.
    fn end(&mut self, incoming: &Incoming) {
        self.messages.drain(..).for_each(|message| incoming.common.relieve(message.len()));
    }

    /// Returns when rooms can take more, or have had enough time; pending while no room is congested. Cancel safe.
    async fn relieved(&self) {
        if self.jams.is_empty() {
            return std::future::pending().await;
        }
        let over = async {
            for jam in &self.jams {
                jam.over().await;
            }
        };
        let _ = time::timeout_at(self.jammed_until, over).await;
    }
}
